"""`verdict`, `compare` and `main` by the command line: what they leave in MLflow, and what they refuse."""

import hashlib
import json
from pathlib import Path

import mlflow
import pytest
from command_line import run
from mlflow.artifacts import load_text
from mlflow.entities import Run
from planted import write_pairs

from idl.cli import cli

SMALL = ("--dataset", "folder", "--data", "walk", "--workers", "1", "--batch-size", "4", "--device", "cpu")
# 36 frames in blocks of two: 18 blocks, three of them in the test split, of one recording. It concludes nothing.
FEW = ("--scene", "block:2", "--ks", "2,all", "--untrained-seeds", "1", "--draws", "800", "--cues", "false")


@pytest.fixture
def folder(workplace: Path) -> Path:
    """A working folder with RGB-D pairs in `walk`."""
    write_pairs(workplace / "walk", num=36)
    return workplace


def runs() -> list[Run]:
    return mlflow.search_runs(search_all_experiments=True, output_format="list")  # pyright: ignore[reportReturnType]


def test_a_verdict_is_one_run_with_its_grounds(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blocks = [f"block_{number:05d}" for number in range(18)]
    split = {"train": blocks[:11], "val": blocks[11:15], "test": blocks[15:]}
    (folder / "split.json").write_text(json.dumps(split))
    asked = ("verdict", *SMALL, *FEW, "--encoder", "planted:small_network", "--task", "planting")
    asked += ("--split", "split.json")
    assert run(*asked) == 0
    (left,) = runs()
    said = capfd.readouterr()
    assert "INVALID" in said.out
    # Known from the split alone, and said before the encoder's images are read.
    few = "1 recording, of 10 or more: blocks of one recording are no independent scenes; clusters=block takes them"
    assert few in said.out
    assert f"warning: the answer will be INVALID (enough clusters: {few}" in said.err
    assert left.data.tags["verdict k2"] == left.data.tags["verdict k8"] == "INVALID"
    assert left.data.params["feature"] == "depth"
    assert left.data.tags["test_reads_before"] == "0"
    document = json.loads(load_text(f"runs:/{left.info.run_id}/verdict.json"))
    assert document["digest"] == left.data.tags["verdict_digest"]
    # A reader of the file alone finds the digest again, as its schema says.
    hashed = json.dumps({name: document[name] for name in ("config", "fixed")}, sort_keys=True, separators=(",", ":"))
    assert document["digest"] == hashlib.sha256(hashed.encode()).hexdigest()[:16]
    assert document["fixed"]["dataset"] == left.data.tags["dataset_digest"]
    assert document["fixed"]["encoders"][0]["digest"] == left.data.tags["encoder_digest"]
    seeds = {name: left.data.params[name] for name in ("split_seed", "test_seed", "bootstrap_seed", "shuffle_seed")}
    assert seeds == dict.fromkeys(seeds, "0")
    page = load_text(f"runs:/{left.info.run_id}/verdict.html")
    assert page.startswith("<!doctype html>")
    assert "Has planted:small_network learned depth?" in page
    assert document["digest"] in page
    # Figures are reported all the same, and one probe is registered, which carries its answer.
    assert left.data.metrics["k8/arms/trained_test_loss"] > 0
    (version,) = mlflow.MlflowClient().search_model_versions("name LIKE 'idl-depth-%'")
    assert version.tags["verdict"] == "INVALID"

    # A second run under other rules has another digest, and says that these test images were read: also where the
    # others come in another order, so that the split has another digest.
    assert run(*asked, "--margin", "1.2", "--split-seed", "1") == 0
    second = next(each for each in runs() if each.info.run_id != left.info.run_id)
    assert second.data.tags["test_reads_before"] == "1"
    for name in ("verdict_digest", "split_digest"):
        assert second.data.tags[name] != left.data.tags[name]
    assert second.data.tags["test_digest"] == left.data.tags["test_digest"]

    # So does one with another range of depth that tests a part of them, whose prepared dataset is another one.
    part = {"train": blocks[:11], "val": [*blocks[11:15], blocks[17]], "test": blocks[15:17]}
    (folder / "split.json").write_text(json.dumps(part))
    assert run(*asked, "--max-depth", "9.5") == 0
    third = max(runs(), key=lambda each: each.info.start_time)
    assert third.data.tags["test_reads_before"] == "2"
    for name in ("dataset_digest", "test_digest"):
        assert third.data.tags[name] != left.data.tags[name]
    assert "by 2 runs" in load_text(f"runs:/{third.info.run_id}/verdict.html")


@pytest.mark.slow
def test_a_study_has_a_run_and_a_child_for_each_encoder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # A factory says nothing of a task.
    monkeypatch.setattr("idl.cli.judging.task_of", lambda origin, _="": origin.task)
    assert run("main", *SMALL, *FEW, "--encoders", "autoencoder,planted:small_network") == 0
    parent = next(each for each in runs() if "mlflow.parentRunId" not in each.data.tags)
    children = [each for each in runs() if each.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {child.data.tags["encoder"] for child in children} == {"null", "autoencoder", "planted:small_network"}
    own = next(child for child in children if child.data.tags["encoder"] == "autoencoder")
    assert {each.info.status for each in runs()} == {"FINISHED"}
    assert parent.data.tags["verdict autoencoder k2"] == "INVALID"
    assert parent.data.metrics["autoencoder/k10/arms/trained_test_loss"] == pytest.approx(
        own.data.metrics["test_loss"],
        rel=1e-4,
    )
    # The page of all, and one of each judged encoder alone: the same answers, corrected for all that was asked.
    pages = {
        each.info.run_id: json.loads(load_text(f"runs:/{each.info.run_id}/verdict.json")) for each in (parent, own)
    }
    whole, alone = pages[parent.info.run_id], pages[own.info.run_id]
    assert [cell["encoder"] for cell in whole["cells"]] == ["autoencoder"] * 2 + ["planted:small_network"] * 2
    assert alone["cells"] == whole["cells"][:2]
    assert (alone["digest"], alone["fixed"]) == (whole["digest"], whole["fixed"])
    assert {error["encoder"] for image in alone["images"] for error in image["errors"]} == {"null", "autoencoder"}
    assert "Which network has learned depth?" in load_text(f"runs:/{parent.info.run_id}/verdict.html")
    assert "Has autoencoder learned depth?" in load_text(f"runs:/{own.info.run_id}/verdict.html")
    # The same images of all encoders stand side by side.
    client = mlflow.MlflowClient()
    shown = [
        {file.path.partition("+step")[0] for file in client.list_artifacts(child.info.run_id, "images")}
        for child in children
    ]
    assert shown[0] == shown[1] == shown[2]
    assert "autoencoder, k = 10 (all): INVALID" in capfd.readouterr().out


@pytest.mark.parametrize("command", ["verdict", "compare"])
def test_a_null_that_does_not_fit_is_refused(command: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    judged = ("--encoder", "autoencoder") if command == "verdict" else ("--encoders", "autoencoder")
    assert run(command, *SMALL, *judged, "--common-stride", "7") == 2
    assert "error: common_stride=7: does not divide images of 256 x 256 pixels" in capfd.readouterr().err
    # Before the dataset is made.
    assert not (folder / "cache/datasets").exists()


def test_blocks_of_scenes_are_one_line_and_nothing_is_measured(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for scene in ("attic", "cellar", "hall"):
        write_pairs(workplace / "walk" / scene, num=2)
    asked = ("--encoder", "planted:small_network", "--task", "planting", "--ks", "all", "--clusters", "block")
    assert run("verdict", *SMALL, *asked) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith(("error: ", "warning: "))]
    assert lines == ["error: clusters=block: the scenes of dataset walk are no blocks of frames. Pass clusters=auto."]
    assert {path.name for path in (workplace / "cache").iterdir()} == {"datasets"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verdict", "--feature", "dept"), "error: feature 'dept' does not exist: did you mean 'depth'"),
        (("compare", "--feature", ""), "error: feature '' does not exist. Choose one of depth,"),
        (
            ("verdict", "--feature", "normals", "--encoder", "autoencoder"),
            "error: feature=normals: dataset=folder has no",
        ),
        (("verdict", "--task", "juggling"), "no encoder stands for this task"),
        (("verdict", "--encoder", "planted:small_network"), "Name the task"),
        (("verdict", "--encoder", "autoencoder", "--task", "imagenet"), "were trained for reconstruction"),
        (("verdict", "--encoder", "null"), "was not trained for anything"),
        (("verdict", "--encoder", "autoencoder", "--ks", "2,11"), "ks=2,11: 11 is no number from 1 to 10"),
        (("verdict", "--encoder", "autoencoder", "--ks", "auto"), "ks=auto: auto is no number from 1 to 10"),
        (("verdict", "--encoder", "autoencoder", "--margin", "0.5"), "margin=0.5"),
        (("verdict", "--encoder", "autoencoder", "--untrained-seeds", "0"), "error: untrained_seeds=0"),
        (
            ("verdict", "--encoder", "planted:one_weight", "--task", "planting", "--ks", "all"),
            "no verdict without an untrained twin",
        ),
        (("compare", "--encoders", "null"), "null stands beside them"),
        (("compare", "--encoders", "autoencoder,autoencoder"), "one is there twice"),
        (("compare", "--encoders", "autoencoder", "--common-stride", "0"), "error: common_stride=0"),
        (("compare", "--encoders", "autoencoder,nope"), "error: encoders=nope: no such encoder"),
        (
            ("compare", "--encoders", "autoencoder", "--weights", "mine.pth"),
            "weights=mine.pth: encoders=autoencoder has",
        ),
        (("verdict", "--encoder", "autoencoder", "--cache", "/dev/null/x"), "error: cache=/dev/null/x: cannot be made"),
        (("verdict", "--encoder", "autoencoder", "--dataset", "rooms", "--dataset-seed", "-1"), "dataset_seed is -1"),
        (("compare", "--encoders", " , "), "name those that are judged"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_made(
    arguments: tuple[str, ...],
    message: str,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(arguments[0], *SMALL, *arguments[1:]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not list((folder / "cache").rglob("*.h5"))


def test_imagenet_is_never_something_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(folder / "hub"))
    assert run("verdict", *SMALL, "--task", "imagenet") == 2
    assert "imagenet" in capfd.readouterr().err
    assert all(each.info.status == "FAILED" for each in runs())


def test_main_is_compare() -> None:
    def of(name: str) -> list[tuple[str | None, object]]:
        return [(option.name, option.default) for option in cli.commands[name].params]

    assert of("main") == of("compare")
