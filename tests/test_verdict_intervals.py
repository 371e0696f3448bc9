"""Intervals and p of the verdict, against scipy and against what they promise."""

import math
from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from idl.verdict.intervals import (
    Series,
    drawn_counts,
    draws_of_median,
    holm,
    interval,
    log_ratio,
    p_value,
    resample,
)

LEVEL = 0.95


def _scenes(num_scenes: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Skewed sums of two arms, a scene an image."""
    generator = np.random.default_rng(seed)
    shared = generator.lognormal(0, 0.6, num_scenes)
    return {
        "a": 1.3 * shared * generator.lognormal(0, 0.2, num_scenes),
        "b": shared * generator.lognormal(0, 0.5, num_scenes),
    }


def labels(numbers: Iterable[int]) -> list[str]:
    return [f"scene {number:04d}" for number in numbers]


def _log_ratio(sums: dict[str, np.ndarray], draws: int = 10_000, seed: int = 0) -> Series:
    made = resample(sums, labels(range(len(sums["a"]))), draws=draws, seed=seed)
    return log_ratio(made["a"], made["b"])


@pytest.mark.parametrize("num_scenes", [10, 37, 200])
def test_the_interval_is_the_farther_of_scipys_bca_and_t(num_scenes: int) -> None:
    sums = _scenes(num_scenes, seed=num_scenes)
    series = _log_ratio(sums)

    def statistic(scenes: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.log(sums["a"][scenes].sum(axis) / sums["b"][scenes].sum(axis))

    # scipy on our draws, so that nothing but its BCa is left to differ: its bounds lie between two neighbouring draws.
    drawn = SimpleNamespace(bootstrap_distribution=series.draws)
    bca = stats.bootstrap(
        (np.arange(num_scenes),), statistic, n_resamples=0, bootstrap_result=drawn, confidence_level=LEVEL, method="BCa"
    ).confidence_interval
    left_out = np.array([statistic(np.delete(np.arange(num_scenes), scene)) for scene in range(num_scenes)])
    error = math.sqrt((num_scenes - 1) ** 2 / num_scenes * np.var(left_out, ddof=1))
    t = stats.t.interval(LEVEL, num_scenes - 1, statistic(np.arange(num_scenes)), error)
    found = interval(series, LEVEL)
    gap = 5 * (found.high - found.low) / 1000
    assert found.standard_error == pytest.approx(error)
    assert found.low == pytest.approx(min(bca.low, t[0]), abs=gap)
    assert found.high == pytest.approx(max(bca.high, t[1]), abs=gap)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_scenes=st.integers(2, 40),
    level=st.sampled_from([0.8, 0.95, 0.99]),
    shift=st.floats(-3, 3),
)
def test_p_and_the_lower_bound_say_the_same(seed: int, num_scenes: int, level: float, shift: float) -> None:
    series = _log_ratio(_scenes(num_scenes, seed), draws=500, seed=seed)
    found = interval(series, level)
    margin = found.estimate + shift * found.standard_error
    assert (p_value(series, margin) <= (1 - level) / 2) == (found.low > margin)
    # Also on both sides of the bound itself.
    if math.isfinite(found.low):
        assert p_value(series, found.low + 1e-9) > (1 - level) / 2
        assert p_value(series, found.low - 1e-9) <= (1 - level) / 2


SOME = _scenes(15)
ALIKE = np.full(12, 0.1)
NOTHING = (-math.inf, math.inf, math.inf)


@pytest.mark.parametrize(
    ("a", "b", "expected", "p_of_1", "p_of_half"),
    [
        # Scenes that are alike give a point, and an arm against itself is exactly nothing.
        (1.7 * ALIKE, ALIKE, (math.log(1.7), math.log(1.7), 0), 1, 1 / 10_001),
        (SOME["a"], SOME["a"], (0, 0, 0), 1, 1),
        # A loss of zero everywhere is an infinite effect.
        (SOME["a"], np.zeros(15), (math.inf, math.inf, 0), 1 / 10_001, 1 / 10_001),
        (np.zeros(15), SOME["b"], (-math.inf, -math.inf, 0), 1, 1),
        # A loss in one scene only says nothing, and neither does a single scene.
        (SOME["a"], np.where(np.arange(15) == 3, SOME["b"], 0.0), NOTHING, 1, 1),
        (np.array([2.0]), np.array([1.0]), NOTHING, 1, 1),
    ],
)
def test_what_has_no_spread_or_no_bound(
    a: np.ndarray, b: np.ndarray, expected: tuple[float, ...], p_of_1: float, p_of_half: float
) -> None:
    series = _log_ratio({"a": a, "b": b.copy()})
    found = interval(series, LEVEL)
    assert (found.low, found.high, found.standard_error) == pytest.approx(expected)
    if found.standard_error == 0:
        assert found.low == found.estimate == found.high
    assert (p_value(series, 1.0), p_value(series, 0.5)) == pytest.approx((p_of_1, p_of_half), abs=1e-3 * p_of_1)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_all_draws_on_one_side_leave_a_finite_p_and_honest_bounds(side: float) -> None:
    # A bias that would be infinite: Phi^-1(0) or Phi^-1(1).
    generator = np.random.default_rng(0)
    draws = side * generator.uniform(0.1, 1.0, 1000)
    series = Series(0.0, draws, generator.normal(0, 0.01, 30))
    found = interval(series, LEVEL)
    assert found.low <= 0 <= found.high
    # Draws above the estimate: they lie too high, so that the truth is lower than the lowest of them, or anywhere.
    assert (found.low == -math.inf) if side > 0 else (found.high == math.inf)
    assert 0 <= p_value(series, -0.5) <= 1


def test_draws_are_those_of_clusters_with_replacement() -> None:
    counts = np.concatenate(list(drawn_counts(30, 4000, seed=1)))
    assert np.all(counts.sum(axis=1) == 30)
    # Multinomial: variance 1 - 1/n, covariance -1/n.
    covariance = np.cov(counts.T)
    assert np.mean(np.diag(covariance)) == pytest.approx(1 - 1 / 30, abs=0.03)
    assert np.mean(covariance[~np.eye(30, dtype=bool)]) == pytest.approx(-1 / 30, abs=0.003)
    again = np.concatenate(list(drawn_counts(30, 4000, seed=1)))
    other = np.concatenate(list(drawn_counts(30, 4000, seed=2)))
    in_blocks = np.concatenate(list(drawn_counts(30, 4000, seed=1, block=100)))
    assert np.array_equal(counts, again)
    assert np.array_equal(counts, in_blocks)
    assert not np.array_equal(counts, other)


def test_sums_without_a_scene_are_exact_where_one_scene_is_nearly_everything() -> None:
    sums = {"a": np.array([1e20, 1.0, 2.0, 3.0])}
    left_out = resample(sums, labels(range(4)), draws=10, seed=0)["a"].left_out
    assert left_out[0] == pytest.approx(math.log(6.0))


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # The worked example of Wikipedia, "Holm-Bonferroni method".
        ((0.01, 0.04, 0.03, 0.005), (0.03, 0.06, 0.06, 0.02)),
        # p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm") of R.
        ((0.01, 0.02, 0.03, 0.04, 0.05), (0.05, 0.08, 0.09, 0.09, 0.09)),
        ((0.4, 0.9), (0.8, 0.9)),
        ((0.7, 0.6), (1.0, 1.0)),
        ((0.03,), (0.03,)),
        ((), ()),
    ],
)
def test_holm_by_hand(p_values: tuple[float, ...], adjusted: tuple[float, ...]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_as_the_step_down_procedure_does(p_values: list[float], alpha: float) -> None:
    # Holm's own words: go up from the smallest while p <= alpha / (number of those left).
    left = sorted(p_values)
    rejected = 0
    while rejected < len(left) and left[rejected] * (len(left) - rejected) <= alpha:
        rejected += 1
    assert sum(p <= alpha for p in holm(p_values)) == rejected


@pytest.mark.parametrize(("num_scenes", "num_images"), [(1, 1), (5, 7), (10, 60), (30, 400), (40, 3000)])
def test_the_median_of_a_draw_is_that_of_its_images_written_out(num_scenes: int, num_images: int) -> None:
    generator = np.random.default_rng(num_images)
    scenes = np.append(np.arange(num_scenes), generator.integers(0, num_scenes, num_images - num_scenes))
    # Many equal values among them.
    values = np.round(generator.normal(size=num_images), 2)
    found = draws_of_median(values, labels(scenes), draws=40, seed=3)
    for counts, median in zip(np.concatenate(list(drawn_counts(num_scenes, 40, seed=3))), found, strict=True):
        written_out = np.sort(np.repeat(values, counts[scenes]))
        assert median == written_out[(len(written_out) - 1) // 2]
