"""`verdict`, `compare` and `main` by the command line: what they leave in MLflow, and what they refuse."""

import csv
import hashlib
import json
import re
from pathlib import Path

import mlflow
import pytest
from command_line import run
from mlflow.artifacts import load_text
from mlflow.entities import Run
from planted import write_pairs

SMALL = ("--dataset", "folder", "--data", "walk", "--workers", "1", "--batch-size", "4", "--device", "cpu")
# 36 frames in blocks of two: 18 blocks, three of them in the test split, of one recording. It concludes nothing.
FEW = ("--scene", "block:2", "--ks", "2,all", "--untrained-seeds", "1", "--draws", "800", "--cues", "false")


@pytest.fixture
def folder(workplace: Path) -> Path:
    """A working folder with RGB-D pairs in `walk`."""
    write_pairs(workplace / "walk", num=36)
    return workplace


def runs() -> list[Run]:
    """All runs, the last one first."""
    found: list[Run] = mlflow.search_runs(search_all_experiments=True, output_format="list")  # pyright: ignore[reportAssignmentType]
    return sorted(found, key=lambda each: -each.info.start_time)


def document_of(of: Run) -> dict:
    return json.loads(load_text(f"runs:/{of.info.run_id}/verdict.json"))


def test_a_verdict_is_one_run_with_its_figures(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blocks = [f"block_{number:05d}" for number in range(18)]
    split = {"train": blocks[:11], "val": blocks[11:15], "test": blocks[15:]}
    (folder / "split.json").write_text(json.dumps(split))
    asked = ("verdict", *SMALL, *FEW, "--encoder", "planted:small_network", "--task", "planting")
    asked += ("--split", "split.json")
    assert run(*asked) == 0
    (left,) = runs()
    said = capfd.readouterr()
    # Known from the split alone, and said before the encoder's images are read.
    few = "1 recording, of 10 or more: blocks of one recording are no independent scenes; clusters=block takes them"
    assert few in said.out
    assert f"warning: the answer will be INVALID (enough clusters: {few}" in said.err
    assert left.data.tags["verdict k2"] == left.data.tags["verdict k8"] == "INVALID"
    assert left.data.params["feature"] == "depth"
    assert left.data.tags["test_reads_before"] == "0"
    document = document_of(left)
    assert document["digest"] == left.data.tags["verdict_digest"]
    # A reader of the file alone finds the digest again, as its schema says.
    hashed = json.dumps({name: document[name] for name in ("config", "fixed")}, sort_keys=True, separators=(",", ":"))
    assert document["digest"] == hashlib.sha256(hashed.encode()).hexdigest()[:16]
    assert document["fixed"]["dataset"] == left.data.tags["dataset_digest"]
    assert document["fixed"]["encoders"][0]["digest"] == left.data.tags["encoder_digest"]
    page = load_text(f"runs:/{left.info.run_id}/verdict.html")
    assert "Has planted:small_network learned depth?" in page
    assert document["digest"] in page
    # Figures are reported all the same, and one probe is registered, which carries its answer.
    assert left.data.metrics["k8/arms/trained_test_loss"] > 0
    (version,) = mlflow.MlflowClient().search_model_versions("name LIKE 'idl-depth-%'")
    assert version.tags["verdict"] == "INVALID"

    # A second run under other rules has another digest, and says that these test images were read: also where the
    # others come in another order, so that the split has another digest.
    assert run(*asked, "--margin", "1.2", "--split-seed", "1") == 0
    second = runs()[0]
    assert second.data.tags["test_reads_before"] == "1"
    for name in ("verdict_digest", "split_digest"):
        assert second.data.tags[name] != left.data.tags[name]
    assert second.data.tags["test_digest"] == left.data.tags["test_digest"]

    # So does one with another range of depth that tests a part of them, whose prepared dataset is another one.
    part = {"train": blocks[:11], "val": [*blocks[11:15], blocks[17]], "test": blocks[15:17]}
    (folder / "split.json").write_text(json.dumps(part))
    assert run(*asked, "--max-depth", "9.5") == 0
    third = runs()[0]
    assert third.data.tags["test_reads_before"] == "2"
    for name in ("dataset_digest", "test_digest"):
        assert third.data.tags[name] != left.data.tags[name]


@pytest.mark.slow
@pytest.mark.usefixtures("unregistered")
def test_a_study_has_a_run_and_a_child_for_each_encoder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("main", *SMALL, *FEW, "--encoders", "autoencoder") == 0
    parent = next(each for each in runs() if "mlflow.parentRunId" not in each.data.tags)
    children = {each.data.tags["encoder"]: each for each in runs() if "mlflow.parentRunId" in each.data.tags}
    assert set(children) == {"null", "autoencoder"}
    assert {each.data.tags["mlflow.parentRunId"] for each in children.values()} == {parent.info.run_id}
    assert {each.info.status for each in runs()} == {"FINISHED"}
    assert parent.data.tags["verdict autoencoder k2"] == "INVALID"
    own = children["autoencoder"]
    assert parent.data.metrics["autoencoder/k10/arms/trained_test_loss"] == pytest.approx(
        own.data.metrics["test_loss"], rel=1e-4
    )
    whole, alone = document_of(parent), document_of(own)
    assert [cell["encoder"] for cell in whole["cells"]] == ["autoencoder"] * 2
    assert {error["encoder"] for image in alone["images"] for error in image["errors"]} == {"null", "autoencoder"}
    # The same images of all encoders stand side by side.
    client = mlflow.MlflowClient()
    shown = [
        {file.path.partition("+step")[0] for file in client.list_artifacts(child.info.run_id, "images")}
        for child in children.values()
    ]
    assert shown[0] == shown[1]
    assert "autoencoder, k = 10 (all): INVALID" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("unregistered")
def test_a_matrix_has_a_child_for_each_cell_and_a_table(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    features = ("depth", "log-depth")
    asked = ("--tasks", "reconstruction,none", "--feature", ",".join(features))
    assert run("compare", *SMALL, *FEW, *asked) == 0
    found = {each.info.run_name: each for each in runs()}
    names = ("null", "autoencoder-reconstruction", "convnext_atto-none")
    assert set(found) == {"compare depth,log-depth"} | {f"{name} {each}" for name in names for each in features}
    parent = found["compare depth,log-depth"]
    assert parent.data.tags["verdict autoencoder-reconstruction log-depth k2"] == "INVALID"
    rows = list(csv.DictReader(load_text(f"runs:/{parent.info.run_id}/matrix.csv").splitlines()))
    assert [(row["encoder"], row["feature"], row["k"], row["answer"]) for row in rows] == [
        *(("autoencoder-reconstruction", each, k, "INVALID") for each in features for k in ("2", "10")),
        *(("convnext_atto-none", each, rows[-1]["k"], "untrained") for each in features),
    ]
    for row in rows:
        # At its largest k an encoder's own run has the same loss, by the ordinary path.
        own = found[f"{row['encoder']} {row['feature']}"].data.metrics
        if row["is_all"] == "True":
            assert float(row["loss"]) == pytest.approx(own["test_loss"], rel=1e-4)
            assert float(row["loss_over_null"]) == pytest.approx(own["loss_over_null"], rel=1e-4)
    document = document_of(parent)
    assert [part["feature"] for part in document["features"]] == list(features)
    assert [target["name"] for target in document["fixed"]["targets"]] == list(features)
    left = [f"untrained {float(row['loss_over_null']):.3f}" for row in rows if row["answer"] == "untrained"]
    (line,) = [each for each in capfd.readouterr().out.splitlines() if each.startswith("convnext_atto-none")]
    assert re.split(" {2,}", line)[1:] == left


def test_imagenet_is_never_something_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(folder / "hub"))
    assert run("verdict", *SMALL, "--task", "imagenet") == 2
    assert "imagenet" in capfd.readouterr().err
    assert all(each.info.status == "FAILED" for each in runs())
