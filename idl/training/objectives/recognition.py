"""Training to name what is in an image: the kinds of things and the materials of `rooms`."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from idl.data.rooms import KINDS, MATERIALS
from idl.report import Image
from idl.report.tiles import recognised
from idl.training.images import Batch
from idl.training.objectives.base import Forward, Normalised, OnConvNeXt, bytes_of

# A thing on fewer pixels does not count as visible: 2 % are a square of 36 pixels in 256 x 256. At 0.2 % the labels are
# so many, and so small, that 2,000 steps of a convnext_atto learned next to nothing.
MIN_SHARE = 0.02


class Recognition(OnConvNeXt):
    """A ConvNeXt of timm's with one logit for each kind and each material of `rooms`.

    Of the dataset it sees the images and, for the labels, which kind and which material a pixel shows: no depth, no
    normals, no object's outline.
    """

    task = "rooms-recognition"
    purpose = "trained to name the kinds of things and the materials in rendered rooms"
    layers = ("rgb", "kinds", "materials")
    # What covers 2 % of a crop covers less of the image.
    depends_on_frame = True
    layer_scale = 0.1
    # Value 0 means no surface, which never occurs.
    labels: tuple[str, ...] = (*KINDS[1:], *MATERIALS[1:])

    def build(self) -> nn.Module:
        """Make the ConvNeXt with its classifier."""
        return Normalised(self.convnext(len(self.labels)))

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
        return {"recognised": recognised(bytes_of(batch["rgb"]), logits > 0, truth, self.labels)}


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
