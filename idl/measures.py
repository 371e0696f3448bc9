"""How predictions of each kind of target are measured, at the size of the fit and, of depth, at native size."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from idl.data.store import Store
from idl.errors import InputError
from idl.metrics import Sums, aligned_and_clamped, depth_metrics, field_metrics, normals_metrics
from idl.probes.grid import upsampling
from idl.protocol import NATIVE, Protocol
from idl.targets import Target

# Of each image: the mean error, and the mean squared error; NaN without a valid pixel.
Errors = Float64[np.ndarray, "images 2"]


@dataclass(frozen=True)
class Truth:
    """A few images.

    target: in the target's space, 0 where not defined. layer: as the store has it. valid: where it is defined.
    """

    target: Float[Tensor, "batch out H W"]
    layer: Tensor
    valid: Bool[Tensor, "batch H W"]


@dataclass(frozen=True)
class Measure:
    """How a target is held against its truth, by its kind. Predictions are in its space, at the truth's size.

    A depth is measured in metres, aligned and clamped as the protocol says, normals by angles in degrees, a field in
    its own unit.

    train_mean_m: mean of a depth over the training split, metres, which R2 is measured from.
    train_mean: mean of the target itself, in its own space, one an output, which R2 of a field is measured from.
    """

    target: Target
    protocol: Protocol
    train_mean_m: float
    train_mean: tuple[float, ...]

    def sums(self, prediction: Float[Tensor, "batch out H W"], truth: Truth) -> Sums:
        """Return what all metrics follow from."""
        decoded = self.target.decode(prediction)
        if self.target.kind == "depth":
            return depth_metrics(decoded[:, 0], truth.layer, truth.valid, self.protocol, self.train_mean_m)
        if self.target.kind == "normals":
            return normals_metrics(decoded, truth.target, truth.valid)
        return field_metrics(decoded, truth.target, truth.valid, self.train_mean)

    def errors(self, prediction: Float[Tensor, "batch out H W"], truth: Truth) -> Errors:
        """Return the mean error and mean squared error of each image: root mean squares, or angles in degrees."""
        if self.target.kind == "depth":
            # Without the other sums, which the control arms do not need.
            layer, metres = self.shown(prediction, truth)
            squared = (metres - layer).mul_(truth.valid.float()).square_().sum(dim=(1, 2), dtype=torch.float64)
            squared = (squared / truth.valid.sum(dim=(1, 2), dtype=torch.float64)).numpy()
            return np.stack([np.sqrt(squared), squared], axis=1)
        per_image = self.sums(prediction, truth).per_image()
        if self.target.kind == "field":
            return np.stack([per_image["rmse"], per_image["mse"]], axis=1)
        return np.stack([per_image["angle_mean_deg"], per_image["angle_rmse_deg"] ** 2], axis=1)

    def native(
        self, store: Store, grid: Float[Tensor, "batch arms h w"], indices: Sequence[int], probe: int
    ) -> tuple[Float64[np.ndarray, "batch arms 2"], Sums]:
        """Return every arm's errors of depth at native size, as published protocols have it, and the sums of one arm.

        The prediction on the grid is upsampled to the size that it was fitted at, then to the native size, then
        inverted to metres, cropped, aligned and clamped, and held against every native pixel that was measured.

        grid: in the target's space, of the images `indices` of the store. probe: that arm.
        """
        # One at a time: seven arms of a frame of 768 x 1024 are 22 MB.
        errors, sums = [], []
        for cells, index in zip(grid, indices, strict=True):
            whole = torch.from_numpy(store.read((NATIVE,), [index])[NATIVE][0])
            top, bottom, left, right = self.protocol.native_crop or (0, whole.shape[0], 0, whole.shape[1])
            # Cropped before the products: a pixel does not depend on another.
            rows = _twice_upsampling(cells.shape[1], self.protocol.resolution, whole.shape[0])[top:bottom]
            columns = _twice_upsampling(cells.shape[2], self.protocol.width, whole.shape[1])[left:right]
            prediction = (rows @ cells @ columns.T)[:, None]
            layer = whole[top:bottom, left:right].expand(len(cells), -1, -1)
            valid = (layer >= self.protocol.min_depth_m) & (layer <= self.protocol.max_depth_m)
            errors.append(self.errors(prediction, Truth(layer[:, None], layer, valid)))
            one = slice(probe, probe + 1)
            sums.append(self.sums(prediction[one], Truth(layer[one, None], layer[one], valid[one])))
        return np.stack(errors), Sums.concatenate(sums)

    def shown(self, prediction: Float[Tensor, "batch out H W"], truth: Truth) -> tuple[Tensor, Tensor]:
        """Return truth and prediction as a picture shows them: unit normals, metres, or the first output of a field."""
        decoded = self.target.decode(prediction)
        if self.target.kind == "depth":
            return truth.layer, aligned_and_clamped(decoded[:, 0], truth.layer, truth.valid, self.protocol)
        return (truth.target, decoded) if self.target.kind == "normals" else (truth.target[:, 0], decoded[:, 0])

    def averaged(self, errors: Errors, num_valid: Float64[np.ndarray, " images"]) -> dict[str, float]:
        """Return an arm's errors by name: the mean over images, and the root over all pixels.

        num_valid: valid pixels of each image.
        """
        is_angle = self.target.kind == "normals"
        of_image, pooled = ("angle_mean_deg", "angle_rmse_deg_pooled") if is_angle else ("rmse", "rmse_pooled")
        seen = num_valid > 0
        squared = (errors[seen, 1] * num_valid[seen]).sum() / num_valid.sum()
        return {of_image: float(errors[seen, 0].mean()), pooled: float(np.sqrt(squared))}


def is_native(target: Target, protocol: Protocol) -> bool:
    """Return whether metrics are taken at native size, which only those of a depth are."""
    return protocol.is_native and (target.kind, target.layer) == ("depth", "depth")


def require_native(store: Store, target: Target, indices: Sequence[int]) -> None:
    """Raise InputError where images to be tested lack the native depth that the store's protocol measures.

    A published dataset may come without it on its training side.
    """
    if not is_native(target, store.protocol):
        return
    missing = store.lacking(NATIVE, indices) if NATIVE in store.layers else tuple(indices)
    if missing:
        raise InputError(
            f"split: {len(missing)} of {len(indices)} images that are tested under it, {store.names[missing[0]]} among "
            f"them, have no native depth, which protocol {store.protocol.name} measures. Pass split=auto, or "
            "protocol=idl."
        )


@lru_cache(maxsize=16)
def _twice_upsampling(num_cells: int, num_pixels: int, num_native: int) -> Float[Tensor, "native cells"]:
    """Matrix of bilinear upsampling to the size of the fit, and from there to the native size."""
    wide = torch.float64
    return (upsampling(num_pixels, num_native, wide) @ upsampling(num_cells, num_pixels, wide)).float()
