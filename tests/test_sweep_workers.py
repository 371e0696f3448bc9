"""Several workers of one study, as processes, on sqlite and on PostgreSQL: killed ones leave nothing to clean up."""

import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import forked
import mlflow
import optuna
import postgres
import pytest
import sqlalchemy
import sweep_workers
from planted import write_pairs
from test_cli import SMALL
from test_sweep import CONFIG, SUBJECT, Swept
from test_sweep_cli import ENCODER, children, runs

from idl.errors import InputError
from idl.sweep.study import SharedStudy, opened

NUM_TRIALS, PER_BATCH, NUM_EPOCHS, NUM_WORKERS = 24, 3, 6, 4
KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    if postgres.programs() is None:
        pytest.skip("no PostgreSQL: pip install '.[test]'")
    with postgres.running() as running:
        yield running


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Of a fresh database."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    return request.getfixturevalue("server").create(f"db{time.monotonic_ns()}")


def loaded(url: str, name: str) -> optuna.Study:
    """The study as Optuna alone reads it."""
    storage = optuna.storages.RDBStorage(url)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        copied = optuna.create_study(study_name=name)
        copied.add_trials(study.trials)
        for attribute, value in study.user_attrs.items():
            copied.set_user_attr(attribute, value)
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


class Workers:
    """Starts workers of the study "shared" on one dataset, and kills what is left of them."""

    def __init__(self, folder: Path, storage: str) -> None:
        write_pairs(folder / "walk", num=40)
        self.folder, self.processes = folder, dict[str, BaseProcess]()
        sizes = ("--trials", str(NUM_TRIALS), "--trials-per-batch", str(PER_BATCH), "--epochs", str(NUM_EPOCHS))
        settings = ("--step-images", "4", "--storage", storage, "--study", "shared")
        self.arguments = ("sweep", "--dataset", "folder", "--data", "walk", *SMALL, *ENCODER, *sizes, *settings)
        self.environment = {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(), "IDL_CACHE": str(folder / "cache")}

    def start(self, name: str, hangs_at: str = "", together: int = 1) -> None:
        self.processes[name] = sweep_workers.start(
            name, self.folder, self.environment, self.arguments, hangs_at, together
        )

    def kill(self, name: str) -> None:
        """Once it hangs."""
        appears(self.folder / f"{name}.hanging", self.processes[name])
        self.processes[name].kill()
        self.processes[name].join()

    def log(self, name: str) -> str:
        self.processes[name].join(150)
        text = (self.folder / f"{name}.log").read_text()
        assert self.processes[name].exitcode == 0, text
        return text


@pytest.fixture
def workers(workplace: Path, url: str) -> Iterator[Workers]:
    made = Workers(workplace, url)
    yield made
    for process in made.processes.values():
        process.kill()
        process.join()


@pytest.mark.slow
@pytest.mark.timeout(400)
@KINDS
def test_of_four_workers_two_are_killed_and_the_winner_is_tested_once(workers: Workers, url: str) -> None:
    workers.start("first", together=NUM_WORKERS)
    workers.start("training", "training", together=NUM_WORKERS)
    workers.start("adding", "adding", together=NUM_WORKERS)
    workers.start("second", together=NUM_WORKERS)
    for name in ("training", "adding"):
        workers.kill(name)
    logs = [workers.log("first"), workers.log("second")]

    study = loaded(url, "shared")
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
    # A batch beyond, at most.
    assert NUM_TRIALS <= len(study.trials) <= NUM_TRIALS + PER_BATCH
    assert len({trial.params["lr"] for trial in study.trials}) == len(study.trials)
    assert sorted({trial.user_attrs["worker"] for trial in study.trials}) == list(range(NUM_WORKERS))

    # Who was killed could not end its own run; whatever was logged is complete.
    by_status = {
        status: [each for each in runs("sweep") if each.info.status == status] for status in ("FINISHED", "RUNNING")
    }
    assert [len(each) for each in by_status.values()] == [2, 2]
    assert {each.data.tags["idl.study"] for each in runs("sweep")} == {"shared"}
    (version,) = mlflow.MlflowClient().search_model_versions()
    winner = min(study.trials[:NUM_TRIALS], key=lambda trial: trial.values[0])
    assert study.user_attrs["tested"] == {"trial": winner.number, "run": version.run_id}
    assert version.run_id in {each.info.run_id for each in by_status["FINISHED"]}
    assert {each.data.metrics["best_trial"] for each in by_status["FINISHED"]} == {winner.number}
    tested = [each for each in by_status["FINISHED"] if "test_loss" in each.data.metrics]
    assert [each.info.run_id for each in tested] == [version.run_id]
    logged = {number: child for each in runs("sweep") for number, child in children(each).items()}
    # The first trial of the batch that was cut off was never logged.
    assert len(logged) == len(runs("trial")) == len(study.trials) - 1
    for number, child in logged.items():
        assert child.info.status == "FINISHED"
        assert child.data.tags["idl.worker"] == str(study.trials[number].user_attrs["worker"])
        assert child.data.metrics["loss"] == study.trials[number].value
        assert child.data.params["k"] == str(study.trials[number].params["k"])
        curve = mlflow.MlflowClient().get_metric_history(child.info.run_id, "val_loss")
        assert len(curve) == NUM_EPOCHS + 1

    # All there is to do is done.
    workers.start("again")
    assert f"study shared is complete: {NUM_TRIALS} trials" in (again := workers.log("again"))
    assert len(runs("sweep")) == NUM_WORKERS
    assert not [text for text in [*logs, again] if postgres.PASSWORD in text]
    shown = [str(each.data) for each in (*runs("sweep"), *logged.values())]
    assert not [text for text in shown if postgres.PASSWORD in text]


