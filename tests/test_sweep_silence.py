"""Workers that fall silent: frozen ones, and those that were killed where nobody can look."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from planted import write_pairs
from test_cli import SMALL
from test_sweep_cli import FEW, children, runs, statuses, sweep

from idl.cli import study_conclusion, study_worker

# In a namespace of its own a process has other numbers, as in a container.
APART = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def folder(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_pairs(workplace / "walk", num=40)
    monkeypatch.setenv("IDL_GRACE_SECONDS", "8")
    return workplace


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start `idl sweep` as a process that does something first: lines of Python."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(study: str, lines: str, *further: str, before: tuple[str, ...] = ()) -> "subprocess.Popen[bytes]":
        script = f"import os, signal, time\nfrom pathlib import Path\n{lines}\nfrom idl.cli import run\nrun()\n"
        arguments = ("sweep", "--dataset", "folder", "--data", "walk", *SMALL, *FEW, "--study", study, *further)
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        }
        with (folder / f"{study}.log").open("ab") as log:
            process = subprocess.Popen(
                [*before, sys.executable, "-c", script, *arguments], stdout=log, stderr=log, env=environment
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def appears(path: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.returncode
        assert time.monotonic() < deadline, path.name
        time.sleep(0.1)


# The first batch writes a file, and does no more until somebody lets it.
HANGING = """from idl.sweep import batches
train, is_first = batches.train_trials, iter([True])
def trained(*arguments):
    if next(is_first, False):
        Path('hanging').touch()
        {end}
    return train(*arguments)
batches.train_trials = trained"""

# The thread that gives signs of life writes too; a process that is frozen while it does keeps the journal's lock.
BETWEEN_WRITES = """import threading
from contextlib import contextmanager
from idl.sweep import journal
holding, writing = journal._holding, threading.RLock()
@contextmanager
def held(lock, path):
    with writing, holding(lock, path):
        yield
journal._holding = held"""
FREEZES = """with writing:
            os.kill(os.getpid(), signal.SIGSTOP)"""


@pytest.mark.slow
def test_a_frozen_worker_that_wakes_leaves_the_run_to_who_has_it(
    folder: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = start("frozen", BETWEEN_WRITES + "\n" + HANGING.format(end=FREEZES))
    appears(folder / "hanging", frozen)
    (first,) = runs("sweep")
    conclude = study_conclusion.conclude
    found: list[Any] = []

    def concluded(*arguments: Any) -> Any:
        before = mlflow.get_run(first.info.run_id)
        frozen.send_signal(signal.SIGCONT)
        assert frozen.wait(120) == 0, (folder / "frozen.log").read_text()
        found.extend([before, mlflow.get_run(first.info.run_id)])
        return conclude(*arguments)

    monkeypatch.setattr(study_conclusion, "conclude", concluded)
    assert sweep(*FEW, "--study", "frozen") == 0
    assert [(each.info.status, each.info.end_time) for each in found] == [("RUNNING", None)] * 2
    assert "this worker was silent for too long" in (folder / "frozen.log").read_text()
    parent = runs("sweep")[0]
    assert parent.info.status == "FINISHED"
    # Its trials were tried again meanwhile.
    assert statuses(parent) == dict.fromkeys(range(3), "KILLED") | dict.fromkeys(range(3, 9), "FINISHED")
    assert len(mlflow.MlflowClient().search_model_versions()) == 1


@pytest.mark.slow
def test_the_trials_of_a_killed_container_are_tried_again(folder: Path, start: Start) -> None:
    if os.name != "posix" or subprocess.run([*APART, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespace of processes may be made here")
    killed = start("contained", HANGING.format(end="time.sleep(600)"), before=APART)
    appears(folder / "hanging", killed)
    killed.kill()
    killed.wait()
    assert sweep(*FEW, "--study", "contained") == 0
    (parent,) = runs("sweep")
    assert parent.info.status == "FINISHED"
    assert statuses(parent) == dict.fromkeys(range(3), "KILLED") | dict.fromkeys(range(3, 9), "FINISHED")
    assert {child.data.tags.get("retry_of") for child in children(parent).values()} == {"0", "1", "2", None}


@pytest.mark.slow
def test_the_own_run_of_a_worker_elsewhere_that_is_killed_is_ended(
    folder: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first trial, and in an experiment of its own."""
    search = study_worker.run_sweep
    hanging = (
        "from idl.sweep import workers\n"
        "from idl.cli import study_worker\n"
        "workers._host = lambda: 'other/pid:[4026531836]@0b5ca9b1'\n"
        "def prepared(*_, **__):\n"
        "    Path('hanging').touch()\n"
        "    time.sleep(600)\n"
        "study_worker.prepare_all = prepared"
    )

    def searched(*arguments: Any, **further: Any) -> Any:
        joined = start("joined", hanging, "--experiment", "other")
        appears(folder / "hanging", joined)
        joined.kill()
        joined.wait()
        return search(*arguments, **further)

    monkeypatch.setattr(study_worker, "run_sweep", searched)
    assert sweep(*FEW, "--study", "joined") == 0
    first, joined = runs("sweep")
    assert first.info.status == "FINISHED"
    assert joined.info.experiment_id != first.info.experiment_id
    assert joined.info.status == "KILLED"
