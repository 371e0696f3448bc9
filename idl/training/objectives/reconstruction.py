"""Training a ConvNeXt to give back its images."""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pixel_shuffle

from idl.report import Image
from idl.report.tiles import picture_rows
from idl.training.images import Batch
from idl.training.objectives.base import Dense, Forward, OnConvNeXt, bytes_of


class Reconstruction(OnConvNeXt):
    """A ConvNeXt of timm's with a light decoder: every cell of stride 8 gives its 8 x 8 pixels. It sees RGB alone."""

    task = "reconstruction"
    purpose = "trained to reconstruct its images"

    def build(self) -> nn.Module:
        """Make the ConvNeXt with the dense head."""
        return Dense(self.convnext(), 3 * Dense.STRIDE**2)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the mean squared error of RGB in [0, 1]."""
        return mse_loss(picture(output), batch["rgb"])

    def evaluate(self, forward: Forward, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Return "loss"."""
        loss, num_images = 0.0, 0
        for batch in batches:
            loss += float(self.loss(forward(batch["rgb"]), batch)) * len(batch["rgb"])
            num_images += len(batch["rgb"])
        return {"loss": loss / num_images}

    def panels(self, forward: Forward, batch: Batch) -> Mapping[str, Image]:
        """Return what is seen over what is made of it."""
        made = bytes_of(picture(forward(batch["rgb"])))
        return {"reconstructions": picture_rows({"image": bytes_of(batch["rgb"]), "reconstruction": made})}


def picture(output: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch 3 H W"]:
    """Return the picture that the head's numbers are, H = 8 h."""
    return torch.sigmoid(pixel_shuffle(output.float(), Dense.STRIDE))
