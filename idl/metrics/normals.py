"""Metrics of surface normals: angles in degrees, per image and pooled over pixels.

Definitions: D. Fouhey, A. Gupta, M. Hebert, "Data-driven 3D primitives for single image understanding", 2013,
with the further limits 5 and 7.5 degrees in use since.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from idl.errors import InputError
from idl.metrics.reduce import median, total, total_square

LIMITS_DEG = (5.0, 7.5, 11.25, 22.5, 30.0)
BINS_PER_DEGREE = 100
NUM_BINS = 180 * BINS_PER_DEGREE


@dataclass(frozen=True)
class NormalsSums:
    """Sums over the pixels of each image with a true normal, float64, in the order in which the images came.

    num_valid: pixels that count.
    angle: sum of the angles between prediction and truth, degrees.
    squared_angle: sum of their squares.
    median_angle: exact median angle of the image, degrees; NaN where it has no such pixel.
    num_under: pixels with an angle strictly under each of LIMITS_DEG.
    histogram: angles of all images in bins of 0.01 degrees, whose size does not grow with the images.
    """

    num_valid: Float64[np.ndarray, " images"]
    angle: Float64[np.ndarray, " images"]
    squared_angle: Float64[np.ndarray, " images"]
    median_angle: Float64[np.ndarray, " images"]
    num_under: Float64[np.ndarray, "images 5"]
    histogram: Int64[np.ndarray, " bins"]

    @classmethod
    def concatenate(cls, parts: Sequence["NormalsSums"]) -> "NormalsSums":
        """Join batches in order: the result is that of one batch. Needs at least one part."""
        return cls(
            num_valid=np.concatenate([part.num_valid for part in parts]),
            angle=np.concatenate([part.angle for part in parts]),
            squared_angle=np.concatenate([part.squared_angle for part in parts]),
            median_angle=np.concatenate([part.median_angle for part in parts]),
            num_under=np.concatenate([part.num_under for part in parts]),
            histogram=np.sum([part.histogram for part in parts], axis=0),
        )

    def pooled(self) -> "NormalsSums":
        """Return the sums over all images, as those of one image with all their pixels.

        Its median comes from the histogram and is within 0.005 degrees of the exact one, plus rounding.
        """
        return NormalsSums(
            num_valid=self.num_valid.sum(keepdims=True),
            angle=self.angle.sum(keepdims=True),
            squared_angle=self.squared_angle.sum(keepdims=True),
            median_angle=np.array([_histogram_median(self.histogram)]),
            num_under=self.num_under.sum(axis=0, keepdims=True),
            histogram=self.histogram,
        )

    def per_image(self) -> dict[str, Float64[np.ndarray, " images"]]:
        """Return every metric of every image by name; NaN where an image has no true normal.

        Names that end in `_deg` are degrees; `under_5_deg` and so on are shares of pixels.
        """
        count = np.where(self.num_valid > 0, self.num_valid, np.nan)
        angles = {
            "angle_mean_deg": self.angle / count,
            "angle_median_deg": self.median_angle,
            "angle_rmse_deg": np.sqrt(self.squared_angle / count),
        }
        shares = self.num_under / count[:, None]
        return angles | {f"under_{limit:g}_deg": shares[:, i] for i, limit in enumerate(LIMITS_DEG)}

    def summary(self) -> dict[str, float]:
        """Return the averages by name: plain names per image and then over images, `_pooled` over all pixels.

        `num_images` were averaged, and `num_images_without_truth` could not be.
        Raises InputError where no image has a true normal.
        """
        has_truth = self.num_valid > 0
        if not has_truth.any():
            raise InputError(f"metrics: none of {len(has_truth)} images has a true normal. Check the mask.")
        result = {name: float(values[has_truth].mean()) for name, values in self.per_image().items()}
        pooled = self.pooled().per_image()
        result |= {f"{name}_pooled": float(values[0]) for name, values in pooled.items()}
        result["num_images"] = float(has_truth.sum())
        result["num_images_without_truth"] = float((~has_truth).sum())
        return result


def normals_metrics(
    prediction: Float[Tensor, "batch 3 H W"],
    truth: Float[Tensor, "batch 3 H W"],
    valid: Bool[Tensor, "batch H W"],
) -> NormalsSums:
    """Hold predicted against true normals, of any length.

    Pixels count where `valid` and the true normal is not zero. A prediction without a direction (zero or NaN)
    is 90 degrees off. Raises ValueError where the shapes differ.
    """
    if prediction.shape != truth.shape or truth.shape[1:2] != (3,) or truth[:, 0].shape != valid.shape:
        shapes = f"{tuple(prediction.shape)}, {tuple(truth.shape)} and {tuple(valid.shape)}"
        raise ValueError(f"prediction, truth, valid have shapes {shapes}, expected (b, 3, H, W) twice, (b, H, W)")
    squared_length = truth.square().sum(dim=1)
    counted = valid & (squared_length > 0) & (squared_length < torch.inf)
    angle = _angle_deg(prediction, truth)
    kept = torch.where(counted, angle, 0.0)
    bins = (angle[counted] * BINS_PER_DEGREE).long().clamp(max=NUM_BINS - 1)
    sums = (
        total(counted),
        total(kept),
        total_square(kept),
        median(angle, counted),
        torch.stack([total(counted & (angle < limit)) for limit in LIMITS_DEG], dim=1),
        torch.bincount(bins, minlength=NUM_BINS),
    )
    return NormalsSums(*(each.cpu().numpy() for each in sums))


def _angle_deg(a: Float[Tensor, "batch 3 H W"], b: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch H W"]:
    """Return atan2(|a x b|, a . b) in degrees: the angle of acos(clamp(a . b)) for unit vectors.

    It needs no unit length, and no clamp. In float32, acos is blind under 0.03 degrees: the dot product of
    unit vectors steps by 6e-8 next to 1.
    """
    ax, ay, az = a.unbind(dim=1)
    bx, by, bz = b.unbind(dim=1)
    dot = ax * bx + ay * by + az * bz
    # Written out: linalg.cross and norm along dimension 1 take 6 ms a map of 256 x 256, this takes 0.2 ms.
    cross = ((ay * bz - az * by) ** 2 + (az * bx - ax * bz) ** 2 + (ax * by - ay * bx) ** 2).sqrt()
    angle = torch.rad2deg(torch.atan2(cross, dot))
    return torch.where(dot.abs() + cross > 0, angle, 90.0)


def _histogram_median(histogram: Int64[np.ndarray, " bins"]) -> float:
    """Return the mean of the centres of the bins that hold the middle two angles; NaN where all are empty."""
    cumulative = np.cumsum(histogram)
    count = int(cumulative[-1])
    if count == 0:
        return float("nan")
    # The pixel of rank r, from 0, lies in the first bin up to which more than r pixels were counted.
    middle = np.searchsorted(cumulative, [(count - 1) // 2, count // 2], side="right")
    return float((middle + 0.5).mean() / BINS_PER_DEGREE)
