"""The decision: two estimands, one margin, four outcomes.

Both estimands are log ratios of losses pooled over the test split's pixels, on the same draws of its clusters:

1. beyond pixels: ln(MSE[pixels] / MSE[trained+pixels]);
2. learned, not built in: ln(MSE[untrained+pixels] / MSE[trained+pixels]), averaged over seeds. Of the forms of
   untrained, the one of lower cross-validated loss decides: chosen without the test split.

How the intervals and Holm go together, with alpha = 1 - level:

- A cell is tested as one hypothesis, "some estimand, or some seed alone, is the margin or less". Its p is the largest
  of theirs, an intersection-union test: it needs no correction for their number. p <= alpha / 2 says the same as
  "every lower bound of the two-sided intervals is above the margin" (`idl.verdict.intervals`).
- Holm over the cells of a grid bounds the chance of any wrong LEARNED in the grid by alpha / 2. LEARNED is an adjusted
  p of at most alpha / 2; as that is no smaller than p, the lower bounds are then above the margin. With one cell, both
  say the same. A cell that passes alone and not after Holm is INCONCLUSIVE, and its reason says so.
- The family is the cells that no gate stopped. Gates look at the fits without the test split, at the scenes and how
  many there are, never at a test loss, so that which cells are counted is settled before any p is known.
- NOT LEARNED is an upper bound of one of the two estimands below the margin: alpha / 2 for each, hence at most alpha
  for the cell. It is a statement about the cell and is not adjusted for the grid; a single seed cannot bring it about.
  The bound is of the probes as they were fitted, and probes of few images, or of features whose noise a scene has in
  common, read less than there is: all of an effect may be lost in them. So an effect of the margin's size is planted in
  these very features, and the bound must be below what is found of it (`idl.probes.exact.recovered`), too.
- No cell can be both: a lower bound above the margin has its upper bound there too.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import ndtri

from idl.errors import InputError
from idl.verdict.config import POWER, VerdictConfig
from idl.verdict.description import NUM_VALID, SHUFFLED, SHUFFLED_CONSTANT, aligned_name, describe
from idl.verdict.evidence import PIXELS, TRAINED_AND_PIXELS, Cell, Evidence, Shuffled
from idl.verdict.gates import gates
from idl.verdict.intervals import fitted, interval, p_value
from idl.verdict.multiplicity import holm
from idl.verdict.reasons import reason
from idl.verdict.resampling import Resampled, Series, cluster_numbers, mean, resample
from idl.verdict.result import Comparison, Form, Outcome, Verdict


def decide(
    cells: Sequence[Cell], config: VerdictConfig | None = None, *, described: bool = True
) -> tuple[Verdict, ...]:
    """Reach a verdict on every cell of a grid, in their order.

    described: with the figures that decide nothing, which take most of the time.
    Raises InputError where a name is there twice, or `config.draws` are too few for any of so many cells to be
    LEARNED: no p of the bootstrap is below a few 1 / (draws + 1).
    """
    config = config or VerdictConfig()
    twice = [name for name, count in Counter(cell.name for cell in cells).items() if count > 1]
    if twice:
        raise InputError(f"cell {twice[0]!r} is there twice. Give every cell of a grid its own name.")
    require_draws(len(cells), config)
    measured = [_measure(cell, config, described) for cell in cells]
    tested = [index for index, verdict in enumerate(measured) if all(gate.passed for gate in verdict.gates)]
    adjusted = dict(zip(tested, holm([measured[index].p for index in tested]), strict=True))
    return tuple(
        _concluded(replace(verdict, adjusted_p=adjusted.get(index), num_tested=len(tested)), config)
        for index, verdict in enumerate(measured)
    )


def require_draws(num_cells: int, config: VerdictConfig) -> None:
    """Raise InputError where the bootstrap's draws are too few for any of so many cells to be LEARNED."""
    # With no draw at or below the margin p is 1 / (draws + 1), and up to a few times that where z0 is not 0.
    needed = math.ceil(4 * num_cells / (config.alpha / 2))
    if config.draws < needed:
        # A cell is a question of the user's: an encoder at one k.
        asked = "1 question" if num_cells == 1 else f"{num_cells} questions"
        raise InputError(f"draws={config.draws}: too few for {asked}. Pass {needed} or more.")


