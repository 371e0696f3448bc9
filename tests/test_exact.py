"""The exact solver against LAPACK's least squares on explicit rows."""

import math

import pytest
import torch
from torch import Tensor

from idl.probes.exact import PENALTIES, fit, independent_columns, weights_of_all_k
from idl.probes.statistics import Statistics


def system(rows: Tensor, truth: Tensor) -> Statistics:
    return Statistics(rows.T @ rows, rows.T @ truth, truth.square().sum(dim=0), len(rows), 1)


def drawn(num_rows: int = 400, num_columns: int = 12, num_outputs: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows with a bias first and correlated columns after it, and a noisy linear target."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(num_columns, num_columns, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    columns = torch.randn(num_rows, num_columns, generator=generator, dtype=torch.float64) @ mix + 0.5
    rows = torch.cat([torch.ones(num_rows, 1, dtype=torch.float64), columns], dim=1)
    weights = torch.linspace(-1, 1, (num_columns + 1) * num_outputs, dtype=torch.float64).reshape(-1, num_outputs)
    noise = torch.randn(num_rows, num_outputs, generator=generator, dtype=torch.float64)
    return rows, rows @ weights + 3 * noise


def least_squares(rows: Tensor, truth: Tensor, penalty: float = 0.0) -> Tensor:
    """Ridge as least squares with extra rows sqrt(penalty * n), none of them for the bias; by SVD."""
    extra = math.sqrt(penalty * len(rows)) * torch.eye(rows.shape[1], dtype=torch.float64)[1:]
    zeros = torch.zeros(len(extra), truth.shape[1], dtype=torch.float64)
    return torch.linalg.lstsq(torch.cat([rows, extra]), torch.cat([truth, zeros]), driver="gelsd").solution


@pytest.mark.parametrize("penalty", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_every_k_is_its_own_least_squares(penalty: float, num_outputs: int) -> None:
    rows, truth = drawn(num_outputs=num_outputs)
    statistics = system(rows, truth)
    path = weights_of_all_k(statistics, penalty, torch.ones(13, dtype=torch.bool))
    for leading in range(1, 14):
        expected = least_squares(rows[:, :leading], truth, penalty)
        torch.testing.assert_close(path[:leading, leading - 1], expected, rtol=1e-8, atol=1e-9)
        assert not path[leading:, leading - 1].any()


def test_losses_are_those_of_the_predictions() -> None:
    rows, truth = drawn()
    other, other_truth = drawn(seed=1)
    result = fit(system(rows, truth), system(other, other_truth), num_fixed=1)
    for k, penalty, train_loss, val_loss in zip(
        result.curve.k.tolist(), result.curve.penalty, result.curve.train_loss, result.curve.val_loss, strict=True
    ):
        weights = least_squares(rows[:, : k + 1], truth, float(penalty))
        torch.testing.assert_close(train_loss, (rows[:, : k + 1] @ weights - truth).square().mean())
        torch.testing.assert_close(val_loss, (other[:, : k + 1] @ weights - other_truth).square().mean())
    solution = result.solution
    torch.testing.assert_close(
        torch.tensor(solution.val_loss, dtype=torch.float64), (other @ solution.weights - other_truth).square().mean()
    )


def test_penalty_and_k_are_chosen_by_validation_alone() -> None:
    rows, truth = drawn(num_rows=30)
    other, other_truth = drawn(num_rows=500, seed=1)
    result = fit(system(rows, truth), system(other, other_truth), num_fixed=1)
    losses = {
        (k, penalty): float(
            (other[:, : k + 1] @ least_squares(rows[:, : k + 1], truth, penalty) - other_truth).square().mean()
        )
        for k in range(13)
        for penalty in PENALTIES
    }
    assert (result.solution.k, result.solution.penalty) == min(losses, key=lambda key: losses[key])


def test_a_given_k_is_kept_and_fixed_columns_are_read_by_every_k() -> None:
    rows, truth = drawn()
    statistics = system(rows, truth)
    result = fit(statistics, statistics, num_fixed=4, k=2, penalties=(0.0,))
    expected = least_squares(rows[:, :6], truth)
    torch.testing.assert_close(result.solution.weights[:6], expected, rtol=1e-8, atol=1e-9)
    assert len(result.curve.k) == 13 - 4 + 1


def test_training_loss_never_rises_with_k_without_a_penalty() -> None:
    statistics = system(*drawn())
    curve = fit(statistics, statistics, num_fixed=1, penalties=(0.0,)).curve
    assert bool((curve.train_loss.diff() <= 1e-12).all())


def test_a_planted_linear_target_is_recovered() -> None:
    rows, _ = drawn()
    planted = torch.linspace(2, -2, 13, dtype=torch.float64)[:, None]
    result = fit(system(rows, rows @ planted), system(rows, rows @ planted), num_fixed=1, k=12, penalties=(0.0,))
    torch.testing.assert_close(result.solution.weights, planted, rtol=1e-9, atol=1e-9)


def test_a_singular_system_is_solved_on_its_independent_columns() -> None:
    rows, truth = drawn()
    rows[:, 4] = rows[:, 1] - 2 * rows[:, 3]
    rows[:, 9] = 5 * rows[:, 0]
    rows[:, 11] = 0
    assert independent_columns(rows.T @ rows).nonzero().flatten().tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 12]
    result = fit(system(rows, truth), system(rows, truth), num_fixed=1, k=12, penalties=(0.0,))
    best = (rows @ least_squares(rows, truth) - truth).square().mean()
    torch.testing.assert_close(torch.tensor(result.solution.train_loss, dtype=torch.float64), best, rtol=1e-10, atol=0)
    assert result.solution.rank == 10
    assert float(result.solution.weights.abs().max()) < 100


def test_many_dependent_columns_across_blocks() -> None:
    rows, truth = drawn(num_rows=600, num_columns=150)
    rows[:, 70:140] = rows[:, 1:71] * 0.5
    kept = independent_columns(rows.T @ rows)
    assert kept.nonzero().flatten().tolist() == [*range(70), *range(139, 151)]
    result = fit(system(rows, truth), system(rows, truth), num_fixed=1, k=150, penalties=(0.0,))
    best = (rows @ least_squares(rows, truth) - truth).square().mean()
    torch.testing.assert_close(torch.tensor(result.solution.train_loss, dtype=torch.float64), best, rtol=1e-8, atol=0)


def test_eigenvalues_that_span_eleven_decades() -> None:
    """The target lives on the weakest direction; explicit rows are solved by SVD, which does not square them."""
    generator = torch.Generator().manual_seed(3)
    spread = torch.logspace(0, -5.52, 30, dtype=torch.float64)
    raw = torch.randn(2000, 30, generator=generator, dtype=torch.float64) * spread
    rotation, _ = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64))
    rows = torch.cat([torch.ones(2000, 1, dtype=torch.float64), raw @ rotation], dim=1)
    truth = raw[:, -1:] / spread[-1] + 0.1 * torch.randn(2000, 1, generator=generator, dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(rows[:, 1:].T @ rows[:, 1:])
    assert float(eigenvalues[-1] / eigenvalues[0]) > 9e10
    result = fit(system(rows, truth), system(rows, truth), num_fixed=1, k=30, penalties=(0.0,))
    best = float((rows @ least_squares(rows, truth) - truth).square().mean())
    solved = float((rows @ result.solution.weights - truth).square().mean())
    assert result.solution.rank == 31
    assert solved == pytest.approx(best, rel=1e-6)
    # The quadratic form cancels: its error is measured against the energy of the target, a hundred times the loss.
    assert result.solution.train_loss == pytest.approx(best, abs=1e-5 * float(truth.square().mean()))


def test_the_smallest_k_within_a_share() -> None:
    rows, truth = drawn()
    curve = fit(system(rows, truth), system(rows, truth), num_fixed=1, penalties=(0.0,)).curve
    k = curve.smallest_k_within(0.01)
    limit = 1.01 * float(curve.val_loss.min())
    assert float(curve.val_loss[k]) <= limit
    assert bool((curve.val_loss[:k] > limit).all())


def test_a_penalty_at_the_edge_is_said() -> None:
    rows, truth = drawn(num_rows=20)
    noise = torch.randn(20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    unrelated = system(rows, noise)
    opposite = system(rows, -noise)
    assert fit(unrelated, opposite, num_fixed=1, k=12).is_penalty_at_edge
    assert not fit(system(rows, truth), system(rows, truth), num_fixed=1, k=12).is_penalty_at_edge


@pytest.mark.parametrize(("num_fixed", "k"), [(0, 1), (14, 0), (1, 13)])
def test_sizes_that_do_not_fit_are_refused(num_fixed: int, k: int) -> None:
    statistics = system(*drawn())
    with pytest.raises(ValueError, match="do not fit"):
        fit(statistics, statistics, num_fixed=num_fixed, k=k)
