"""The probe by brute force, written apart from the package: explicit upsampling, explicit rows, float64."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """rgb: (n, 3, H, W) in [0, 1]; target: (n, out, H, W); valid: (n, H, W)."""

    rgb: Tensor
    target: Tensor
    valid: Tensor


@dataclass(frozen=True)
class DenseProbe:
    """Least squares on whitened channels; ridge by extra rows, none for the bias."""

    mean: np.ndarray
    whitening: np.ndarray
    weights: np.ndarray

    def rows(self, features: Tensor, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """One row a valid pixel: [1, whitened channels], after upsampling the features to the images' size."""
        height, width = images.target.shape[2:]
        cells = (features.permute(0, 2, 3, 1).double().numpy() - self.mean) @ self.whitening
        maps = torch.from_numpy(cells).permute(0, 3, 1, 2)
        upsampled = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
        rows = upsampled.permute(0, 2, 3, 1)[images.valid].numpy()
        truth = images.target.permute(0, 2, 3, 1)[images.valid].double().numpy()
        return np.concatenate([np.ones((len(rows), 1)), rows], axis=1), truth

    def mse(self, encode: Callable[[Tensor], Tensor], batches: Sequence[Images]) -> float:
        """Mean squared error over all valid pixels and outputs."""
        total = count = 0.0
        for images in batches:
            rows, truth = self.rows(encode(images.rgb), images)
            total += float(((rows @ self.weights - truth) ** 2).sum())
            count += truth.size
        return total / count


def fit_dense(
    encode: Callable[[Tensor], Tensor],
    train: Sequence[Images],
    basis: Sequence[Images],
    penalties: Sequence[float],
    drop: float,
) -> list[DenseProbe]:
    """Fit on `train`, once for each penalty.

    basis: the images whose cells define the whitening; drop: share of the first variance below which a direction
    is left out.
    """
    cells = np.concatenate([encode(images.rgb).permute(0, 2, 3, 1).flatten(0, 2).double().numpy() for images in basis])
    mean = cells.mean(axis=0)
    _, singular, directions = np.linalg.svd(cells - mean, full_matrices=False)
    spread = singular / np.sqrt(len(cells))
    keep = spread**2 > drop * spread[0] ** 2
    empty = DenseProbe(mean, directions[keep].T / spread[keep], np.zeros(0))
    gram, moment, count = 0.0, 0.0, 0
    for images in train:
        rows, truth = empty.rows(encode(images.rgb), images)
        gram, moment, count = gram + rows.T @ rows, moment + rows.T @ truth, count + len(rows)
    ridge = count * np.diag([0.0, *np.ones(int(keep.sum()))])
    return [
        DenseProbe(mean, empty.whitening, np.linalg.lstsq(gram + penalty * ridge, moment, rcond=1e-14)[0])
        for penalty in penalties
    ]
