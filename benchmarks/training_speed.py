"""A training, with all that it does beside the steps, against a bare loop over the same network.

    PYTHONPATH=. python benchmarks/training_speed.py --objective autoencoder
    PYTHONPATH=. python benchmarks/training_speed.py --objective pretrain

The training reads a prepared store, crops and mirrors, steps, logs to MLflow, looks at four validation images twice and
writes a checkpoint. The bare loop takes the same steps on batches of the same size that lie in memory,
ready for the network. Both in one process, in turn.
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


def bare_seconds(kind: str, config: TrainingConfig, store: Store, split: Split, num_steps: int) -> float:
    """Seconds of steps over batches in memory."""
    objective = objective_of(kind)
    images = TrainingImages(
        store, split.indices["train"], objective.layers, config.batch_size, config.crop, False, config.seed
    )
    stream = images.stream(0)
    kept = [to_network(next(stream), CPU) for _ in range(4)]
    stream.close()
    module = objective.module.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.AdamW(module.parameters(), lr=config.lr, fused=True)
    start = time.perf_counter()
    for step in range(num_steps):
        batch = kept[step % len(kept)]
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16(CPU)):
            output = module(batch["rgb"])
        objective.loss(output, batch).backward()
        nn.utils.clip_grad_norm_(module.parameters(), config.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def training_seconds(kind: str, config: TrainingConfig, store: Store, split: Split) -> float:
    """Seconds of a training with two looks at a few validation images."""
    with tempfile.TemporaryDirectory() as folder, tracking.start("benchmark") as recorder:
        start = time.perf_counter()
        train(objective_of(kind), config, store, split, Path(folder), CPU, recorder=recorder)
        return time.perf_counter() - start


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
        ratios = []
        bare_before = bare_seconds(kind, config, store, split, steps)
        for repeat in range(repeats):
            whole = training_seconds(kind, config, store, split)
            bare_after = bare_seconds(kind, config, store, split, steps)
            # The machine's speed drifts: the training is held against the mean of the loops before and after it.
            bare = (bare_before + bare_after) / 2
            bare_before = bare_after
            ratios.append(bare / whole)
            rate = config.batch_size * steps
            click.echo(f"repeat {repeat}: {rate / whole:.1f} of {rate / bare:.1f} images/s: {ratios[-1]:.3f}")
        click.echo(f"ratio: {statistics.median(ratios):.3f}   ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
