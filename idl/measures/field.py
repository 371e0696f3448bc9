"""Any other field: errors in its own unit."""

from collections.abc import Mapping
from dataclasses import fields

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from idl.measures.base import Measure, Measured, Truth, pooled_and_mean_root
from idl.metrics import FieldSums, field_metrics
from idl.targets import Target


class FieldMeasure(Measure):
    """What `decode` gives against the truth, in the target's own unit.

    train_mean: of the training split, one an output, which R2 is measured from.
    """

    def __init__(self, target: Target, train_mean: tuple[float, ...]) -> None:
        self._target = target
        self._train_mean = train_mean

    def measure(self, prediction: Float[Tensor, "batch out H W"], truth: Truth, *, is_whole: bool) -> Measured:
        """Measure all metrics. Shown: the first output (batch, H, W)."""
        decoded = self._target.decode(prediction)
        sums = field_metrics(decoded, truth.target, truth.valid, self._train_mean)
        return Measured({each.name: getattr(sums, each.name) for each in fields(sums)}, decoded[:, 0])

    def shown_truth(self, truth: Truth) -> Tensor:
        """Give the first output."""
        return truth.target[:, 0]

    def errors(
        self,
        rows: Mapping[str, np.ndarray],
        totals: Mapping[str, np.ndarray],
        num_valid: Float64[np.ndarray, " images"],
    ) -> dict[str, float]:
        """Give "rmse" and "rmse_pooled", in the target's unit."""
        return pooled_and_mean_root(self.sums(rows, totals).per_image()["mse"], num_valid)

    def sums(self, rows: Mapping[str, np.ndarray], totals: Mapping[str, np.ndarray]) -> FieldSums:
        """Give all metrics."""
        return FieldSums(**rows)
