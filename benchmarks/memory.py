"""Peak memory of a probe run over 10,000 images against 1,000.

    PYTHONPATH=. python benchmarks/memory.py

Each run is a process of its own over a planted dataset (noise images, no rendering), with the null encoder at
stride 8; its peak is what the system says of it (maximum resident set). Preparation is apart.
"""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from record import record

from idl.data.preparation import prepare
from idl.data.reader import Group, Sample
from idl.data.store import Store
from idl.encoders import EncoderConfig, build
from idl.features import keep_freed_buffers
from idl.pipeline import probe
from idl.probe_config import ProbeConfig
from idl.progress import terminal
from idl.protocol import Protocol

IMAGES_PER_SCENE = 20


@dataclass(frozen=True)
class NoiseReader:
    """Coarse noise, one row of numbers an image: cheap to make at any length."""

    num_images: int
    name: str = "noise"
    source: str = "noise"
    is_deterministic: bool = True
    is_sequential: bool = False
    plausible_median_m: tuple[float, float] = (0.1, 10.0)

    @property
    def recipe(self) -> Mapping[str, object]:
        """The length decides."""
        return {"noise": self.num_images}

    @property
    def groups(self) -> Sequence[Group]:
        """Scenes of twenty images."""
        names = [f"{index:06d}" for index in range(self.num_images)]
        return [
            Group(f"scene_{first // IMAGES_PER_SCENE:05d}", tuple(names[first : first + IMAGES_PER_SCENE]))
            for first in range(0, self.num_images, IMAGES_PER_SCENE)
        ]

    def read(self, index: int) -> list[Sample]:
        """Draw the images of one scene."""
        generator = np.random.default_rng(index)
        first = index * IMAGES_PER_SCENE
        samples = []
        for number in range(first, min(first + IMAGES_PER_SCENE, self.num_images)):
            rgb = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
            depth_m = (1 + rgb[..., 0] / 64).astype(np.float32)
            valid = np.ones(depth_m.shape, dtype=bool)
            samples.append(Sample(f"{number:06d}", f"scene_{index:05d}", rgb, depth_m, valid))
        return samples


def measure(path: Path, encoder: str) -> None:
    """Run the probe in this process and print its peak in MB."""
    keep_freed_buffers()
    built = build(EncoderConfig(encoder, weights="auto" if encoder == "null" else "random"), torch.device("cpu"))
    with tempfile.TemporaryDirectory() as cache:
        probe(ProbeConfig(), Store.open(path), built, Path(cache))
    click.echo(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


@click.command()
@click.option("--few", default=1000, show_default=True)
@click.option("--many", default=10_000, show_default=True)
@click.option("--encoder", default="null", show_default=True)
@click.option("--measured", default="", hidden=True)
def main(few: int, many: int, encoder: str, measured: str) -> None:
    """Measure both."""
    if measured:
        measure(Path(measured), encoder)
        return
    click.echo(record())
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (few, many):
            store = prepare(NoiseReader(count), Protocol(), Path(folder), workers=2, progress=terminal)
            command = [sys.executable, __file__, "--encoder", encoder, "--measured", str(store.path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(int(done.stdout.split()[-1]))
            click.echo(f"{encoder}, {count} images: peak {peaks[-1]} MB")
    click.echo(f"ratio: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
