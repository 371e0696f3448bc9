"""What is measured of a few test images under one arm, and what comes of it in the end."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Float64
from torch import Tensor


class Sums(Protocol):
    """All metrics of one arm: `DepthSums`, `NormalsSums` or `FieldSums`."""

    def per_image(self) -> dict[str, Float64[np.ndarray, " images"]]:
        """Every metric of every image, by name."""
        ...

    def summary(self) -> dict[str, float]:
        """Averages over images, and over all pixels (`_pooled`), by name."""
        ...


@dataclass(frozen=True)
class Truth:
    """A few test images.

    target: in the target's space, 0 where not defined. layer: as the store has it. valid: where it is defined.
    """

    target: Float[Tensor, "batch out H W"]
    layer: Tensor
    valid: Bool[Tensor, "batch H W"]


@dataclass(frozen=True)
class Measured:
    """A few images under one arm.

    rows: a row an image, by name. totals: what is added up over images, by name.
    shown: the prediction as a picture shows it.
    """

    rows: Mapping[str, np.ndarray]
    shown: Tensor
    totals: Mapping[str, np.ndarray] | None = None


class Measure(ABC):
    """How one kind of target is held against its truth. One instance measures all arms of a run."""

    @abstractmethod
    def measure(self, prediction: Float[Tensor, "batch out H W"], truth: Truth, *, is_whole: bool) -> Measured:
        """Measure a prediction in the target's space, at the truth's resolution.

        is_whole: everything that `sums` needs, not only what `errors` does; for the probe alone.
        """

    @abstractmethod
    def shown_truth(self, truth: Truth) -> Tensor:
        """Give the truth in the form of `Measured.shown`."""

    @abstractmethod
    def errors(
        self,
        rows: Mapping[str, np.ndarray],
        totals: Mapping[str, np.ndarray],
        num_valid: Float64[np.ndarray, " images"],
    ) -> dict[str, float]:
        """Give an arm's error in both averages by name, out of what `measure` gave of all images.

        num_valid: valid pixels of each image.
        """

    @abstractmethod
    def sums(self, rows: Mapping[str, np.ndarray], totals: Mapping[str, np.ndarray]) -> Sums:
        """Give all metrics, out of what `measure` gave of all images with `is_whole`."""


def pooled_and_mean_root(
    squared: Float64[np.ndarray, " images"], num_valid: Float64[np.ndarray, " images"]
) -> dict[str, float]:
    """Give "rmse", of each image and then averaged, and "rmse_pooled", of all valid pixels.

    squared: mean squared error of each image; what images without a valid pixel have is passed over.
    """
    seen = num_valid > 0
    pooled = (squared[seen] * num_valid[seen]).sum() / num_valid.sum()
    return {"rmse": float(np.sqrt(squared[seen]).mean()), "rmse_pooled": float(np.sqrt(pooled))}
