"""What the arms of a verdict come to: plain numbers and arrays."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from idl.arms.fits import FittedArm
from idl.probes.exact import Curve


@dataclass(frozen=True)
class MeasuredArm:
    """A fitted arm and its errors on the test split.

    squared_error: of each image, summed over its valid pixels and the outputs, target units squared.
    aligned_error: the same after alignment, as in `idl.arms.losses.SquaredErrors`.
    """

    fitted: FittedArm
    squared_error: Float64[np.ndarray, " images"]
    aligned_error: Float64[np.ndarray, " images"]


@dataclass(frozen=True)
class TwinRecord:
    """An untrained twin. name: of its arm without pixels. form: "random" or "permuted". seed: of its weights."""

    name: str
    form: str
    seed: int
    digest: str
    weights_digest: str


@dataclass(frozen=True)
class ArmsAtK:
    """All arms of one encoder at one k.

    arms: "constant", "position", "null", "null+position", "patches", "pixels", "trained", "trained+pixels", and
      "untrained-FORM-SEED" alone and with "+pixels".
    shuffled: "trained" and those that read no patches, fitted to the truth of images of other scenes, and measured on
      it; empty where there is none. An image's fold is that of its maps, whoever lends it its truth.
      An error stands at the image whose truth it was held against, so that it goes over the same pixels as `arms`.
    """

    k: int
    arms: Mapping[str, MeasuredArm]
    shuffled: Mapping[str, MeasuredArm]


@dataclass(frozen=True)
class ArmsResult:
    """The evidence of one encoder and one target.

    target, unit, num_outputs: as of the target. encoder, encoder_digest, task, stride, channels: as of the encoder.
    ks: what was asked for ("10", "all") and the number that it is here. at: by that number.
    images, scenes: names of the test images and of their scenes, in the order of all arrays.
    num_valid: valid pixels of each.
    common_null: three colours at the common stride, alike for every encoder; None where it does not divide the image.
    curves: losses over k of "trained" and of each twin.
    twins: of both forms. missing: a sentence for each control that cannot be had.
    images_per_s: of each encoder that was run: "trained", twins, "patches"; what the cache held is not in it.
    """

    target: str
    unit: str
    num_outputs: int
    encoder: str
    encoder_digest: str
    task: str
    stride: int
    channels: int
    ks: Mapping[str, int]
    at: Mapping[int, ArmsAtK]
    images: tuple[str, ...]
    scenes: tuple[str, ...]
    num_valid: Float64[np.ndarray, " images"]
    common_null: MeasuredArm | None
    curves: Mapping[str, Curve]
    twins: tuple[TwinRecord, ...]
    missing: tuple[str, ...]
    images_per_s: Mapping[str, float]

    def mse(self, k: int, arm: str) -> float:
        """Mean squared error over the test split's valid pixels and outputs, target units squared."""
        return float(self.at[k].arms[arm].squared_error.sum() / (self.num_valid.sum() * self.num_outputs))
