"""A training, with all that it does beside the steps, against a bare loop over the same network.

    PYTHONPATH=. python benchmarks/training_speed.py --objective autoencoder
    PYTHONPATH=. python benchmarks/training_speed.py --objective pretrain

The training reads a prepared store, crops and mirrors, steps, logs to MLflow, looks at four validation images twice and
writes a checkpoint. The bare loop takes the same steps on batches of the same size that lie in memory, ready for the
network. They take turns, twenty steps each, so that the drift of a shared machine meets both; while the other one
steps, the training reads ahead at most 4 of its 20 batches. Throughput of the training counts its steps, reading and
waiting for batches included; the whole counts all that it does from its first line to its last, too, and that by
processor time as well, which says something on a busy machine with OMP_NUM_THREADS=1.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import click
import torch
from record import record
from torch import nn

from idl import cache
from idl.data.datasets import DatasetConfig, open_store
from idl.data.splits import Split, split_by_scene
from idl.data.store import Store
from idl.encoders.autoencoder import AutoencoderConfig
from idl.features import keep_freed_buffers
from idl.progress import terminal
from idl.tracking import runs
from idl.training.images import TrainingImages, to_network
from idl.training.loop import AUTOENCODER, PRETRAIN, TrainingConfig, train
from idl.training.objectives import Autoencoding, Objective, Segmentation

CPU = torch.device("cpu")
TURN = 20


def objective_of(kind: str) -> Objective:
    """Build what is trained, anew."""
    return Autoencoding(AutoencoderConfig(), 0) if kind == "autoencoder" else Segmentation("convnext_atto", 0)


class BareLoop:
    """Steps over batches in memory, and the time that they took so far, by the clock and by the processor's."""

    def __init__(self, kind: str, config: TrainingConfig, store: Store, split: Split) -> None:
        self.seconds, self.busy = 0.0, 0.0
        self._objective, self._config = objective_of(kind), config
        images = TrainingImages(
            store, split.indices["train"], self._objective.layers, config.batch_size, config.crop, False, config.seed
        )
        with closing(images.stream(0)) as stream:
            self._kept = [to_network(next(stream), CPU) for _ in range(4)]
        self._module = self._objective.module.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
        self._optimiser = torch.optim.AdamW(self._module.parameters(), lr=config.lr, fused=True)

    def run(self, num_steps: int) -> None:
        """Take so many steps."""
        start, busy = time.perf_counter(), time.process_time()
        for step in range(num_steps):
            batch = self._kept[step % len(self._kept)]
            self._objective.loss(self._module(batch["rgb"]), batch).backward()
            nn.utils.clip_grad_norm_(self._module.parameters(), self._config.clip)
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)
        self.seconds += time.perf_counter() - start
        self.busy += time.process_time() - busy


def shares_of_bare(kind: str, config: TrainingConfig, store: Store, split: Split, num_steps: int) -> dict[str, float]:
    """Throughput of a training over that of the bare loop: of its steps, of all of it, of that by processor time."""
    bare = BareLoop(kind, config, store, split)
    bare.run(2)
    bare.seconds = bare.busy = 0.0

    @contextmanager
    def taking_turns(label: str, total: int, done: int = 0, unit: str = "img") -> Iterator[Callable[[int], None]]:
        def advance(count: int) -> None:
            nonlocal done
            done += count
            if done % TURN == 0:
                bare.run(TURN)

        yield advance

    with tempfile.TemporaryDirectory() as folder, runs.start("benchmark") as recorder:
        start, busy = time.perf_counter(), time.process_time()
        trained = train(
            objective_of(kind), config, store, split, Path(folder), CPU, recorder=recorder, progress=taking_turns
        )
        whole, busy = time.perf_counter() - start - bare.seconds, time.process_time() - busy - bare.busy
    assert trained.images_per_s is not None
    assert trained.step == num_steps
    num_images = num_steps * config.batch_size
    click.echo(f"{trained.images_per_s:.1f} images/s, bare {num_images / bare.seconds:.1f}")
    return {
        "steps": trained.images_per_s / (num_images / bare.seconds),
        "whole": bare.seconds / whole,
        "whole, by processor time": bare.busy / busy,
    }


@click.command()
@click.option("--objective", "kind", type=click.Choice(["autoencoder", "pretrain"]), default="autoencoder")
@click.option("--turns", default=6, show_default=True, help=f"Of {TURN} steps.", type=click.IntRange(min=1))
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1))
def main(kind: str, turns: int, repeats: int) -> None:
    """Time both."""
    keep_freed_buffers()
    store = open_store(DatasetConfig(), cache.default_folder() / "datasets", workers=2, progress=terminal)
    split = split_by_scene(store.scenes)
    config = AUTOENCODER if kind == "autoencoder" else PRETRAIN
    epochs = turns * TURN / (len(split.indices["train"]) // config.batch_size)
    config = replace(config, epochs=epochs, val_images=4, validate_every=10**9)
    click.echo(record())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        found = [shares_of_bare(kind, config, store, split, turns * TURN) for _ in range(repeats)]
    for name in found[0]:
        shares = [share[name] for share in found]
        click.echo(f"{name}: {statistics.median(shares):.3f}   ({min(shares):.3f} to {max(shares):.3f})")


if __name__ == "__main__":
    main()