@pytest.mark.slow
@KINDS
def test_where_the_worker_that_tests_is_killed_another_one_concludes(workers: Workers, url: str) -> None:
    workers.start("testing", "testing")
    appears(workers.folder / "testing.hanging", workers.processes["testing"])
    # It finds the study complete, and waits for that one.
    workers.start("waiting")
    deadline = time.monotonic() + 100
    while len(runs("sweep")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert workers.processes["waiting"].is_alive()
    assert not mlflow.MlflowClient().search_model_versions()
    workers.kill("testing")
    assert "models:/idl-depth-null/1" in workers.log("waiting")
    (version,) = mlflow.MlflowClient().search_model_versions()
    study = loaded(url, "shared")
    assert len(study.trials) == NUM_TRIALS
    assert study.user_attrs["tested"] == {"trial": study.best_trial.number, "run": version.run_id}


def join_together(urls: list[str], folder: Path, start: Any, answers: Any) -> None:
    """What workers do first, at the same moment for each database."""
    for url in urls:
        start.wait()
        try:
            with opened(url, folder) as database:
                answers.put(SharedStudy.joined(database, "tested", SUBJECT).worker)
        except Exception as error:
            answers.put(f"{type(error).__name__}: {error}")


@pytest.mark.slow
@KINDS
def test_workers_start_together_on_a_fresh_database(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Time and again: which of them gets to the tables first is the machine's choice."""
    names = [f"fresh{attempt}" for attempt in range(3)]
    urls = [f"sqlite:///{tmp_path / name}.db" for name in names]
    if kind == "postgresql":
        urls = [request.getfixturevalue("server").create(name) for name in names]
    start, answers = forked.CONTEXT.Barrier(NUM_WORKERS), forked.CONTEXT.Queue()
    processes = [forked.start(join_together, urls, tmp_path, start, answers) for _ in range(NUM_WORKERS)]
    try:
        found = [answers.get(timeout=120) for _ in urls for _ in processes]
        assert sorted(found, key=str) == sorted([*range(NUM_WORKERS)] * len(urls))
    finally:
        for process in processes:
            process.join(60)
            process.kill()


@pytest.mark.slow
def test_a_server_that_is_lost_is_said_and_the_study_goes_on(server: postgres.Server, tmp_path: Path) -> None:
    config = replace(CONFIG, storage=server.create("lost"))

    class Losing(Swept):
        def log(self, batch: Any) -> None:
            super().log(batch)
            if len(self.batches) == 2:
                server.stop()

    try:
        with pytest.raises(InputError) as caught:
            Losing(tmp_path, config)
        with pytest.raises(InputError, match=r"cannot be opened \(.*refused") as unreachable:
            Swept(tmp_path, config)
    finally:
        server.start()
    wrong = replace(config, storage=config.storage.replace(postgres.PASSWORD, "wrong-secret"))
    with pytest.raises(InputError, match=r"cannot be opened .*password authentication") as refused:
        Swept(tmp_path, wrong)
    assert f"127.0.0.1:{server.port}/lost: lost, or no longer fit to be written" in str(caught.value)
    for shown in (str(caught.value), str(unreachable.value), str(refused.value)):
        assert not [part for part in (postgres.PASSWORD, "secret", "\n") if part in shown]
    # Both batches are kept.
    assert len(Swept(tmp_path, config).logged) == 4


def test_a_connection_that_was_dropped_between_batches_is_opened_again(server: postgres.Server, tmp_path: Path) -> None:
    class Dropping(Swept):
        def log(self, batch: Any) -> None:
            super().log(batch)
            engine = sqlalchemy.create_engine(server.url("postgres"))
            with engine.connect() as connection:
                ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = 'dropped'"
                assert connection.scalar(sqlalchemy.text(ended))
            engine.dispose()

    assert len(Dropping(tmp_path, replace(CONFIG, storage=server.create("dropped"))).trials) == 12
