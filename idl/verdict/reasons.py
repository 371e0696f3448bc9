"""Why a verdict came out as it did, in one plain sentence."""

import math

from idl.verdict.config import POWER, VerdictConfig
from idl.verdict.result import Comparison, Outcome, Verdict


def reason(verdict: Verdict, config: VerdictConfig) -> str:
    """Say it with the figures that decided, as ratios of losses."""
    match verdict.outcome:
        case Outcome.INVALID:
            failed = "; ".join(f"{gate.name}: {gate.detail}" for gate in verdict.gates if not gate.passed)
            return f"Nothing can be concluded, because a condition failed ({failed})."
        case Outcome.LEARNED:
            return (
                f"Without what the encoder adds to the pixels the loss is {_ratio(verdict.beyond_pixels)} as high, and "
                f"with an untrained encoder in its place {_ratio(verdict.learned)}, both above the margin of "
                f"{_times(config.margin)}."
            )
        case Outcome.NOT_LEARNED:
            return _not_learned(verdict, config)
        case Outcome.INCONCLUSIVE:
            return _inconclusive(verdict, config)


def _not_learned(verdict: Verdict, config: VerdictConfig) -> str:
    decided = verdict.below(config.margin)
    assert decided is not None
    what = "the pixels alone" if decided is verdict.beyond_pixels else "an untrained encoder with the pixels"
    return f"With {what} the loss is {_ratio(decided)} as high, below the margin of {_times(config.margin)}."


def _inconclusive(verdict: Verdict, config: VerdictConfig) -> str:
    if verdict.p <= config.alpha / 2:
        return (
            f"The effect is above the margin of {_times(config.margin)} by itself, but not after correction for "
            f"{verdict.num_tested} questions at once (p = {verdict.adjusted_p:.2g}, above {config.alpha / 2:.2g})."
        )
    few = [each for each in (verdict.beyond_pixels, verdict.learned) if each.log_ratio.high < config.margin]
    if few:
        return (
            f"{few[0].name.capitalize()}: the loss is {_ratio(few[0])} as high, below the margin of "
            f"{_times(config.margin)}, but {_too_few(verdict, config)}."
        )
    open_ones = [each for each in verdict.comparisons if each.p > config.alpha / 2]
    asked = open_ones[0]
    found = (
        f"only an effect of {_times(asked.smallest_detectable)} or more would have been found in "
        f"{verdict.num_clusters} clusters with {POWER:.0%} power"
        if math.isfinite(asked.smallest_detectable)
        else "it hangs on a single cluster"
    )
    return (
        f"{asked.name.capitalize()}: the loss is {_ratio(asked)} as high, neither clearly above nor clearly below "
        f"the margin of {_times(config.margin)}; {found}."
    )


def _too_few(verdict: Verdict, config: VerdictConfig) -> str:
    if math.isnan(verdict.recovered):
        return "what an effect of that size comes to here was not measured"
    return (
        "probes of so few training scenes miss much of an effect of that size: planted in these features, one of "
        f"{_times(config.margin)} comes to {_times(verdict.recovered)}"
    )


def _ratio(comparison: Comparison) -> str:
    log = comparison.log_ratio
    return f"{_times(log.estimate)} ({_number(log.low)} to {_number(log.high)})"


def _times(log_ratio: float) -> str:
    return f"{_number(log_ratio)} times"


def _number(log_ratio: float) -> str:
    if log_ratio > math.log(1e6):
        return "more than a million"
    ratio = math.exp(log_ratio)
    # Three decimals, so that a bound can be told from a margin close to it.
    return f"{ratio:.3f}" if ratio < 10 else f"{ratio:.3g}"
