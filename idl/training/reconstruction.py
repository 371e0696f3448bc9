"""Training the autoencoder: to give back the image it was shown."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from idl.encoders.autoencoder import Autoencoder, AutoencoderConfig, require_size
from idl.encoders.autoencoder.likelihood import picture
from idl.figures import reconstructions
from idl.report import Image
from idl.training.images import Batch
from idl.training.objective import Forward


class Reconstruction:
    """An autoencoder that learns to reconstruct RGB; it sees nothing else."""

    task = "reconstruction"
    purpose = "trained to reconstruct its images"
    encoder = "autoencoder"
    architecture = "dvae"
    layers = ("rgb",)
    depends_on_frame = False

    def __init__(self, config: AutoencoderConfig, seed: int) -> None:
        self.module = Autoencoder(config, seed)
        self.arguments: Mapping[str, object] = asdict(config)
        self.settings = self.arguments

    def published(self, name: str) -> str:
        """As it is: "encoder." or "decoder." come first."""
        return name

    def require(self, side: int) -> None:
        """Raise InputError where the stride does not divide `side`."""
        require_size(side)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """The one that the configuration names."""
        return self.module.loss_of(output, batch["rgb"])

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
        """Show images over their reconstructions."""
        shown = (picture(forward(batch["rgb"])), batch["rgb"])
        made, truth = (
            [np.ascontiguousarray(image) for image in (x * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()]
            for x in shown
        )
        return {"reconstructions": reconstructions(truth, made)}
