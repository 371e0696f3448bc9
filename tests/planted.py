"""Small datasets and encoders with known answers, for the tests of the main path."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from planted_reader import PlantedReader as PlantedReader
from torch import Tensor, nn


class SmallNetwork(nn.Module):
    """A seeded convolutional encoder of stride 8, with correlated channels."""

    def __init__(self, channels: int = 6, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conv = nn.Conv2d(3, channels, 8, stride=8)
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(self.conv.weight.shape, generator=generator) / 8)
            self.conv.bias.copy_(torch.randn(channels, generator=generator))  # pyright: ignore[reportOptionalMemberAccess]

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.cat([torch.relu(y), y[:, :2] * 0.01], dim=1)


def small_network(channels: int = 6, seed: int = 0) -> nn.Module:
    """Factory for `encoder=planted:small_network`."""
    return SmallNetwork(channels, seed)


def one_weight(seed: int = 0) -> nn.Module:
    """Factory of a network whose one weight, always the same, cannot be another or in another order."""
    scale = nn.Conv2d(3, 3, 1, groups=3, bias=False)
    with torch.no_grad():
        scale.weight.fill_(2.0)
    return nn.Sequential(nn.AvgPool2d(8), scale)


def write_pairs(
    root: Path, num: int = 12, size: tuple[int, int] = (48, 40), scale: float = 1000.0, seed: int = 0
) -> None:
    """Write rgb/NNNN.png and depth/NNNN.png (16 bit, 0 = missing) of (height, width) `size`."""
    generator = np.random.default_rng(seed)
    (root / "rgb").mkdir(parents=True)
    (root / "depth").mkdir()
    for index in range(num):
        coarse = generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        rgb = Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        rgb.save(root / "rgb" / f"{index:04d}.png")
        depth = (1.0 + 2.0 * np.asarray(rgb)[..., 1] / 255.0) * scale
        depth[generator.random(size) < 0.1] = 0
        Image.fromarray(depth.astype(np.uint16)).save(root / "depth" / f"{index:04d}.png")
