"""Sweeps of a planted problem: what is drawn, what they find, that they go on, and what they refuse."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import torch.nn.functional as F
from sqlalchemy.engine import URL
from torch import Tensor

from idl.errors import InputError
from idl.fitting import TrainingSet, train_trials
from idl.probes.exact import losses_of_all_k
from idl.probes.gradient_fit import TrainResult, Trial
from idl.probes.image_statistics import ImageGrams, plan
from idl.probes.statistics import FoldedStatistics, Statistics
from idl.sweep.search import Search, SweepConfig, SweepTrial, TrainingData
from idl.sweep.study import FILE, SharedStudy, importances_of, opened

NUM_COMPONENTS, PLANTED_K = 16, 6
SUBJECT = {"encoder": "one", "dataset": "rooms", "target": "depth", "split": "11:2:3"}
CONFIG = SweepConfig(trials=12, trials_per_batch=4, study="tested")
FIXED = Trial(k=0, epochs=8)


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


def sums(data: tuple[Tensor, Tensor, Tensor]) -> Statistics:
    columns, truth, valid = data
    return Statistics.empty(columns.shape[1], 1).accumulate(columns.double(), truth.double(), valid)


@cache
def planted() -> TrainingSet:
    train = drawn(96, seed=0)
    held = plan(96, (4, 4), NUM_COMPONENTS, 1, budget=2**30, k=NUM_COMPONENTS)
    statistics = FoldedStatistics((sums(train),), (sums(drawn(200, seed=1)),))
    return TrainingSet(ImageGrams.of(*train), statistics, held)


class Swept:
    """A worker's sweep of the planted problem. batches: what it logged. best, result: of the study."""

    def __init__(
        self,
        folder: Path,
        config: SweepConfig = CONFIG,
        fixed: Trial = FIXED,
        subject: Mapping[str, str] = SUBJECT,
    ) -> None:
        self.batches: list[list[tuple[SweepTrial, TrainResult]]] = []
        with opened(config.storage, folder) as storage:
            study = SharedStudy.joined(storage, config.study, subject)
            data = TrainingData({}, {None: planted()}, config.k[1] or NUM_COMPONENTS)
            search = Search(study, data, config, fixed, self.log)
            search.run()
            self.trials = search.trials()
            self.best = search.best()
            self.result = search.result_of(self.best)
            self.stored = study.trials()
            self.importances = importances_of(self.stored)

    def log(self, batch: Any) -> None:
        self.batches.append(batch)

    @property
    def logged(self) -> list[tuple[SweepTrial, TrainResult]]:
        return [each for batch in self.batches for each in batch]


def rates(trials: list[SweepTrial]) -> set[float]:
    return {trial.trial.lr for trial in trials}


