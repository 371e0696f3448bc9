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

# A median needs the images themselves in every draw, and decides nothing: a tenth of the draws serves.
_MEDIAN_DRAWS = 1_000
_NUM_BINS = 64
# Counts held at once, 40 MB: the images of each bin are counted anew for each block.
_BLOCK = 5_000_000


def aligned_name(arm: str) -> str:
    """Name the sums of an arm's errors after alignment."""
    return f"{arm}, aligned"


def describe(
    evidence: Evidence,
    resampled: Resampled,
    clusters: Int64[np.ndarray, " images"],
    untrained: tuple[str, ...],
    config: VerdictConfig,
) -> Description:
    """Describe the arms.

    evidence: of images with a valid pixel. clusters: their numbers.
    resampled: sums of all arms and, by the names of this module, of valid pixels, of the shuffled truth and of arms
      after alignment.
    untrained: arms of the deciding form.
    """
    have = evidence.squared_error
    by_image = {arm: np.asarray(have[arm], dtype=np.float64) for arm in (PIXELS, TRAINED_AND_PIXELS, *untrained)}
    pixels = _log_ratio(by_image[PIXELS], by_image[TRAINED_AND_PIXELS])
    learned = np.mean([_log_ratio(by_image[arm], by_image[TRAINED_AND_PIXELS]) for arm in untrained], axis=0)
    over_null = None
    if TRAINED in have and NULL in have:
        over_null = _exponential(interval(resampled.log_ratio(TRAINED, NULL), config.level))
    return Description(
        tuple(_arm(arm, resampled, config.level) for arm in have),
        over_null,
        _selectivity(evidence, resampled, config.level),
        _median(pixels, clusters, config),
        _median(learned, clusters, config),
    )


def _arm(arm: str, resampled: Resampled, level: float) -> ArmFigures:
    mse = _exponential(interval(resampled.log_ratio(arm, NUM_VALID), level))
    aligned = None
    if aligned_name(arm) in resampled.total:
        aligned = _exponential(interval(resampled.log_ratio(aligned_name(arm), NUM_VALID), level))
    if CONSTANT not in resampled.total:
        return ArmFigures(arm, mse, aligned, None)
    # R2 = 1 - MSE / MSE[constant], so that its bounds change places.
    ratio = _exponential(interval(resampled.log_ratio(arm, CONSTANT), level))
    r2 = Interval(1 - ratio.estimate, 1 - ratio.high, 1 - ratio.low, ratio.standard_error)
    return ArmFigures(arm, mse, aligned, r2)


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


def _median(
    values: Float64[np.ndarray, " images"], clusters: Int64[np.ndarray, " images"], config: VerdictConfig
) -> Interval:
    """Lower median of `values`, with the percentiles of up to 1,000 draws of clusters."""
    draws = draws_of_median(values, clusters, draws=min(config.draws, _MEDIAN_DRAWS), seed=config.seed)
    tail = (1 - config.level) / 2
    estimate, low, high = (
        float(np.quantile(of, level, method="inverted_cdf"))
        for of, level in ((values, 0.5), (draws, tail), (draws, 1 - tail))
    )
    spread = float(np.std(draws, ddof=1)) if np.all(np.isfinite(draws)) else math.inf
    return Interval(estimate, low, high, spread)


def draws_of_median(
    values: Float64[np.ndarray, " images"], clusters: Int64[np.ndarray, " images"], *, draws: int, seed: int
) -> Float64[np.ndarray, " draws"]:
    """Lower median of the images of each draw of clusters: the smallest value that at least half do not exceed."""
    order = np.argsort(values, kind="stable")
    counts = drawn_counts(int(clusters.max()) + 1, draws, seed, block=_BLOCK)
    return values[order][np.concatenate([_middle(block.astype(np.float64), clusters[order]) for block in counts])]


def _middle(
    counts: Float64[np.ndarray, "draws clusters"], clusters: Int64[np.ndarray, " images"]
) -> Int64[np.ndarray, " draws"]:
    """First position, in each draw, up to which at least half of its images lie.

    clusters: of the images in the order of their values. Bins of images first, one product for all draws; then the
    images of the bin that was found: a running sum over all images of every draw takes twenty times as long.
    """
    edges = np.linspace(0, len(clusters), min(_NUM_BINS, len(clusters)) + 1).astype(np.int64)
    num_bins = len(edges) - 1
    bins = np.repeat(np.arange(num_bins), np.diff(edges))
    images_of = np.bincount(clusters * num_bins + bins, minlength=counts.shape[1] * num_bins)
    reached = np.cumsum(counts @ images_of.reshape(-1, num_bins).astype(np.float64), axis=1)
    half = reached[:, -1] / 2
    # argmax: the first place where the condition holds.
    found = np.argmax(reached >= half[:, None], axis=1)
    before = np.where(found > 0, reached[np.arange(len(found)), found - 1], 0.0)
    position = np.empty(len(found), dtype=np.int64)
    for each in np.unique(found):
        here = np.flatnonzero(found == each)
        inside = np.cumsum(counts[np.ix_(here, clusters[edges[each] : edges[each + 1]])], axis=1)
        position[here] = edges[each] + np.argmax(before[here, None] + inside >= half[here, None], axis=1)
    return position