def _measure(cell: Cell, config: VerdictConfig, described: bool) -> Verdict:
    """Everything that one cell says by itself; its outcome is open."""
    evidence = _with_valid_pixels(cell.evidence)
    clusters = cluster_numbers(evidence.clusters)
    forms = _forms(cell)
    deciding = forms[0].arms
    arms = evidence.squared_error if described else (PIXELS, TRAINED_AND_PIXELS, *deciding)
    sums = {arm: np.asarray(evidence.squared_error[arm], np.float64) for arm in arms}
    if described:
        sums[NUM_VALID] = np.asarray(evidence.num_valid, np.float64)
        if evidence.shuffled is not None:
            sums[SHUFFLED] = evidence.shuffled.squared_error
            sums[SHUFFLED_CONSTANT] = evidence.shuffled.constant_squared_error
        sums |= {aligned_name(arm): np.asarray(each, np.float64) for arm, each in evidence.aligned_error.items()}
    resampled = resample(sums, clusters, draws=config.draws, seed=config.seed)

    beyond_pixels = _compare("beyond pixels", (PIXELS,), resampled, config)
    learned = _compare("learned, not built in", deciding, resampled, config)
    seeds = tuple(_compare(f"learned, against {arm} alone", (arm,), resampled, config) for arm in deciding)
    num_clusters = int(clusters.max()) + 1
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
        gates=gates(cell.training, num_clusters, config, evidence.clusters_are),
        few_clusters=config.min_clusters <= num_clusters < config.few_clusters,
        clusters=evidence.clusters_are,
        num_clusters=num_clusters,
        num_recordings=len(set(evidence.recordings)) or None,
        num_images=len(clusters),
        num_valid=float(np.sum(evidence.num_valid)),
        recovered=cell.training.fits[TRAINED_AND_PIXELS].recovered,
        description=describe(evidence, resampled, clusters, deciding, config) if described else None,
    )


def _concluded(verdict: Verdict, config: VerdictConfig) -> Verdict:
    if verdict.adjusted_p is None:
        outcome = Outcome.INVALID
    elif verdict.adjusted_p <= config.alpha / 2:
        outcome = Outcome.LEARNED
    elif verdict.below(config.margin) is not None:
        outcome = Outcome.NOT_LEARNED
    else:
        outcome = Outcome.INCONCLUSIVE
    concluded = replace(verdict, outcome=outcome)
    return replace(concluded, reason=reason(concluded, config))


def _compare(name: str, above: tuple[str, ...], resampled: Resampled, config: VerdictConfig) -> Comparison:
    series: Series = mean([resampled.log_ratio(arm, TRAINED_AND_PIXELS) for arm in above])
    fit = fitted(series)
    log_ratio = interval(fit, config.level)
    needed = float(ndtri(1 - config.alpha / 2) + ndtri(POWER))
    detectable = config.margin + needed * log_ratio.standard_error
    return Comparison(name, above, TRAINED_AND_PIXELS, log_ratio, p_value(fit, config.margin), detectable)


def _forms(cell: Cell) -> tuple[Form, ...]:
    """Forms of untrained, the one of lowest cross-validated loss first; of equal ones by name."""
    found = [
        Form(form, arms, float(np.mean([cell.training.fits[arm].cv_loss for arm in arms])))
        for form, arms in cell.evidence.untrained.items()
    ]
    return tuple(sorted(found, key=lambda form: (form.cv_loss, form.name)))


def _with_valid_pixels(evidence: Evidence) -> Evidence:
    kept = np.flatnonzero(np.asarray(evidence.num_valid) > 0)
    if len(kept) == len(evidence.clusters):
        return evidence
    shuffled = evidence.shuffled
    if shuffled is not None:
        shuffled = Shuffled(shuffled.squared_error[kept], shuffled.constant_squared_error[kept])
    return Evidence(
        [evidence.clusters[index] for index in kept.tolist()],
        evidence.num_valid[kept],
        {arm: values[kept] for arm, values in evidence.squared_error.items()},
        shuffled,
        {arm: values[kept] for arm, values in evidence.aligned_error.items()},
        evidence.clusters_are,
        [evidence.recordings[index] for index in kept.tolist()] if evidence.recordings else (),
    )
