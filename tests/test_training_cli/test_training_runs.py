"""`idl autoencoder` and `idl pretrain` as a user meets them: whole, interrupted and gone on with, and diverged."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from command_line import run
from mlflow.artifacts import list_artifacts
from planted_training import CPU, signalled
from torch import Tensor
from training_commands import AUTOENCODER, NARROW, PRETRAIN, ROOMS, all_runs

from idl.cli import cli
from idl.data.store import Store
from idl.encoders import EncoderConfig, build
from idl.training import Reconstruction
from idl.training.images import Batch


def curve(run_id: str, name: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in mlflow.MlflowClient().get_metric_history(run_id, name)]


def panel_steps(run_id: str, name: str) -> set[int]:
    """Steps of the pictures that MLflow's grid shows under `name`."""
    files = mlflow.MlflowClient().list_artifacts(run_id, "images")
    return {int(file.path.split("+step+")[1].split("+")[0]) for file in files if Path(file.path).name.startswith(name)}


@pytest.mark.slow
def test_an_autoencoder_is_trained_registered_and_written(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "out").mkdir()
    assert run(*AUTOENCODER, "--out", "out/small.safetensors") == 0
    out, err = capfd.readouterr()
    (left,) = all_runs()
    run_id = left.info.run_id
    assert left.info.status == "FINISHED"
    assert f"--resume {run_id}" in err
    assert "12/12 step" in err
    for said in ("untrained_val_loss", "best_val_loss", "best_val_psnr", "models:/idl-encoder-autoencoder/1"):
        assert said in out

    looks = curve(run_id, "val_loss")
    assert [step for step, _ in looks] == [0, 4, 8, 12]
    assert [step for step, _ in curve(run_id, "train_loss")] == list(range(1, 13))
    assert [step for step, _ in curve(run_id, "lr")] == list(range(1, 13))
    assert [step for step, _ in curve(run_id, "images_per_s")] == [4, 8, 10, 12]
    assert panel_steps(run_id, "reconstructions") == {0, 4, 8, 12}
    metrics = left.data.metrics
    assert metrics["untrained_val_loss"] == looks[0][1]
    assert metrics["best_val_loss"] == min(loss for _, loss in looks)
    assert metrics["num_steps"] == 12
    assert left.data.params["lr"] == "0.003"
    assert left.data.tags["task"] == "reconstruction"

    version = mlflow.MlflowClient().get_model_version("idl-encoder-autoencoder", "1")
    assert version.run_id == run_id
    files = files_of("models:/idl-encoder-autoencoder/1")
    assert {"encoder.safetensors", "origin.json", "weights.safetensors", "card.json"} <= files
    written = build(EncoderConfig("autoencoder", weights="out/small.safetensors"), CPU)
    assert written.digest == left.data.tags["encoder_digest"]
    assert not list((folder / "cache" / "training").iterdir())
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["small.json", "small.safetensors"]

    # The card's command asks for the same training.
    words = shlex.split(json.loads((folder / "out" / "small.json").read_text())["command"])
    assert words[:2] == ["idl", "autoencoder"]
    asked, again = (parsed("autoencoder", arguments) for arguments in (AUTOENCODER[1:], words[2:]))
    assert {name for name in asked if asked[name] != again[name]} <= {"device", "workers"}
    assert "out" not in words[2]


def files_of(uri: str, folder: str = "") -> set[str]:
    """Names of a registered model's files."""
    found: set[str] = set()
    for file in list_artifacts(artifact_uri=f"{uri}/{folder}".rstrip("/")):
        assert not isinstance(file, str)
        found |= files_of(uri, file.path) if file.is_dir else {Path(file.path).name}
    return found


def parsed(name: str, arguments: Any) -> dict[str, Any]:
    return dict(cli.commands[name].make_context(name, list(arguments)).params)


@pytest.mark.slow
def test_a_convnext_is_trained_on_rooms_and_registered(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*PRETRAIN) == 0
    assert "models:/idl-encoder-convnext_atto/1" in capfd.readouterr().out
    (left,) = all_runs()
    assert left.info.status == "FINISHED"
    assert left.data.tags["task"] == "rooms-recognition"
    assert {"best_val_accuracy", "best_val_mean_average_precision", "val_accuracy"} <= left.data.metrics.keys()
    # Four steps of at most twenty looks: one a step.
    assert panel_steps(left.info.run_id, "recognised") == {0, 1, 2, 3, 4}
    assert [step for step, _ in curve(left.info.run_id, "val_loss")] == [0, 1, 2, 3, 4]


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Send this process a signal in the middle of a step of an autoencoder's training."""
    num_losses = 0
    loss = Reconstruction.loss

    def counted(self: Reconstruction, output: Tensor, batch: Batch) -> Tensor:
        nonlocal num_losses
        num_losses += output.requires_grad
        if num_losses == step and output.requires_grad:
            signalled(number)()
        return loss(self, output, batch)

    monkeypatch.setattr(Reconstruction, "loss", counted)


