"""Sweeps of a planted problem: what they find, that they go on, and what they refuse."""

import json
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from idl.descending import TrainingSet, train_trials
from idl.errors import InputError
from idl.fitting import SplitStatistics
from idl.probes.exact import losses_of_all_k
from idl.probes.image_grams import ImageGrams
from idl.probes.image_plan import plan
from idl.probes.statistics import Statistics
from idl.probes.trial import Descent, Trial
from idl.sweep import batches, workers
from idl.sweep.config import SweepConfig
from idl.sweep.journal import Journal
from idl.sweep.result import SweepResult, SweepTrial
from idl.sweep.run import check, sweep
from idl.sweep.space import Place, SearchSpace
from idl.sweep.watcher import Watcher
from idl.sweep.workers import is_gone, this_worker

NUM_COMPONENTS, PLANTED_K = 16, 6
SUBJECT = {"encoder": "one", "dataset": "rooms", "target": "depth", "split": "11:2:3"}
CONFIG = SweepConfig(trials=12, at_once=4, study="tested", fixed=Trial(k=0, epochs=8))


def drawn(num_images: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maps on 4 x 4 cells; a target linear in the leading PLANTED_K components, with noise: others overfit."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(num_images, 1 + NUM_COMPONENTS, 4, 4, generator=generator).half().float()
    columns[:, 0] = 1
    weights = torch.zeros(1 + NUM_COMPONENTS, 1)
    weights[: 1 + PLANTED_K] = 1
    grid = torch.einsum("bchw,co->bohw", columns, weights)
    truth = F.interpolate(grid, size=(8, 8), mode="bilinear", align_corners=False)
    truth = truth + 0.5 * torch.randn(truth.shape, generator=generator)
    return columns, truth, torch.rand(num_images, 8, 8, generator=generator) > 0.3


def split(data: tuple[Tensor, Tensor, Tensor]) -> SplitStatistics:
    columns, truth, valid = data
    empty = Statistics.empty(columns.shape[1], 1)
    return SplitStatistics((empty.accumulate(columns.double(), truth.double(), valid),), (0.0,), 0.0)


@cache
def planted() -> TrainingSet:
    train = drawn(96, seed=0)
    held = plan(96, (4, 4), NUM_COMPONENTS, 1, budget=2**30, k=NUM_COMPONENTS)
    return TrainingSet(ImageGrams.of(*train), split(train), split(drawn(200, seed=1)), held)


def run(folder: Path, config: SweepConfig = CONFIG, space: SearchSpace | None = None, **further: Any) -> SweepResult:
    data = {Place(): planted()}
    return sweep(data, space or SearchSpace(), config, further.pop("subject", SUBJECT), folder, **further)


class Kept(Watcher):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.told: list[tuple[SweepTrial, Descent]] = []

    def trained(self, trials: Sequence[tuple[SweepTrial, Descent]]) -> None:
        self.told += trials


def seen(result: SweepResult) -> list[SweepTrial]:
    assert [trial.number for trial in result.trials] == sorted(trial.number for trial in result.trials)
    return list(result.trials)


def test_the_region_of_the_planted_k_and_a_good_learning_rate_is_found(tmp_path: Path) -> None:
    config = SweepConfig(trials=60, study="found", fixed=Trial(k=0, epochs=40))
    result = run(tmp_path, config)
    assert 3e-3 < result.best.trial.lr < 1
    # Independent of any training: the optimum in closed form at this k.
    data = planted()
    val = data.val.statistics
    optima = losses_of_all_k(data.train.statistics, 0.0, [val])[0] / val.num_terms
    # Fewer components lose much; a few too many cost less than training leaves open.
    assert result.best.trial.k >= PLANTED_K
    assert float(optima[PLANTED_K - 1]) > 1.5 * float(optima[PLANTED_K])
    assert result.best.val_loss < 1.01 * float(optima[1:].min())
    optimum = float(optima[result.best.trial.k])
    assert result.best.val_loss == pytest.approx(optimum, rel=0.01)
    assert result.importances.keys() == {"k", "lr"}
    assert sum(result.importances.values()) == pytest.approx(1)
    assert len(result.trials) == result.num_trained == 60
    best = next(trial for trial in result.trials if trial.number == result.number)
    assert (best.val_loss, best.train_loss) == (result.best.val_loss, result.best.train_loss)
    assert best.val_loss == min(trial.val_loss for trial in result.trials if trial.outcome in ("finished", "converged"))


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_draws_the_same_trials(tmp_path: Path, sampler: Any) -> None:
    config = replace(CONFIG, sampler=sampler, storage="memory", trials=16)
    first, again, other = (seen(run(tmp_path, replace(config, seed=seed))) for seed in (3, 3, 4))
    assert first == again
    assert not {trial.trial.lr for trial in first} & {trial.trial.lr for trial in other}


@pytest.mark.parametrize("storage", ["", "sqlite"])
def test_a_study_goes_on_as_if_it_had_not_stopped(tmp_path: Path, storage: str) -> None:
    config = replace(CONFIG, storage=f"sqlite:///{tmp_path / 'studies.db'}" if storage else "")
    first = run(tmp_path, replace(config, trials=8))
    continued = run(tmp_path, config)
    assert (first.num_trained, continued.num_trained) == (8, 4)
    assert seen(continued)[:8] == seen(first)
    unbroken = run(tmp_path, replace(config, storage="memory"))
    for a, b in zip(seen(continued), seen(unbroken), strict=True):
        assert a.trial == b.trial
        assert a.val_loss == pytest.approx(b.val_loss, rel=1e-5)
    # The best one may be of the first sweep, whose weights are gone: it is trained again.
    torch.testing.assert_close(continued.best.weights, unbroken.best.weights, rtol=1e-4, atol=1e-5)
    done = run(tmp_path, config)
    assert done.num_trained == 0
    assert done.trials == continued.trials


def test_a_batch_equals_its_trials_one_by_one(tmp_path: Path) -> None:
    kept = Kept()
    space = SearchSpace(weight_decay=(1e-6, 1e-1), step_images=(16, 32), solver=("sgd", "adam"))
    config = replace(CONFIG, trials=20, at_once=20, pruner="none")
    run(tmp_path, config, space, watcher=kept)
    told = kept.told
    assert len(told) == 20
    assert {trial.trial.solver for trial, _ in told} == {"sgd", "adam"}
    assert {trial.trial.batch_size for trial, _ in told} == {16, 32}
    for trial, descent in told:
        (alone,) = train_trials(planted(), [trial.trial])
        assert (alone.outcome, alone.best_epoch) == (descent.outcome, descent.best_epoch)
        assert alone.val_losses == pytest.approx(descent.val_losses, rel=1e-4)
        torch.testing.assert_close(alone.weights, descent.weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_what_does_not_get_anywhere_is_ended_early(tmp_path: Path, pruner: Any) -> None:
    # Most learning rates do nothing within the epochs; those of the first batches show it.
    config = replace(CONFIG, trials=30, at_once=10, pruner=pruner, report_epochs=1, fixed=Trial(k=0, epochs=20))
    kept = Kept()
    result = run(tmp_path, config, SearchSpace(lr=(1e-6, 0.1)), watcher=kept)
    ended = [descent for trial, descent in kept.told if trial.outcome == "ended"]
    assert ended
    assert all(len(descent.val_losses) < 20 for descent in ended)
    assert result.best.outcome in ("finished", "converged")


def test_a_trial_that_diverges_is_marked_and_leaves_the_others_alone(tmp_path: Path) -> None:
    fixed = Trial(k=0, solver="sgd", epochs=8, schedule="constant")
    config = replace(CONFIG, pruner="none", fixed=fixed, trials=20, at_once=20)
    result = run(tmp_path, config, SearchSpace(lr=(1e-3, 1e3)))
    diverged = [trial for trial in result.trials if trial.outcome == "diverged"]
    sound = [trial for trial in result.trials if trial.outcome != "diverged"]
    assert diverged
    assert sound
    assert all(trial.val_loss == float("inf") for trial in diverged)
    for trial in sound:
        assert train_trials(planted(), [trial.trial])[0].val_loss == pytest.approx(trial.val_loss, rel=1e-4)
    assert result.number in {trial.number for trial in sound}


def test_where_every_trial_diverges_there_is_no_best(tmp_path: Path) -> None:
    config = replace(CONFIG, fixed=Trial(k=0, solver="sgd", epochs=8, schedule="constant"))
    with pytest.raises(InputError, match="every trial diverged or was ended"):
        run(tmp_path, config, SearchSpace(lr=(1e5, 1e6)))


@pytest.mark.parametrize("storage", ["", "sqlite"])
def test_a_study_of_something_else_is_refused_with_both(tmp_path: Path, storage: str) -> None:
    config = replace(CONFIG, trials=4, storage=f"sqlite:///{tmp_path / 'studies.db'}" if storage else "")
    run(tmp_path, config)
    other = {**SUBJECT, "encoder": "two", "target": "normals"}
    told = "encoder is one there, two here; target is depth there, normals here. Pass another study name"
    with pytest.raises(InputError, match=told):
        run(tmp_path, config, subject=other)
    with pytest.raises(InputError, match=told):
        check(SearchSpace(), config, other, tmp_path)
    with pytest.raises(InputError, match=r"lr is 0.0001:1.0 there, 0.0001:0.1 here"):
        run(tmp_path, config, SearchSpace(lr=(1e-4, 0.1)))
    with pytest.raises(InputError, match=r"step_images is 32 there, 16:32 here"):
        run(tmp_path, config, SearchSpace(step_images=(16, 32)))
    with pytest.raises(InputError, match="epochs is 8 there, 9 here"):
        run(tmp_path, replace(config, fixed=Trial(k=0, epochs=9)))


def test_trials_of_a_worker_that_is_gone_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(["sleep", "600"])
    gone = ":".join([this_worker().rsplit(":", 2)[0], str(process.pid), workers._start_of(process.pid)])

    def killed(*_: object) -> None:
        raise SystemExit

    # A process that is killed tells nothing, and gives nothing back.
    with monkeypatch.context() as patched:
        patched.setattr(batches, "this_worker", lambda: gone)
        patched.setattr(batches, "train_trials", killed)
        patched.setattr(batches, "retry", lambda *_: None)
        with pytest.raises(SystemExit):
            run(tmp_path)
    assert not is_gone(gone)
    process.kill()
    process.wait()
    assert is_gone(gone)
    assert not is_gone(this_worker())
    continued = seen(run(tmp_path))
    assert [trial.number for trial in continued] == list(range(4, 16))
    study = optuna.load_study(
        study_name="tested", storage=optuna.storages.JournalStorage(Journal(tmp_path / "tested.journal"))
    )
    assert [trial.state.name for trial in study.trials[:4]] == ["FAIL"] * 4
    assert [trial.user_attrs.get("retry_of") for trial in study.trials[4:9]] == [0, 1, 2, 3, None]
    assert [trial.params for trial in study.trials[4:8]] == [trial.params for trial in study.trials[:4]]


@pytest.mark.parametrize("storage", ["", "sqlite"])
def test_a_sweep_that_is_interrupted_gives_its_trials_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    config = replace(CONFIG, storage=f"sqlite:///{tmp_path / 'studies.db'}" if storage else "")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(batches, "train_trials", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, config)
    result = run(tmp_path, config)
    assert [trial.number for trial in result.trials] == list(range(4, 16))


def test_stale_trials_of_a_database_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, storage=f"sqlite:///{tmp_path / 'studies.db'}")

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        # Another machine: whether its process runs cannot be seen from here.
        patched.setattr(batches, "this_worker", lambda: "elsewhere:1:1")
        patched.setattr(batches, "train_trials", killed)
        patched.setattr(batches, "retry", lambda *_: None)
        with pytest.raises(SystemExit):
            run(tmp_path, config)
    monkeypatch.setenv("IDL_GRACE_SECONDS", "2")
    result = run(tmp_path, config)
    assert result.num_trained == len(result.trials) == 12
    assert {trial.number for trial in result.trials}.isdisjoint(range(4))


@pytest.mark.parametrize("damage", ["torn", "garbled"])
def test_a_damaged_journal_is_told_and_goes_on(tmp_path: Path, damage: str) -> None:
    run(tmp_path)
    path = tmp_path / "tested.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    finished = [
        number for number, line in enumerate(lines) if json.loads(line).get("state") in (1, 2) and b'"values"' in line
    ]
    if damage == "torn":
        path.write_bytes(b"".join(lines)[:-5])
        told = f"damaged at line {len(lines)} of {len(lines)}; 1[12] finished trials stand before it, 0 after"
    else:
        lines[finished[7]] = b"\0\0\0\n"
        path.write_bytes(b"".join(lines))
        told = f"damaged at line {finished[7] + 1} of {len(lines)}; 7 finished trials stand before it, 4 after"
    with pytest.raises(InputError, match=told) as caught:
        run(tmp_path)
    subprocess.run(str(caught.value).split("go on from there: ")[1], shell=True, check=True)
    assert len(run(tmp_path).trials) == 12


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        ("nowhere", "not the URL of a database"),
        ("sqlite:////nowhere/at/all.db", "cannot be reached"),
        ("nodialect://user:secret@host/name", "no database that is known"),
        ("postgresql//user:secret:secret@host/name", "not the URL of a database"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_said_first(tmp_path: Path, storage: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        check(SearchSpace(), replace(CONFIG, storage=storage), SUBJECT, tmp_path)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="the study cannot be kept there"):
        check(SearchSpace(), CONFIG, SUBJECT, tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lr": (1e-1, 1e-3)}, "lr=0.1:0.001: an empty range"),
        ({"lr": (0.0, 1.0)}, "lr=0:1: expected finite bounds above 0"),
        ({"lr": (1e-3, float("inf"))}, "expected finite bounds"),
        ({"k": (0, 4)}, "k=0:4: expected 1 or more"),
        ({"k": (5, 4)}, "k=5:4: an empty range"),
        ({"weight_decay": (1.0, 1e-3)}, "weight_decay=1:0.001"),
        ({"step_images": (16, 0)}, "step_images=16,0"),
        ({"step_images": (16, 16)}, "stands there twice"),
        ({"solver": ("adma",)}, "solver=adma: expected sgd or adam"),
    ],
)
def test_a_space_that_cannot_be(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        SearchSpace(**changes)


@pytest.mark.parametrize("k", [(1, 17), (17, None)])
def test_k_above_the_components(tmp_path: Path, k: tuple[int, int | None]) -> None:
    with pytest.raises(InputError, match=r"the encoder has 16 components. Pass a range within 1:16"):
        run(tmp_path, space=SearchSpace(k=k))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"trials": 0}, "trials=0"), ({"at_once": 0}, "at_once=0"), ({"sampler": "grid"}, "tpe, random")],
)
def test_settings_that_cannot_be(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        replace(CONFIG, **changes)


def test_workers_together_finish_what_was_asked_for_and_no_more(tmp_path: Path) -> None:
    """The second worker starts, and asks, while the first trains."""
    others: list[SweepResult] = []

    class Starting(Watcher):
        def settled(self, finished: Collection[int], lost: Collection[int], is_all: bool) -> None:
            if finished and not others:
                others.append(run(tmp_path, replace(CONFIG, trials=10)))

    result = run(tmp_path, replace(CONFIG, trials=10), watcher=Starting())
    assert (result.num_trained, others[0].num_trained) == (4, 6)
    assert result.trials == others[0].trials
    assert len({trial.trial.lr for trial in result.trials}) == 10


def test_progress_ends_where_the_study_has_all_that_this_worker_wants(tmp_path: Path) -> None:
    """A study that others bring beyond that."""
    shown: list[int] = []

    @contextmanager
    def progress(label: str, total: int, done: int = 0, unit: str = "img") -> Iterator[Callable[[int], None]]:
        shown.append(done)
        yield shown.append

    class Starting(Watcher):
        def settled(self, finished: Collection[int], lost: Collection[int], is_all: bool) -> None:
            if finished and not is_all and len(shown) == 1:
                shown.append(0)
                run(tmp_path, replace(CONFIG, trials=20))

    assert len(run(tmp_path, replace(CONFIG, trials=12), watcher=Starting(), progress=progress).trials) == 20
    assert sum(shown) == 12
