"""Workers of one study as processes of their own."""

import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import forked


def start(
    name: str,
    folder: Path,
    environment: dict[str, str],
    arguments: Sequence[str],
    hangs_at: str = "",
    together: int = 1,
) -> BaseProcess:
    """Start `idl` in `folder`; what it prints is in NAME.log.

    hangs_at: where it writes NAME.hanging, and hangs, to be killed: "training" its second batch, "adding" its first
    one, when the study has a trial of it, or "testing" the winner; "": nowhere.
    together: workers that wait for each other, by NAME.training, before they train their first batch.
    """
    return forked.start(_work, name, folder, environment, arguments, hangs_at, together)


def _work(
    name: str, folder: Path, environment: dict[str, str], arguments: Sequence[str], hangs_at: str, together: int
) -> None:
    import optuna
    import torch

    from idl.cli import run
    from idl.cli import sweep as command
    from idl.sweep import search

    os.chdir(folder)
    os.environ.update(environment)
    torch.set_num_threads(1)
    with (folder / f"{name}.log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    train, add, measure, batches = (
        search.train_trials,
        optuna.Study.add_trials,
        command.evaluate_best,
        iter(range(10**6)),
    )

    def hang() -> None:
        Path(f"{name}.hanging").touch()
        time.sleep(600)

    def trained(*arguments: Any) -> Any:
        number = next(batches)
        if number == 0:
            Path(f"{name}.training").touch()
            deadline = time.monotonic() + 200
            while len(list(Path().glob("*.training"))) < together and time.monotonic() < deadline:
                time.sleep(0.1)
        elif hangs_at == "training":
            hang()
        return train(*arguments)

    def added(study: optuna.Study, trials: Any) -> None:
        # Not of the copy in memory, which the sampler draws on.
        if hangs_at == "adding" and study.study_name in arguments:
            add(study, trials[:1])
            hang()
        add(study, trials)

    def evaluated(*arguments: Any) -> Any:
        if hangs_at == "testing":
            hang()
        return measure(*arguments)

    search.train_trials, command.evaluate_best = trained, evaluated
    optuna.Study.add_trials = added  # pyright: ignore[reportAttributeAccessIssue]
    sys.argv = ["idl", *arguments]
    run()
