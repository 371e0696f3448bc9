"""Random crops of native images against plain loading: images/s, and the memory that both take.

    PYTHONPATH=.:tests python benchmarks/crops_speed.py --crops 1000

A file in the layout of NYU Depth V2 is made and prepared. Crops of its test images, and as many prepared images, are
read as an encoder reads them: RGB, depth and mask, 32 at a time, a few batches ahead.
"""

import os

# One thread each for numpy's libraries, which read this when they are loaded.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from nyu_files import NATIVE_SIZE, plant, write_mat  # pyright: ignore[reportMissingImports]
from prepare_speed import DISTINCT, noisy
from record import record

from idl.data.crops import with_crops
from idl.data.datasets import DatasetConfig, native_reader, open_store
from idl.data.loading import batches
from idl.data.splits import split_store
from idl.data.store import Store

LAYERS = ("rgb", "depth", "valid")


def images_per_s(store: Store, layers: Sequence[str], order: Sequence[int]) -> float:
    """Read images as fast as they come, and keep none."""
    start = time.perf_counter()
    count = sum(len(batch["valid"]) for batch in batches(store, layers, order, 32))
    return count / (time.perf_counter() - start)


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def write(path: Path, images: int) -> None:
    """Write the file."""
    write_mat(path, noisy(plant(DISTINCT, NATIVE_SIZE)), repeats=images // DISTINCT)


@click.command()
@click.option("--images", default=96, show_default=True)
@click.option("--crops", default=1000, show_default=True)
def main(images: int, crops: int) -> None:
    """Measure, and print a line each."""
    print(record())
    with TemporaryDirectory() as folder:
        path = Path(folder) / "nyu.mat"
        # In a process of its own, whose memory does not count.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(write, path, images).result()
        config = DatasetConfig("nyu", str(path))
        plain = open_store(config, Path(folder))
        tested = split_store(plain, "auto", 0).indices["test"]
        store = with_crops(plain, native_reader(config, crops), tested, crops)
        print(f"{crops} crops of {len(tested)} images; {peak_mb():.0f} MB until here")
        whole = [index % plain.num_images for index in range(crops)]
        print(f"plain: {images_per_s(plain, LAYERS, whole):.1f} images/s, peak {peak_mb():.0f} MB")
        for part in (crops // 10, crops):
            speed = images_per_s(store, LAYERS, store.crops[:part])
            print(f"{part} crops: {speed:.1f} images/s, peak {peak_mb():.0f} MB")


if __name__ == "__main__":
    main()
