"""Statistics on the grid against a design matrix that is really upsampled, and their laws."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from idl.probes.exact import fit
from idl.probes.statistics import FoldedStatistics, Statistics


def problem(
    num_images: int = 6, num_columns: int = 5, num_outputs: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(num_images, num_columns, 4, 6, generator=generator, dtype=dtype)
    target = torch.randn(num_images, num_outputs, 32, 40, generator=generator, dtype=dtype)
    return columns, target, torch.rand(num_images, 32, 40, generator=generator) > 0.3


def design(columns: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the full-resolution least squares problem: one a valid pixel."""
    upsampled = F.interpolate(columns, size=target.shape[2:], mode="bilinear", align_corners=False)
    return upsampled.permute(0, 2, 3, 1)[valid], target.permute(0, 2, 3, 1)[valid]


def accumulated(columns: Tensor, target: Tensor, valid: Tensor) -> Statistics:
    return Statistics.empty(columns.shape[1], target.shape[1]).accumulate(columns, target, valid)


def assert_equal(a: Statistics, b: Statistics, rtol: float = 1e-12) -> None:
    for name in ("xtx", "xty", "yty"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=rtol, atol=rtol * 100)
    assert (a.num_valid, a.num_images) == (b.num_valid, b.num_images)


def test_statistics_are_the_normal_equations_of_the_upsampled_problem() -> None:
    columns, target, valid = problem()
    rows, truth = design(columns, target, valid)
    statistics = accumulated(columns, target, valid)
    torch.testing.assert_close(statistics.xtx, rows.T @ rows, rtol=1e-11, atol=1e-9)
    torch.testing.assert_close(statistics.xty, rows.T @ truth, rtol=1e-11, atol=1e-9)
    assert statistics.num_valid == len(rows)
    weights = torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(statistics.mse(weights), (rows @ weights - truth).square().mean())
    path = torch.randn(5, 7, 2, dtype=torch.float64)
    torch.testing.assert_close(statistics.mse(path), torch.stack([statistics.mse(path[:, j]) for j in range(7)]))
    index = torch.tensor([3, 0])
    assert_equal(statistics.subset(index), accumulated(columns[:, index], target, valid))


def test_columns_in_float32_are_summed_in_float64() -> None:
    columns, target, valid = problem(num_columns=40)
    single = accumulated(columns.float(), target.float(), valid)
    double = accumulated(columns.float().double(), target.float().double(), valid)
    torch.testing.assert_close(single.xty, double.xty, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(single.yty, double.yty, rtol=1e-12, atol=1e-10)
    # The coupling is rounded to float32, alike for all columns: nothing falls below zero by it.
    scale = double.xtx.diagonal().sqrt()
    assert ((single.xtx - double.xtx).abs() <= 1e-6 * scale[:, None] * scale).all()


@pytest.mark.parametrize("apart", [1e-9, 1e-7, 1e-5, 1e-3])
def test_near_copies_are_told_apart_as_by_svd_of_every_pixel(apart: float) -> None:
    """The target is where a column and its float32 copy differ: ridge on upsampled columns against the statistics."""
    columns, _, valid = problem(num_columns=6)
    columns = columns.double()
    columns[:, 0] = 1
    difference = torch.randn(columns[:, 1].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    columns = torch.cat([columns, columns[:, 1:2] + apart * difference[:, None]], dim=1).float()
    generator = torch.Generator().manual_seed(6)
    target = torch.randn(len(columns), 1, *valid.shape[1:], generator=generator, dtype=torch.float64)
    upsampled = F.interpolate(columns.double(), size=valid.shape[1:], mode="bilinear", align_corners=False)
    target = target + (upsampled[:, -1:] - upsampled[:, 1:2]) / apart
    rows, truth = design(columns.double(), target, valid)
    whole = (accumulated(columns, target, valid),)
    folds = FoldedStatistics(whole, whole)
    for penalty in (1e-10, 1e-8, 1e-6, 1e-2):
        extra = math.sqrt(penalty * len(rows)) * torch.eye(rows.shape[1], dtype=torch.float64)[1:]
        zeros = torch.zeros(len(extra), 1, dtype=torch.float64)
        weights = torch.linalg.lstsq(torch.cat([rows, extra]), torch.cat([truth, zeros]), driver="gelsd").solution
        found = fit(folds, num_fixed=1, k=6, penalties=(penalty,)).solution.train_loss
        assert found == pytest.approx(float((rows @ weights - truth).square().mean()), rel=1e-4)


def test_batching_and_merging_do_not_change_the_statistics() -> None:
    columns, target, valid = problem()
    whole = accumulated(columns, target, valid)
    batched, parts = Statistics.empty(5, 2), []
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        batched = batched.accumulate(columns[part], target[part], valid[part])
        parts.append(accumulated(columns[part], target[part], valid[part]))
    assert_equal(batched, whole)
    assert_equal(parts[2] + parts[0] + parts[1], whole)


def test_a_masked_pixel_counts_no_more_than_one_that_is_not_there() -> None:
    columns, target, valid = problem()
    garbage = torch.where(valid[:, None], target, torch.full_like(target, 1e6))
    assert_equal(accumulated(columns, garbage, valid), accumulated(columns, target, valid))
    nothing = torch.zeros_like(valid[:1])
    whole = accumulated(columns, target, valid)
    more = whole.accumulate(columns[:1], target[:1], nothing)
    torch.testing.assert_close(more.xtx, whole.xtx)
    assert (more.num_valid, more.num_images) == (whole.num_valid, whole.num_images + 1)


def test_weights_of_a_target_less_an_offset_are_those_of_the_target() -> None:
    columns, target, valid = problem(num_outputs=1)
    columns[:, 0] = 1
    (plain,), (less,) = ((accumulated(columns, each, valid),) for each in (target + 40, target))
    one = FoldedStatistics((plain,), (plain,))
    other = FoldedStatistics((less,), (less,), offset=(40.0,))
    assert other.mean == pytest.approx(one.mean)
    found, expected = (fit(each, num_fixed=1, k=4, penalties=(0.0,)).solution for each in (other, one))
    torch.testing.assert_close(found.weights, expected.weights)
    assert found.val_loss == pytest.approx(expected.val_loss)
