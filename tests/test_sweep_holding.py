"""Which worker has a study's run, and who is taken for gone; workers are processes that ask at the same moment."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import pytest
from test_sweep import CONFIG, SUBJECT

from idl.sweep import holding
from idl.sweep.config import SweepConfig
from idl.sweep.holding import StudyRun, held
from idl.sweep.run import check
from idl.sweep.space import SearchSpace
from idl.sweep.storage import opened
from idl.sweep.workers import this_worker

NUM_WORKERS = 4
ELSEWHERE = "other/pid:[4026531836]@0b5ca9b1:17:4242"
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["idl.sweep.holding"])


@pytest.fixture(params=["journal", "sqlite"])
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepConfig:
    """Of a study that is there."""
    monkeypatch.setenv("IDL_GRACE_SECONDS", "2")
    made = replace(CONFIG, storage="" if request.param == "journal" else f"sqlite:///{tmp_path / 'studies.db'}")
    check(SearchSpace(), made, SUBJECT, tmp_path)
    return made


def ask(config: SweepConfig, folder: Path, start: Any, answers: Any, over: Path) -> None:
    """What a worker does: the run that it takes is its own, by the number of the process."""
    start.wait()
    with held(config, folder, lambda line: None) as hold:
        if hold.is_ours:
            # The others wait for the run's name.
            time.sleep(0.5)
            hold.note(f"run of {os.getpid()}")
        answers.put((os.getpid(), hold.is_ours, hold.run_id))
        if hold.is_ours:
            while not over.exists():
                time.sleep(0.05)


@contextmanager
def asking(config: SweepConfig, folder: Path, num: int = 1) -> Iterator[tuple[list[BaseProcess], list[Any]]]:
    """So many workers that asked at the same moment, and their answers; who has the run keeps it."""
    # A file: an event that a killed process waits for cannot be set.
    start, answers, over = PROCESSES.Barrier(num), PROCESSES.Queue(), folder / f"over{num}"
    processes = [PROCESSES.Process(target=ask, args=(config, folder, start, answers, over)) for _ in range(num)]
    for process in processes:
        process.start()
    try:
        yield list(processes), [answers.get(timeout=120) for _ in processes]
    finally:
        over.touch()
        for process in processes:
            process.join(60)
            process.kill()


def noted(config: SweepConfig, folder: Path, run: StudyRun | None = None) -> StudyRun:
    """What the study notes, after `run` was written."""
    with opened(config, config.study, folder) as storage:
        study = optuna.load_study(study_name=config.study, storage=storage.optuna)
        if run is not None:
            study.set_user_attr(holding.RUN, asdict(run))
        return StudyRun(**study.user_attrs[holding.RUN])


def asked(config: SweepConfig, folder: Path) -> tuple[bool, str | None]:
    with held(config, folder, lambda line: None) as hold:
        return hold.is_ours, hold.run_id


def test_of_workers_that_ask_at_the_same_moment_one_has_the_run(config: SweepConfig, tmp_path: Path) -> None:
    with asking(config, tmp_path, NUM_WORKERS) as (_, answers):
        (owner,) = [pid for pid, is_ours, _ in answers if is_ours]
        run_id = f"run of {owner}"
        assert sorted(run for _, is_ours, run in answers if not is_ours) == [run_id] * (NUM_WORKERS - 1)
        assert asked(config, tmp_path) == (False, run_id)
    # Given back, it goes on in the same run.
    assert asked(config, tmp_path) == (True, run_id)


def test_the_run_of_a_worker_that_is_killed_is_taken_over(config: SweepConfig, tmp_path: Path) -> None:
    with asking(config, tmp_path) as ((process,), ((pid, _, _),)):
        os.kill(pid, signal.SIGKILL)
        process.join()
        with asking(config, tmp_path, NUM_WORKERS) as (_, answers):
            assert [run for _, is_ours, run in answers if is_ours] == [f"run of {pid}"]
            (owner,) = [pid for pid, is_ours, _ in answers if is_ours]
            assert {run for _, is_ours, run in answers if not is_ours} == {f"run of {owner}"}


def test_a_worker_elsewhere_is_counted_on_while_it_gives_signs(config: SweepConfig, tmp_path: Path) -> None:
    run = StudyRun("theirs", None, ELSEWHERE)
    noted(config, tmp_path, run)
    ended = threading.Event()

    def live() -> None:
        for signs in range(1, 200):
            if ended.wait(0.3):
                return
            noted(config, tmp_path, replace(run, signs=signs))

    thread = threading.Thread(target=live)
    thread.start()
    try:
        assert asked(config, tmp_path) == (False, "theirs")
    finally:
        ended.set()
        thread.join()
    begun = time.monotonic()
    assert asked(config, tmp_path) == (True, "theirs")
    assert time.monotonic() - begun > 2


def test_who_has_the_run_gives_signs_and_is_told_where_others_took_it(config: SweepConfig, tmp_path: Path) -> None:
    with held(config, tmp_path, lambda line: None) as hold:
        hold.note("ours")
        deadline = time.monotonic() + 60
        while noted(config, tmp_path).signs < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert hold.is_kept()
        theirs = noted(config, tmp_path, StudyRun("theirs", "ours", ELSEWHERE, 7))
        assert not hold.is_kept()
        hold.note("ours again")
        time.sleep(2.5)
        assert noted(config, tmp_path) == theirs
    assert noted(config, tmp_path) == theirs


def test_what_earlier_versions_noted_is_read(config: SweepConfig, tmp_path: Path) -> None:
    with opened(config, config.study, tmp_path) as storage:
        study = optuna.load_study(study_name=config.study, storage=storage.optuna)
        host, pid, _ = this_worker().rsplit(":", 2)
        study.set_user_attr(holding.RUN, {"run_id": "old", "worker": f"{host.rpartition('@')[0]}:{pid}:1"})
    assert asked(config, tmp_path) == (True, "old")
