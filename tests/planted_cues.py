"""Images whose depth is told by colour, light and dark, texture and height in the image, in equal parts, and encoders
that read one of them."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from planted import PlantedReader
from torch import Tensor, nn

from idl.data.reader import Sample
from idl.encoders import Encoder, Origin

SIDE, BLOCK, STRIDE = 128, 16, 8
WEIGHTS = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True)
class CuesReader(PlantedReader):
    """Blocks of 16 pixels, each with a colour, a brightness and an amplitude of its texture drawn for itself.

    beside: how much depth goes with the colour half an image away. spread_m: of what each cue tells. noise_m: of depth.
    """

    num_scenes: int = 32
    views: int = 2
    beside: float = 0.0
    spread_m: float = 0.6
    noise_m: float = 0.06
    name: str = "planted-cues"

    def _sample(self, scene: str, name: str, generator: np.random.Generator) -> Sample:
        def blocks() -> np.ndarray:
            return generator.uniform(-1, 1, (SIDE // BLOCK, SIDE // BLOCK)).repeat(BLOCK, 0).repeat(BLOCK, 1)

        colour, light, texture = blocks(), blocks(), blocks()
        height = np.linspace(1, -1, SIDE)[:, None] * np.ones((SIDE, SIDE))
        checks = (np.indices((SIDE, SIDE)).sum(0) // 2 % 2) * 2 - 1
        level = 0.5 + 0.1 * light + (0.06 + 0.06 * texture) * checks
        # Orange or blue, of no luminance.
        chroma = np.array([0.2, 0.0, -0.2]) - WEIGHTS @ np.array([0.2, 0.0, -0.2])
        rgb = level[..., None] + colour[..., None] * chroma
        beside = np.roll(colour, SIDE // 2, axis=1)
        told = colour + light + texture + height + self.beside * beside
        depth_m = 5 + self.spread_m * told + self.noise_m * generator.standard_normal((SIDE, SIDE))
        valid = generator.random((SIDE, SIDE)) > 0.1
        pixels = (rgb * 255).round().astype(np.uint8)
        return Sample(name, scene, pixels, np.where(valid, depth_m, 0).astype(np.float32), valid, {})


class OneCue(nn.Module):
    """Reads one cue at a cell of eight pixels, and nothing else, not even through padding."""

    def __init__(self, cue: str) -> None:
        super().__init__()
        self.cue = cue

    def forward(self, rgb: Tensor) -> Tensor:
        level = (rgb * torch.tensor(WEIGHTS, dtype=rgb.dtype)[:, None, None]).sum(1, keepdim=True)
        if self.cue == "colour":
            return F.avg_pool2d((rgb - level)[:, [0, 2]], STRIDE)
        if self.cue == "layout":
            return F.avg_pool2d((rgb - level)[:, [0, 2]], STRIDE).roll(SIDE // 2 // STRIDE, dims=3)
        if self.cue == "brightness":
            return F.avg_pool2d(level, STRIDE)
        if self.cue == "texture":
            mean = F.avg_pool2d(level, STRIDE)
            return F.avg_pool2d((level - F.interpolate(mean, scale_factor=STRIDE)).abs(), STRIDE)
        rows = torch.linspace(-1, 1, rgb.shape[2] // STRIDE)[:, None].expand(-1, rgb.shape[3] // STRIDE)
        return torch.stack([rows, rows**2]).expand(len(rgb), -1, -1, -1)


def one_cue(cue: str) -> Encoder:
    origin = Origin("one-cue", "custom", f"digest-{cue}", "none", 0, "tests")
    channels = 2 if cue in ("colour", "layout", "position") else 1
    return Encoder(OneCue(cue), name=f"only-{cue}", stride=STRIDE, channels=channels, origin=origin)
