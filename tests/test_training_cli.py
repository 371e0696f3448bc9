"""`idl autoencoder` and `idl pretrain` as a user meets them: whole, interrupted and gone on with."""

import shutil
import signal
from pathlib import Path

import mlflow
import pytest
from command_line import run
from mlflow.artifacts import list_artifacts
from mlflow.entities import Run
from planted_training import CPU, signalled
from torch import Tensor

from idl.data.preparation import prepare
from idl.data.rooms import RoomsReader, RoomsRecipe
from idl.encoders import EncoderConfig, build
from idl.protocol import Protocol
from idl.training.images import Batch
from idl.training.objectives import Autoencoding

# 12 rooms of 2 views: 8 rooms to train on, 4 steps an epoch.
SMALL = ("--dataset", "tiny.h5", "--split", "8:2:2", "--batch-size", "4", "--device", "cpu", "--workers", "1")
NARROW = ("--n-hid", "4", "--num-blocks", "1", "--latent-channels", "2", "--crop", "16")
AUTOENCODER = ("autoencoder", *SMALL, *NARROW, "--epochs", "3", "--validate-every", "4", "--arithmetic", "float32")
PRETRAIN = ("pretrain", *SMALL, "--crop", "0", "--epochs", "1", "--lr", "2e-4", "--arithmetic", "float32")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(
        RoomsReader(RoomsRecipe(12, 2, 64, 0)), Protocol(resolution=64), tmp_path_factory.mktemp("rooms")
    ).path


@pytest.fixture
def folder(rooms: Path, workplace: Path) -> Path:
    """A working folder with a small dataset."""
    shutil.copy(rooms, workplace / "tiny.h5")
    return workplace


def all_runs() -> list[Run]:
    return mlflow.search_runs(search_all_experiments=True, output_format="list")  # pyright: ignore[reportReturnType]


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
    assert all(words in out for words in ("best_val_loss", "best_val_psnr", "models:/idl-encoder-autoencoder/1"))
    validations = curve(run_id, "val_loss")
    assert [step for step, _ in validations] == [0, 4, 8, 12]
    for name in ("train_loss", "lr"):
        assert [step for step, _ in curve(run_id, name)] == list(range(1, 13))
    assert [step for step, _ in curve(run_id, "images_per_s")] == [4, 8, 10, 12]
    assert panel_steps(run_id, "reconstructions") == {0, 4, 8, 12}
    metrics = left.data.metrics
    assert metrics["untrained_val_loss"] == validations[0][1]
    assert metrics["best_val_loss"] == min(loss for _, loss in validations)
    assert metrics["num_steps"] == 12
    assert left.data.tags["task"] == "reconstruction"

    files = files_of("models:/idl-encoder-autoencoder/1")
    assert {"encoder.safetensors", "origin.json", "weights.safetensors", "card.json"} <= files
    written = build(EncoderConfig("autoencoder", weights="out/small.safetensors"), CPU)
    assert written.digest == left.data.tags["encoder_digest"]
    assert not list((folder / "cache" / "training").iterdir())
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["small.json", "small.safetensors"]


def files_of(uri: str, folder: str = "") -> set[str]:
    """Names of a registered model's files."""
    found: set[str] = set()
    for file in list_artifacts(artifact_uri=f"{uri}/{folder}".rstrip("/")):
        assert not isinstance(file, str)
        found |= files_of(uri, file.path) if file.is_dir else {Path(file.path).name}
    return found


@pytest.mark.slow
def test_a_convnext_is_trained_on_rooms_and_registered(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*PRETRAIN) == 0
    assert "models:/idl-encoder-convnext_atto/1" in capfd.readouterr().out
    (left,) = all_runs()
    assert left.info.status == "FINISHED"
    assert left.data.tags["task"] == "segmentation"
    assert {"best_val_accuracy", "best_val_mean_iou", "val_accuracy"} <= left.data.metrics.keys()
    # Four steps, at most twenty validations: one a step.
    assert panel_steps(left.info.run_id, "segmented") == {0, 1, 2, 3, 4}
    assert [step for step, _ in curve(left.info.run_id, "val_loss")] == [0, 1, 2, 3, 4]


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Send this process a signal in the middle of a step of an autoencoder's training."""
    num_losses = 0
    loss = Autoencoding.loss

    def counted(self: Autoencoding, output: Tensor, batch: Batch) -> Tensor:
        nonlocal num_losses
        num_losses += output.requires_grad
        if num_losses == step and output.requires_grad:
            signalled(number)()
        return loss(self, output, batch)

    monkeypatch.setattr(Autoencoding, "loss", counted)


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
