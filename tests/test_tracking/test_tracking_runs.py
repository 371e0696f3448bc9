"""Every run gets a last status, whatever ends it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from idl.errors import InputError
from idl.tracking import Terminated, start
from idl.tracking.runs import child


def read(run_id: str) -> Run:
    return mlflow.MlflowClient().get_run(run_id)


def test_run_is_finished_under_its_name_and_experiment(store: str):
    with start("probe", None, "probe convnext depth rooms") as recorder:
        assert read(recorder.run_id).info.status == "RUNNING"
    run = read(recorder.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "probe convnext depth rooms")
    assert mlflow.MlflowClient().get_experiment(run.info.experiment_id).name == "idl"
    assert run.data.tags["idl.entry_point"] == "probe"


def test_experiment_by_name_and_by_environment(store: str, monkeypatch: pytest.MonkeyPatch):
    client = mlflow.MlflowClient()
    with start("probe", "mine") as first, pytest.raises(Exception, match="already active"), start("probe"):
        pass
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with start("probe") as second:
        pass
    assert client.get_experiment(first.experiment_id).name == "mine"
    assert second.experiment_id == first.experiment_id


def test_deleted_experiment_is_bad_input(store: str):
    with start("probe", "gone") as recorder:
        pass
    mlflow.MlflowClient().delete_experiment(recorder.experiment_id)
    with pytest.raises(InputError, match=r"experiment gone: is deleted"), start("probe", "gone"):
        pass


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("a.png: is empty. Remove it."), "FAILED"),
        (RuntimeError("singular"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (Terminated(), "KILLED"),
        (SystemExit(2), "FAILED"),
        (SystemExit(0), "FINISHED"),
    ],
)
def test_exception_decides_the_status_and_goes_on(store: str, error: BaseException, status: str):
    run_ids = []
    with pytest.raises(type(error)) as caught, start("probe") as recorder:  # noqa: PT012
        run_ids.append(recorder.run_id)
        raise error
    assert caught.value is error
    run = read(run_ids[0])
    assert run.info.status == status
    if isinstance(error, InputError):
        assert run.data.tags["idl.error"] == "a.png: is empty. Remove it."
    assert mlflow.active_run() is None


def test_handler_of_sigterm_is_put_back(store: str):
    before = signal.getsignal(signal.SIGTERM)
    with start("probe"):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_run_of_mlflow_run_is_resumed(store: str, monkeypatch: pytest.MonkeyPatch):
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("theirs")
    given = client.create_run(experiment, run_name="bustling-fox-123").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with start("probe", "another", "probe convnext") as recorder:
        assert (recorder.run_id, recorder.experiment_id) == (given, experiment)
    run = read(given)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "probe convnext")
    assert client.get_experiment_by_name("another") is None


def test_name_that_a_person_gave_is_kept(store: str, monkeypatch: pytest.MonkeyPatch):
    given = mlflow.MlflowClient().create_run("0", run_name="figure 3").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with start("probe", None, "probe convnext"):
        pass
    assert read(given).info.run_name == "figure 3"


def test_run_of_another_store_is_bad_input(store: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(InputError, match="no such run at sqlite"), start("probe"):
        pass


def test_children_are_nested_and_end_on_their_own(store: str):
    with start("sweep") as parent:
        with child(parent, "trial 0") as first:
            first.log_curves({"val_loss": {0: 0.5}})
        with pytest.raises(RuntimeError), child(parent, "trial 1") as second:
            raise RuntimeError("diverged")
        parent.log_curves({"val_loss": {0: 0.25}})
    assert [read(r.run_id).info.status for r in (parent, first, second)] == ["FINISHED", "FINISHED", "FAILED"]
    assert read(first.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
    assert read(first.run_id).data.metrics == {"val_loss": 0.5}
    assert read(parent.run_id).data.metrics == {"val_loss": 0.25}


def test_file_that_is_no_database(clean: Path, monkeypatch: pytest.MonkeyPatch):
    (clean / "notes.db").write_text("no database " * 1000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{clean}/notes.db")
    with pytest.raises(InputError, match=r"cannot be opened .*not a database"), start("probe"):
        pass


def test_nothing_on_the_terminal(store: str, capfd: pytest.CaptureFixture[str]):
    with start("probe", "loud") as recorder:
        assert recorder.hint.startswith("mlflow ui --backend-store-uri sqlite")
    assert capfd.readouterr() == ("", "")


def python(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def started_together(code: str, num: int) -> list[str]:
    """What processes print that go on from their `input()` at the same moment; none may have anything to complain."""
    processes = [python(code) for _ in range(num)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=300) for process in processes]
    assert [error for _, error in answers] == [""] * num
    return [output for output, _ in answers]


def test_sigterm_ends_the_run_as_killed(store: str):
    code = (
        "import time\n"
        "from idl.tracking import start\n"
        "with start('probe') as recorder:\n"
        "    print(recorder.run_id, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with python(code) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
    assert read(run_id).info.status == "KILLED"


@pytest.mark.slow
def test_processes_that_start_together_on_a_fresh_file(clean: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{clean}/fresh.db")
    code = (
        "import mlflow\n"
        "from idl.tracking import start\n"
        "print('ready', flush=True)\n"
        "input()\n"
        "with start('probe', 'together') as recorder:\n"
        "    recorder.log_curves({'loss': {0: 1.0}})\n"
        "    print(recorder.run_id, flush=True)\n"
    )
    runs = [read(output.strip()) for output in started_together(code, 4)]
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    assert len({run.info.run_id for run in runs}) == 4
    assert len({run.info.experiment_id for run in runs}) == 1
