"""How much of the time of `prepare` is decoding and resizing: a file in the layout of NYU Depth V2.

    PYTHONPATH=.:tests python benchmarks/prepare_speed.py --images 320 --repeats 5

Both read every image through the same reader, in processes started for it: once to be thrown away, dealt out four at
a time, and once into a store, which is deleted. In turn, so that the machine's drift falls on both. Wall-clock time
and processor time are both given: on a machine that does other work, they part.
"""

import os

# One thread each for numpy's libraries, which read this when they are loaded; it goes on to the processes.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import resource
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

from idl.data.datasets import DatasetConfig, open_store
from idl.data.nyu import NyuReader

IMAGES_AT_ONCE = 4
DISTINCT = 16


def noisy(planted: Planted) -> Planted:
    """As a camera and a Kinect see it: noise in RGB, millimetres in depth, so that it packs as the published file."""
    generator = np.random.default_rng(0)
    noise = generator.integers(-3, 4, planted.rgb.shape)
    rgb = np.clip(planted.rgb + noise, 0, 255).astype(np.uint8)
    raw_m, inpainted_m = (np.round(depth_m, 3) for depth_m in (planted.raw_m, planted.inpainted_m))
    return Planted(rgb, raw_m, inpainted_m, planted.scenes)


def reader_of(config: DatasetConfig) -> NyuReader:
    """Read what `open_store` reads."""
    return NyuReader(Path(config.data), config.build_protocol(), config.depths)


def read_some(asked: NyuReader, first: int, last: int) -> None:
    """Decode and resize some images and keep none."""
    for index in range(first, last):
        asked.read(index)


def read_all(config: DatasetConfig, workers: int) -> None:
    """Decode and resize all images in `workers` processes."""
    asked = reader_of(config)
    count = len(asked.groups)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        parts = range(0, count, IMAGES_AT_ONCE)
        for done in [pool.submit(read_some, asked, first, min(first + IMAGES_AT_ONCE, count)) for first in parts]:
            done.result()


def prepare_all(config: DatasetConfig, workers: int) -> None:
    """Make a store of all images, as `idl prepare` does, and delete it."""
    with TemporaryDirectory() as folder:
        open_store(config, Path(folder), workers=workers)


def seconds(work: Callable[[DatasetConfig, int], None], config: DatasetConfig, workers: int) -> tuple[float, float]:
    """Wall clock, and processor time of this process and of those that it started, of one run."""
    wall, processor = time.perf_counter(), processor_seconds()
    work(config, workers)
    return time.perf_counter() - wall, processor_seconds() - processor


def processor_seconds() -> float:
    """Until now, of this process and of those that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@click.command()
@click.option("--images", default=320, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(images: int, workers: int, repeats: int) -> None:
    """Measure, and print one line a repeat and the medians."""
    # Not above: the processes import this file, and torch with it.
    from record import record

    print(record())
    with TemporaryDirectory() as folder:
        planted = noisy(plant(DISTINCT, NATIVE_SIZE))
        path = write_mat(Path(folder) / "nyu.mat", planted, repeats=max(1, images // DISTINCT))
        config = DatasetConfig("nyu", str(path))
        count = len(reader_of(config).groups)
        print(f"{count} images of {NATIVE_SIZE}, {path.stat().st_size / count / 1e6:.2f} MB each; {workers} processes")
        ratios: list[tuple[float, float]] = []
        for repeat in range(repeats):
            alone, whole = seconds(read_all, config, workers), seconds(prepare_all, config, workers)
            ratios.append((alone[0] / whole[0], alone[1] / whole[1]))
            print(
                f"repeat {repeat}: {count / alone[0]:.1f} images/s decoded and resized, {count / whole[0]:.1f} "
                f"prepared: {ratios[-1][0]:.3f} by the clock; {1e3 * alone[1] / count:.1f} and "
                f"{1e3 * whole[1] / count:.1f} ms of a processor an image: {ratios[-1][1]:.3f}"
            )
        for kind, values in zip(("the clock", "processor time"), zip(*ratios, strict=True), strict=True):
            middle = statistics.median(values)
            print(f"median of the speed by {kind}: {middle:.3f} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
