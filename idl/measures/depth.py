"""Depth: every arm's error in metres, and all metrics of the probe."""

from collections.abc import Mapping
from dataclasses import fields

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from idl.measures.base import Measure, Measured, Truth, pooled_and_mean_root
from idl.metrics import DepthSums, aligned_and_clamped, depth_metrics
from idl.protocol import Protocol
from idl.targets import Target


class DepthMeasure(Measure):
    """Metres against metres, aligned and clamped as the protocol says.

    train_mean_m: mean depth of the training split, which R2 is measured from.
    """

    def __init__(self, target: Target, protocol: Protocol, train_mean_m: float) -> None:
        self._target = target
        self._protocol = protocol
        self._train_mean_m = train_mean_m

    def measure(self, prediction: Float[Tensor, "batch 1 H W"], truth: Truth, *, is_whole: bool) -> Measured:
        """Measure the squared error in metres; all metrics where `is_whole`. Shown: metres (batch, H, W)."""
        decoded = self._target.decode(prediction)[:, 0]
        metres = aligned_and_clamped(decoded, truth.layer, truth.valid, self._protocol)
        error_m = (metres - truth.layer).mul_(truth.valid.float())
        count = truth.valid.sum(dim=(1, 2), dtype=torch.float64)
        rows = {"squared_m": (error_m.square_().sum(dim=(1, 2), dtype=torch.float64) / count).numpy()}
        if is_whole:
            sums = depth_metrics(decoded, truth.layer, truth.valid, self._protocol, self._train_mean_m)
            rows |= {each.name: getattr(sums, each.name) for each in fields(sums)}
        return Measured(rows, metres)

    def shown_truth(self, truth: Truth) -> Tensor:
        """Give metres."""
        return truth.layer

    def errors(
        self,
        rows: Mapping[str, np.ndarray],
        totals: Mapping[str, np.ndarray],
        num_valid: Float64[np.ndarray, " images"],
    ) -> dict[str, float]:
        """Give "rmse" and "rmse_pooled", metres."""
        return pooled_and_mean_root(rows["squared_m"], num_valid)

    def sums(self, rows: Mapping[str, np.ndarray], totals: Mapping[str, np.ndarray]) -> DepthSums:
        """Give all metrics."""
        return DepthSums(**{each.name: rows[each.name] for each in fields(DepthSums)})
