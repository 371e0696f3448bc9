"""The exact solver against LAPACK's least squares on explicit rows, in float64 and by SVD."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from idl.probes.exact import FLOOR, PENALTIES, excess_loss, fit, fit_joint, losses_of_all_k, recovered
from idl.probes.statistics import FoldedStatistics, Statistics

NUM_PIXELS, NUM_FEATURES = 5, 4
Rows = tuple[Tensor, Tensor]


def system(rows: Tensor, truth: Tensor) -> Statistics:
    return Statistics(rows.T @ rows, rows.T @ truth, truth.square().sum(dim=0), len(rows), 1)


def held_out(train: Rows, val: Rows | None = None) -> FoldedStatistics:
    """A single fold: the validation split is what is held out; the training split itself where there is none."""
    return FoldedStatistics((system(*train),), (system(*(val or train)),))


def folded(data: Rows, num_folds: int = 5) -> FoldedStatistics:
    """Every fifth row is one fold's; of each fold, every third is validation."""
    splits = []
    for is_val in (False, True):
        kept = [torch.arange(len(data[0])) % (3 * num_folds) % num_folds == fold for fold in range(num_folds)]
        on_side = (torch.arange(len(data[0])) // num_folds % 3 == 2) == is_val
        splits.append(tuple(system(data[0][mask & on_side], data[1][mask & on_side]) for mask in kept))
    return FoldedStatistics(*splits)


def drawn(num_rows: int = 400, num_columns: int = 12, num_outputs: int = 1, seed: int = 0, noise: float = 3) -> Rows:
    """Rows with a bias first and correlated columns after it, and a noisy linear target."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(num_columns, num_columns, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    columns = torch.randn(num_rows, num_columns, generator=generator, dtype=torch.float64) @ mix + 0.5
    rows = torch.cat([torch.ones(num_rows, 1, dtype=torch.float64), columns], dim=1)
    weights = torch.linspace(-1, 1, (num_columns + 1) * num_outputs, dtype=torch.float64).reshape(-1, num_outputs)
    return rows, rows @ weights + noise * torch.randn(num_rows, num_outputs, generator=generator, dtype=torch.float64)


def ridge(rows: Tensor, truth: Tensor, penalty: float | Tensor = 0.0) -> Tensor:
    """Least squares with extra rows sqrt(penalty * n), none of them for the bias; by SVD."""
    strength = torch.as_tensor(penalty, dtype=torch.float64).expand(rows.shape[1]).clone()
    strength[0] = 0.0
    extra = torch.diag((strength * len(rows)).sqrt())
    zeros = torch.zeros(len(extra), truth.shape[1], dtype=torch.float64)
    return torch.linalg.lstsq(torch.cat([rows, extra]), torch.cat([truth, zeros]), driver="gelsd").solution


def mse(weights: Tensor, rows: Tensor, truth: Tensor) -> float:
    return float((rows @ weights - truth).square().mean())


def cross_validated(
    rows: Tensor, truth: Tensor, penalty: float | Tensor, fold: Tensor, measured: Tensor | None = None
) -> Tensor:
    """Mean squared error of what is fitted to `truth` without each fold, on `measured` (`truth`) in it."""
    total = torch.zeros((), dtype=torch.float64)
    for each in fold.unique().tolist():
        weights = ridge(rows[fold != each], truth[fold != each], penalty)
        on = truth if measured is None else measured
        total += (rows[fold == each] @ weights - on[fold == each]).square().sum()
    return total / len(rows)


@pytest.mark.parametrize("penalty", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_every_k_is_its_own_least_squares(penalty: float, num_outputs: int) -> None:
    rows, truth = drawn(num_outputs=num_outputs)
    other, other_truth = drawn(num_outputs=num_outputs, seed=1)
    losses = losses_of_all_k(system(rows, truth), penalty, [system(rows, truth), system(other, other_truth)])
    for leading in range(1, 14):
        weights = ridge(rows[:, :leading], truth, penalty)
        for row, (x, y) in enumerate(((rows, truth), (other, other_truth))):
            expected = mse(weights, x[:, :leading], y) * y.numel()
            assert float(losses[row, leading - 1]) == pytest.approx(expected, rel=1e-9)


def test_penalty_and_k_are_chosen_by_cross_validation_alone() -> None:
    data = drawn(num_rows=90, noise=20)
    folds = folded(data)
    result = fit(folds, num_fixed=1)
    fold = torch.arange(90) % 5
    losses = {
        (k, penalty): float(cross_validated(data[0][:, : k + 1], data[1], penalty, fold))
        for k, penalty in product(range(13), PENALTIES)
    }
    least = min(losses.values())
    # Half steps beside the best are tried too, and may be better than all.
    assert result.solution.cv_loss <= least * (1 + 1e-9)
    assert result.solution.cv_loss == pytest.approx(least, rel=0.01)
    best = min(losses, key=lambda key: losses[key])
    assert result.solution.k == best[0]
    assert 0.3 < result.solution.penalty / best[1] < 3.2
    # What is chosen is fitted on the training split alone.
    is_train = torch.arange(90) // 5 % 3 != 2
    rows, truth = data[0][is_train][:, : best[0] + 1], data[1][is_train]
    expected = ridge(rows, truth, result.solution.penalty)
    torch.testing.assert_close(result.solution.weights[: best[0] + 1], expected, rtol=1e-8, atol=1e-9)


def test_standard_errors_are_those_of_the_folds() -> None:
    data = drawn(num_rows=900, noise=20)
    solution = fit(folded(data), num_fixed=1, k=12).solution
    row, fold = torch.arange(900), torch.arange(900) % 5
    on_val, held_out_losses = [], []
    for held in range(5):
        in_val = (row // 5 % 3 == 2) & (fold == held)
        on_val.append(mse(solution.weights, data[0][in_val], data[1][in_val]))
        weights = ridge(data[0][fold != held], data[1][fold != held], solution.penalty)
        held_out_losses.append(mse(weights, data[0][fold == held], data[1][fold == held]))
    assert solution.val_error == pytest.approx(np.std(on_val, ddof=1) / math.sqrt(5), rel=0.01)
    assert solution.cv_loss == pytest.approx(np.mean(held_out_losses), rel=1e-9)
    assert solution.cv_error == pytest.approx(np.std(held_out_losses, ddof=1) / math.sqrt(5), rel=1e-9)
    assert fit(held_out(data), num_fixed=1).solution.cv_error == math.inf


def test_a_given_k_is_kept_and_fixed_columns_are_read_by_every_k() -> None:
    data = drawn()
    result = fit(held_out(data), num_fixed=4, k=2, penalties=(0.0,))
    torch.testing.assert_close(result.solution.weights[:6], ridge(data[0][:, :6], data[1]), rtol=1e-8, atol=1e-9)
    assert not result.solution.weights[6:].any()
    assert len(result.curve.k) == 13 - 4 + 1
    is_enough = result.curve.cv_loss <= 1.01 * float(result.curve.cv_loss.min())
    assert result.curve.smallest_k_within(0.01) == is_enough.tolist().index(True)


def test_dependent_columns_share_what_one_of_them_had() -> None:
    rows, truth = drawn()
    rows[:, 4] = rows[:, 1] - 2 * rows[:, 3]
    rows[:, 9] = 5 * rows[:, 0]
    rows[:, 11] = 0
    result = fit(held_out((rows, truth)), num_fixed=1, k=12, penalties=(0.0,)).solution
    assert result.train_loss == pytest.approx(mse(ridge(rows, truth), rows, truth), rel=1e-9)
    assert result.rank == 10
    assert float(result.weights.abs().max()) < 100
    assert result.excess_loss < 1e-9


@pytest.mark.parametrize("apart", [0.0, 1e-9, 1e-7, 1e-5, 1e-3])
@pytest.mark.parametrize("seed", range(3))
def test_nearly_equal_columns_are_solved_as_by_svd(apart: float, seed: int) -> None:
    """Ten columns with a near copy each, which differ by `apart` times noise: every arm, at every penalty."""
    rows, truth = drawn(num_rows=3000, seed=seed)
    generator = torch.Generator().manual_seed(seed + 50)
    noise = torch.randn(3000, 10, generator=generator, dtype=torch.float64)
    rows = torch.cat([rows, rows[:, 1:11] + apart * noise * rows[:, 1:11].std(dim=0)], dim=1)
    statistics = system(rows, truth)
    for penalty in PENALTIES:
        (loss,) = (losses_of_all_k(statistics, penalty, [statistics])[0, -1:] / 3000).tolist()
        # At 0, what differs by less than the floor is not told apart.
        least = FLOOR if penalty == 0 else penalty
        scale = rows.square().mean(dim=0) if penalty == 0 else 1.0
        assert loss == pytest.approx(mse(ridge(rows, truth, least * scale), rows, truth), rel=1e-4)
    result = fit_joint(held_out((rows, truth)), num_pixels=13, parts=(1e-4, 1e-4), penalties=(1e-4,))
    expected = ridge(rows, truth, 1e-4)
    assert result.train_loss == pytest.approx(mse(expected, rows, truth), rel=1e-6)
    torch.testing.assert_close(rows @ result.weights, rows @ expected, rtol=1e-4, atol=1e-4)
    # Directions that half precision cannot hold are lost, and known to be in common; those of a thousandth are not.
    assert result.rank == 23 - (0 if apart == 1e-3 else 10)
    assert result.expected_rank <= result.rank


def test_eigenvalues_that_span_eleven_decades() -> None:
    """The target lives on the weakest direction; explicit rows are solved by SVD, which does not square them."""
    generator = torch.Generator().manual_seed(3)
    spread = torch.logspace(0, -5.52, 30, dtype=torch.float64)
    raw = torch.randn(2000, 30, generator=generator, dtype=torch.float64) * spread
    rotation, _ = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64))
    truth = raw[:, -1:] / spread[-1] + 0.1 * torch.randn(2000, 1, generator=generator, dtype=torch.float64)
    for turned in (raw, raw @ rotation):
        rows = torch.cat([torch.ones(2000, 1, dtype=torch.float64), turned], dim=1)
        eigenvalues = torch.linalg.eigvalsh(rows[:, 1:].T @ rows[:, 1:])
        assert float(eigenvalues[-1] / eigenvalues[0]) > 9e10
        data = (rows, truth)
        for penalty in (1e-13, 1e-12, 1e-10, 1e-6):
            weights = fit(held_out(data), num_fixed=1, k=30, penalties=(penalty,)).solution.weights
            floored = torch.clamp(FLOOR * rows.square().mean(dim=0), min=penalty)
            assert mse(weights, rows, truth) == pytest.approx(mse(ridge(rows, truth, floored), rows, truth), rel=1e-4)


@pytest.mark.parametrize(("num_fixed", "k"), [(0, 1), (14, 0), (1, 13)])
def test_sizes_that_do_not_fit_are_refused(num_fixed: int, k: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        fit(held_out(drawn()), num_fixed=num_fixed, k=k)


def beside(seed: int, num_rows: int = 60, num_outputs: int = 1) -> Rows:
    """Rows [bias | pixels | features], all correlated, and a truth that reads both, in noise."""
    return drawn(num_rows, NUM_PIXELS - 1 + NUM_FEATURES, num_outputs, seed, noise=8)


def strength(pixels: float, features: float) -> Tensor:
    return torch.tensor([pixels] * NUM_PIXELS + [features] * NUM_FEATURES, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_the_best_pair_of_penalties_and_its_weights_are_those_of_least_squares(seed: int, num_outputs: int) -> None:
    train, val = beside(seed, num_outputs=num_outputs), beside(seed + 100, 40, num_outputs)
    grid = [each for each in PENALTIES if each > 0]
    result = fit_joint(held_out(train, val), num_pixels=NUM_PIXELS, parts=(1e-2, 1e-2))
    losses = {pair: mse(ridge(*train, strength(*pair)), *val) for pair in product(grid, grid)}
    assert result.cv_loss <= min(losses.values()) * (1 + 1e-9)
    expected = ridge(*train, strength(result.penalty, result.features_penalty))
    torch.testing.assert_close(result.weights, expected, rtol=1e-8, atol=1e-9)
    assert result.val_loss == pytest.approx(mse(expected, *val), rel=1e-9)
    assert result.train_loss == pytest.approx(mse(expected, *train), rel=1e-9)
    assert result.plain_train_loss == pytest.approx(mse(ridge(*train), *train), rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_a_joint_arm_is_never_worse_than_its_parts(seed: int) -> None:
    """By the loss that it is chosen by; in training at equal penalties, the penalty counted; and without any."""
    folds = folded(beside(seed, num_rows=40))
    index = torch.arange(NUM_PIXELS + NUM_FEATURES)
    of_pixels = index[:NUM_PIXELS]
    of_features = torch.cat([index[:1], index[NUM_PIXELS:]])
    pixels = fit(folds.subset(of_pixels), num_fixed=NUM_PIXELS, k=0).solution
    features = fit(folds.subset(of_features), num_fixed=1, k=NUM_FEATURES).solution
    joint = fit_joint(folds, num_pixels=NUM_PIXELS, parts=(pixels.penalty, features.penalty))
    for part in (pixels, features):
        assert joint.cv_loss <= part.cv_loss * (1 + 1e-7)
        assert joint.plain_train_loss <= part.plain_train_loss * (1 + 1e-12)
    for penalty in PENALTIES:
        both = fit_joint(folds, num_pixels=NUM_PIXELS, parts=(penalty, penalty), penalties=(penalty,))
        for read in (of_pixels, of_features):
            part = fit(folds.subset(read), num_fixed=1, k=len(read) - 1, penalties=(penalty,)).solution
            penalised = [each.train_loss + penalty * float(each.weights[1:].square().sum()) for each in (both, part)]
            assert penalised[0] <= penalised[1] * (1 + 1e-9)


def test_features_that_mislead_are_left_out() -> None:
    rows, truth = beside(0)
    other, other_truth = beside(1)
    train = (rows, truth + 5 * rows[:, -1:])
    # What they say in training is turned round in validation.
    other[:, NUM_PIXELS:] *= -1
    folds = held_out(train, (other, other_truth - 5 * other[:, -1:]))
    misled = fit_joint(folds, num_pixels=NUM_PIXELS, parts=(1e-3, 1e-3))
    assert misled.features_penalty == max(PENALTIES)
    assert float(misled.weights[NUM_PIXELS:].abs().max()) < 1e-6
    assert fit_joint(held_out(train), num_pixels=NUM_PIXELS, parts=(1.0, 1.0)).features_penalty < 1e-3


def test_features_that_the_pixels_hold_change_nothing() -> None:
    rows, truth = beside(0)
    mix = torch.randn(NUM_PIXELS - 1, NUM_FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    rows[:, NUM_PIXELS:] = rows[:, 1:NUM_PIXELS] @ mix
    data = (rows, truth)
    joint = fit_joint(held_out(data), num_pixels=NUM_PIXELS, parts=(0.0, 0.0), penalties=(0.0,))
    expected = mse(ridge(rows[:, :NUM_PIXELS], truth), rows[:, :NUM_PIXELS], truth)
    assert joint.train_loss == pytest.approx(expected, rel=1e-9)
    assert joint.rank == joint.expected_rank == NUM_PIXELS
    # They can hide nothing either.
    rows[:, NUM_PIXELS:] = rows[:, 1:NUM_PIXELS] + 1e-4 * torch.randn(60, NUM_FEATURES, dtype=torch.float64)
    assert recovered(folded(data), num_pixels=NUM_PIXELS, chosen=(0.1, 0.1), effect=0.05) == 0.05


@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_excess_loss_tells_of_columns_that_a_fit_lost(penalty: float) -> None:
    rows, truth = drawn()
    weights = torch.zeros(13, 1, dtype=torch.float64)
    weights[:8] = ridge(rows[:, :8], truth, penalty)
    strength = torch.tensor([0.0, *[penalty * len(rows)] * 12], dtype=torch.float64)
    found = excess_loss(system(rows, truth), strength, weights)
    lost, optimum = (
        mse(each, rows, truth) + penalty * float(each[1:].square().sum())
        for each in (weights, ridge(rows, truth, penalty))
    )
    assert found == pytest.approx(lost / optimum - 1, rel=1e-6)
    assert excess_loss(system(rows, truth), strength, ridge(rows, truth, penalty)) < 1e-12


def planted_scenes(num_scenes: int, share: float, num_features: int = 60) -> tuple[FoldedStatistics, int]:
    """Fifty cells a scene; pixels say nothing. share: of the features' variance that a scene's cells have in common."""
    generator = torch.Generator().manual_seed(0)
    scene = torch.arange(num_scenes).repeat_interleave(50)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    common = noise(num_scenes, num_features)[scene]
    features = math.sqrt(share) * common + math.sqrt(1 - share) * noise(len(scene), num_features)
    rows = torch.cat([torch.ones(len(scene), 1, dtype=torch.float64), noise(len(scene), 2), features], dim=1)
    truth = noise(len(scene), 1)
    splits = []
    for is_val in (False, True):
        masks = [(scene % 5 == fold) & ((scene // 5 % 5 == 4) == is_val) for fold in range(5)]
        splits.append(tuple(system(rows[mask], truth[mask]) for mask in masks))
    return FoldedStatistics(*splits), 3


@pytest.mark.parametrize("effect", [0.0, 0.05, 0.3])
def test_with_many_scenes_a_planted_effect_is_found_as_large_as_it_is(effect: float) -> None:
    folds, num_pixels = planted_scenes(800, 0.0)
    found = recovered(folds, num_pixels=num_pixels, chosen=(1e-3, 1e8), effect=effect)
    assert found == pytest.approx(effect, rel=0.15, abs=1e-3)


def test_where_few_scenes_hide_an_effect_little_of_it_is_found() -> None:
    """Noise that a scene has in common: a hundred thousand pixels of fifty scenes are fifty samples."""
    hidden, seen = (
        recovered(folds, num_pixels=num_pixels, chosen=(1e-3, 1e8), effect=0.05)
        for folds, num_pixels in (planted_scenes(50, 0.8), planted_scenes(50, 0.0))
    )
    assert hidden < 0.015 < 0.017 < seen


def test_an_effect_is_planted_beside_what_the_pixels_hold() -> None:
    """By explicit rows: the target less the features' directions is as it was, and the loss is exp(effect) times."""
    train = beside(0, num_rows=3000)
    folds = folded(train)
    chosen = (1e-4, 1e-4)
    found = recovered(folds, num_pixels=NUM_PIXELS, chosen=chosen, effect=0.2)
    rows, truth = train
    pixels = rows[:, :NUM_PIXELS]
    # Which directions are drawn makes no difference where all are found: they are others here.
    directions = torch.randn(NUM_FEATURES, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    signal = rows[:, NUM_PIXELS:] @ directions
    signal = signal - pixels @ torch.linalg.lstsq(pixels, signal).solution
    fold = torch.arange(len(rows)) % 5
    whole = torch.stack([cross_validated(rows, truth, strength(*chosen), fold)])
    signal = signal / signal.square().mean(dim=0).sqrt() * (math.expm1(0.2) * whole).sqrt()
    ratios = []
    for each in range(20):
        changed = truth + signal[:, each : each + 1]
        lost = cross_validated(rows, truth, strength(*chosen), fold, changed)
        best = min(cross_validated(rows, changed, strength(chosen[0], f), fold) for f in PENALTIES if f > 0)
        ratios.append(float((lost / best).log()))
    assert max(ratios) - min(ratios) < 0.01
    assert found == pytest.approx(min(ratios), abs=0.01)


def test_a_system_that_rounding_made_indefinite_is_solved_as_nearly_as_it_can_be() -> None:
    """Sums in float32 of nearly collinear columns: the smallest eigenvalue is below zero by their rounding."""
    rows, truth = drawn(num_rows=3000)
    noise = torch.randn(3000, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = torch.cat([rows, rows[:, 1:] + 1e-5 * noise], dim=1)
    exact = system(rows, truth)
    rounded = replace(exact, xtx=exact.xtx.float().double())
    assert float(torch.linalg.eigvalsh(rounded.xtx)[0]) < 0
    folds = FoldedStatistics((rounded,), (rounded,))
    solution = fit(folds, num_fixed=1, k=24, penalties=(0.0,)).solution
    assert mse(solution.weights, rows, truth) == pytest.approx(mse(ridge(rows, truth), rows, truth), rel=0.01)
    joint = fit_joint(folds, num_pixels=13, parts=(1e-4, 1e-4), penalties=(1e-4,))
    assert joint.train_loss == pytest.approx(mse(ridge(rows, truth, 1e-4), rows, truth), rel=1e-3)
