"""What of a study is tested, how often, and in which run."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from planted import write_pairs
from test_sweep_cli import FEW, give_run_to, living, runs, sweep

from idl.cli import study_conclusion, study_worker
from idl.sweep.batches import Search
from idl.tracking import count_test_readers

losses_of = Search._losses


@pytest.fixture
def folder(workplace: Path) -> Path:
    write_pairs(workplace / "walk", num=40)
    return workplace


def times(factor: float) -> Callable[..., list[float]]:
    """Judge trials as so many times as bad as they are."""
    return lambda *arguments: [factor * loss for loss in losses_of(*arguments)]


def versions() -> list[Any]:
    return list(mlflow.MlflowClient().search_model_versions())


@pytest.mark.slow
def test_a_winner_is_tested_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    study = (*FEW, "--study", "s1")
    assert sweep(*study) == 0
    (first,) = runs("sweep")
    best = int(first.data.metrics["best_trial"])
    printed = capfd.readouterr().out.splitlines()[-3:]
    (address,) = [line for line in printed if line.startswith("run: ")]

    assert sweep(*study) == 0
    out, err = capfd.readouterr()
    assert out.splitlines() == [address]
    assert f"study s1 is complete: 6 trials, the best of them, trial {best}, tested in run {first.info.run_id}" in err
    assert len(runs("sweep")) == len(versions()) == 1

    monkeypatch.setattr(Search, "_losses", times(100.0))
    assert sweep(*study, "--trials", "9") == 0
    out, err = capfd.readouterr()
    assert f"the best is still trial {best}, tested in run {first.info.run_id}" in err
    _, second = runs("sweep")
    assert f"/runs/{second.info.run_id}" in out
    assert second.info.status == "FINISHED"
    assert (second.data.metrics["num_trials"], second.data.metrics["best_trial"]) == (9, best)
    assert not [name for name in second.data.metrics if name.startswith("test_")]
    assert first.info.run_id in second.data.tags["mlflow.note.content"]
    tags = first.data.tags
    assert count_test_readers(tags["dataset_digest"], tags["split_digest"], tags) == len(versions()) == 1
    assert sweep(*study, "--trials", "9") == 0
    out, err = capfd.readouterr()
    assert f"/runs/{second.info.run_id}" in out
    assert f"tested in run {first.info.run_id}" in err
    assert len(runs("sweep")) == 2

    monkeypatch.setattr(Search, "_losses", times(0.01))
    assert sweep(*study, "--trials", "12") == 0
    third = runs("sweep")[-1]
    assert third.data.metrics["best_trial"] >= 9
    assert "test_loss" in third.data.metrics
    assert count_test_readers(tags["dataset_digest"], tags["split_digest"], tags) == len(versions()) == 2

    # Nobody can tell any more what came of that test.
    mlflow.MlflowClient().delete_run(third.info.run_id)
    monkeypatch.setattr(Search, "_losses", times(100.0))
    assert sweep(*study, "--trials", "13") == 0
    assert runs("sweep")[-1].data.metrics["best_trial"] == third.data.metrics["best_trial"]
    assert len(versions()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["9", "6"])
def test_trials_that_the_first_worker_did_not_wait_for_are_concluded_by_who_joined(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], wanted: str
) -> None:
    assert sweep(*FEW, "--study", "outgrown") == 0
    (first,) = runs("sweep")
    run_id = first.info.run_id
    monkeypatch.setattr(Search, "_losses", times(0.01))
    search = study_worker.run_sweep
    with living() as (process, worker):
        give_run_to(worker, folder, "outgrown", first)

        def searched(*arguments: Any, **further: Any) -> Any:
            result = search(*arguments, **further)
            mlflow.MlflowClient().set_terminated(run_id)
            process.kill()
            process.wait()
            return result

        monkeypatch.setattr(study_worker, "run_sweep", searched)
        # As another one asks that finds less than it wants when it begins.
        monkeypatch.setattr("idl.sweep.holding.Hold.is_complete", False)
        assert sweep(*FEW, "--trials", wanted, "--study", "outgrown") == 0
    err = capfd.readouterr().err
    if wanted == "6":
        assert "study outgrown is complete: 6 trials, the best of them, trial " in err.splitlines()[-1]
        assert len(runs("sweep")) == 2
        return
    joined, last = runs("sweep")[1:]
    assert joined.data.tags["study_run"] == run_id
    assert last.data.metrics["num_trials"] == 9
    assert last.data.metrics["best_trial"] >= 6
    assert "test_loss" in last.data.metrics
    assert len(versions()) == 2


@pytest.mark.slow
def test_a_look_at_the_test_split_counts_however_it_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sweep(*FEW) == 0
    (whole,) = runs("sweep")
    tags = whole.data.tags

    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(study_conclusion, "conclude", killed)
    assert sweep(*FEW, "--study", "killed") == 143
    assert runs("sweep")[-1].info.status == "KILLED"
    assert count_test_readers(tags["dataset_digest"], tags["split_digest"], tags) == 2
