"""How much of the time of `prepare` is decoding and resizing: a file in the layout of NYU Depth V2.

    PYTHONPATH=.:tests python benchmarks/prepare_speed.py --images 320 --repeats 5

Both read every image through the same reader, in processes started for it: once to be thrown away, dealt out four at
a time, and once into a store, which is deleted. In turn, so that the machine's drift falls on both.
"""

import os

# One thread each for numpy's libraries, which read this when they are loaded; it goes on to the processes.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from nyu_files import NATIVE_SIZE, Planted, plant, write_mat  # pyright: ignore[reportMissingImports]
from record import record

from idl.data.datasets import DatasetConfig, open_store, reader
from idl.data.reader import Reader

IMAGES_AT_ONCE = 4
DISTINCT = 16


def noisy(planted: Planted) -> Planted:
    """As a camera and a Kinect see it: noise in RGB, millimetres in depth, so that it packs as the published file."""
    generator = np.random.default_rng(0)
    noise = generator.integers(-3, 4, planted.rgb.shape)
    rgb = np.clip(planted.rgb + noise, 0, 255).astype(np.uint8)
    raw_m, inpainted_m = (np.round(depth_m, 3) for depth_m in (planted.raw_m, planted.inpainted_m))
    return Planted(rgb, raw_m, inpainted_m, planted.scenes)


def read_some(asked: Reader, first: int, last: int) -> None:
    """Decode and resize some images and keep none."""
    for index in range(first, last):
        asked.read(index)


def read_all(config: DatasetConfig, workers: int) -> None:
    """Decode and resize all images in `workers` processes."""
    asked = reader(config)
    count = len(asked.groups)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        parts = range(0, count, IMAGES_AT_ONCE)
        for done in [pool.submit(read_some, asked, first, min(first + IMAGES_AT_ONCE, count)) for first in parts]:
            done.result()


def prepare_all(config: DatasetConfig, workers: int) -> None:
    """Make a store of all images, as `idl prepare` does, and delete it."""
    with TemporaryDirectory() as folder:
        open_store(config, Path(folder), workers=workers)


def seconds(work: Callable[[DatasetConfig, int], None], config: DatasetConfig, workers: int) -> float:
    """Wall clock of one run."""
    start = time.perf_counter()
    work(config, workers)
    return time.perf_counter() - start


@click.command()
@click.option("--images", default=320, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(images: int, workers: int, repeats: int) -> None:
    """Measure, and print one line a repeat and the medians."""
    print(record())
    with TemporaryDirectory() as folder:
        planted = noisy(plant(DISTINCT, NATIVE_SIZE))
        path = write_mat(Path(folder) / "nyu.mat", planted, repeats=max(1, images // DISTINCT))
        config = DatasetConfig("nyu", str(path))
        count = len(reader(config).groups)
        print(f"{count} images of {NATIVE_SIZE}, {path.stat().st_size / count / 1e6:.2f} MB each; {workers} processes")
        ratios = []
        for repeat in range(repeats):
            alone, whole = seconds(read_all, config, workers), seconds(prepare_all, config, workers)
            ratios.append(alone / whole)
            print(
                f"repeat {repeat}: {count / alone:.1f} images/s decoded and resized, {count / whole:.1f} prepared: "
                f"{ratios[-1]:.3f}"
            )
        print(f"median: {statistics.median(ratios):.3f} of the speed ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
