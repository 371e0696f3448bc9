"""The decision: two estimands, one margin, four outcomes.

Both estimands are log ratios of losses pooled over the test split's pixels, on the same draws of its clusters:

1. beyond pixels: ln(MSE[pixels] / MSE[trained+pixels]);
2. learned, not built in: ln(MSE[untrained+pixels] / MSE[trained+pixels]), averaged over seeds. Of the forms of
   untrained, the one of lower cross-validated loss decides: chosen without the test split.

How the intervals and Holm go together, with alpha = 1 - level:

- A cell is tested as one hypothesis, "some estimand, or some seed alone, is the margin or less". Its p is the largest
  of theirs, an intersection-union test: it needs no correction for their number. p <= alpha / 2 says the same as
  "every lower bound of the two-sided intervals is above the margin" (`idl.verdict.intervals`).
- Holm over the cells of a grid bounds the chance of any wrong LEARNED in it by alpha / 2. LEARNED is an adjusted p of
  at most alpha / 2; one that passes alone and not after Holm is INCONCLUSIVE. The family is the cells that no gate
  stopped: gates look at fits, scenes and how many there are, never at a test loss, so that it is settled before any p.
- NOT LEARNED is an upper bound of one of the two estimands below the margin: alpha / 2 for each, hence at most alpha
  for the cell, not adjusted for the grid; a single seed cannot bring it about. Probes of few images, or of features
  whose noise a scene has in common, read less than there is. So an effect of the margin's size is planted in these very
  features, and the bound must be below what is found of it (`idl.probes.exact.recovered`), too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtri

from idl.errors import InputError
from idl.probes.exact import PENALTIES, Solution
from idl.verdict.baselines import COMMON_NULL, CONSTANT, JOINT, NULL, PIXELS, TRAINED, UNTRAINED
from idl.verdict.intervals import Interval, Series, draws_of_median, holm, interval, log_ratio, mean, p_value, resample
from idl.verdict.result import (
    Arm,
    ArmFigures,
    Cell,
    ClusterKind,
    Comparison,
    Description,
    Form,
    Gate,
    Outcome,
    StudyConfig,
    Verdict,
    counted,
)

# Of the smallest detectable effect.
POWER = 0.80
# An arm that reads nothing of use fits as constant does, but for the rounding of sums.
_ROUNDING = 1e-5
# Relative; the largest penalty leaves 1e-8 of what it is laid on.
_EQUAL = 1e-10
# A median needs the images themselves in every draw, and decides nothing: a tenth of the draws serves.
_MEDIAN_DRAWS = 1_000
# What is resampled beside the arms' errors: what makes means of them, and, after an arm's name, its further errors.
_NUM_VALID, _ALIGNED, _SHUFFLED = "valid pixels", ", aligned", ", on other images' truth"


def decide(cells: Sequence[Cell], config: StudyConfig, *, described: bool = True) -> tuple[Verdict, ...]:
    """Return a verdict on every cell of a grid, in their order.

    described: with the figures that decide nothing, which take most of the time.
    Raises InputError where `config.draws` are too few for any of so many cells to be LEARNED.
    """
    require_draws(len(cells), config)
    measured = [_measure(cell, config, described) for cell in cells]
    tested = [index for index, verdict in enumerate(measured) if all(gate.passed for gate in verdict.gates)]
    adjusted = dict(zip(tested, holm([measured[index].p for index in tested]), strict=True))
    verdicts = []
    for index, verdict in enumerate(measured):
        p = adjusted.get(index)
        if p is None:
            outcome = Outcome.INVALID
        elif p <= config.alpha / 2:
            outcome = Outcome.LEARNED
        else:
            outcome = Outcome.NOT_LEARNED if verdict.below(config.log_margin) else Outcome.INCONCLUSIVE
        concluded = replace(verdict, outcome=outcome, adjusted_p=p, num_tested=len(tested))
        verdicts.append(replace(concluded, reason=_reason(concluded, config)))
    return tuple(verdicts)


def require_draws(num_cells: int, config: StudyConfig) -> None:
    """Raise InputError where the draws are too few for any of so many cells to be LEARNED."""
    # With no draw at or below the margin p is 1 / (draws + 1), and up to a few times that where z0 is not 0.
    needed = math.ceil(4 * num_cells / (config.alpha / 2))
    if config.draws < needed:
        raise InputError(f"draws={config.draws}: too few for {counted(num_cells, 'question')}. Pass {needed} or more.")


def _measure(cell: Cell, config: StudyConfig, described: bool) -> Verdict:
    """Return everything that one cell says by itself; its outcome is open."""
    kept = np.flatnonzero(cell.num_valid > 0)
    clusters = [cell.clusters.of_image[index] for index in kept]
    recordings = {cell.clusters.recordings[index] for index in kept} if cell.clusters.recordings else ()
    num_clusters = len(set(clusters))
    forms = _forms(cell.arms)
    deciding = forms[0].arms
    sums = {arm: cell.arms[arm].squared_error for arm in (cell.arms if described else (PIXELS, JOINT, *deciding))}
    if described:
        sums[_NUM_VALID] = cell.num_valid
        if cell.shuffled:
            sums |= {name + _SHUFFLED: cell.shuffled[name].squared_error for name in (TRAINED, CONSTANT)}
        sums |= {name + _ALIGNED: arm.aligned_error for name, arm in cell.arms.items()}
    sums = {name: values[kept] for name, values in sums.items()}
    resampled = resample(sums, clusters, draws=config.draws, seed=config.bootstrap_seed)

    def compare(name: str, *above: str) -> Comparison:
        series = mean([log_ratio(resampled[arm], resampled[JOINT]) for arm in above])
        found = interval(series, config.level)
        needed = float(ndtri(1 - config.alpha / 2) + ndtri(POWER))
        detectable = config.log_margin + needed * found.standard_error
        return Comparison(name, above, JOINT, found, p_value(series, config.log_margin), detectable)

    beyond_pixels = compare("beyond pixels", PIXELS)
    learned = compare("learned, not built in", *deciding)
    seeds = tuple(compare(f"learned, against {arm} alone", arm) for arm in deciding)
    return Verdict(
        cell=cell.name,
        outcome=Outcome.INCONCLUSIVE,
        reason="",
        p=max(each.p for each in (beyond_pixels, learned, *seeds)),
        adjusted_p=None,
        num_tested=0,
        beyond_pixels=beyond_pixels,
        learned=learned,
        seeds=seeds,
        forms=forms,
        gates=gates(cell, num_clusters, config),
        few_clusters=config.min_clusters <= num_clusters < config.few_clusters,
        clusters=cell.clusters.kind,
        num_clusters=num_clusters,
        num_recordings=len(recordings) or None,
        num_images=len(clusters),
        num_valid=float(np.sum(cell.num_valid[kept])),
        recovered=cell.arms[JOINT].recovered,
        description=_describe(cell, sums, resampled, clusters, deciding, config) if described else None,
    )


def _forms(arms: Mapping[str, Arm]) -> tuple[Form, ...]:
    """Return the forms of untrained, the one of lowest cross-validated loss first; of equal ones by name."""
    seeds: dict[str, dict[int, str]] = {}
    for arm in arms:
        if (match := UNTRAINED.fullmatch(arm)) and match["pixels"]:
            seeds.setdefault(match["form"], {})[int(match["seed"])] = arm
    forms = []
    for form, by_seed in seeds.items():
        of_form = tuple(by_seed[seed] for seed in sorted(by_seed))
        forms.append(Form(form, of_form, float(np.mean([arms[arm].solution.cv_loss for arm in of_form]))))
    return tuple(sorted(forms, key=lambda form: (form.cv_loss, form.name)))


def gates(cell: Cell, num_clusters: int, config: StudyConfig) -> tuple[Gate, ...]:
    """Return what has to hold before a verdict means anything: of fits, splits and clusters, never of a test loss."""
    # The common null has a grid of its own.
    arms = {name: arm for name, arm in cell.arms.items() if name != COMMON_NULL}
    fits = {name: arm.solution for name, arm in arms.items()}
    constant, pixels = fits[CONSTANT].plain_train_loss, fits[PIXELS]
    # `not <=` here and below: a loss that is no number fails too.
    worse = [
        f"{name} {fit.plain_train_loss:.4g}"
        for name, fit in fits.items()
        if not fit.plain_train_loss <= constant * (1 + _ROUNDING)
    ]
    worst = max(fits, key=lambda name: math.inf if math.isnan(fits[name].excess_loss) else fits[name].excess_loss)
    excess = fits[worst].excess_loss
    # No direction is lost, save those that features and pixels have in common.
    lost = [f"{name} {fit.rank} of {fit.expected_rank}" for name, fit in fits.items() if fit.rank < fit.expected_rank]
    # A twin that changes nothing was not read, unless cross-validation itself left it out by the largest penalty.
    same = [
        name
        for name in fits
        if UNTRAINED.fullmatch(name)
        and name.endswith(PIXELS)
        and fits[name].features_penalty != max(PENALTIES)
        and math.isclose(fits[name].val_loss, pixels.val_loss, rel_tol=_EQUAL)
        and math.isclose(fits[name].cv_loss, pixels.cv_loss, rel_tol=_EQUAL)
    ]
    untested = any(math.isinf(fit.val_error) for fit in fits.values())
    leaked = ", ".join((*cell.leaked[:3], *(["..."] if len(cell.leaked) > 3 else [])))

    def without(name: str, found: Sequence[str], what: str, more: str = "") -> Gate:
        return Gate(name, not found, f"{what}: {'; '.join(found) or 'none'}{more}")

    return (
        without("no fit worse than constant", worse, f"worse on training than constant ({constant:.4g})"),
        Gate(
            "fits converged",
            excess <= config.max_excess_loss,
            f"excess loss at most {excess:.2%} ({worst}), of {config.max_excess_loss:.2%} or less",
        ),
        without("every column counts", lost, "directions lost"),
        without(
            "no joint arm worse than its part",
            _below_part(fits),
            "worse",
            "; not tested on validation, which is of one fold" if untested else "",
        ),
        without("twins differ from pixels", same, "equal to the pixels"),
        enough_clusters(num_clusters, cell.clusters.kind, config),
        Gate(
            "splits apart",
            not cell.leaked,
            f"{len(cell.leaked)} found in two splits: {leaked}" if leaked else "no scene and no image is in two splits",
        ),
    )


def enough_clusters(num_clusters: int, clusters: ClusterKind, config: StudyConfig) -> Gate:
    """Return whether the clusters are enough for a verdict, which is known before anything is measured."""
    passed = num_clusters >= config.min_clusters
    detail = f"{counted(num_clusters, clusters)}, of {config.min_clusters} or more"
    if clusters == "recording" and not passed:
        detail += ": blocks of one recording are no independent scenes; clusters=block takes them as such"
    return Gate("enough clusters", passed, detail)


def _below_part(fits: Mapping[str, Solution]) -> list[str]:
    """Return where a joint arm does worse than one of its parts by more than the part's standard error."""
    worse = []
    for name, joint in fits.items():
        own, plus, _ = name.partition("+pixels")
        for part in (PIXELS, own) if plus else ():
            if alone := fits.get(part):
                for kind, loss, other, error in (
                    ("on validation", joint.val_loss, alone.val_loss, alone.val_error),
                    ("by cross-validation", joint.cv_loss, alone.cv_loss, alone.cv_error),
                ):
                    if not loss <= other + error:
                        worse.append(f"{name} {loss:.4g} {kind}, {part} alone {other:.4g} (standard error {error:.2g})")
    return worse


