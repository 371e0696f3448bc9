"""Training of the autoencoder, which gives back its images."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from idl.encoders.autoencoder import (
    ARCHITECTURE,
    STRIDE,
    Autoencoder,
    AutoencoderConfig,
    Loss,
    picture,
    reconstruction_loss,
)
from idl.report import Image
from idl.report.tiles import picture_rows
from idl.training.images import Batch
from idl.training.objectives.base import Forward, Objective, bytes_of


class Autoencoding(Objective):
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
        made = bytes_of(picture(forward(batch["rgb"])))
        return {"reconstructions": picture_rows({"image": bytes_of(batch["rgb"]), "reconstruction": made})}
