"""The interval of a figure and its p: at each end the farther of BCa and t.

BCa (Efron 1987; Davison and Hinkley 1997, 5.3) puts the bound of the one-sided level a at the level

    b(a) = Phi(z0 + w / (1 - acceleration w)),   w = z0 + z_a

of the draws, with z0 = Phi^-1(share of draws below the estimate, ties counted by half) and the acceleration from the
values with each cluster left out. t is the estimate -+ t_(clusters - 1) x the jackknife's standard error. BCa follows
a skewed distribution and is too narrow for few clusters; t is the other way round.

The p of "figure <= margin" is the level at which the lower bound meets the margin, for BCa and for t, and the larger
of both counts, so that p < alpha / 2 says what "lower bound > margin" says.

Bounds are draws themselves, not points between two of them: rank floor((draws + 1) b), and p counts a draw at the
margin as (1 + draws <= margin) / (draws + 1). It is never 0 then, and both statements agree draw for draw.

Defined, because they happen:
- All clusters alike: every draw is the estimate but for rounding, the interval is that point, p is 1 / (draws + 1)
  above the margin and 1 at or below it.
- All draws on one side of the estimate: z0 would be infinite; the share is held at 1 / (draws + 1) or 1 minus that.
- 1 - acceleration w at or below 0: b is at its limit, 0 or 1.
- A rank below 1 or above the draws: no bound on that side (-inf, inf).
- A loss of exactly 0 makes the log ratio infinite. If it is that without each cluster too, standard error is 0 and t
  agrees with the estimate; if not, the figure hangs on single clusters: standard error inf, no bounds, p = 1.
- A single cluster: standard error inf, no bounds, p = 1.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from idl.verdict.resampling import Series

# Of a figure of about 1, far above the rounding of sums and far below any spread that matters.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds and its standard error, in its own units; infinite as the module says."""

    estimate: float
    low: float
    high: float
    standard_error: float


@dataclass(frozen=True)
class Fitted:
    """What both intervals and both p need of a series.

    draws: equal to the estimate where they are so but for rounding.
    """

    estimate: float
    draws: Float64[np.ndarray, " draws"]
    bias: float
    acceleration: float
    standard_error: float
    degrees: int


def fitted(series: Series) -> Fitted:
    """Take bias, acceleration and standard error of a series."""
    estimate = series.estimate
    draws = _snapped(series.draws, estimate)
    below = np.count_nonzero(draws < estimate) + 0.5 * np.count_nonzero(draws == estimate)
    end = 1 / (len(draws) + 1)
    bias = float(ndtri(min(max(below / len(draws), end), 1 - end)))
    acceleration, standard_error = _jackknife(_snapped(series.left_out, estimate))
    return Fitted(estimate, draws, bias, acceleration, standard_error, len(series.left_out) - 1)


def interval(series: Series | Fitted, level: float) -> Interval:
    """Two-sided interval at `level`: at each end the farther of BCa and t."""
    fit = fitted(series) if isinstance(series, Series) else series
    if not math.isfinite(fit.standard_error):
        return Interval(fit.estimate, -math.inf, math.inf, math.inf)
    tail = (1 - level) / 2
    bca_low, bca_high = _bca(fit, tail)
    half = float(stdtrit(fit.degrees, 1 - tail)) * fit.standard_error
    low, high = min(bca_low, fit.estimate - half), max(bca_high, fit.estimate + half)
    return Interval(fit.estimate, low, high, fit.standard_error)


def p_value(series: Series | Fitted, margin: float) -> float:
    """One-sided p of "the figure is `margin` or less": the larger of BCa's and t's."""
    fit = fitted(series) if isinstance(series, Series) else series
    if not math.isfinite(fit.standard_error):
        return 1.0
    distance = fit.estimate - margin
    if fit.standard_error > 0:
        of_t = float(stdtr(fit.degrees, -distance / fit.standard_error))
    else:
        of_t = 0.0 if distance > 0 else 1.0
    return max(of_t, _bca_p(fit, margin))


def _bca(fit: Fitted, tail: float) -> tuple[float, float]:
    count = len(fit.draws)
    low = math.floor((count + 1) * _bca_level(fit, float(ndtri(tail))))
    high = math.ceil((count + 1) * _bca_level(fit, float(ndtri(1 - tail))))
    wanted = [rank - 1 for rank in (low, high) if 1 <= rank <= count]
    ordered = np.partition(fit.draws, wanted) if wanted else fit.draws
    return (
        -math.inf if low < 1 else float(ordered[min(low, count) - 1]),
        math.inf if high > count else float(ordered[max(high, 1) - 1]),
    )


def _bca_level(fit: Fitted, z: float) -> float:
    w = fit.bias + z
    scale = 1 - fit.acceleration * w
    if scale <= 0:
        return 1.0 if w > 0 else 0.0
    return float(ndtr(fit.bias + w / scale))


def _bca_p(fit: Fitted, margin: float) -> float:
    """Solve b(p) = share of draws up to the margin for p."""
    share = (1 + np.count_nonzero(fit.draws <= margin)) / (len(fit.draws) + 1)
    u = float(ndtri(share)) - fit.bias
    if math.isinf(u):
        return 1.0
    scale = 1 + fit.acceleration * u
    if scale <= 0:
        return 1.0 if u > 0 else 0.0
    return float(ndtr(u / scale - fit.bias))


def _jackknife(left_out: Float64[np.ndarray, " clusters"]) -> tuple[float, float]:
    """Acceleration and standard error from the values with each cluster left out."""
    count = len(left_out)
    if count < 2:
        return 0.0, math.inf
    if np.all(left_out == left_out[0]):
        return 0.0, 0.0
    if not np.all(np.isfinite(left_out)):
        return 0.0, math.inf
    away = left_out.mean() - left_out
    square = float(np.sum(away**2))
    return float(np.sum(away**3)) / (6 * square**1.5), math.sqrt((count - 1) / count * square)


def _snapped(values: Float64[np.ndarray, " n"], estimate: float) -> Float64[np.ndarray, " n"]:
    if math.isinf(estimate):
        return values
    return np.where(np.abs(values - estimate) <= _ROUNDING * (1 + abs(estimate)), estimate, values)
