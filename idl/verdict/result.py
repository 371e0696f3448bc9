"""What is fixed about a study; a cell, which is an encoder at one k with its evidence; and the verdict on it.

The fields of a verdict are those of verdict.json.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from jaxtyping import Float64

from idl.errors import InputError
from idl.probes.exact import Solution
from idl.settings import setting
from idl.verdict.intervals import Interval

# What is drawn as a whole. A recording has consecutive frames; a block is a piece of one.
ClusterKind = Literal["scene", "scan", "recording", "block"]


@dataclass(frozen=True)
class StudyConfig:
    """What is fixed about a study before the test split is read. Raises InputError for what cannot be.

    min_clusters: a cell with fewer is INVALID. few_clusters: one with fewer is valid, and flagged.
    max_excess_loss: how far the training loss of a fit may lie above the optimum, as a share of the optimum.
    """

    ks: str = setting(
        "10,all", "Numbers that the probe reads at a cell, with commas between, or all; each is its own question."
    )
    margin: float = setting(1.05, "Ratio of losses up to which an effect counts as none.", at_least=1)
    level: float = setting(0.95, "Level of the two-sided intervals, between 0 and 1.")
    draws: int = setting(10_000, "Bootstrap draws.", at_least=100)
    bootstrap_seed: int = setting(0, "Seed of the bootstrap draws.", at_least=0)
    clusters: Literal["auto", "scene", "scan", "block"] = setting(
        "auto",
        "What is drawn as a whole: the scene; the scan, which is the folder that an image lies in; auto: scans where "
        "scenes are too few for a verdict. Of consecutive frames it is the recording, or with block the block of them.",
    )
    untrained_seeds: int = setting(3, "Untrained twins of each kind.", at_least=1)
    shuffle_seed: int = setting(0, "Seed of the shuffled-target control.", at_least=0)
    common_stride: int = setting(8, "Stride of the null that is the same for every encoder, pixels.", at_least=1)
    cues: bool = setting(True, "Measure which cues each probe reads.")
    min_clusters: int = 10
    few_clusters: int = 20
    max_excess_loss: float = 0.01

    def __post_init__(self) -> None:
        if not 1 <= self.margin < math.inf:
            raise InputError(f"margin={self.margin:g}: expected a ratio of losses of 1 or more, such as 1.05.")
        if not 0 < self.level < 1:
            raise InputError(f"level={self.level:g}: expected more than 0 and less than 1.")
        if not self.requested_ks:
            raise InputError("ks: none given. Pass numbers or all, with commas between, such as 10,all.")

    @property
    def requested_ks(self) -> tuple[str, ...]:
        """Each k once, as it was typed."""
        return tuple(dict.fromkeys(part.strip() for part in self.ks.split(",") if part.strip()))

    @property
    def log_margin(self) -> float:
        """The margin as a log ratio of losses, which every comparison is."""
        # Rounded: a margin has one digest, however it was computed.
        return round(math.log(self.margin), 12)

    @property
    def alpha(self) -> float:
        """Share of both tails together."""
        return 1 - self.level

    @property
    def rules(self) -> dict[str, float]:
        """What decides, as it is hashed and shown in verdict.json: the margin a log ratio, the seed of the draws."""
        others = {name: getattr(self, name) for name in ("min_clusters", "few_clusters", "max_excess_loss")}
        of_draws = {"level": self.level, "draws": self.draws, "seed": self.bootstrap_seed}
        return {"margin": self.log_margin, **of_draws, **others}

    def digest(self, fixed: Mapping[str, object]) -> str:
        """Return the first 16 hex digits of the SHA-256 of all that is fixed before the test split is read.

        Hashed is {"config": the rules, "fixed": `fixed`} as Python's
        `json.dumps(..., sort_keys=True, separators=(",", ":"))` writes it, numbers as Python has them: 1e-08.
        """
        plan = {"config": self.rules, "fixed": fixed}
        text = json.dumps(plan, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Arm:
    """A fitted arm and, once the test split was read, its errors there.

    columns: what it reads of the joint system, the bias first.
    solution: its weights, penalty, rank and losses; the penalty of a joint arm is that of its pixels.
    recovered: log ratio that an effect of the margin's size, planted in a joint arm's features, comes to on these
      images; nan where none was planted.
    squared_error: of each test image, summed over its valid pixels and the outputs, target units squared.
    aligned_error: the same once each prediction has the scale and shift that fit its own image's truth best.
    """

    columns: tuple[int, ...]
    solution: Solution
    recovered: float = float("nan")
    squared_error: Float64[np.ndarray, " images"] = field(default_factory=lambda: np.empty(0))
    aligned_error: Float64[np.ndarray, " images"] = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class Clustering:
    """What each image belongs to, and what kind of thing that is. recordings: of each image, where it is blocks."""

    of_image: tuple[str, ...]
    kind: ClusterKind
    recordings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One question of a grid, an encoder at one k, with the losses of every arm on the same pixels of the test split.

    name: for people ("convnext, k = 10").
    arms, shuffled: as in `ArmsResult`, at this k.
    num_valid: valid pixels of each image, times the target's outputs. An image without one counts for nothing, and so
      does a cluster of such images.
    leaked: images that are in more than one split.
    Raises ValueError for errors that are not one finite sum of 0 or more an image.
    """

    name: str
    arms: Mapping[str, Arm]
    num_valid: Float64[np.ndarray, " images"]
    clusters: Clustering
    shuffled: Mapping[str, Arm] = field(default_factory=dict)
    leaked: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, arm in (*self.arms.items(), *self.shuffled.items()):
            for errors in (arm.squared_error, arm.aligned_error):
                if errors.shape != self.num_valid.shape or not np.all(np.isfinite(errors) & (errors >= 0)):
                    raise ValueError(f"{self.name}, {name}: errors are not one finite sum of 0 or more an image.")


