"""The normal and Student's t distribution, as scalars."""

import math
from functools import lru_cache
from statistics import NormalDist

_NORMAL = NormalDist()
_TINY = 1e-300


def normal_cdf(z: float) -> float:
    """Probability below `z`, exact to rounding in the lower tail too."""
    # NormalDist.cdf is (1 + erf) / 2: nothing is left of it below z = -8.
    return 0.5 * math.erfc(-z / math.sqrt(2))


def normal_quantile(probability: float) -> float:
    """Inverse of `normal_cdf`; infinite at 0 and 1."""
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else _NORMAL.inv_cdf(probability)


def student_upper(t: float, degrees: int) -> float:
    """Probability above `t` for `degrees` degrees of freedom: half of I_x(degrees / 2, 1 / 2), x = v / (v + t^2).

    Abramowitz and Stegun, 26.7.1. Relative error below 1e-9 for up to a million degrees.
    """
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    if t == 0:
        return 0.5
    square = t * t
    tail = 0.5 * _incomplete_beta(degrees / (degrees + square), square / (degrees + square), degrees / 2, 0.5)
    return tail if t > 0 else 1 - tail


@lru_cache(maxsize=1024)
def student_quantile(probability: float, degrees: int) -> float:
    """Return t with `probability` below it, for probabilities between 1/2 and 1, by bisection."""
    low, high = 0.0, 2.0
    while student_upper(high, degrees) > 1 - probability:
        high *= 2
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if student_upper(middle, degrees) > 1 - probability else (low, middle)
    return high


def _incomplete_beta(x: float, complement: float, a: float, b: float) -> float:
    """Regularised I_x(a, b) by its continued fraction, on the side where that converges fast; complement is 1 - x."""
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(complement)
    front = math.exp(log_front)
    if x < (a + 1) / (a + b + 2):
        return front * _continued_fraction(x, a, b) / a
    return 1 - front * _continued_fraction(complement, b, a) / b


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Abramowitz and Stegun, 26.5.8, from the front by Lentz's method."""
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for numerator in (even, odd):
            d = 1 / _away_from_zero(1 + numerator * d)
            c = _away_from_zero(1 + numerator / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            return value
    raise ArithmeticError(f"the continued fraction of the incomplete beta function does not converge at {x, a, b}")


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
