"""The solver with two penalties against least squares on explicit rows."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from idl.probes.exact import fit
from idl.probes.joint import fit_joint
from idl.probes.statistics import Statistics

NUM_PIXELS, NUM_FEATURES = 5, 4
GRID = (0.0, 1e-3, 1e-1, 1.0)


def system(rows: Tensor, truth: Tensor) -> Statistics:
    return Statistics(rows.T @ rows, rows.T @ truth, truth.square().sum(dim=0), len(rows), 1)


def drawn(seed: int, num_rows: int = 60, num_outputs: int = 1) -> tuple[Tensor, Tensor]:
    """Rows [bias | pixels | features], all correlated, and a truth that reads both, in noise."""
    generator = torch.Generator().manual_seed(seed)
    num_columns = NUM_PIXELS - 1 + NUM_FEATURES
    mix = torch.randn(num_columns, num_columns, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    columns = torch.randn(num_rows, num_columns, generator=generator, dtype=torch.float64) @ mix + 0.5
    rows = torch.cat([torch.ones(num_rows, 1, dtype=torch.float64), columns], dim=1)
    weights = torch.linspace(-1, 1, rows.shape[1] * num_outputs, dtype=torch.float64).reshape(-1, num_outputs)
    return rows, rows @ weights + 8 * torch.randn(num_rows, num_outputs, generator=generator, dtype=torch.float64)


def dense(rows: Tensor, truth: Tensor, pixels: float, features: float) -> Tensor:
    """Two ridges as extra rows, by SVD; infinity leaves the features out."""
    if math.isinf(features):
        left = dense(rows[:, :NUM_PIXELS], truth, pixels, 0.0)
        return torch.cat([left, torch.zeros(rows.shape[1] - NUM_PIXELS, truth.shape[1], dtype=torch.float64)])
    strength = torch.full((rows.shape[1],), pixels, dtype=torch.float64)
    strength[0], strength[NUM_PIXELS:] = 0.0, features
    extra = torch.diag((strength * len(rows)).sqrt())
    zeros = torch.zeros(len(extra), truth.shape[1], dtype=torch.float64)
    return torch.linalg.lstsq(torch.cat([rows, extra]), torch.cat([truth, zeros]), driver="gelsd").solution


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_the_best_pair_of_penalties_and_its_weights_are_those_of_least_squares(seed: int, num_outputs: int) -> None:
    rows, truth = drawn(seed, num_outputs=num_outputs)
    other, other_truth = drawn(seed + 100, num_rows=40, num_outputs=num_outputs)
    result = fit_joint(system(rows, truth), system(other, other_truth), num_pixels=NUM_PIXELS, penalties=GRID)
    solved = {pair: dense(rows, truth, *pair) for pair in product(GRID, (*GRID, math.inf))}
    losses = {pair: float((other @ weights - other_truth).square().mean()) for pair, weights in solved.items()}
    best = min(losses, key=lambda pair: losses[pair])
    assert (result.pixels_penalty, result.features_penalty) == best
    torch.testing.assert_close(result.weights, solved[best], rtol=1e-8, atol=1e-9)
    assert result.val_loss == pytest.approx(losses[best], rel=1e-9)
    assert result.train_loss == pytest.approx(float((rows @ solved[best] - truth).square().mean()), rel=1e-9)
    plain = (rows @ solved[0.0, 0.0] - truth).square().mean()
    assert result.plain_train_loss == pytest.approx(float(plain), rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_features_never_harm_on_validation(seed: int) -> None:
    rows, truth = drawn(seed, num_rows=14)
    other, other_truth = drawn(seed + 50, num_rows=14)
    train, val = system(rows, truth), system(other, -other_truth if seed % 2 else other_truth)
    pixels = torch.arange(NUM_PIXELS)
    alone = fit(train.subset(pixels), val.subset(pixels), num_fixed=NUM_PIXELS, k=0)
    joint = fit_joint(train, val, num_pixels=NUM_PIXELS)
    assert joint.val_loss <= alone.solution.val_loss * (1 + 1e-12)


def test_features_that_mislead_are_left_out() -> None:
    rows, truth = drawn(0)
    other, other_truth = drawn(1)
    train = system(rows, truth + 5 * rows[:, -1:])
    # What they say in training is turned round in validation.
    other[:, NUM_PIXELS:] *= -1
    misled = fit_joint(train, system(other, other_truth - 5 * other[:, -1:]), num_pixels=NUM_PIXELS)
    assert misled.features_penalty == math.inf
    assert not misled.weights[NUM_PIXELS:].any()
    assert fit_joint(train, train, num_pixels=NUM_PIXELS).features_penalty < math.inf


def test_features_that_the_pixels_hold_change_nothing() -> None:
    rows, truth = drawn(0)
    rows[:, NUM_PIXELS:] = rows[:, 1:NUM_PIXELS] @ torch.randn(
        NUM_PIXELS - 1, NUM_FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    statistics = system(rows, truth)
    joint = fit_joint(statistics, statistics, num_pixels=NUM_PIXELS, penalties=(0.0,))
    assert joint.rank == NUM_PIXELS
    expected = (rows[:, :NUM_PIXELS] @ dense(rows[:, :NUM_PIXELS], truth, 0.0, 0.0) - truth).square().mean()
    assert joint.train_loss == pytest.approx(float(expected), rel=1e-9)
    assert joint.plain_train_loss == pytest.approx(float(expected), rel=1e-9)


def test_a_penalty_of_the_pixels_at_the_edge_is_said() -> None:
    rows, truth = drawn(0, num_rows=20)
    assert fit_joint(system(rows, truth), system(rows, -truth), num_pixels=NUM_PIXELS).is_penalty_at_edge
    assert not fit_joint(system(rows, truth), system(rows, truth), num_pixels=NUM_PIXELS).is_penalty_at_edge


@pytest.mark.parametrize("num_pixels", [0, 10])
def test_sizes_that_do_not_fit_are_refused(num_pixels: int) -> None:
    statistics = system(*drawn(0))
    with pytest.raises(ValueError, match="does not fit"):
        fit_joint(statistics, statistics, num_pixels=num_pixels)
