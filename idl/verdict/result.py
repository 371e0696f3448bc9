"""What a verdict says, as plain values."""

from dataclasses import dataclass
from enum import StrEnum

from idl.verdict.evidence import ClusterKind, counted
from idl.verdict.intervals import Interval


class Outcome(StrEnum):
    """The four answers; the module `idl.verdict.decision` says when each is given."""

    LEARNED = "LEARNED"
    NOT_LEARNED = "NOT LEARNED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"


@dataclass(frozen=True)
class Gate:
    """A condition without which nothing is concluded. detail: what was found, for people."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Comparison:
    """ln(MSE[above] / MSE[below]) on the test split, and the test of "it is the margin or less".

    above: the arms averaged over.
    p: one-sided.
    smallest_detectable: the log ratio that would have been found with 80 % power.
    """

    name: str
    above: tuple[str, ...]
    below: str
    log_ratio: Interval
    p: float
    smallest_detectable: float


@dataclass(frozen=True)
class Form:
    """A way to leave the training out. cv_loss: of untrained+pixels, cross-validated, averaged over the seeds."""

    name: str
    arms: tuple[str, ...]
    cv_loss: float


@dataclass(frozen=True)
class ArmFigures:
    """An arm on the test split.

    mse: mean squared error, target units squared. aligned_mse: the same once every image's prediction has the scale
      and shift that fit its truth best, which leaves errors of structure; None where it was not measured.
    r2: about the constant arm, if there.
    """

    name: str
    mse: Interval
    aligned_mse: Interval | None
    r2: Interval | None


@dataclass(frozen=True)
class Description:
    """Figures that decide nothing. None where their arms are not there.

    arms: in the order of the evidence.
    trained_over_null: MSE[trained] / MSE[null].
    selectivity: R2 of trained on the truth minus R2 of the shuffled arm on shuffled truth.
    beyond_pixels_by_image, learned_by_image: the median image's log ratio, by estimand; standard errors are those of
      the draws. Of the deciding form, the seeds' ratios averaged image by image.
    """

    arms: tuple[ArmFigures, ...]
    trained_over_null: Interval | None
    selectivity: Interval | None
    beyond_pixels_by_image: Interval
    learned_by_image: Interval


@dataclass(frozen=True)
class Verdict:
    """The answer to one cell, with all that it rests on.

    reason: one plain sentence.
    p: the largest of the estimands' and the seeds'. adjusted_p: after Holm over `num_tested` cells; None if INVALID.
    beyond_pixels, learned: the two estimands. seeds: the second one for each seed alone.
    forms: untrained forms, the deciding one first.
    few_clusters: valid, but with so few clusters the error rate lies above the nominal one where losses are skewed.
    clusters: what is drawn as a whole. num_recordings: what the clusters are of, where they are blocks; else None.
    num_clusters, num_recordings, num_images, num_valid: those with a valid pixel; valid pixels.
    recovered: log ratio that an effect of the margin's size, planted in the features, comes to on these images; nan
      where that was not measured.
    description: None where it was not asked for.
    """

    cell: str
    outcome: Outcome
    reason: str
    p: float
    adjusted_p: float | None
    num_tested: int
    beyond_pixels: Comparison
    learned: Comparison
    seeds: tuple[Comparison, ...]
    forms: tuple[Form, ...]
    gates: tuple[Gate, ...]
    few_clusters: bool
    clusters: ClusterKind
    num_clusters: int
    num_recordings: int | None
    num_images: int
    num_valid: float
    recovered: float
    description: Description | None

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All that LEARNED needs to be above the margin."""
        return (self.beyond_pixels, self.learned, *self.seeds)

    def below(self, margin: float) -> Comparison | None:
        """Return the first estimand that is below what an effect of the margin's size would have come to.

        Returns None where none is, and where nothing of such an effect is found, or that was not measured.
        """
        if margin > 0 and not self.recovered > 0:
            return None
        limit = min(margin, self.recovered) if margin > 0 else margin
        return next((each for each in (self.beyond_pixels, self.learned) if each.log_ratio.high < limit), None)

    @property
    def smallest_detectable(self) -> float:
        """The smallest log ratio that both estimands would have been found at with 80 % power each."""
        return max(self.beyond_pixels.smallest_detectable, self.learned.smallest_detectable)

    @property
    def counted_clusters(self) -> str:
        """How many clusters of which kind, for people: "12 scenes"."""
        return counted(self.num_clusters, self.clusters)

    @property
    def block_caution(self) -> str | None:
        """What to say beside any answer from blocks of recordings; None where clusters are whole."""
        if self.num_recordings is None:
            return None
        return (
            f"The clusters are {self.counted_clusters} of {counted(self.num_recordings, 'recording')}: neighbouring "
            "blocks resemble each other, so that the intervals are too narrow."
        )

    @property
    def caution(self) -> str | None:
        """What to say beside LEARNED from few clusters or from blocks of recordings; None where there is nothing."""
        few = None
        if self.few_clusters:
            # benchmarks/verdict_calibration.py: 5.4 % (4.5 to 6.5 %) at 10 skewed scenes, 2.5 % at 10 normal ones.
            few = (
                f"Only {self.num_clusters} clusters: where losses are skewed, LEARNED is said too often of an effect "
                "that is no larger than the margin (in simulations of 10 clusters in 5.4 % of cases instead of 2.5 %)."
            )
        return " ".join(filter(None, (self.block_caution, few))) or None
