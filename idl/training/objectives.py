"""What is trained, and what it is to become good at: giving back its images, or naming what is in them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from idl.data.rooms import KINDS, MATERIALS
from idl.encoders.autoencoder import (
    ARCHITECTURE,
    STRIDE,
    Autoencoder,
    AutoencoderConfig,
    Loss,
    picture,
    reconstruction_loss,
)
from idl.encoders.base import seeded
from idl.errors import InputError
from idl.report import Image
from idl.report.tiles import recognised, reconstructions
from idl.training.images import Batch

Forward = Callable[[Tensor], Tensor]

# A thing on fewer pixels does not count as visible: 2 % are a square of 36 pixels in 256 x 256. At 0.2 % the labels are
# so many, and so small, that 2,000 steps of a convnext_atto learned next to nothing.
MIN_SHARE = 0.02
# timm starts at 1e-6, at which the blocks hardly learn in a few thousand steps.
LAYER_SCALE = 0.1


class Objective(ABC):
    """A network, and what it is to become good at.

    task: name of what it is trained for, recorded with the weights. purpose: the same in words, after "dvae, ".
    encoder: name by which the trained weights are probed. architecture: "dvae", or timm's name.
    stride: of its deepest level, pixels; it must divide the sides of images and crops.
    arguments: what the architecture is built with; settings: all that decides the module. JSON values.
    module: RGB in [0, 1] (batch, 3, H, W) to its output; trained in place.
    layers: of the store, all that the loss may see; "rgb" among them.
    depends_on_frame: whether a crop is another task than the whole image, so that crops are validated on, too.
    """

    task: str
    purpose: str
    encoder: str
    architecture: str
    stride: int
    arguments: Mapping[str, object]
    settings: Mapping[str, object]
    module: nn.Module
    layers: tuple[str, ...] = ("rgb",)
    depends_on_frame = False

    def published(self, name: str) -> str:
        """Return the name of one of the module's tensors in a file of weights."""
        return name

    def require(self, side: int) -> None:
        """Raise InputError where the stride does not divide `side`, pixels."""
        if side < self.stride or side % self.stride:
            near = max(self.stride, round(side / self.stride) * self.stride)
            raise InputError(
                f"images of {side} x {side} pixels: sides must be multiples of {self.stride}. Pass {near}."
            )

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the mean over the batch of what is minimised, a float32 scalar. batch: from `to_network`."""

    @abstractmethod
    def evaluate(self, forward: Forward, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Return metrics of `forward` on validation batches: "loss", and whatever else tells how good it is."""

    @abstractmethod
    def panels(self, forward: Forward, batch: Batch) -> Mapping[str, Image]:
        """Return pictures of what it does on a few images, by key."""


class Reconstruction(Objective):
    """An autoencoder that learns to reconstruct RGB; it sees nothing else."""

    task = "reconstruction"
    purpose = "trained to reconstruct its images"
    encoder = "autoencoder"
    architecture = ARCHITECTURE
    stride = STRIDE

    def __init__(self, config: AutoencoderConfig, seed: int) -> None:
        self.module = Autoencoder(config, seed)
        self.arguments = self.settings = config.arguments
        self._loss: Loss = config.loss

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the loss that the configuration names."""
        return reconstruction_loss(self._loss, output, batch["rgb"])

    def evaluate(self, forward: Forward, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Return "loss", "mse" (of the clamped picture, RGB in [0, 1]) and "psnr" (its mean over images, dB)."""
        loss, mse, psnr, num_images = 0.0, 0.0, 0.0, 0
        for batch in batches:
            output = forward(batch["rgb"])
            squared = (picture(output) - batch["rgb"]).square().mean(dim=(1, 2, 3), dtype=torch.float64)
            loss += float(self.loss(output, batch)) * len(squared)
            mse += float(squared.sum())
            psnr += float(-10 * squared.clamp(min=1e-10).log10().sum())
            num_images += len(squared)
        return {"loss": loss / num_images, "mse": mse / num_images, "psnr": psnr / num_images}

    def panels(self, forward: Forward, batch: Batch) -> Mapping[str, Image]:
        """Return images over their reconstructions."""
        made = _bytes_of(picture(forward(batch["rgb"])))
        return {"reconstructions": reconstructions(_bytes_of(batch["rgb"]), made)}


class Recognition(Objective):
    """A ConvNeXt of timm's with one logit for each kind and each material of `rooms`.

    Of the dataset it sees the images and, for the labels, which kind and which material a pixel shows: no depth, no
    normals, no object's outline.
    """

    task = "rooms-recognition"
    purpose = "trained to name the kinds of things and the materials in rendered rooms"
    stride = 32
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
        self.arguments = {"ls_init_value": LAYER_SCALE}
        self.settings = {"model": architecture, **self.arguments}

    def published(self, name: str) -> str:
        """Return timm's own name."""
        return name.removeprefix("model.")

    def visible(
        self, kinds: UInt8[Tensor, "batch H W"], materials: UInt8[Tensor, "batch H W"]
    ) -> Bool[Tensor, "batch labels"]:
        """Return which labels cover at least MIN_SHARE of an image."""
        shares = [
            torch.stack([(values == value).float().mean(dim=(1, 2)) for value in range(1, count)], dim=1)
            for values, count in ((kinds, len(KINDS)), (materials, len(MATERIALS)))
        ]
        return torch.cat(shares, dim=1) >= MIN_SHARE

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the binary cross-entropy, the mean over images and labels, nats."""
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
        """Return images with the labels that are found, missed, and not there."""
        logits = forward(batch["rgb"]).float().cpu().numpy()
        truth = self.visible(batch["kinds"], batch["materials"]).cpu().numpy()
        return {"recognised": recognised(_bytes_of(batch["rgb"]), logits > 0, truth, self.labels)}


class _Normalised(nn.Module):
    """A timm model behind the normalisation that its card asks for: RGB in [0, 1] in, logits out."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        card: Any = model.pretrained_cfg
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(card[name]).view(1, 3, 1, 1), persistent=False)

    def forward(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch labels"]:
        """Compute the logits."""
        return self.model((rgb - self.mean) / self.std)


def average_precision(
    scores: Float[np.ndarray, "images labels"], truth: Bool[np.ndarray, "images labels"]
) -> Float[np.ndarray, " labels"]:
    """Return the average precision of each label: the mean, over images that show it, of the precision at their rank.

    Equal scores count in the order of the images. NaN where a label is in no image, or in all of them.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    hit = np.take_along_axis(truth, order, axis=0).astype(float)
    precision = hit.cumsum(axis=0) / np.arange(1, len(hit) + 1)[:, None]
    count = hit.sum(axis=0)
    result = (precision * hit).sum(axis=0) / np.maximum(count, 1)
    return np.where((count > 0) & (count < len(hit)), result, np.nan)


def _bytes_of(rgb: Float[Tensor, "batch 3 H W"]) -> list[UInt8[np.ndarray, "H W 3"]]:
    images = (rgb * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [np.ascontiguousarray(image) for image in images]
