"""Normals: the angle between prediction and truth."""

from collections.abc import Mapping
from dataclasses import fields

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from idl.measures.base import Measure, Measured, Truth
from idl.metrics import NormalsSums, normals_metrics
from idl.targets import Target

_HISTOGRAM = "histogram"


class NormalsMeasure(Measure):
    """Degrees between directions."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def measure(self, prediction: Float[Tensor, "batch 3 H W"], truth: Truth, *, is_whole: bool) -> Measured:
        """Measure all angles. Shown: unit normals (batch, 3, H, W)."""
        decoded = self._target.decode(prediction)
        sums = normals_metrics(decoded, truth.target, truth.valid)
        rows = {each.name: getattr(sums, each.name) for each in fields(sums) if each.name != _HISTOGRAM}
        return Measured(rows, decoded, {_HISTOGRAM: sums.histogram})

    def shown_truth(self, truth: Truth) -> Tensor:
        """Give unit normals."""
        return truth.target

    def errors(
        self,
        rows: Mapping[str, np.ndarray],
        totals: Mapping[str, np.ndarray],
        num_valid: Float64[np.ndarray, " images"],
    ) -> dict[str, float]:
        """Give "angle_mean_deg" and "angle_rmse_deg_pooled"."""
        summary = self.sums(rows, totals).summary()
        return {name: summary[name] for name in ("angle_mean_deg", "angle_rmse_deg_pooled")}

    def sums(self, rows: Mapping[str, np.ndarray], totals: Mapping[str, np.ndarray]) -> NormalsSums:
        """Give all metrics."""
        return NormalsSums(**rows, histogram=totals[_HISTOGRAM])