def _describe(
    cell: Cell,
    sums: Mapping[str, Float64[np.ndarray, " images"]],
    resampled: Mapping[str, Series],
    clusters: Sequence[str],
    untrained: tuple[str, ...],
    config: StudyConfig,
) -> Description:
    """Return the figures that decide nothing. sums: of the images, that were resampled. untrained: arms that decide."""

    def over(above: str, below: str) -> Interval:
        return interval(log_ratio(resampled[above], resampled[below]), config.level).exponential()

    def figures(arm: str) -> ArmFigures:
        # R2 = 1 - MSE / MSE[constant], so that its bounds change places.
        rest = over(arm, CONSTANT)
        r2 = Interval(1 - rest.estimate, 1 - rest.high, 1 - rest.low, rest.standard_error)
        return ArmFigures(arm, over(arm, _NUM_VALID), over(arm + _ALIGNED, _NUM_VALID), r2)

    def median_over_joint(*above: str) -> Interval:
        """Lower median over images of the arms' mean log ratio, with the percentiles of up to 1,000 draws."""
        with np.errstate(divide="ignore", invalid="ignore"):
            joint = np.log(sums[JOINT])
            ratios = [np.where(sums[arm] == sums[JOINT], 0.0, np.log(sums[arm]) - joint) for arm in above]
            values = np.mean(ratios, axis=0)
        draws = draws_of_median(values, clusters, draws=min(config.draws, _MEDIAN_DRAWS), seed=config.bootstrap_seed)
        estimate = float(np.quantile(values, 0.5, method="inverted_cdf"))
        ends = ((1 - config.level) / 2, (1 + config.level) / 2)
        low, high = np.quantile(draws, ends, method="inverted_cdf").tolist()
        spread = float(np.std(draws, ddof=1)) if np.all(np.isfinite(draws)) else math.inf
        return Interval(estimate, low, high, spread)

    def selectivity() -> Interval:
        """(1 - ratio to the constant) on the truth minus the same on the shuffled truth."""
        true, control = (log_ratio(resampled[TRAINED + kind], resampled[CONSTANT + kind]) for kind in ("", _SHUFFLED))
        with np.errstate(over="ignore"):
            gain = Series(
                float(np.exp(control.estimate) - np.exp(true.estimate)),
                np.exp(control.draws) - np.exp(true.draws),
                np.exp(control.left_out) - np.exp(true.left_out),
            )
        return interval(gain, config.level)

    return Description(
        arms=tuple(figures(arm) for arm in cell.arms),
        trained_over_null=over(TRAINED, NULL),
        selectivity=selectivity() if cell.shuffled else None,
        beyond_pixels_by_image=median_over_joint(PIXELS),
        learned_by_image=median_over_joint(*untrained),
    )


