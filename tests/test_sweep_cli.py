"""`idl sweep` as a user meets it: one run that holds all, one line for bad input, and going on after an end."""

import csv
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pytest
import torch
from command_line import run
from mlflow.artifacts import download_artifacts, load_text
from mlflow.entities import Run
from PIL import Image
from planted import write_pairs
from test_cli import SMALL

from idl.probes.linear_probe import LinearProbe
from idl.sweep import search
from idl.sweep.study import FILE
from idl.tracking.runs import Terminated, count_test_readers

ENCODER = ("--encoder", "null", "--stride", "16")
# Fewer images a step than there are: of all of them the standardised target's mean is 0, and Adam's first step on
# the bias has the sign of a rounding.
FEW = (*ENCODER, "--trials", "6", "--trials-per-batch", "3", "--epochs", "3", "--step-images", "4")


@pytest.fixture
def folder(workplace: Path) -> Path:
    """A working folder with RGB-D pairs in `walk`."""
    write_pairs(workplace / "walk", num=40)
    return workplace


def sweep(*arguments: str) -> int:
    return run("sweep", "--dataset", "folder", "--data", "walk", *SMALL, *arguments)


def runs(entry_point: str) -> list[Run]:
    """All runs of an entry point, the oldest first."""
    wanted = f"tags.idl.entry_point = '{entry_point}'"
    found = mlflow.search_runs(
        search_all_experiments=True, filter_string=wanted, order_by=["start_time ASC"], output_format="list"
    )
    return found  # pyright: ignore[reportReturnType]


def children(parent: Run) -> dict[int, Run]:
    of_parent = [each for each in runs("trial") if each.data.tags["mlflow.parentRunId"] == parent.info.run_id]
    by_number = {int(each.data.tags["idl.trial"]): each for each in of_parent}
    assert len(by_number) == len(of_parent)
    return by_number


def downloaded(left: Run, path: str) -> Path:
    return Path(download_artifacts(run_id=left.info.run_id, artifact_path=path))


def versions() -> list[Any]:
    return list(mlflow.MlflowClient().search_model_versions())


