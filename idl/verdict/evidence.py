"""What a verdict is reached from: losses image by image, on the test split, and how the fits stand without it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float64

CONSTANT = "constant"
NULL = "null"
PIXELS = "pixels"
TRAINED = "trained"
TRAINED_AND_PIXELS = "trained+pixels"

# What is drawn as a whole. A recording has consecutive frames; a block is a piece of one.
ClusterKind = Literal["scene", "scan", "recording", "block"]

UNTRAINED = re.compile(r"untrained-(?P<form>.+)-(?P<seed>\d+)\+pixels")


def untrained_and_pixels(form: str, seed: int) -> str:
    """Return the name of the joint arm of an untrained twin: "untrained-random-0+pixels"."""
    return f"untrained-{form}-{seed}+pixels"


def counted(num: int, kind: str) -> str:
    """Return a number of clusters for people: "1 recording", "12 scenes"."""
    return f"{num} {kind}{'' if num == 1 else 's'}"


@dataclass(frozen=True)
class Shuffled:
    """The probe fitted to, and measured on, truth of images of other scenes.

    squared_error, constant_squared_error: sums an image of the shuffled arm and of the constant arm fitted to the
      same truth, in the order of the evidence's images; target units squared.
    """

    squared_error: Float64[np.ndarray, " images"]
    constant_squared_error: Float64[np.ndarray, " images"]


@dataclass(frozen=True)
class Evidence:
    """Losses of every arm on the same pixels of the test split.

    clusters: what each image belongs to, and is drawn with. clusters_are: what these are.
    num_valid: valid pixels of each image; times the outputs where a loss is a mean over these too.
    squared_error: by arm, the sum over an image's valid pixels; target units squared. It must hold "pixels",
      "trained+pixels" and at least one "untrained-FORM-SEED+pixels"; "constant", "null" and "trained" are for the
      figures that decide nothing, and so is any other arm.
    shuffled: for the selectivity.
    aligned_error: by arm, as `squared_error`, once every image's prediction has the scale and shift that fit its truth
      best; of any of these arms, for a figure that decides nothing.
    recordings: of each image, where the clusters are blocks.

    An image without a valid pixel counts for nothing, and so does a cluster of such images.
    Raises ValueError for arrays of different lengths, sums that are negative or not finite, a missing arm, an aligned
    arm that is none of them, blocks of no recordings, no valid pixel at all.
    """

    clusters: Sequence[str]
    num_valid: Float64[np.ndarray, " images"]
    squared_error: Mapping[str, Float64[np.ndarray, " images"]]
    shuffled: Shuffled | None = None
    aligned_error: Mapping[str, Float64[np.ndarray, " images"]] = field(default_factory=dict)
    clusters_are: ClusterKind = "scene"
    recordings: Sequence[str] = ()

    def __post_init__(self) -> None:
        sums = {"num_valid": self.num_valid, **self.squared_error}
        sums |= {f"{arm} aligned": values for arm, values in self.aligned_error.items()}
        if self.shuffled is not None:
            sums |= {"shuffled": self.shuffled.squared_error, "shuffled constant": self.shuffled.constant_squared_error}
        for name, values in sums.items():
            if np.shape(values) != (len(self.clusters),):
                raise ValueError(
                    f"{name}: shape {np.shape(values)}, expected one number for {len(self.clusters)} images."
                )
            bad = np.flatnonzero(~(np.isfinite(values) & (np.asarray(values) >= 0)))
            if len(bad):
                raise ValueError(f"{name}: image {bad[0]} has {values[bad[0]]}, expected a finite sum of 0 or more.")
        for arm in (PIXELS, TRAINED_AND_PIXELS):
            if arm not in self.squared_error:
                raise ValueError(f"arm {arm!r} is missing. There are: {', '.join(self.squared_error)}.")
        if not self.untrained:
            raise ValueError(f"no arm untrained-FORM-SEED+pixels. There are: {', '.join(self.squared_error)}.")
        if strange := [arm for arm in self.aligned_error if arm not in self.squared_error]:
            raise ValueError(
                f"arm {strange[0]!r} is aligned, and has no errors. There are: {', '.join(self.squared_error)}."
            )
        if len(self.recordings) != (len(self.clusters) if self.clusters_are == "block" else 0):
            raise ValueError(
                f"recordings: {len(self.recordings)} of {len(self.clusters)} images, each in a {self.clusters_are}. "
                "Expected one an image of blocks, else none."
            )
        if not np.any(np.asarray(self.num_valid) > 0):
            raise ValueError("no image has a valid pixel.")

    @property
    def untrained(self) -> Mapping[str, tuple[str, ...]]:
        """Joint untrained arms by form ("random", "permuted"), in the order of their seeds."""
        found: dict[str, list[tuple[int, str]]] = {}
        for arm in self.squared_error:
            if match := UNTRAINED.fullmatch(arm):
                found.setdefault(match["form"], []).append((int(match["seed"]), arm))
        return {form: tuple(arm for _, arm in sorted(seeds)) for form, seeds in sorted(found.items())}


@dataclass(frozen=True)
class FitRecord:
    """How the fit of an arm stands, without a look at the test split; losses in target units squared.

    train_loss: on its own training split, without any penalty. excess_loss: how far the chosen fit's loss, its penalty
      counted, lies above the optimum, as a share of it.
    val_loss, val_error: on the validation split, with the standard error over its folds.
    cv_loss, cv_error: cross-validated over the scenes of both, with the standard error over the folds.
    rank: directions among its columns. expected_rank: of a joint arm, what its parts' ranks make of it; else its own.
    is_left_out: cross-validation laid the largest penalty on a joint arm's features, so that it equals the pixels.
    recovered: log ratio that an effect of the margin's size, planted in the features, comes to on these images; nan
      where it was not measured.
    """

    train_loss: float
    excess_loss: float
    val_loss: float
    val_error: float
    cv_loss: float
    cv_error: float
    rank: int
    expected_rank: int
    is_left_out: bool = False
    recovered: float = float("nan")


@dataclass(frozen=True)
class Training:
    """How the fits stand, and whether the splits are apart: what the gates look at.

    fits: by arm; must hold "constant". Of arms on the true target only.
    shared_scenes: scenes found in more than one split.
    Raises ValueError where the constant arm is missing.
    """

    fits: Mapping[str, FitRecord]
    shared_scenes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if CONSTANT not in self.fits:
            raise ValueError("fits: the constant arm is missing.")


@dataclass(frozen=True)
class Cell:
    """One question of a grid: one encoder, target and k.

    name: for people ("convnext, depth, k = 10"); a grid has each name once.
    Raises ValueError where an untrained arm has no finite cross-validated loss, by which the stronger form is chosen.
    """

    name: str
    evidence: Evidence
    training: Training

    def __post_init__(self) -> None:
        for arm in (arm for arms in self.evidence.untrained.values() for arm in arms):
            if arm not in self.training.fits or not math.isfinite(self.training.fits[arm].cv_loss):
                raise ValueError(f"arm {arm!r} needs a fit with a finite cross-validated loss.")
