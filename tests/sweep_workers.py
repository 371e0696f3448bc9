"""Workers of one study as processes of their own, forked from one that has imported all they need."""

import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = ("torch", "timm", "optuna", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "idl.cli", __name__)
NUM_WORKERS = 4


def start(
    name: str, folder: Path, environment: dict[str, str], arguments: Sequence[str], machine: str, hangs_at: int = 0
) -> BaseProcess:
    """Start `idl` in `folder`; what it prints is in NAME.log.

    machine: where it believes to be. hangs_at: the epoch of its first batch at which it writes NAME.hanging, and
    hangs, to be killed; 0: never. Before anybody trains, all workers write NAME.training and wait for each other.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    process = context.Process(target=_work, args=(name, folder, environment, arguments, machine, hangs_at))
    process.start()
    return process


def _work(
    name: str, folder: Path, environment: dict[str, str], arguments: Sequence[str], machine: str, hangs_at: int
) -> None:
    import sys

    import torch

    from idl.cli import run
    from idl.sweep import batches, workers

    os.chdir(folder)
    os.environ.update(environment)
    torch.set_num_threads(1)
    with (folder / f"{name}.log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    train = batches.train_trials

    def trained(data: Any, trials: Any, reports: Any = None) -> Any:
        if reports is None:
            # The winner, trained elsewhere, once more.
            return train(data, trials)

        def reported(epoch: int, losses: Any) -> Any:
            ended = reports(epoch, losses)
            if epoch == hangs_at:
                Path(f"{name}.hanging").touch()
                time.sleep(600)
            return ended

        Path(f"{name}.training").touch()
        deadline = time.monotonic() + 200
        while len(list(Path().glob("*.training"))) < NUM_WORKERS and time.monotonic() < deadline:
            time.sleep(0.1)
        return train(data, trials, reported)

    workers._host = lambda: machine
    batches.train_trials = trained
    sys.argv = ["idl", *arguments]
    run()
