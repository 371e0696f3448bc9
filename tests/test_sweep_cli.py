"""`idl sweep` as a user meets it: one run that holds all, one line for bad input, and going on after an end."""

import csv
import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
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

from idl.cli import study_worker, sweeping
from idl.probes.linear_probe import LinearProbe
from idl.sweep import batches, workers
from idl.sweep.journal import Journal
from idl.sweep.space import SearchSpace
from idl.tracking import Terminated
from idl.tracking.children import TrialRuns

MEMORY = ("--storage", "memory")
ENCODER = ("--encoder", "null", "--stride", "16")
# Fewer images a step than there are: of all of them the standardised target's mean is 0, and Adam's first step on
# the bias has the sign of a rounding.
FEW = (*ENCODER, "--trials", "6", "--at-once", "3", "--epochs", "3", "--step-images", "4")


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


def statuses(parent: Run) -> dict[int, str]:
    return {number: child.info.status for number, child in children(parent).items()}


def downloaded(left: Run, path: str) -> Path:
    return Path(download_artifacts(run_id=left.info.run_id, artifact_path=path))


@pytest.mark.slow
def test_a_sweep_leaves_one_run_with_all_its_trials(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sweep(*FEW, "--study", "whole") == 0
    out, err = capfd.readouterr()
    assert "models:/idl-depth-null/1 @champion" in out
    assert "--study whole" in err
    assert "3 of 3 components: one matrix an image" in err
    (parent,) = runs("sweep")
    assert parent.info.status == "FINISHED"
    assert parent.data.params["k_range"] == "1:3"
    assert parent.data.params["lr_range"] == "0.0001:1"
    assert parent.data.tags["idl.study"] == "whole"
    there = children(parent)
    assert sorted(there) == list(range(6))
    assert set(statuses(parent).values()) == {"FINISHED"}
    rows = list(csv.DictReader(io.StringIO(load_text(f"runs:/{parent.info.run_id}/sweep/trials.csv"))))
    for row, child in zip(rows, [there[number] for number in range(6)], strict=True):
        assert float(row["val_loss"]) == child.data.metrics["val_loss"]
        assert child.data.params["k"] == row["k"]
        assert float(child.data.params["lr"]) == float(row["lr"])
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
def test_stages_and_targets_are_judged_in_metres(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    searched = ("--stages", "0,1", "--targets", "depth,log-depth", "--lr-range", "1e-3:1e-1", "--pruner", "none")
    few = ("--trials", "12", "--at-once", "6", "--epochs", "3", "--encoder", "timm:test_convnext")
    assert sweep(*few, *searched, "--weights", "random") == 0
    assert "stage 1, log-depth: " in capfd.readouterr().err
    (parent,) = runs("sweep")
    there = children(parent).values()
    places = {(child.data.params["stage"], child.data.params["target"]) for child in there}
    assert {stage for stage, _ in places} == {"0", "1"}
    assert {target for _, target in places} == {"depth", "log-depth"}
    for child in there:
        metrics = child.data.metrics
        if child.data.params["target"] == "depth":
            # Depths are 1 to 3 m, and predictions near them: nothing is clamped.
            assert metrics["loss"] == pytest.approx(metrics["val_loss"], rel=1e-4)
        else:
            # In ln m the same error is a smaller number.
            assert metrics["loss"] > 1.5 * metrics["val_loss"]
    best = min(there, key=lambda each: each.data.metrics["loss"])
    assert parent.data.metrics["best_loss"] == best.data.metrics["loss"]
    assert parent.data.params["target"] == best.data.params["target"]
    assert parent.data.params["stage"] == best.data.params["stage"]
    assert "in metres" in parent.data.tags["mlflow.note.content"]
    (version,) = mlflow.MlflowClient().search_model_versions()
    assert version.tags["target"] == best.data.params["target"]
    # A second sweep on the same pairs encodes nothing.
    assert sweep(*few, *searched, "--weights", "random") == 0
    assert runs("sweep")[1].data.metrics["encoded_images"] == 0


def raising(error: type[BaseException], batch: int) -> Callable[..., Any]:
    """Train, but raise where the batch of that number begins, from 0."""
    train, count = batches.train_trials, iter(range(10**6))

    def trained(*arguments: Any) -> Any:
        if next(count) == batch:
            raise error
        return train(*arguments)

    return trained


@pytest.mark.slow
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interrupted_study_goes_on_in_its_run(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: type[BaseException],
    code: int,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(batches, "train_trials", raising(error, 1))
        assert sweep(*FEW, "--study", "cut off") == code
    assert "the same command with --study 'cut off' goes on from here" in capfd.readouterr().err
    (parent,) = runs("sweep")
    assert parent.info.status == "KILLED"
    assert parent.data.params["lr_range"] == "0.0001:1"
    killed = dict.fromkeys((3, 4, 5), "KILLED")
    assert statuses(parent) == dict.fromkeys((0, 1, 2), "FINISHED") | killed
    assert sweep(*FEW, "--study", "cut off") == 0
    (again,) = runs("sweep")
    assert (again.info.run_id, again.info.status) == (parent.info.run_id, "FINISHED")
    assert statuses(again) == dict.fromkeys((0, 1, 2, 6, 7, 8), "FINISHED") | killed
    there = children(again)
    assert there[6].data.tags["retry_of"] == "3"
    assert there[6].data.params == there[3].data.params
    assert again.data.metrics["num_trials"] == 6


def before_batch(monkeypatch: pytest.MonkeyPatch, number: int, happens: Callable[[], object]) -> None:
    train, count = batches.train_trials, iter(range(10**6))

    def trained(*arguments: Any) -> Any:
        if next(count) == number:
            happens()
        return train(*arguments)

    monkeypatch.setattr(batches, "train_trials", trained)


def last_line(capfd: pytest.CaptureFixture[str]) -> str:
    err = capfd.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1]


def lose_store(folder: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    (folder / "mlflow.db").unlink()
    # Else connections that are open would go on with the file that is gone.
    SqlAlchemyStore._engine_map[f"sqlite:///{folder}/mlflow.db"].dispose()


def test_a_lost_tracking_store_is_said_with_the_study_that_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a name of its own it would be another study that is run again."""
    before_batch(monkeypatch, 1, lambda: lose_store(folder))
    assert sweep(*FEW) == 2
    line = last_line(capfd)
    (journal,) = (folder / "cache" / "studies").glob("*.journal")
    assert "tracking store sqlite:///" in line
    assert line.endswith(f" The same command with --study {journal.stem} goes on from here.")


def test_a_lost_tracking_store_ends_a_study_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before_batch(monkeypatch, 1, lambda: lose_store(folder))
    assert sweep(*FEW, *MEMORY) == 2
    line = last_line(capfd)
    assert line.endswith("run again.")
    assert "--study" not in line


def test_a_lost_storage_names_the_study_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    studies = folder / "studies.db"

    def lose() -> None:
        studies.write_bytes(b"damaged " * 8192)

    before_batch(monkeypatch, 1, lose)
    assert sweep(*FEW, "--storage", f"sqlite:///{studies}") == 2
    line = last_line(capfd)
    assert "studies.db: lost, or no longer fit to be written" in line
    assert line.count("--study sweep-") == 1


def test_a_full_disk_is_said_with_the_study_that_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fill() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before_batch(monkeypatch, 1, fill)
    assert sweep(*FEW) == 2
    (journal,) = (folder / "cache" / "studies").glob("*.journal")
    *_, told, line = capfd.readouterr().err.splitlines()
    assert told == f"interrupted; the same command with --study {journal.stem} goes on from here."
    assert line.startswith("error: no space left")


def test_a_refusal_before_anything_is_done_names_no_study_that_goes_on(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    client = mlflow.MlflowClient()
    client.delete_experiment(client.create_experiment("gone"))
    assert sweep(*FEW, "--experiment", "gone") == 2
    line = last_line(capfd)
    assert "experiment gone: is deleted" in line
    assert "--study" not in line


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["training", "telling"])
def test_a_killed_worker_leaves_nothing_running(folder: Path, moment: str) -> None:
    """Killed while a batch trains its trials are tried again; killed when the study knows of them they are ended."""
    where = {
        "training": "batches, 'train_trials'",
        "telling": "TrialRuns, 'end'",
    }[moment]
    script = (
        "import os, signal, sys\n"
        "from idl.sweep import batches\n"
        "from idl.tracking.children import TrialRuns\n"
        f"setattr({where}, lambda *_: os.kill(os.getpid(), signal.SIGKILL))\n"
        "from idl.cli import run\n"
        "run()\n"
    )
    arguments = ("--dataset", "folder", "--data", "walk", *SMALL, *FEW, "--study", "killed")
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    done = subprocess.run(
        [sys.executable, "-c", script, "sweep", *arguments], capture_output=True, env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (parent,) = runs("sweep")
    assert parent.info.status == "RUNNING"
    assert statuses(parent) == dict.fromkeys(range(3), "RUNNING")
    assert sweep(*FEW, "--study", "killed") == 0
    (again,) = runs("sweep")
    assert (again.info.run_id, again.info.status) == (parent.info.run_id, "FINISHED")
    if moment == "training":
        expected = dict.fromkeys(range(3), "KILLED") | dict.fromkeys(range(3, 9), "FINISHED")
    else:
        expected = dict.fromkeys(range(6), "FINISHED")
    assert statuses(again) == expected
    finished = [child for child in children(again).values() if child.info.status == "FINISHED"]
    assert len(finished) == 6
    assert all({"loss", "val_loss", "excess_loss"} <= child.data.metrics.keys() for child in finished)


@contextmanager
def living() -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """A process that could be a worker, and its name as one."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process, ":".join([workers._host(), str(process.pid), workers._start_of(process.pid)])
        finally:
            process.kill()


def give_run_to(worker: str, folder: Path, study: str, run: Run) -> None:
    """As if that worker were still at the study, in a run of its own."""
    mlflow.MlflowClient().update_run(run.info.run_id, status="RUNNING")
    studied(folder, study).set_user_attr("run", {"run_id": run.info.run_id, "worker": worker})


def studied(folder: Path, study: str) -> optuna.Study:
    storage = optuna.storages.JournalStorage(Journal(folder / "cache" / "studies" / f"{study}.journal"))
    return optuna.load_study(study_name=study, storage=storage)


@pytest.mark.slow
def test_a_worker_that_joins_trains_for_the_run_of_the_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*FEW, "--study", "shared") == 0
    (first,) = runs("sweep")
    client = mlflow.MlflowClient()
    run_id = first.info.run_id
    left_to_it = f"study shared has all its trials; another worker tests and registers the best, in run {run_id}."
    with living() as (process, worker):
        give_run_to(worker, folder, "shared", first)
        assert sweep(*FEW, "--trials", "9", "--study", "shared") == 0
        joined = runs("sweep")[1]
        assert joined.info.status == "FINISHED"
        assert joined.data.tags["study_run"] == run_id
        assert joined.data.metrics["num_trained"] == 3
        assert sorted(children(first)) == list(range(9))
        assert capfd.readouterr().err.splitlines()[-1] == left_to_it
        # Nothing to train, and nothing to conclude: no run of its own.
        assert sweep(*FEW, "--trials", "9", "--study", "shared") == 0
        assert capfd.readouterr().err.splitlines()[-1] == left_to_it
        assert len(runs("sweep")) == 2
        assert len(client.search_model_versions()) == 1
        assert client.get_run(run_id).info.status == "RUNNING"
        # It is killed while another one trains with it, and so was one that had joined before.
        client.update_run(joined.info.run_id, status="RUNNING")
        studied(folder, "shared").set_user_attr(f"run of {worker}", joined.info.run_id)
        search = study_worker.run_sweep

        def searched(*arguments: Any, **further: Any) -> Any:
            result = search(*arguments, **further)
            process.kill()
            process.wait()
            return result

        monkeypatch.setattr(study_worker, "run_sweep", searched)
        assert sweep(*FEW, "--trials", "12", "--study", "shared") == 0
        assert client.get_run(run_id).info.status == "FINISHED"
        assert client.get_run(run_id).data.metrics["num_trials"] == 12
        assert len(client.search_model_versions()) == 2
        assert client.get_run(joined.info.run_id).info.status == "KILLED"
        assert sorted(each.info.status for each in runs("sweep")) == ["FINISHED"] * 2 + ["KILLED"]


def test_an_open_range_of_k_ends_where_that_of_the_first_worker_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of two that start together the other one, with less memory, is the first to train."""
    prepare = study_worker.prepare_all

    def prepared(config: Any, space: SearchSpace, *further: Any) -> Any:
        grounds = prepare(config, space, *further)
        if space.k[1] is None:
            found = replace(space, k=(1, 2))
            study_worker.agree(space, found, *agreed_with[-1])
        return grounds

    agreed_with: list[Any] = []
    make = study_worker.Work

    def made(*arguments: Any) -> Any:
        work = make(*arguments)
        agreed_with.append((work.config, work.subject, work.folder))
        return work

    monkeypatch.setattr(study_worker, "prepare_all", prepared)
    monkeypatch.setattr(sweeping, "Work", made)
    assert sweep(*FEW, "--trials", "3", "--study", "open") == 0
    err = capfd.readouterr().err
    assert "study open: k goes up to 2, as when it began" in err
    assert "2 of 3 components" in err
    assert sweep(*FEW, "--trials", "4", "--study", "open") == 0
    assert "study open: k goes up to 2, as when it began" in capfd.readouterr().err
    assert {each.data.params["k_range"] for each in runs("sweep")} == {"1:2"}
    assert {each.data.params["k"] for each in runs("trial")} <= {"1", "2"}


def test_a_trial_that_diverges_is_marked_and_the_others_go_on(folder: Path) -> None:
    assert sweep(*FEW, "--solvers", "sgd", "--lr-range", "1e-2:1e4", "--pruner", "none", "--at-once", "6", *MEMORY) == 0
    (parent,) = runs("sweep")
    outcomes = [child.data.tags["outcome"] for child in children(parent).values()]
    assert "diverged" in outcomes
    assert parent.data.metrics["num_diverged"] == outcomes.count("diverged") < 6
    assert set(statuses(parent).values()) == {"FINISHED"}
    assert np.isfinite(parent.data.metrics["test_loss"])


BAD: Mapping[str, tuple[tuple[str, ...], str]] = {
    "inverted": (("--lr-range", "1:1e-3"), "lr=1:0.001: an empty range"),
    "no_range": (("--lr-range", "fast"), "lr_range=fast: expected two numbers"),
    "open_start": (("--k-range", "all:3"), "k_range=all:3: expected two numbers"),
    "k": (("--k-range", "1:4"), "k_range=1:4: the encoder has 3 channels. Pass a range within 1:3"),
    "k_zero": (("--k-range", "0:3"), "expected 1 or more"),
    "solver": (("--solvers", "adma"), "solver=adma: expected sgd or adam"),
    "choice": (("--step-images-choices", "8,many"), "expected whole numbers"),
    "target": (("--targets", "depth,dept"), "did you mean 'depth'"),
    "units": (("--targets", "depth,normals"), "a loss of normals cannot be brought to metres"),
    "stage": (("--encoder", "timm:test_convnext", "--weights", "random", "--stages", "0,9"), "stage=9"),
    "stage_word": (("--stages", "deep"), "expected whole numbers"),
    "storage": (("--storage", "sqlite:////nowhere/at/all.db"), "cannot be reached"),
    "password": (("--storage", "postgresql://me:secret@host:abc/db"), "storage=postgresql://host:abc/db: not the URL"),
    "scheme": (("--storage", "postgres://me@host/db"), "postgres is no database that is known"),
    "journal": (("--study", "damaged"), "damaged at line 1 of 1"),
    "long": (("--study", "n" * 300), "300 characters are too many"),
    "quotes": (("--study", 'it\'s "one"'), "both kinds of quotes"),
    "epochs": (("--epochs", "0"), "epochs=0: expected 1 or more"),
    "report": (("--report-epochs", "0"), "report_epochs=0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_before_anything_is_made(
    folder: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    arguments, message = BAD[case]
    (folder / "cache" / "studies").mkdir(parents=True)
    damaged = folder / "cache" / "studies" / "damaged.journal"
    damaged.write_text("{}\n")
    assert sweep(*FEW, *arguments) == 2
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if "error: " in line] == lines[-1:]
    assert message in lines[-1]
    assert "Traceback" not in "".join(lines)
    made = {path.name for path in (folder / "cache").rglob("*") if path.is_file()}
    assert made <= {damaged.name, f"{damaged.name}.writing"}
    assert not runs("sweep")


def test_a_study_of_another_encoder_is_refused_with_both(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sweep(*FEW, "--study", "one") == 0
    maps = set((folder / "cache" / "features").rglob("*"))
    capfd.readouterr()
    assert sweep(*FEW, "--stride", "8", "--study", "one") == 2
    err = capfd.readouterr().err
    assert "study one: encoder is null " in err
    assert " there, null " in err
    assert "Pass another study name" in err
    assert sweep(*FEW, "--target", "log-depth", "--study", "one") == 2
    assert "target is depth there, log-depth here" in capfd.readouterr().err
    assert sweep(*FEW, "--lr-range", "1e-3:1", "--study", "one") == 2
    assert "lr is 0.0001:1.0 there, 0.001:1.0 here" in capfd.readouterr().err
    assert set((folder / "cache" / "features").rglob("*")) == maps
    assert sweep(*FEW, "--patience", "2", "--study", "one") == 2
    assert "patience is 5 there, 2 here" in capfd.readouterr().err
    assert sweep(*FEW, "--targets", "depth", "--study", "one") == 2
    assert "searched is k, lr there, k, lr, target here" in capfd.readouterr().err
    # Before there is a run.
    (only,) = runs("sweep")
    assert TrialRuns(only.info.run_id, "one")._running() == []
