"""Every run gets a last status, whatever ends it; a resumed one is the same run; readers of test scenes count."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from idl.errors import InputError
from idl.tracking.runs import Terminated, child, count_test_readers, start


def read(run_id: str) -> Run:
    return mlflow.MlflowClient().get_run(run_id)


def interrupted() -> str:
    """A run that was ended by Ctrl-C; return its id."""
    run_id = ""
    with suppress(KeyboardInterrupt), start("autoencoder", "theirs", "autoencoder rooms") as recorder:
        run_id = recorder.run_id
        recorder.log_curves({"loss": {3: 2.0}})
        raise KeyboardInterrupt
    return run_id


def test_run_is_finished_under_its_name_and_experiment(
    store: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    client, before = mlflow.MlflowClient(), signal.getsignal(signal.SIGTERM)
    with start("probe", None, "probe convnext depth rooms") as recorder:
        assert read(recorder.run_id).info.status == "RUNNING"
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    run = read(recorder.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "probe convnext depth rooms")
    assert client.get_experiment(run.info.experiment_id).name == "idl"
    assert run.data.tags["idl.entry_point"] == "probe"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with start("probe") as recorder:
        assert recorder.hint.startswith("mlflow ui --backend-store-uri sqlite")
    assert client.get_experiment(recorder.experiment_id).name == "mine"
    assert capfd.readouterr() == ("", "")


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
def test_exception_decides_the_status_and_goes_on(store: str, error: BaseException, status: str) -> None:
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


@pytest.mark.parametrize(("named", "kept"), [("bustling-fox-123", "probe convnext"), ("figure 3", "figure 3")])
def test_run_of_mlflow_run_is_resumed(store: str, monkeypatch: pytest.MonkeyPatch, named: str, kept: str) -> None:
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("theirs")
    given = client.create_run(experiment, run_name=named).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with start("probe", "another", "probe convnext") as recorder:
        assert (recorder.run_id, recorder.experiment_id) == (given, experiment)
    assert (read(given).info.status, read(given).info.run_name) == ("FINISHED", kept)
    assert client.get_experiment_by_name("another") is None


def test_children_are_nested_and_end_on_their_own(store: str) -> None:
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


def test_a_resumed_run_is_the_same_run(store: str) -> None:
    run_id = interrupted()
    assert read(run_id).info.status == "KILLED"
    with pytest.raises(InputError), start("autoencoder", resume=run_id):
        raise InputError("training diverged at step 3.")
    assert read(run_id).data.tags["idl.error"] == "training diverged at step 3."
    with start("autoencoder", "another", "another name", resume=run_id) as recorder:
        assert recorder.run_id == run_id
        assert read(run_id).info.status == "RUNNING"
        recorder.log_curves({"loss": {4: 1.0}})
    run = read(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "autoencoder rooms")
    # It was overcome.
    assert "idl.error" not in run.data.tags
    history = mlflow.MlflowClient().get_metric_history(run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(3, 2.0), (4, 1.0)]


def test_a_run_of_mlflow_run_says_where_it_goes_on(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, client = interrupted(), mlflow.MlflowClient()
    given = client.create_run("0", run_name="bustling-fox-123").info.run_id
    for resumed, note in ((run_id, run_id), (given, None)):
        monkeypatch.setenv("MLFLOW_RUN_ID", given)
        client.set_tag(given, "idl.resumed", "")
        with start("autoencoder", resume=resumed) as recorder:
            assert recorder.run_id == resumed
        assert read(given).data.tags["idl.resumed"] == (note or "")
    assert read(given).data.tags["mlflow.note.content"] == f"Goes on in run {run_id}."


@pytest.mark.parametrize("run_id", ["0" * 32, "no id", "../mlflow.db", "deleted"])
def test_a_run_that_is_not_there_is_not_resumed(store: str, run_id: str) -> None:
    words = "no such run"
    if run_id == "deleted":
        run_id, words = interrupted(), "mlflow runs restore"
        mlflow.MlflowClient().delete_run(run_id)
    with pytest.raises(InputError, match=rf"resume={run_id}: .*{words}"), start("autoencoder", resume=run_id):
        pass


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


def test_sigterm_ends_the_run_as_killed(store: str) -> None:
    code = (
        "import time\n"
        "from idl.tracking.runs import start\n"
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


SCENES = "0000001 0000002 0000003"


def leave(entry_point: str, scenes: str, experiment: str = "one") -> str:
    """Return the id of a run that tested these scenes."""
    with start(entry_point, experiment) as recorder:
        if scenes:
            recorder.tag("test_scenes", scenes)
        return recorder.run_id


def test_whoever_tested_one_of_these_scenes_counts_once_wherever_and_children_do_not(store: str) -> None:
    # Others' scenes, hashes that are no word of these, none, and a command that does not test.
    for entry_point, scenes in (("probe", "0000004"), ("probe", "000000 00000010"), ("probe", ""), ("prepare", SCENES)):
        leave(entry_point, scenes)
    assert count_test_readers(SCENES) == 0
    leave("evaluate", "0000000 0000003 0000009")
    mlflow.MlflowClient().delete_run(leave("probe", SCENES, experiment="two"))
    with start("compare") as recorder, child(recorder, "null") as inside:
        for each in (recorder, inside):
            each.tag("test_scenes", SCENES)
    assert count_test_readers(SCENES) == 3