@pytest.mark.slow
def test_an_interrupted_training_goes_on_in_its_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*AUTOENCODER, "--experiment", "whole") == 0
    (whole,) = all_runs()
    for step, number, code in ((6, signal.SIGINT, 130), (3, signal.SIGTERM, 143)):
        with monkeypatch.context() as context:
            interrupt(context, step, number)
            resumed = ("--resume", all_runs()[0].info.run_id) if number == signal.SIGTERM else ()
            assert run(*AUTOENCODER, "--experiment", "cut", *resumed) == code
        (cut,) = (each for each in all_runs() if each.info.run_id != whole.info.run_id)
        assert cut.info.status == "KILLED"
        err = capfd.readouterr().err
        assert f"--resume {cut.info.run_id}" in err
        if code == 130:
            assert f"interrupted; the same command with --resume {cut.info.run_id} goes on from here." in err
    # A slip spoils nothing: the run stays as it is.
    assert run(*AUTOENCODER, "--resume", cut.info.run_id, "--lr", "0.5") == 2
    assert "lr was 0.003, is 0.5" in capfd.readouterr().err
    assert mlflow.get_run(cut.info.run_id).info.status == "KILLED"

    assert run(*AUTOENCODER, "--resume", cut.info.run_id) == 0
    assert len(all_runs()) == 2
    done = mlflow.get_run(cut.info.run_id)
    assert done.info.status == "FINISHED"
    assert done.data.tags["encoder_digest"] == whole.data.tags["encoder_digest"]
    assert curve(cut.info.run_id, "val_loss") == curve(whole.info.run_id, "val_loss")
    assert not list((folder / "cache" / "training").iterdir())
    # What is done leaves nothing to go on with.
    assert run(*AUTOENCODER, "--resume", cut.info.run_id) == 2
    assert "no checkpoint to resume from" in capfd.readouterr().err
    assert mlflow.get_run(cut.info.run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_damaged_checkpoint_is_said_and_the_one_before_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as context:
        interrupt(context, 6, signal.SIGINT)
        assert run(*AUTOENCODER, "--checkpoint-minutes", "0") == 130
    (cut,) = all_runs()
    newest = max((folder / "cache" / "training" / cut.info.run_id).iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])
    capfd.readouterr()
    assert run(*AUTOENCODER, "--resume", cut.info.run_id) == 0
    assert f"warning: {newest}: damaged; the training goes on from the checkpoint before." in capfd.readouterr().err


@pytest.mark.slow
def test_a_training_that_diverges_keeps_its_checkpoint_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    num_losses = 0
    loss = Reconstruction.loss

    def spoiled(self: Reconstruction, output: Tensor, batch: Batch) -> Tensor:
        nonlocal num_losses
        num_losses += output.requires_grad
        return loss(self, output, batch) * (float("nan") if num_losses >= 6 and output.requires_grad else 1)

    monkeypatch.setattr(Reconstruction, "loss", spoiled)
    assert run(*AUTOENCODER, "--checkpoint-minutes", "0") == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "training diverged at step 6" in line
    (left,) = all_runs()
    assert (left.info.status, left.data.tags["idl.error"]) == ("FAILED", line.removeprefix("error: "))
    kept = sorted(path.name for path in (folder / "cache" / "training" / left.info.run_id).iterdir())
    assert kept == ["step-00000004.checkpoint", "step-00000005.checkpoint"]


@pytest.mark.slow
def test_rooms_are_made_and_trained_on(folder: Path) -> None:
    """The way of a newcomer, without a store: the rooms are made by the same command."""
    assert run("autoencoder", *ROOMS, *NARROW, "--epochs", "1") == 0
    (left,) = all_runs()
    assert left.info.status == "FINISHED"
    (store,) = (folder / "cache" / "datasets").glob("*.h5")
    assert Store.open(store).num_images == 24


@pytest.mark.slow
def test_two_ranks_leave_one_run_with_the_figures_of_one(folder: Path) -> None:
    assert run(*AUTOENCODER, "--experiment", "one") == 0
    (one,) = all_runs()
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "idl")
    environment = {
        "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[2]), *sys.path)),
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        "OMP_NUM_THREADS": "1",
    }
    ended = subprocess.run(
        [*launcher, *AUTOENCODER, "--experiment", "two"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    for said in ("best_val_loss", "run:", "model:"):
        assert ended.stdout.count(said) == 1
    (two,) = (each for each in all_runs() if each.info.run_id != one.info.run_id)
    assert two.info.status == "FINISHED"
    for name in ("untrained_val_loss", "best_val_loss", "best_val_psnr", "num_steps"):
        assert two.data.metrics[name] == pytest.approx(one.data.metrics[name], rel=1e-4)
    (after_one, after_two) = (curve(each.info.run_id, "train_loss") for each in (one, two))
    assert [step for step, _ in after_one] == [step for step, _ in after_two]
    assert [loss for _, loss in after_two] == pytest.approx([loss for _, loss in after_one], rel=1e-4)
