"""Training a ConvNeXt without depth: to name the kinds of things and the materials that an image shows."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from idl.data.rooms import KINDS, MATERIALS
from idl.encoders.seeding import seeded
from idl.errors import InputError
from idl.figures import recognised
from idl.report import Image
from idl.training.images import Batch
from idl.training.objective import Forward

# A thing on fewer pixels is not said to be visible: 2 % are a square of 36 pixels in 256 x 256. At 0.2 % the labels are
# so many, and so small, that 2,000 steps of a convnext_atto learned next to nothing.
MIN_SHARE = 0.02
STRIDE = 32
# timm starts at 1e-6, at which the blocks hardly learn in a few thousand steps.
LAYER_SCALE = 0.1


class _Normalised(nn.Module):
    """A timm model behind the normalisation that its card asks for: RGB in [0, 1] in, logits out."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        card: Mapping[str, Any] = model.pretrained_cfg  # pyright: ignore[reportAssignmentType]
        self.register_buffer("mean", torch.tensor(card["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card["std"]).view(1, 3, 1, 1), persistent=False)

    def forward(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch labels"]:
        """Compute the logits."""
        return self.model((rgb - self.mean) / self.std)


class Recognition:
    """A ConvNeXt of timm's with one logit for each kind and each material of `rooms`.

    Of the dataset it sees the images and, for the labels, which kind and which material a pixel shows: no depth, no
    normals, no object's outline.
    """

    task = "rooms-recognition"
    purpose = "trained to name the kinds of things and the materials in rendered rooms"
    layers = ("rgb", "kinds", "materials")
    # What covers 2 % of a crop covers less of the image.
    depends_on_frame = True
    # Value 0 means no surface, which never occurs.
    labels: tuple[str, ...] = (*KINDS[1:], *MATERIALS[1:])

    def __init__(self, architecture: str, seed: int) -> None:
        import timm

        if architecture not in timm.list_models("convnext*"):
            near = ", ".join(timm.list_models("convnext_*", exclude_filters="*_ols")[:8])
            raise InputError(f"model={architecture}: timm has no such ConvNeXt. Pass one of {near}, ...")
        self.architecture = architecture
        self.encoder = f"timm:{architecture}"
        with seeded(seed):
            model = timm.create_model(architecture, num_classes=len(self.labels), ls_init_value=LAYER_SCALE)  # pyright: ignore[reportArgumentType]
        self.module = _Normalised(model)
        self.arguments: Mapping[str, object] = {"ls_init_value": LAYER_SCALE}
        self.settings: Mapping[str, object] = {"model": architecture, **self.arguments}

    def published(self, name: str) -> str:
        """Return timm's own name."""
        return name.removeprefix("model.")

    def require(self, side: int) -> None:
        """Raise InputError where the deepest stride does not divide `side`."""
        if side % STRIDE:
            near = max(STRIDE, round(side / STRIDE) * STRIDE)
            raise InputError(f"images of {side} x {side} pixels: a ConvNeXt's stride is {STRIDE}. Pass {near}.")

    def visible(
        self, kinds: UInt8[Tensor, "batch H W"], materials: UInt8[Tensor, "batch H W"]
    ) -> Bool[Tensor, "batch labels"]:
        """Say which labels cover at least MIN_SHARE of an image."""
        shares = [
            torch.stack([(values == value).float().mean(dim=(1, 2)) for value in range(1, count)], dim=1)
            for values, count in ((kinds, len(KINDS)), (materials, len(MATERIALS)))
        ]
        return torch.cat(shares, dim=1) >= MIN_SHARE

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy, the mean over images and labels, nats."""
        labels = self.visible(batch["kinds"], batch["materials"])
        return binary_cross_entropy_with_logits(output.float(), labels.float())

    def evaluate(self, forward: Forward, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Return "loss", "accuracy" (of all labels at probability 0.5), and "mean_average_precision".

        The last is over labels that are visible in some images and not in all, and left out where none is.
        """
        outputs, truths = [], []
        for batch in batches:
            outputs.append(forward(batch["rgb"]).float().cpu())
            truths.append(self.visible(batch["kinds"], batch["materials"]).cpu())
        output, truth = torch.cat(outputs), torch.cat(truths)
        precisions = average_precision(output.numpy(), truth.numpy())
        metrics = {
            "loss": float(binary_cross_entropy_with_logits(output, truth.float())),
            "accuracy": float(((output > 0) == truth).double().mean()),
        }
        if np.isfinite(precisions).any():
            metrics["mean_average_precision"] = float(np.nanmean(precisions))
        return metrics

    def panels(self, forward: Forward, batch: Batch) -> Mapping[str, Image]:
        """Show images with what is seen in them, missed, and seen in vain."""
        logits = forward(batch["rgb"]).float().cpu().numpy()
        truth = self.visible(batch["kinds"], batch["materials"]).cpu().numpy()
        images = (batch["rgb"] * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return {"recognised": recognised(list(np.ascontiguousarray(images)), logits > 0, truth, self.labels)}


def average_precision(
    scores: Float[np.ndarray, "images labels"], truth: Bool[np.ndarray, "images labels"]
) -> Float[np.ndarray, " labels"]:
    """Average precision of each label: the mean, over images that show it, of the precision at their rank.

    Equal scores count in the order of the images. NaN where a label is in no image, or in all of them.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    hit = np.take_along_axis(truth, order, axis=0).astype(float)
    precision = hit.cumsum(axis=0) / np.arange(1, len(hit) + 1)[:, None]
    count = hit.sum(axis=0)
    result = (precision * hit).sum(axis=0) / np.maximum(count, 1)
    return np.where((count > 0) & (count < len(hit)), result, np.nan)
