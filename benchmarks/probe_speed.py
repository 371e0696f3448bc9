"""A whole probe run against the bare forward pass of the same network over the same images.

    PYTHONPATH=. python benchmarks/probe_speed.py --encoder timm:convnext_atto
    PYTHONPATH=. python benchmarks/probe_speed.py --encoder convnext

The run reads a prepared store, encodes, accumulates, fits, measures the test split and draws the panels; imports
and the model's export are apart. The forward pass sees the same images, already normalised and in memory, in the
same batches and arithmetic. Both in one process, in turn; random weights. The store is made where it is missing.
"""

import copy
import statistics
import tempfile
import time
from pathlib import Path

import click
import torch
from record import record

from idl import cache
from idl.data.datasets import DatasetConfig, open_store
from idl.data.store import Store
from idl.encoders import Encoder, EncoderConfig, build
from idl.features import keep_freed_buffers
from idl.pipeline import probe
from idl.probe_config import ProbeConfig
from idl.progress import terminal


def bare_seconds(encoder: Encoder, store: Store, batch_size: int) -> float:
    """Seconds of the network alone over all images; loading and normalising them is not counted."""
    dtype = getattr(torch, encoder.arithmetic)
    network = copy.deepcopy(encoder.network).to(dtype)
    seconds = 0.0
    with torch.inference_mode():
        for first in range(0, store.num_images, batch_size):
            indices = range(first, min(first + batch_size, store.num_images))
            rgb = torch.from_numpy(store.read(("rgb",), indices)["rgb"]).permute(0, 3, 1, 2).float() / 255
            images = ((rgb - encoder.mean) / encoder.std).to(dtype).contiguous(memory_format=torch.channels_last)
            start = time.perf_counter()
            network(images)
            seconds += time.perf_counter() - start
    return seconds


@click.command()
@click.option("--encoder", default="timm:convnext_atto", show_default=True)
@click.option("--images", default=4000, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--batch-size", default=ProbeConfig.batch_size, show_default=True)
def main(encoder: str, images: int, repeats: int, batch_size: int) -> None:
    """Time both."""
    keep_freed_buffers()
    dataset = DatasetConfig(num_scenes=-(-images // 6), views=6)
    store = open_store(dataset, cache.default_folder() / "datasets", workers=2, progress=terminal)
    built = build(EncoderConfig(encoder, weights="random"), torch.device("cpu"))
    config = ProbeConfig(batch_size=batch_size)
    click.echo(record())
    click.echo(f"{encoder}, {built.arithmetic}, {store.num_images} images, batches of {batch_size}")
    ratios = []
    bare_before = bare_seconds(built, store, batch_size)
    for repeat in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            probe(config, store, built, Path(folder))
            whole = time.perf_counter() - start
        bare_after = bare_seconds(built, store, batch_size)
        # The machine's speed drifts: the run is held against the mean of the passes before and after it.
        bare = (bare_before + bare_after) / 2
        bare_before = bare_after
        ratios.append(whole / bare)
        per_image = 1e3 / store.num_images
        times = f"run {whole * per_image:.2f}, bare {bare * per_image:.2f} ms an image"
        click.echo(f"repeat {repeat}: {times}: {ratios[-1]:.3f}")
    click.echo(f"ratio: {statistics.median(ratios):.3f}   ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
