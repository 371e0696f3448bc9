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

from idl.sweep import notes, workers
from idl.sweep.config import SweepConfig
from idl.sweep.holding import Hold, held
from idl.sweep.notes import Conclusion, StudyRun
from idl.sweep.run import check
from idl.sweep.space import SearchSpace
from idl.sweep.storage import opened
from idl.sweep.workers import this_worker

NUM_WORKERS = 4
# Signs are given every second or oftener: a machine may stand still for five.
GRACE_SECONDS = 6
ELSEWHERE = "other/pid:[4026531836]@0b5ca9b1:17:4242"
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["idl.sweep.holding"])


@pytest.fixture(params=["journal", "sqlite"])
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepConfig:
    """Of a study that is there."""
    monkeypatch.setenv("IDL_GRACE_SECONDS", str(GRACE_SECONDS))
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
            study.set_user_attr(notes.RUN, asdict(run))
        return StudyRun(**study.user_attrs[notes.RUN])


def signs_of(config: SweepConfig, folder: Path, worker: str, given: int | None = None) -> int:
    """Signs of life that a worker has given, after it gave these."""
    with opened(config, config.study, folder) as storage:
        study = optuna.load_study(study_name=config.study, storage=storage.optuna)
        if given is not None:
            study.set_user_attr(f"signs of {worker}", given)
        return study.user_attrs.get(f"signs of {worker}", 0)


@contextmanager
def giving_signs(config: SweepConfig, folder: Path, worker: str = ELSEWHERE) -> Iterator[None]:
    """A worker on another machine."""
    ended = threading.Event()

    def live() -> None:
        for given in range(1, 200):
            signs_of(config, folder, worker, given)
            if ended.wait(0.3):
                return

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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
    noted(config, tmp_path, StudyRun("theirs", None, ELSEWHERE))
    with giving_signs(config, tmp_path):
        assert asked(config, tmp_path) == (False, "theirs")
    begun = time.monotonic()
    assert asked(config, tmp_path) == (True, "theirs")
    assert time.monotonic() - begun > GRACE_SECONDS


def test_who_has_the_run_gives_signs_and_is_told_where_others_took_it(config: SweepConfig, tmp_path: Path) -> None:
    with held(config, tmp_path, lambda line: None) as hold:
        hold.note("ours")
        deadline = time.monotonic() + 60
        while signs_of(config, tmp_path, this_worker()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert hold.is_kept()
        theirs = noted(config, tmp_path, StudyRun("theirs", "ours", ELSEWHERE))
        assert not hold.is_kept()
        hold.note("ours again")
        assert not hold.concludes(0)
        time.sleep(2.5)
        assert noted(config, tmp_path) == theirs
    assert noted(config, tmp_path) == theirs


def test_what_earlier_versions_noted_is_read(config: SweepConfig, tmp_path: Path) -> None:
    with opened(config, config.study, tmp_path) as storage:
        study = optuna.load_study(study_name=config.study, storage=storage.optuna)
        host, pid, _ = this_worker().rsplit(":", 2)
        study.set_user_attr(notes.RUN, {"run_id": "old", "signs": 7, "worker": f"{host.rpartition('@')[0]}:{pid}:1"})
    assert asked(config, tmp_path) == (True, "old")


def add_trials(config: SweepConfig, folder: Path, num: int) -> None:
    with opened(config, config.study, folder) as storage:
        study = optuna.load_study(study_name=config.study, storage=storage.optuna)
        study.add_trials([optuna.create_trial(value=1.0) for _ in range(num)])


def test_who_concludes_has_all_trials_that_there_are(config: SweepConfig, tmp_path: Path) -> None:
    add_trials(config, tmp_path, 2)
    with held(config, tmp_path, lambda line: None) as hold:
        # Of another worker, that wanted more, and ended.
        add_trials(config, tmp_path, 1)
        assert not hold.concludes(2)
        assert noted(config, tmp_path).concludes is None
        assert hold.concludes(3)
        hold.conclude(Conclusion("ours", 3, 0, "ours"))
        assert not hold.is_concluded
    with held(config, tmp_path, lambda line: None) as hold:
        assert hold.conclusion == Conclusion("ours", 3, 0, "ours")


@pytest.mark.parametrize(("num_trials", "concludes", "is_waited_for"), [(2, 2, False), (3, 2, True), (1, 1, True)])
def test_who_concludes_without_the_last_trials_is_waited_for(
    config: SweepConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_trials: int,
    concludes: int,
    is_waited_for: bool,
) -> None:
    """Asked by one that wants two trials, or more."""
    # Not to be taken for silent by a slow machine.
    monkeypatch.setenv("IDL_GRACE_SECONDS", "60")
    add_trials(config, tmp_path, num_trials)
    noted(config, tmp_path, StudyRun("theirs", None, ELSEWHERE, concludes))
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if is_waited_for:
            # It ends while it is waited for.
            noted(config, tmp_path, StudyRun("theirs"))

    with giving_signs(config, tmp_path), held(replace(config, trials=2), tmp_path, say) as hold:
        assert (hold.is_ours, hold.run_id) == (is_waited_for, "theirs")
    if is_waited_for:
        assert f"it tests the best of {concludes} trials; waiting until it has" in said[0]


def test_the_own_run_of_a_worker_that_is_silent_is_ended(config: SweepConfig, tmp_path: Path) -> None:
    """Others on this machine, and elsewhere; that of one that lives, or has ended it itself, is not touched."""
    hold, ended = Hold(config, tmp_path), []
    with opened(config, config.study, tmp_path) as storage:
        study = optuna.load_study(study_name=config.study, storage=storage.optuna)
        for worker, run_id in ((ELSEWHERE, "lives"), (f"{ELSEWHERE}1", "silent"), (f"{workers._host()}:1:1", "gone")):
            notes.note_own_run(study, worker, run_id)
    with hold.joining() as note:
        note("this one's")
        with giving_signs(config, tmp_path):
            begun = time.monotonic()
            assert hold.end_left(ended.append) == 2
            assert ended == ["gone"]
            while hold.end_left(ended.append, begun):
                assert time.monotonic() - begun < 60
                time.sleep(0.2)
    assert time.monotonic() - begun > GRACE_SECONDS
    assert ended == ["gone", "silent"]
    with opened(config, config.study, tmp_path) as storage:
        study = optuna.load_study(study_name=config.study, storage=storage.optuna)
        assert notes.own_runs(study) == {ELSEWHERE: "lives"}
