"""A small dataset with a known answer, for processes that do without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from idl.data.reader import Group, Sample
from idl.errors import InputError


@dataclass(frozen=True)
class PlantedReader:
    """Images of smooth colour; depth is linear in the red channel's local mean, plus noise, with holes.

    broken: index of a group whose file "cannot be read". blank: names of images without a valid pixel.
    """

    num_scenes: int = 8
    views: int = 3
    resolution: int = 64
    seed: int = 0
    noise_m: float = 0.1
    broken: int | None = None
    blank: tuple[str, ...] = ()
    with_normals: bool = True
    name: str = "planted"
    source: str = "made by the tests"
    is_deterministic: bool = False
    is_sequential: bool = False
    plausible_median_m: tuple[float, float] = (0.1, 100.0)
    log: Path | None = field(default=None, compare=False)

    @property
    def recipe(self) -> Mapping[str, object]:
        return {"reader": "planted", "seed": self.seed, "size": [self.num_scenes, self.views, self.resolution]}

    @property
    def groups(self) -> Sequence[Group]:
        return tuple(
            Group(f"scene_{scene:02d}", tuple(f"scene_{scene:02d}_{view}" for view in range(self.views)))
            for scene in range(self.num_scenes)
        )

    def read(self, index: int) -> list[Sample]:
        if index == self.broken:
            raise InputError(f"scene_{index:02d}: cannot be read. Replace it.")
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{index}\n")
        generator = np.random.default_rng([self.seed, index])
        return [self._sample(self.groups[index].scene, name, generator) for name in self.groups[index].names]

    def _sample(self, scene: str, name: str, generator: np.random.Generator) -> Sample:
        side = self.resolution
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        rgb = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
        noise = self.noise_m * generator.standard_normal((side, side))
        depth_m = (1.0 + 3.0 * rgb[..., 0] / 255.0 + noise).astype(np.float32)
        valid = generator.random((side, side)) > 0.2
        if name in self.blank:
            valid[:] = False
        layers = {}
        if self.with_normals:
            normals = np.stack([rgb[..., 0] / 255.0 - 0.5, rgb[..., 1] / 255.0 - 0.5, -np.ones((side, side))], axis=-1)
            normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
            layers["normals"] = normals.astype(np.float16)
        return Sample(name, scene, rgb, np.where(valid, depth_m, 0).astype(np.float32), valid, layers)
