"""A run that is gone on with is the same run, whatever started the process that does so."""

from contextlib import suppress

import mlflow
import numpy as np
import pytest
from mlflow.entities import Run

from idl.errors import InputError
from idl.tracking import start


def read(run_id: str) -> Run:
    return mlflow.MlflowClient().get_run(run_id)


def interrupted() -> str:
    """A run that was ended by Ctrl-C; return its id."""
    run_id = ""
    with suppress(KeyboardInterrupt), start("autoencoder", "theirs", "autoencoder rooms") as recorder:
        run_id = recorder.run_id
        recorder.log_curves({"loss": {3: 2.0}})
        raise KeyboardInterrupt
    assert read(run_id).info.status == "KILLED"
    return run_id


def test_a_resumed_run_is_the_same_run(store: str):
    run_id = interrupted()
    with start("autoencoder", "another", "another name", resume=run_id) as recorder:
        assert recorder.run_id == run_id
        assert read(run_id).info.status == "RUNNING"
        assert (recorder.last_step("loss"), recorder.last_step("another")) == (3, -1)
        recorder.log_curves({"loss": {4: 1.0}})
    run = read(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "autoencoder rooms")
    client = mlflow.MlflowClient()
    assert [(each.step, each.value) for each in client.get_metric_history(run_id, "loss")] == [(3, 2.0), (4, 1.0)]
    assert client.get_experiment_by_name("another") is None
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_an_error_that_was_overcome_is_no_longer_said(store: str):
    with pytest.raises(InputError), start("autoencoder") as recorder:
        raise InputError("training diverged at step 3.")
    assert read(recorder.run_id).data.tags["idl.error"] == "training diverged at step 3."
    with start("autoencoder", resume=recorder.run_id):
        pass
    assert "idl.error" not in read(recorder.run_id).data.tags


def test_a_run_of_mlflow_run_says_where_it_goes_on(store: str, monkeypatch: pytest.MonkeyPatch):
    run_id = interrupted()
    client = mlflow.MlflowClient()
    given = client.create_run("0", run_name="bustling-fox-123").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with start("autoencoder", resume=run_id) as recorder:
        assert recorder.run_id == run_id
    assert read(run_id).info.status == "FINISHED"
    left = read(given)
    assert left.data.tags["idl.resumed"] == run_id
    assert left.data.tags["mlflow.note.content"] == f"Goes on in run {run_id}."
    assert "idl.resumed" not in read(run_id).data.tags


def test_a_run_of_mlflow_run_may_resume_itself(store: str, monkeypatch: pytest.MonkeyPatch):
    given = mlflow.MlflowClient().create_run("0", run_name="bustling-fox-123").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with start("autoencoder", resume=given) as recorder:
        assert recorder.run_id == given
    assert "idl.resumed" not in read(given).data.tags


@pytest.mark.parametrize("run_id", ["0" * 32, "no id", "../mlflow.db"])
def test_an_unknown_run_is_bad_input(store: str, monkeypatch: pytest.MonkeyPatch, run_id: str):
    with (
        pytest.raises(InputError, match=f"resume={run_id}: no such run at sqlite"),
        start("autoencoder", resume=run_id),
    ):
        pass
    given = mlflow.MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with pytest.raises(InputError, match=f"resume={run_id}: no such run"), start("autoencoder", resume=run_id):
        pass
    assert "idl.resumed" not in read(given).data.tags


def test_pictures_of_several_steps_stand_behind_one_slider(store: str):
    pictures = {"reconstructions": np.zeros((4, 6, 3), np.uint8)}
    with start("autoencoder") as recorder:
        for step in (0, 5):
            recorder.log_panels(pictures, step)
        with pytest.raises(ValueError, match="reconstructions: pixels are float64"):
            recorder.log_panels({"reconstructions": np.zeros((4, 6, 3))}, 10)
    paths = [file.path for file in mlflow.MlflowClient().list_artifacts(recorder.run_id, "images")]
    starts = {path.partition("+timestamp")[0] for path in paths}
    assert starts == {"images/reconstructions+step+0", "images/reconstructions+step+5"}


def test_a_deleted_run_is_not_gone_on_with(store: str):
    run_id = interrupted()
    mlflow.MlflowClient().delete_run(run_id)
    with (
        pytest.raises(InputError, match=f"resume={run_id}: is deleted. Run `mlflow runs restore"),
        start("autoencoder", resume=run_id),
    ):
        pass
