"""Training to say of every pixel which kind of thing it shows."""

import colorsys
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate, one_hot

from idl.data.rooms import KINDS
from idl.report import Image
from idl.report.tiles import picture_rows
from idl.training.images import Batch
from idl.training.objectives.base import Dense, Forward, OnConvNeXt, bytes_of

NUM_KINDS = len(KINDS) - 1
# Of the kinds in pictures, by their number: hues as far apart as can be of neighbours, in three lightnesses.
COLOURS = (
    255 * np.array([colorsys.hls_to_rgb(0.618 * n % 1, (0.4, 0.6, 0.8)[n % 3], 0.7) for n in range(NUM_KINDS)])
).astype(np.uint8)


class Segmentation(OnConvNeXt):
    """A ConvNeXt of timm's with a logit for each kind of thing of `rooms` at every cell of stride 8.

    Of the dataset it sees the images and, for the labels, which kind a pixel shows: no depth, no normals, and where two
    things of one kind meet, no outline.
    """

    task = "segmentation"
    purpose = "trained to say which kind of thing each pixel of rendered rooms shows"
    layers = ("rgb", "kinds")

    def build(self) -> nn.Module:
        """Make the ConvNeXt with the dense head."""
        return Dense(self.convnext(), NUM_KINDS)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy with the kinds' shares of a cell's pixels, the mean over cells, nats."""
        return cross_entropy(output.float(), shares(batch["kinds"]))

    def evaluate(self, forward: Forward, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Return "loss"; of the logits upsampled to the pixels "accuracy" (share of pixels) and "mean_iou".

        The last is the mean, over the kinds that are there or said, of intersection over union in all images together.
        """
        loss, num_images = 0.0, 0
        confusion = torch.zeros(NUM_KINDS, NUM_KINDS, dtype=torch.int64)
        for batch in batches:
            output = forward(batch["rgb"]).float()
            loss += float(self.loss(output, batch)) * len(output)
            num_images += len(output)
            pairs = (batch["kinds"].long() - 1) * NUM_KINDS + said(output, batch)
            confusion += torch.bincount(pairs.flatten().cpu(), minlength=NUM_KINDS**2).view(NUM_KINDS, NUM_KINDS)
        right = confusion.diagonal().double()
        union = confusion.sum(0) + confusion.sum(1) - right
        return {
            "loss": loss / num_images,
            "accuracy": float(right.sum() / confusion.sum()),
            "mean_iou": float((right / union)[union > 0].mean()),
        }

    def panels(self, forward: Forward, batch: Batch) -> Mapping[str, Image]:
        """Return images over their kinds, and the kinds that are said of them."""
        kinds = {"kinds": batch["kinds"].long() - 1, "said": said(forward(batch["rgb"]).float(), batch)}
        coloured = {name: list(COLOURS[values.cpu().numpy()]) for name, values in kinds.items()}
        return {"segmented": picture_rows({"image": bytes_of(batch["rgb"]), **coloured})}


def shares(kinds: UInt8[Tensor, "batch H W"]) -> Float[Tensor, "batch kinds H/8 W/8"]:
    """Return which share of each cell's pixels shows each kind; kind 0, no surface, never occurs."""
    labels = one_hot(kinds.long() - 1, NUM_KINDS).permute(0, 3, 1, 2).float()
    return avg_pool2d(labels, Dense.STRIDE)


def said(output: Float[Tensor, "batch kinds h w"], batch: Batch) -> Tensor:
    """Return the likeliest kind of each pixel, counted from 0, (batch, H, W)."""
    return interpolate(output, batch["kinds"].shape[1:], mode="bilinear").argmax(dim=1)