class Outcome(StrEnum):
    """The four answers; the module `idl.verdict.decision` says when each is given."""

    LEARNED = "LEARNED"
    NOT_LEARNED = "NOT LEARNED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"


@dataclass(frozen=True)
class Gate:
    """A condition without which nothing is concluded. detail: the figures, for people."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Comparison:
    """ln(MSE[above] / MSE[below]) on the test split, and the test of "it is the margin or less".

    above: the arms averaged over. p: one-sided.
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
    """A way to leave the training out. cv_loss: of its arms, cross-validated, averaged over the seeds."""

    name: str
    arms: tuple[str, ...]
    cv_loss: float


@dataclass(frozen=True)
class ArmFigures:
    """An arm on the test split.

    mse: mean squared error, target units squared. aligned_mse: the same once every image's prediction has the scale
      and shift that fit its truth best, which leaves errors of structure.
    r2: about the constant arm.
    """

    name: str
    mse: Interval
    aligned_mse: Interval
    r2: Interval


@dataclass(frozen=True)
class Description:
    """Figures that decide nothing.

    arms: in the order of the evidence.
    trained_over_null: MSE[trained] / MSE[null].
    selectivity: R2 of trained on the truth minus R2 of the shuffled arm on shuffled truth; None without such an arm.
    beyond_pixels_by_image, learned_by_image: the median image's log ratio, by estimand; the seeds' ratios averaged.
    """

    arms: tuple[ArmFigures, ...]
    trained_over_null: Interval
    selectivity: Interval | None
    beyond_pixels_by_image: Interval
    learned_by_image: Interval


@dataclass(frozen=True)
class Verdict:
    """The answer to one cell, with all that it rests on.

    cell: its name. reason: one plain sentence.
    p: the largest of the estimands' and the seeds'. adjusted_p: after Holm over `num_tested` cells; None if INVALID.
    beyond_pixels, learned: the two estimands. seeds: the second one for each seed alone.
    forms: untrained forms, the deciding one first.
    few_clusters: valid, but with so few clusters the error rate lies above the nominal one where losses are skewed.
    clusters: what is drawn as a whole. num_recordings: what the clusters are of, where they are blocks; else None.
    num_clusters, num_recordings, num_images, num_valid: those with a valid pixel; valid pixels.
    recovered: log ratio that an effect of the margin's size, planted in the features, comes to on these images; nan
      where that was not measured.
    description: None where none was requested.
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
    def described(self) -> Description:
        """The description. Raises ValueError where none was requested."""
        if self.description is None:
            raise ValueError(f"{self.cell}: reached without its description")
        return self.description

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
    def caution(self) -> str | None:
        """What must be said beside any answer from blocks of recordings, and beside LEARNED from few clusters."""
        cautions = []
        if self.num_recordings is not None:
            cautions.append(
                f"The clusters are {counted(self.num_clusters, self.clusters)} of "
                f"{counted(self.num_recordings, 'recording')}: neighbouring blocks resemble each other, so that the "
                "intervals are too narrow."
            )
        if self.few_clusters and self.outcome is Outcome.LEARNED:
            # benchmarks/verdict_calibration.py: 5.4 % (4.5 to 6.5 %) at 10 skewed scenes, 2.5 % at 10 normal ones.
            cautions.append(
                f"Only {self.num_clusters} clusters: where losses are skewed, LEARNED is said too often of an effect "
                "that is no larger than the margin (in simulations of 10 clusters in 5.4 % of cases instead of 2.5 %)."
            )
        return " ".join(cautions) or None


def counted(num: int, kind: str) -> str:
    """Return a number of clusters for people: "1 recording", "12 scenes"."""
    return f"{num} {kind}{'' if num == 1 else 's'}"
