"""Several questions at once: Holm's step-down adjustment (Holm 1979)."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p in the order given: the i-th smallest of m counts m - i + 1 times, and none less than one before it.

    Rejecting where the adjusted p is at most a bounds the chance of any false rejection by a, however the p depend
    on each other.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)
