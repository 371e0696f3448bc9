"""The command line as a user meets it: a whole run, and one line where there can be none."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import mlflow
import pytest
from command_line import run
from mlflow.artifacts import load_text
from mlflow.entities import Run
from planted import write_pairs

from idl.cli import cli
from idl.tracking import count_test_readers
from idl.tracking.store import quiet

# Parameters of the entry point probe in MLproject.
DECLARED = 6
SMALL = ("--device", "cpu", "--workers", "1", "--batch-size", "4")


@pytest.fixture
def folder(workplace: Path) -> Path:
    """A working folder with RGB-D pairs in `walk`."""
    with quiet():
        # Warns when it is first imported, which is up to the test where no run was opened before.
        import_module("mlflow.store.tracking.sqlalchemy_store")
    write_pairs(workplace / "walk", num=60)
    return workplace


def walk(command: str, *arguments: str) -> tuple[str, ...]:
    return (command, "--dataset", "folder", "--data", "walk", *SMALL, *arguments)


def only_run() -> Run:
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert len(runs) == 1
    return runs[0]  # pyright: ignore[reportReturnType, reportIndexIssue]


def artifacts(run_id: str, path: str | None = None) -> set[str]:
    found: set[str] = set()
    for file in mlflow.MlflowClient().list_artifacts(run_id, path):
        found |= artifacts(run_id, file.path) if file.is_dir else {file.path}
    return found


def test_a_probe_leaves_a_whole_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*walk("probe", "--encoder", "null", "--stride", "16")) == 0
    out, err = capfd.readouterr()
    assert "test_loss" in out
    assert "models:/idl-depth-null/1 @champion @champion-walk" in out
    assert "60/60 img" in err
    left = only_run()
    assert left.info.status == "FINISHED"
    metrics = left.data.metrics
    # What was asked for, and what it came to, under other names.
    asked = {"encoder", "stride", "dataset", "data", "device", "workers", "batch_size"}
    assert {"encoder": "null", "stride": "16", "dataset": "folder"}.items() <= left.data.params.items()
    # `mlflow run` logs those that MLproject declares.
    assert len(left.data.params.keys() - asked) + DECLARED <= 20
    config = json.loads(load_text(f"runs:/{left.info.run_id}/config.json"))
    assert (config["encoder"]["stride"], config["probe"]["split_seed"]) == (16, 0)
    expected = {"train_loss", "val_loss", "test_loss", "test_rmse", "test_abs_rel", "test_silog", "test_r2"}
    expected |= {"test_delta1", "test_delta2", "test_delta3", "loss_over_null", "images_per_s", "test_rmse_pooled"}
    assert expected <= metrics.keys()
    files = artifacts(left.info.run_id)
    assert {"curves/loss_over_k.png", "curves/loss_over_k.csv", "per_image.json", "arms/arms.csv"} <= files
    table = json.loads(load_text(f"runs:/{left.info.run_id}/per_image.json"))
    assert "scene" in table["columns"]
    assert left.inputs is not None
    assert {each.dataset.name for each in left.inputs.dataset_inputs} == {"walk-train", "walk-val", "walk-test"}
    version = mlflow.MlflowClient().get_model_version_by_alias("idl-depth-null", "champion-walk")
    assert float(version.tags["val_loss"]) == metrics["val_loss"]
    assert version.tags["protocol_digest"] == left.data.tags["protocol_digest"]


def test_a_registered_encoder_gives_its_weights(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Seed 5's weights, fetched from the registry, make the encoder that seed 5 made."""
    small = ("--encoder-args", '{"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}', "--arithmetic", "float32")
    assert run(*walk("convnext", "--weights", "random", "--seed", "5", *small)) == 0
    probe = walk("probe", *small)
    assert run(*probe, "--weights", "models:/idl-encoder-convnext/1") == 0
    assert run(*probe, "--weights", "random", "--seed", "5") == 0
    assert "differ" not in capfd.readouterr().err
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert {left.data.tags.get("encoder_model") for left in runs} >= {"models:/idl-encoder-convnext/1"}  # pyright: ignore[reportAttributeAccessIssue]
    assert len({left.data.tags["encoder_digest"] for left in runs}) == 1  # pyright: ignore[reportAttributeAccessIssue]
    assert run(*probe, "--weights", "models:/idl-encoder-convnext/1", "--mean", "0.5,0.5,0.5") == 0
    assert "not the encoder that was registered: mean differ" in capfd.readouterr().err
    assert {left.data.tags["weights"] for left in runs} == {"random", "registry"}  # pyright: ignore[reportAttributeAccessIssue]