@pytest.mark.slow
def test_a_sweep_leaves_one_run_with_all_its_trials(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sweep(*FEW, "--study", "whole") == 0
    out, err = capfd.readouterr()
    assert "models:/idl-depth-null/1 @champion" in out
    assert "--study whole" in err
    assert "3 of 3 components: one matrix an image" in err
    (parent,) = runs("sweep")
    assert parent.info.status == "FINISHED"
    assert (parent.data.params["k_range"], parent.data.params["last_k"]) == ("1:all", "3")
    assert parent.data.params["lr_range"] == "0.0001:1"
    assert parent.data.tags["idl.study"] == "whole"
    there = children(parent)
    assert sorted(there) == list(range(6))
    assert {child.info.status for child in there.values()} == {"FINISHED"}
    rows = list(csv.DictReader(io.StringIO(load_text(f"runs:/{parent.info.run_id}/sweep/trials.csv"))))
    for row, child in zip(rows, [there[number] for number in range(6)], strict=True):
        assert float(row["val_loss"]) == child.data.metrics["val_loss"]
        assert (child.data.params["k"], child.data.params["lr"]) == (row["k"], row["lr"])
        history = mlflow.MlflowClient().get_metric_history(child.info.run_id, "val_loss")
        assert min(point.value for point in history) == child.data.metrics["val_loss"]
    for name in ("history", "k_and_lr"):
        assert np.asarray(Image.open(downloaded(parent, f"sweep/{name}.png"))).dtype == np.uint8
    # The winner is the lowest of them, and what is registered is its probe.
    best = min(there.values(), key=lambda each: each.data.metrics["loss"])
    assert parent.data.metrics["best_trial"] == float(best.data.tags["idl.trial"])
    assert parent.data.metrics["val_loss"] == best.data.metrics["val_loss"]
    assert parent.data.metrics["excess_loss"] == pytest.approx(best.data.metrics["excess_loss"])
    probe = LinearProbe.load(str(downloaded(best, "probe.safetensors")))
    version = mlflow.MlflowClient().get_model_version("idl-depth-null", "1")
    registered = next(Path(download_artifacts(str(version.source))).rglob("probe.safetensors"))
    again = LinearProbe.load(str(registered))
    assert vars(probe.card) == vars(again.card)
    for name in ("weight", "bias", "projection"):
        torch.testing.assert_close(getattr(probe, name), getattr(again, name))
    # A probe with the winner's settings is the winner.
    settings = {name: best.data.params[name] for name in ("k", "lr", "solver", "epochs", "step_images", "order_seed")}
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert run("probe", "--dataset", "folder", "--data", "walk", *SMALL, *ENCODER, *options) == 0
    (alone,) = runs("probe")
    for name in ("train_loss", "val_loss", "test_loss", "test_rmse", "loss_over_null"):
        assert alone.data.metrics[name] == pytest.approx(parent.data.metrics[name], rel=1e-4)


@pytest.mark.slow
def test_stages_are_searched_and_the_best_one_is_registered(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = ("--trials", "8", "--trials-per-batch", "4", "--epochs", "3", "--encoder", "timm:test_convnext")
    searched = (*few, "--weights", "random", "--stages", "0,1", "--lr-range", "1e-3:1e-1")
    assert sweep(*searched) == 0
    (parent,) = runs("sweep")
    there = children(parent)
    assert {child.data.params["stage"] for child in there.values()} == {"0", "1"}
    best = min(there.values(), key=lambda each: each.data.metrics["loss"])
    assert parent.data.metrics["best_loss"] == best.data.metrics["loss"]
    assert parent.data.params["encoder_level"] == best.data.params["stage"]
    (version,) = versions()
    assert version.tags["encoder_digest"] == best.data.tags["encoder_digest"]
    # A second sweep on the same stages encodes nothing.
    assert sweep(*searched) == 0
    assert runs("sweep")[1].data.metrics["encoded_images"] == 0


def before_batch(monkeypatch: pytest.MonkeyPatch, number: int, happens: Callable[[], object]) -> None:
    train, count = search.train_trials, iter(range(10**6))

    def trained(*arguments: Any) -> Any:
        if next(count) == number:
            happens()
        return train(*arguments)

    monkeypatch.setattr(search, "train_trials", trained)


@pytest.mark.slow
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interrupted_study_goes_on(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: type[BaseException],
    code: int,
) -> None:
    def interrupt() -> None:
        raise error

    with monkeypatch.context() as patched:
        before_batch(patched, 1, interrupt)
        assert sweep(*FEW, "--study", "cut off") == code
    line = "interrupted; the same command with --study 'cut off' goes on from here."
    assert capfd.readouterr().err.splitlines()[-1] == line
    (killed,) = runs("sweep")
    assert killed.info.status == "KILLED"
    assert sweep(*FEW, "--study", "cut off") == 0
    _, again = runs("sweep")
    assert again.info.status == "FINISHED"
    assert (sorted(children(killed)), sorted(children(again))) == ([0, 1, 2], [3, 4, 5])
    assert {child.info.status for child in runs("trial")} == {"FINISHED"}
    assert again.data.metrics["num_trials"] == 6
    assert len(versions()) == 1


@pytest.mark.slow
def test_a_study_that_goes_on_tests_again_only_where_its_best_is_another_trial(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    study = (*FEW, "--study", "s1")
    # The winner was registered, and its worker killed before it could say so.
    with monkeypatch.context() as patched:
        patched.setattr(search.SharedStudy, "note_tested", lambda *_: None)
        assert sweep(*study, "--trials", "3") == 0
    assert sweep(*study, "--trials", "3") == 0
    cut_off, first = runs("sweep")
    assert "test_loss" in first.data.metrics
    best = best_of(3)
    assert first.data.metrics["best_trial"] == cut_off.data.metrics["best_trial"] == best
    assert not children(first)

    capfd.readouterr()
    assert sweep(*study, "--trials", "3") == 0
    told = f"study s1 is complete: 3 trials, the best of them, trial {best}, is tested in run {first.info.run_id}."
    assert capfd.readouterr().err.splitlines()[-1] == f"{told} More --trials go on with it."
    assert len(runs("sweep")) == 2

    make_next_trials(monkeypatch, 100.0)
    assert sweep(*study, "--trials", "6") == 0
    out, err = capfd.readouterr()
    second = runs("sweep")[-1]
    assert f"trial {best}, is tested in run {first.info.run_id}" in err.splitlines()[-1]
    assert f"/runs/{second.info.run_id}" in out
    assert (second.data.metrics["num_trials"], second.data.metrics["best_trial"]) == (6, best)
    assert not [name for name in second.data.metrics if name.startswith("test_")]
    assert first.info.run_id in second.data.tags["mlflow.note.content"]

    make_next_trials(monkeypatch, 0.01)
    assert sweep(*study, "--trials", "9") == 0
    third = runs("sweep")[-1]
    assert third.data.metrics["best_trial"] == best_of(9) >= 6
    assert "test_loss" in third.data.metrics
    assert count_test_readers(first.data.tags["test_scenes"]) == len(versions()) == 3


def make_next_trials(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Have them be so many times as bad as they are."""
    create = optuna.trial.create_trial

    def created(*, value: float, **further: Any) -> Any:
        return create(value=factor * value, **further)

    monkeypatch.setattr(search, "create_trial", created)


def best_of(num_trials: int) -> int:
    study = optuna.load_study(study_name="s1", storage=f"sqlite:///{os.environ['IDL_CACHE']}/{FILE}")
    return min(study.trials[:num_trials], key=lambda trial: trial.values[0]).number


def lose_store(folder: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    (folder / "mlflow.db").unlink()
    # Else connections that are open would go on with the file that is gone.
    SqlAlchemyStore._engine_map[f"sqlite:///{folder}/mlflow.db"].dispose()


def lose_storage(folder: Path) -> None:
    (folder / "cache" / FILE).write_bytes(b"damaged " * 8192)


def fill_disk(folder: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("lose", "told"),
    [
        (lose_store, "error: tracking store sqlite:///"),
        (lose_storage, "studies.db: lost, or no longer fit to be written (file is not a database)"),
        (fill_disk, "error: no space left"),
    ],
)
def test_what_is_lost_is_said_with_the_study_that_goes_on(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    lose: Callable[[Path], None],
    told: str,
) -> None:
    """Without a name of its own it would be another study that is run again."""
    before_batch(monkeypatch, 1, lambda: lose(folder))
    assert sweep(*FEW) == 2
    err = capfd.readouterr().err
    *lines, line = err.splitlines()
    assert "Traceback" not in err
    assert told in line
    named = next(each for each in lines if each.startswith("study: "))
    assert f"interrupted; the same command with {named[named.index('--study') :]} goes on from here." in lines


@pytest.mark.slow
@pytest.mark.usefixtures("unregistered")
def test_an_open_range_of_k_ends_where_that_of_the_first_worker_does(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*FEW, "--trials", "1", "--study", "s1") == 0
    study = optuna.load_study(study_name="s1", storage=f"sqlite:///{folder / 'cache' / FILE}")
    # As if its machine had less memory.
    study.set_user_attr("last_k", 2)
    capfd.readouterr()
    assert sweep(*FEW, "--trials", "9", "--study", "s1") == 0
    assert "2 of 3 components" in capfd.readouterr().err
    last = runs("sweep")[-1]
    assert last.data.params["last_k"] == "2"
    assert {child.data.params["k"] for child in children(last).values()} == {"1", "2"}
    study.set_user_attr("last_k", 4)
    assert sweep(*FEW, "--trials", "10", "--study", "s1") == 2
    assert "its trials read up to 4 components, of which 3 are found here" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("unregistered")
def test_a_study_of_another_encoder_is_refused_before_there_is_a_run(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*FEW, "--study", "one") == 0
    maps = set((folder / "cache" / "features").rglob("*"))
    others = {
        "encoder is null ": "--stride 8",
        "lr_range is 0.0001:1 there, 0.001:1 here": "--lr-range 0.001:1",
        "solvers is not searched there, sgd here": "--solvers sgd",
    }
    for words, option in others.items():
        assert sweep(*FEW, *option.split(), "--study", "one") == 2
        assert f"study one: {words}" in capfd.readouterr().err.splitlines()[-1]
    assert set((folder / "cache" / "features").rglob("*")) == maps
    assert len(runs("sweep")) == 1