def test_the_best_is_near_the_exact_optimum_with_the_planted_k(tmp_path: Path) -> None:
    config = replace(CONFIG, trials=60, trials_per_batch=20)
    swept = Swept(tmp_path, config, fixed=Trial(k=0, epochs=40))
    # Independent of any training: the optimum in closed form at each k.
    val = planted().statistics.whole_val
    optima = losses_of_all_k(planted().statistics.whole_train, 0.0, [val])[0] / val.num_terms
    # Fewer components lose much; a few too many cost less than training leaves open.
    assert float(optima[PLANTED_K - 1]) > 1.5 * float(optima[PLANTED_K])
    assert swept.best.trial.k >= PLANTED_K
    assert swept.best.val_loss < 1.01 * float(optima[1:].min())
    assert swept.best.val_loss == pytest.approx(float(optima[swept.best.trial.k]), rel=0.01)
    assert swept.importances.keys() == {"k", "lr"}
    assert sum(swept.importances.values()) == pytest.approx(1)
    assert [trial.number for trial in swept.trials] == list(range(60))
    assert {trial.state.name for trial in swept.stored} == {"COMPLETE"}
    assert (swept.best.val_loss, swept.best.train_loss) == (swept.result.val_loss, swept.result.train_loss)
    assert swept.best.val_loss == min(trial.val_loss for trial in swept.trials)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_draws_the_same_trials(tmp_path: Path, sampler: Any) -> None:
    config = replace(CONFIG, sampler=sampler, trials=16)
    first, again, other = (
        Swept(tmp_path / name, replace(config, sweep_seed=seed)).trials
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert first == again
    assert len(rates(first)) == 16
    assert not rates(first) & rates(other)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_workers_with_one_seed_draw_different_trials(tmp_path: Path, sampler: str) -> None:
    """Even at the same moment, with the same trials known."""
    distributions = CONFIG.distributions(NUM_COMPONENTS)
    Swept(tmp_path, replace(CONFIG, trials=11))
    with opened("", tmp_path) as database:
        workers = [SharedStudy.joined(database, "tested", SUBJECT) for _ in range(3)]
        made = [params["lr"] for worker in workers for params in worker.draw(5, distributions, sampler, 0)]
    assert len(set(made)) == 15
    assert [worker.worker for worker in workers] == [1, 2, 3]


def test_a_study_goes_on_with_the_trials_that_it_has(tmp_path: Path) -> None:
    first = Swept(tmp_path, replace(CONFIG, trials=8))
    continued = Swept(tmp_path)
    assert (len(first.logged), len(continued.logged)) == (8, 4)
    assert continued.trials[:8] == first.trials
    assert len(rates(continued.trials)) == 12
    done = Swept(tmp_path)
    assert (done.logged, done.trials) == ([], continued.trials)
    # It may be of an earlier worker, whose weights are gone: it is trained again.
    assert done.best == continued.best
    torch.testing.assert_close(done.result.weights, continued.result.weights, rtol=1e-4, atol=1e-5)


def test_a_batch_lies_within_the_space_and_equals_its_trials_one_by_one(tmp_path: Path) -> None:
    space = {"k_range": "2:5", "lr_range": "1e-3:1e-1", "weight_decay_range": "1e-6:1e-1"}
    space |= {"step_images_choices": "16,32", "solvers": "sgd,adam"}
    swept = Swept(tmp_path, replace(CONFIG, trials=30, trials_per_batch=30, **space))
    trials = [trial.trial for trial in swept.trials]
    assert {trial.k for trial in trials} == {2, 3, 4, 5}
    assert all(1e-3 <= trial.lr <= 1e-1 and 1e-6 <= trial.weight_decay <= 1e-1 for trial in trials)
    assert {(trial.solver, trial.batch_size) for trial in trials} == {(a, b) for a in ("sgd", "adam") for b in (16, 32)}
    assert len(swept.logged) == 30
    for trial, descent in swept.logged:
        (alone,) = train_trials(planted(), [trial.trial])
        assert (alone.outcome, alone.best_epoch) == (descent.outcome, descent.best_epoch)
        assert alone.val_losses == pytest.approx(descent.val_losses, rel=1e-4)
        torch.testing.assert_close(alone.weights, descent.weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_trial_that_diverges_is_marked_and_leaves_the_others_alone(tmp_path: Path, sampler: Any) -> None:
    fixed = Trial(k=0, solver="sgd", epochs=8)
    swept = Swept(tmp_path, replace(CONFIG, trials=24, sampler=sampler, lr_range="1e-3:1e3"), fixed)
    diverged = [trial for trial in swept.trials if trial.outcome == "diverged"]
    sound = [trial for trial in swept.trials if trial.outcome != "diverged"]
    assert diverged
    assert all(trial.val_loss == float("inf") for trial in diverged)
    assert swept.best in sound
    for trial in sound:
        assert train_trials(planted(), [trial.trial])[0].val_loss == pytest.approx(trial.val_loss, rel=1e-4)
    assert {trial.state.name for trial in swept.stored} == {"COMPLETE"}
    with pytest.raises(InputError, match="every trial diverged"):
        Swept(tmp_path, replace(CONFIG, study="none", sampler=sampler, lr_range="1e5:1e6"), fixed)


def test_trials_beyond_what_was_asked_for_count_for_those_who_want_more(tmp_path: Path) -> None:
    """A second worker completes the study while the first one trains its last batch."""
    others: list[Swept] = []

    class Meeting(Swept):
        def log(self, batch: Any) -> None:
            super().log(batch)
            if len(self.batches) == 2:
                others.append(Swept(tmp_path, replace(CONFIG, trials=20)))

    first = Meeting(tmp_path, replace(CONFIG, trials=12))
    assert (len(first.stored), len(first.trials), len(others[0].logged)) == (20, 12, 12)
    assert first.trials == others[0].trials[:12]
    assert len(rates(others[0].trials)) == 20
    # Both agree on the best of the first twelve.
    assert Swept(tmp_path).best == first.best
    assert Swept(tmp_path, replace(CONFIG, trials=20)).best == others[0].best


@pytest.mark.parametrize("name", ["s", 'it\'s "one" \\ %25 ?#&', "n" * 512])
def test_a_study_is_found_by_its_name_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a b%20?c#@"
    config = replace(CONFIG, trials=4, study=name)
    folder.mkdir()
    # One that was made for the workers by hand is taken.
    optuna.create_study(study_name=name, storage=URL.create("sqlite", database=str(folder / FILE)).render_as_string())
    first = Swept(folder, config)
    assert Swept(folder, config).trials == first.trials
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {FILE}
