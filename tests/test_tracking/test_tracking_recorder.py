"""What is logged is read back through mlflow's own client."""

import csv
import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from idl.report import DatasetInput, RunReport
from idl.tracking.runs import start


def artifacts(run_id: str, path: str | None = None) -> list[str]:
    found = []
    for entry in mlflow.MlflowClient().list_artifacts(run_id, path):
        found += artifacts(run_id, entry.path) if entry.is_dir else [entry.path]
    return found


def fetch(run_id: str, path: str) -> Path:
    return Path(mlflow.MlflowClient().download_artifacts(run_id, path))


def split(context: str, images: int) -> DatasetInput:
    return DatasetInput("rooms", "0123456789abcdef", "rooms, seed 0", context, images, images // 6)  # type: ignore[arg-type]


def test_a_whole_report_comes_back(store: str, monkeypatch: pytest.MonkeyPatch, capfd):
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    picture = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    losses = np.array([0.5, 0.25], np.float32)
    report = RunReport(
        params={"k": 64, "lr": 0.001, "weights": None},
        metrics={"test_loss": 0.25, "delta1": 0.5},
        figures={"curves/loss_over_k.png": picture},
        panels={"depth/küche_0012": picture},
        tables={
            "tables/k.csv": {"k": [1, 2], "name": ["a,b", "c"], "loss": list(losses)},
            "tables/k.json": {"k": list(np.array([1, 2])), "loss": [0.5, 0.25]},
        },
        datasets=(split("training", 1320), split("validation", 240), split("testing", 360)),
        description="# A probe",
        tags={"encoder": "convnext"},
    )
    with start("probe") as recorder:
        assert recorder.log(report) == ()
    assert capfd.readouterr() == ("", "")

    run = mlflow.MlflowClient().get_run(recorder.run_id)
    assert run.data.params == {"k": "64", "lr": "0.001", "weights": "None"}
    assert run.data.metrics == {"test_loss": 0.25, "delta1": 0.5}
    assert run.data.tags["mlflow.note.content"] == "# A probe"
    assert run.data.tags["encoder"] == "convnext"

    paths = artifacts(recorder.run_id)
    assert {"curves/loss_over_k.png", "tables/k.csv", "tables/k.json"} <= set(paths)
    (grid,) = [path for path in paths if path.startswith("images/") and path.endswith(".png")]
    assert grid.startswith("images/depth~k_che_0012+step+0+")
    for path in (grid, "curves/loss_over_k.png"):
        with Image.open(fetch(recorder.run_id, path)) as image:
            np.testing.assert_array_equal(np.asarray(image), picture)
    with fetch(recorder.run_id, "tables/k.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["k", "name", "loss"], ["1", "a,b", "0.5"], ["2", "c", "0.25"]]
    table = mlflow.MlflowClient().load_table(recorder.experiment_id, "tables/k.json", [recorder.run_id])
    assert table["loss"].tolist() == [0.5, 0.25]


def test_each_split_is_an_input_with_its_own_profile(store: str):
    # The second run reads fewer images of the same data: mlflow keeps the first profile, the tags differ.
    for images in (1320, 60):
        with start("probe") as recorder:
            recorder.log(RunReport({}, {}, datasets=(split("training", images), split("testing", 360))))
        inputs = mlflow.MlflowClient().get_run(recorder.run_id).inputs.dataset_inputs  # pyright: ignore[reportOptionalMemberAccess]
        by_name = {entry.dataset.name: entry for entry in inputs}
        assert sorted(by_name) == ["rooms-test", "rooms-train"]
        tags = {tag.key: tag.value for tag in by_name["rooms-train"].tags}
        assert tags["mlflow.data.context"] == "training"
        assert tags["num_images"] == str(images)
        assert {entry.dataset.digest for entry in inputs} == {"0123456789abcdef"}
        assert json.loads(by_name["rooms-test"].dataset.profile or "")["num_rows"] == 360
        assert "rooms, seed 0" in by_name["rooms-test"].dataset.source


def test_raw_parameters_of_mlflow_run_are_left_alone(store: str, monkeypatch: pytest.MonkeyPatch):
    client = mlflow.MlflowClient()
    given = client.create_run("0").info.run_id
    client.log_param(given, "lr", "1e-3")
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    report = RunReport({"lr": 0.001, "seed": 0}, {}, config={"probe": {"lr": 0.001}, "path": Path("a b")})
    with start("probe") as recorder:
        recorder.log(report)
        recorder.log(report)
    assert client.get_run(given).data.params == {"lr": "1e-3", "seed": "0"}
    assert json.loads(fetch(given, "config.json").read_text()) == {"probe": {"lr": 0.001}, "path": "a b"}


def test_values_past_the_limits_of_a_request_are_cut_or_split(store: str):
    metrics = {f"m{i}": float(i) for i in range(2500)}
    with start("probe") as recorder:
        recorder.log(RunReport({"long": "x" * 10_000}, metrics, description="y" * 20_000))
    run = mlflow.MlflowClient().get_run(recorder.run_id)
    assert run.data.metrics == metrics
    assert len(run.data.params["long"]) == 6000
    assert len(run.data.tags["mlflow.note.content"]) == 8000


def test_metrics_that_are_no_numbers_are_said(store: str):
    metrics = {"a": float("nan"), "b": float("inf"), "c": 1.0}
    with start("probe") as recorder:
        assert recorder.log(RunReport({}, metrics)) == ("a", "b")
        recorder.log_curves({"loss": {3: 2.0}, "rate": {3: float("nan")}})
    run = mlflow.MlflowClient().get_run(recorder.run_id)
    assert run.data.metrics == {"c": 1.0, "loss": 2.0}
    assert run.data.tags["idl.not_finite"] == "a=nan, b=inf"
    assert mlflow.MlflowClient().get_metric_history(recorder.run_id, "loss")[0].step == 3


def test_pictures_stand_behind_a_slider_and_one_that_mlflow_would_rescale_is_refused_before_anything_is_written(
    store: str,
):
    report = RunReport({}, {"a": 1.0}, panels={"depth": np.zeros((4, 4, 3), np.float32)})  # type: ignore[dict-item]
    with start("probe") as recorder:
        for step in (0, 5):
            recorder.log_panels({"reconstructions": np.zeros((4, 6, 3), np.uint8)}, step)
        with pytest.raises(ValueError, match="depth: pixels are float32, expected uint8"):
            recorder.log(report)
    assert mlflow.MlflowClient().get_run(recorder.run_id).data.metrics == {}
    starts = {path.partition("+timestamp")[0] for path in artifacts(recorder.run_id)}
    assert starts == {"images/reconstructions+step+0", "images/reconstructions+step+5"}