def _reason(verdict: Verdict, config: StudyConfig) -> str:
    """Say why, in one plain sentence with the figures that decided, as ratios of losses."""
    margin = _times(config.log_margin)
    if verdict.outcome is Outcome.INVALID:
        failed = "; ".join(f"{gate.name}: {gate.detail}" for gate in verdict.gates if not gate.passed)
        return f"Nothing can be concluded, because a condition failed ({failed})."
    if verdict.outcome is Outcome.LEARNED:
        return (
            f"Without what the encoder adds to the pixels the loss is {_ratio(verdict.beyond_pixels)} as high, and "
            f"with an untrained encoder in its place {_ratio(verdict.learned)}, both above the margin of {margin}."
        )
    if decided := verdict.below(config.log_margin):
        what = "the pixels alone" if decided is verdict.beyond_pixels else "an untrained encoder with the pixels"
        return f"With {what} the loss is {_ratio(decided)} as high, below the margin of {margin}."
    if verdict.p <= config.alpha / 2:
        return (
            f"The effect is above the margin of {margin} by itself, but not after correction for "
            f"{verdict.num_tested} questions at once (p = {verdict.adjusted_p:.2g}, above {config.alpha / 2:.2g})."
        )
    for each in (verdict.beyond_pixels, verdict.learned):
        if each.log_ratio.high < config.log_margin:
            missed = "what an effect of that size comes to here was not measured"
            if not math.isnan(verdict.recovered):
                missed = (
                    "probes of so few training scenes miss much of an effect of that size: planted in these features, "
                    f"one of {margin} comes to {_times(verdict.recovered)}"
                )
            return (
                f"{each.name.capitalize()}: the loss is {_ratio(each)} as high, below the margin of {margin}, but "
                f"{missed}."
            )
    undecided = next(each for each in verdict.comparisons if each.p > config.alpha / 2)
    power = "it hangs on a single cluster"
    if math.isfinite(undecided.smallest_detectable):
        power = (
            f"only an effect of {_times(undecided.smallest_detectable)} or more would have been found in "
            f"{verdict.num_clusters} clusters with {POWER:.0%} power"
        )
    return (
        f"{undecided.name.capitalize()}: the loss is {_ratio(undecided)} as high, neither clearly above nor clearly "
        f"below the margin of {margin}; {power}."
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
