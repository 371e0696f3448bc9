"""Datasets and encoders whose features are known to be there, or known to be the pixels' own."""

from dataclasses import replace

import numpy as np
import torch
from planted import PlantedReader
from torch import Tensor, nn

from idl.data.reader import Sample
from idl.encoders import Encoder, Origin, digest_of


class FoldedReader(PlantedReader):
    """Depth is linear in how far red is from one half: no linear probe of the pixels reads that."""

    def read(self, index: int) -> list[Sample]:
        generator = np.random.default_rng([self.seed, index, 1])
        samples = []
        for sample in super().read(index):
            noise = self.noise_m * generator.standard_normal(sample.depth_m.shape)
            depth_m = 1.0 + 6.0 * np.abs(sample.rgb[..., 0] / 255.0 - 0.5) + noise
            samples.append(replace(sample, depth_m=np.where(sample.valid, depth_m, 0).astype(np.float32)))
        return samples


class Folding(nn.Module):
    """Sees what `FoldedReader` plants, through weights that can be permuted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.einsum("oc,bchw->bohw", self.weight, (x - 0.5).abs())
        return nn.functional.avg_pool2d(mixed, 8)


class Colours(nn.Module):
    """A linear function of the downsampled image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -0.5, 0.2], [0.3, 1.0, 0.0], [0.5, 0.5, 2.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(torch.einsum("oc,bchw->bohw", self.weight, x), 8)


def foreign(network: nn.Module, channels: int, name: str = "foreign") -> Encoder:
    """An encoder of stride 8 that no name builds again."""
    origin = Origin(type(network).__name__, "custom", digest_of(network.state_dict()), "none", None, "tests")
    return Encoder(network, name=name, stride=8, channels=channels, origin=origin)
