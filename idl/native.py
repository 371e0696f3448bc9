"""Depth metrics at native size, as published protocols have them: on the sensor's own map, cropped there.

The probe predicts on its grid, in the target's space. That is upsampled to the size that it was fitted at, then to
the native size, then inverted to metres, cropped, aligned and clamped, and held against every native pixel that was
measured. Losses are another matter: they stay at the size of the fit, in the target's space.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from idl.data.store import Store
from idl.errors import InputError
from idl.metrics import DepthSums, aligned_and_clamped, depth_metrics
from idl.probes.grid import upsampling
from idl.protocol import NATIVE, Protocol
from idl.targets import Target


@dataclass(frozen=True)
class NativeMeasure:
    """Measures predictions of depth on a store's native truth.

    train_mean_m: mean depth of the training split, which r2 is measured from.
    """

    store: Store
    target: Target
    protocol: Protocol
    train_mean_m: float

    @classmethod
    def of(cls, store: Store, target: Target, protocol: Protocol, train_mean_m: float) -> Self | None:
        """None where metrics are taken at the size of the fit: under another protocol, or of normals."""
        if not protocol.is_native or (target.kind, target.layer) != ("depth", "depth"):
            return None
        return cls(store, target, protocol, train_mean_m)

    def measure(
        self, grid: Float[Tensor, "batch arms h w"], indices: Sequence[int], probe: int
    ) -> Mapping[str, np.ndarray]:
        """Measure every arm's predictions for some images of the store, a row an image.

        grid: in the target's space. probe: the arm of which all metrics are taken.
        Returns the fields of the probe's `DepthSums`, and "squared_m": the mean squared error of each arm in square
        metres (images, arms), NaN for an image without a measured pixel.
        """
        # One at a time: seven arms of a frame of 768 x 1024 are 22 MB.
        measured = [self._image(cells, index, probe) for cells, index in zip(grid, indices, strict=True)]
        sums = DepthSums.concatenate([each for each, _ in measured])
        rows = {each.name: getattr(sums, each.name) for each in fields(sums)}
        return rows | {"squared_m": np.stack([squared_m for _, squared_m in measured])}

    def _image(self, cells: Float[Tensor, "arms h w"], index: int, probe: int) -> tuple[DepthSums, np.ndarray]:
        whole = torch.from_numpy(self.store.read((NATIVE,), [index])[NATIVE][0])
        top, bottom, left, right = self.protocol.native_crop or (0, whole.shape[0], 0, whole.shape[1])
        # Cropped before the products: what lies outside is not looked at, and a pixel does not depend on another.
        rows = _twice_upsampling(cells.shape[1], self.protocol.resolution, whole.shape[0])[top:bottom]
        columns = _twice_upsampling(cells.shape[2], self.protocol.width, whole.shape[1])[left:right]
        decoded = self.target.decode((rows @ cells @ columns.T)[:, None])[:, 0]
        truth = whole[top:bottom, left:right]
        valid = (truth >= self.protocol.min_depth_m) & (truth <= self.protocol.max_depth_m)
        metres = aligned_and_clamped(decoded, truth.expand_as(decoded), valid.expand_as(decoded), self.protocol)
        error_m = ((metres - truth) * valid).square_().sum(dim=(1, 2), dtype=torch.float64)
        sums = depth_metrics(decoded[probe][None], truth[None], valid[None], self.protocol, self.train_mean_m)
        return sums, (error_m / valid.sum()).numpy()


def require_native(store: Store, target: Target, indices: Sequence[int]) -> None:
    """Make sure, before an image is encoded, that images which are tested have what they are measured on.

    A published dataset may come without native depth on its training side. Raises InputError.
    """
    if NativeMeasure.of(store, target, store.protocol, 0.0) is None:
        return
    missing = store.lacking(NATIVE, indices) if NATIVE in store.layers else tuple(indices)
    if missing:
        raise InputError(
            f"split: {len(missing)} of {len(indices)} images that are tested under it, {store.names[missing[0]]} among "
            f"them, have no native depth, which protocol {store.protocol.name} measures. Pass split=auto, or "
            "protocol=idl."
        )


def native_results(
    rows: Mapping[str, np.ndarray], arms: Sequence[str]
) -> tuple[dict[str, Mapping[str, float]], DepthSums]:
    """From the rows of all test images: by arm "rmse" (an image) and "rmse_pooled" in metres; the probe's metrics.

    Raises InputError where no image has a measured pixel.
    """
    sums = DepthSums(**{name: values for name, values in rows.items() if name != "squared_m"})
    seen = sums.num_valid > 0
    if not seen.any():
        raise InputError(
            f"metrics: none of {len(seen)} images has a valid depth at native size, inside the protocol's crop and "
            "range. Pass protocol=idl."
        )
    counts = sums.num_valid[seen]
    errors: dict[str, Mapping[str, float]] = {}
    for arm, values in zip(arms, rows["squared_m"][seen].T, strict=True):
        pooled = (values * counts).sum() / counts.sum()
        errors[arm] = {"rmse": float(np.sqrt(values).mean()), "rmse_pooled": float(np.sqrt(pooled))}
    return errors, sums


@lru_cache(maxsize=16)
def _twice_upsampling(num_cells: int, num_pixels: int, num_native: int) -> Float[Tensor, "native cells"]:
    """Matrix of bilinear upsampling to the size of the fit, and from there to the native size."""
    wide = torch.float64
    return (upsampling(num_pixels, num_native, wide) @ upsampling(num_cells, num_pixels, wide)).float()
