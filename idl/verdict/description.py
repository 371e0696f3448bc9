"""Figures beside the verdict that decide nothing."""

import math

import numpy as np
from jaxtyping import Float64, Int64

from idl.verdict.config import VerdictConfig
from idl.verdict.evidence import CONSTANT, NULL, PIXELS, TRAINED, TRAINED_AND_PIXELS, Evidence
from idl.verdict.intervals import Interval, interval
from idl.verdict.resampling import Resampled, Series, drawn_counts
from idl.verdict.result import ArmFigures, Description

NUM_VALID = "valid pixels"
SHUFFLED = "shuffled truth, trained"
SHUFFLED_CONSTANT = "shuffled truth, constant"

# A median needs the images themselves in every draw: a tenth of the draws cost what all others cost together.
_MEDIAN_DRAWS = 1_000


def describe(
    evidence: Evidence,
    resampled: Resampled,
    clusters: Int64[np.ndarray, " images"],
    untrained: tuple[str, ...],
    config: VerdictConfig,
) -> Description:
    """Describe the arms.

    evidence: of images with a valid pixel. clusters: their numbers.
    resampled: sums of all arms and, by the names of this module, of valid pixels and of the shuffled truth.
    untrained: arms of the deciding form.
    """
    have = evidence.squared_error
    by_image = {arm: np.asarray(have[arm], dtype=np.float64) for arm in (PIXELS, TRAINED_AND_PIXELS, *untrained)}
    pixels = _log_ratio(by_image[PIXELS], by_image[TRAINED_AND_PIXELS])
    learned = np.mean([_log_ratio(by_image[arm], by_image[TRAINED_AND_PIXELS]) for arm in untrained], axis=0)
    medians = _medians(np.stack([pixels, learned]), clusters, config)
    over_null = None
    if TRAINED in have and NULL in have:
        over_null = _exponential(interval(resampled.log_ratio(TRAINED, NULL), config.level))
    return Description(
        tuple(_arm(arm, resampled, config.level) for arm in have),
        over_null,
        _selectivity(evidence, resampled, config.level),
        medians[0],
        medians[1],
    )


def _arm(arm: str, resampled: Resampled, level: float) -> ArmFigures:
    mse = _exponential(interval(resampled.log_ratio(arm, NUM_VALID), level))
    if CONSTANT not in resampled.total:
        return ArmFigures(arm, mse, None)
    # R2 = 1 - MSE / MSE[constant], so that its bounds change places.
    ratio = _exponential(interval(resampled.log_ratio(arm, CONSTANT), level))
    r2 = Interval(1 - ratio.estimate, 1 - ratio.high, 1 - ratio.low, ratio.standard_error)
    return ArmFigures(arm, mse, r2)


def _exponential(log: Interval) -> Interval:
    """Carry an interval of a logarithm over; the standard error to first order."""
    estimate, low, high = (math.exp(min(value, 700.0)) for value in (log.estimate, log.low, log.high))
    high = math.inf if math.isinf(log.high) else high
    return Interval(estimate, low, high, estimate * log.standard_error if estimate > 0 else log.standard_error)


def _selectivity(evidence: Evidence, resampled: Resampled, level: float) -> Interval | None:
    if evidence.shuffled is None or not {TRAINED, CONSTANT} <= set(evidence.squared_error):
        return None
    true, control = resampled.log_ratio(TRAINED, CONSTANT), resampled.log_ratio(SHUFFLED, SHUFFLED_CONSTANT)
    # (1 - ratio) on the truth minus (1 - ratio) on the shuffled truth.
    with np.errstate(over="ignore"):
        gain = Series(
            math.exp(min(control.estimate, 700.0)) - math.exp(min(true.estimate, 700.0)),
            np.exp(control.draws) - np.exp(true.draws),
            np.exp(control.left_out) - np.exp(true.left_out),
        )
    return interval(gain, level)


def _log_ratio(above: Float64[np.ndarray, " images"], below: Float64[np.ndarray, " images"]) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(above == below, 0.0, np.log(above) - np.log(below))


def _medians(
    values: Float64[np.ndarray, "figures images"], clusters: Int64[np.ndarray, " images"], config: VerdictConfig
) -> list[Interval]:
    """Lower median of each row, with the percentiles of up to 1,000 draws of clusters."""
    order = np.argsort(values, axis=1)
    num_clusters = int(clusters.max()) + 1
    drawn = []
    for counts in drawn_counts(num_clusters, min(config.draws, _MEDIAN_DRAWS), config.seed):
        # Counts of the images in the order of their values; some draws at a time hold the memory flat.
        for part in np.array_split(counts, max(1, len(counts) * len(clusters) // 2_000_000)):
            in_order = (part[:, clusters[row_order]] for row_order in order)
            drawn.append([_lower_median(*each) for each in zip(values, in_order, order, strict=True)])
    draws = np.concatenate(drawn, axis=1)
    everyone = np.ones((1, len(clusters)), dtype=np.int64)
    tail = (1 - config.level) / 2
    found = []
    for row, row_order, in_draws in zip(values, order, draws, strict=True):
        estimate = float(_lower_median(row, everyone, row_order)[0])
        low, high = np.quantile(in_draws, [tail, 1 - tail], method="inverted_cdf")
        spread = float(np.std(in_draws, ddof=1)) if np.all(np.isfinite(in_draws)) else math.inf
        found.append(Interval(estimate, float(low), float(high), spread))
    return found


def _lower_median(
    values: Float64[np.ndarray, " images"],
    counts: Int64[np.ndarray, "draws images"],
    order: Int64[np.ndarray, " images"],
) -> Float64[np.ndarray, " draws"]:
    """Smallest value that at least half of a draw's images do not exceed; counts in the order of the values."""
    reached = np.cumsum(counts, axis=1)
    # argmax: the first place where the condition holds.
    place = np.argmax(2 * reached >= reached[:, -1:], axis=1)
    return values[order[place]]
