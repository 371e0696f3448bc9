"""A training, with all that it does beside the steps, against a bare loop over the same network.

    PYTHONPATH=. python benchmarks/training_speed.py --objective autoencoder
    PYTHONPATH=. python benchmarks/training_speed.py --objective pretrain

The training reads a prepared store, crops and mirrors, steps, logs to MLflow, looks at four validation images twice and
writes a checkpoint. The bare loop takes the same steps on batches of the same size that lie in memory,
ready for the network. Both in one process, in turn. Throughput of the training counts its steps, reading and waiting
for batches included; the whole counts all that it does from its first line to its last, too, and that by processor
time as well, which says something on a busy machine with OMP_NUM_THREADS=1.
"""

import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
from record import record
from torch import nn

from idl import cache, tracking
from idl.cli.training import AUTOENCODER, PRETRAIN
from idl.data.datasets import DatasetConfig, open_store
from idl.data.splits import Split, split_by_scene
from idl.data.store import Store
from idl.encoders.arithmetic import has_fast_bfloat16
from idl.encoders.autoencoder import PRESETS
from idl.memory import keep_freed_buffers
from idl.progress import terminal
from idl.training import Recognition, Reconstruction, TrainingConfig, train
from idl.training.images import TrainingImages, to_network
from idl.training.objective import Objective

CPU = torch.device("cpu")


def objective_of(kind: str) -> Objective:
    """Build what is trained, anew."""
    return Reconstruction(PRESETS["small"], 0) if kind == "autoencoder" else Recognition("convnext_atto", 0)


def bare_seconds(
    kind: str, config: TrainingConfig, store: Store, split: Split, num_steps: int
) -> tuple[float, float, float]:
    """Seconds of steps over batches in memory, in the order of `training_seconds`."""
    objective = objective_of(kind)
    images = TrainingImages(
        store, split.indices["train"], objective.layers, config.batch_size, config.crop, False, config.seed
    )
    stream = images.stream(0)
    kept = [to_network(next(stream), CPU) for _ in range(4)]
    stream.close()
    module = objective.module.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.AdamW(module.parameters(), lr=config.lr, fused=True)
    start, busy = time.perf_counter(), time.process_time()
    for step in range(num_steps):
        batch = kept[step % len(kept)]
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16(CPU)):
            output = module(batch["rgb"])
        objective.loss(output, batch).backward()
        nn.utils.clip_grad_norm_(module.parameters(), config.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - start
    return seconds, seconds, time.process_time() - busy


def training_seconds(kind: str, config: TrainingConfig, store: Store, split: Split) -> tuple[float, float, float]:
    """Seconds of a training's steps, of all of it with two looks at a few validation images, and of a processor."""
    with tempfile.TemporaryDirectory() as folder, tracking.start("benchmark") as recorder:
        start, busy = time.perf_counter(), time.process_time()
        trained = train(objective_of(kind), config, store, split, Path(folder), CPU, recorder=recorder)
        whole, busy = time.perf_counter() - start, time.process_time() - busy
    assert trained.images_per_s is not None
    return trained.step * config.batch_size / trained.images_per_s, whole, busy


@click.command()
@click.option("--objective", "kind", type=click.Choice(["autoencoder", "pretrain"]), default="autoencoder")
@click.option("--steps", default=60, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(kind: str, steps: int, repeats: int) -> None:
    """Time both."""
    keep_freed_buffers()
    store = open_store(DatasetConfig(), cache.default_folder() / "datasets", workers=2, progress=terminal)
    split = split_by_scene(store.scenes)
    config = AUTOENCODER if kind == "autoencoder" else PRETRAIN
    epochs = steps / (len(split.indices["train"]) // config.batch_size)
    config = replace(config, epochs=epochs, val_images=4, validate_every=10**9)
    click.echo(record())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        ratios: dict[str, list[float]] = {"steps": [], "whole": [], "whole, by processor time": []}
        before = bare_seconds(kind, config, store, split, steps)
        for repeat in range(repeats):
            taken = training_seconds(kind, config, store, split)
            after = bare_seconds(kind, config, store, split, steps)
            # The machine's speed drifts: the training is held against the mean of the loops before and after it.
            bare = [(one + other) / 2 for one, other in zip(before, after, strict=True)]
            before = after
            for found, seconds, alone in zip(ratios.values(), taken, bare, strict=True):
                found.append(alone / seconds)
            rate = config.batch_size * steps
            click.echo(f"repeat {repeat}: {rate / taken[0]:.1f} images/s, bare {rate / bare[0]:.1f}")
        for name, found in ratios.items():
            click.echo(f"{name}: {statistics.median(found):.3f}   ({min(found):.3f} to {max(found):.3f})")


if __name__ == "__main__":
    main()