STEPS = """
import torch
from idl.targets import Target

class Steps(Target):
    name, layer, unit, num_outputs, kind = "steps", "depth", "steps", 1, "field"

    def encode(self, values, valid):
        return torch.where(valid, (4 * values).floor().nan_to_num(0, 0, 0), 0.0)[:, None], valid

    def decode(self, prediction):
        return prediction.clamp(min=0)
"""


def test_a_target_from_the_current_folder_leaves_a_whole_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "my_steps.py").write_text(STEPS)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert run(*walk("probe", "--encoder", "null", "--target", "my_steps:Steps")) == 0
    assert "models:/idl-steps-null/1 @champion @champion-walk" in capfd.readouterr().out
    left = only_run()
    assert left.info.run_name == "probe null steps folder"
    assert left.data.params["target"] == "my_steps:Steps"
    assert left.data.tags["target"] == "steps"
    assert {"test_rmse", "test_mae", "test_r2", "arms/null_test_rmse"} <= left.data.metrics.keys()
    assert any(path.startswith("images/steps~") for path in artifacts(left.info.run_id))
    assert run(*walk("prepare", "--target", "my_steps:Steps")) == 0
    assert run(*walk("null", "--target", "my_steps:Steps")) == 0


def test_a_second_rank_leaves_no_run_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    for command in ("prepare", "null", "convnext", "verdict", "compare"):
        assert run(*walk(command)) == 0
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []


def test_random_weights_are_said_everywhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(folder / "hub"))
    assert run(*walk("probe", "--encoder", "timm:test_convnext")) == 0
    assert "warning: " in capfd.readouterr().err
    left = only_run()
    assert left.data.tags["weights"] == "random"
    assert "RANDOM" in left.data.tags["mlflow.note.content"]


def ended(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "code", "words"), [(("--version",), 0, ""), (("probe", "--dataset", "roms"), 2, "Did you mean")]
)
def test_the_program_ends_with_its_exit_code_and_all_its_output(
    folder: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """A pool with an idle thread must not keep it; what is registered for the exit must happen."""
    script = (
        "import atexit\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(1)\n"
        "pool.submit(print, 'worked').result()\n"
        "atexit.register(print, 'left')\n"
        "from idl.cli import run\n"
        "run()\n"
    )
    done = ended(script, *arguments)
    assert done.returncode == code, done.stderr
    assert all(each in done.stdout + done.stderr for each in (words, "worked", "left"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prepare",), "no space left for the prepared dataset"),
        (("probe", "--encoder", "null", "--stride", "4"), "no space left for the cache"),
    ],
)
def test_a_full_disk_is_said_and_gone_on_from(folder: Path, arguments: list[str], words: str) -> None:
    """A limit on the size of files fails a write as a full disk does."""
    script = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, resource.RLIM_INFINITY))\n"
        "from idl.cli import main\n"
        "main()\n"
    )
    if arguments[0] == "probe":
        assert run(*walk("prepare")) == 0
        assert "contact_sheet.png" in artifacts(only_run().info.run_id)
        assert Path(only_run().data.tags["store"]).is_file()
    done = ended(script, *walk(*arguments))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert not list(folder.rglob("*.h5")) or arguments[0] == "probe"
    assert run(*walk(*arguments)) == 0


def test_help_of_every_command_is_complete(capfd: pytest.CaptureFixture[str]) -> None:
    for name, command in cli.commands.items():
        assert run(name, "--help") == 0
        out = capfd.readouterr().out
        assert all(each.help for each in command.params if isinstance(each, click.Option))
        assert " ".join(str(command.help).split()) in " ".join(out.split())


def test_a_look_at_the_test_images_counts_whatever_becomes_of_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails while it fits has read nothing of the test split; one that fails while it tests has."""

    class LostError(Exception):
        pass

    def lost(*_: object, **__: object) -> None:
        raise LostError

    for place, has_looked in (("idl.pipeline.fit_arms", False), ("idl.pipeline.evaluate", True)):
        with monkeypatch.context() as patch:
            patch.setattr(place, lost)
            with pytest.raises(LostError):
                cli(walk("probe", "--encoder", "null"), standalone_mode=False)
        newest = mlflow.search_runs(search_all_experiments=True, output_format="list")[0]
        assert newest.info.status == "FAILED"
        assert ("test_scenes" in newest.data.tags) is has_looked
        assert ("test_digest" in newest.data.tags) is has_looked
    tags = newest.data.tags
    assert count_test_readers(tags["test_scenes"]) == 1
