"""Depth metrics: sums an image, from which the average over images and the one over pixels both follow.

Definitions: D. Eigen, C. Puhrsch, R. Fergus, "Depth map prediction from a single image using a multi-scale
deep network", 2014, section 4.1; silog as in the KITTI depth benchmark (times 100).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from idl.errors import InputError
from idl.metrics.align import align
from idl.metrics.reduce import total, total_square
from idl.protocol import Protocol

DELTA_RATIOS = (1.25, 1.25**2, 1.25**3)
# Two cores, 256 x 256: 1.0 ms an image with the maps of 8 images in the caches, 2.3 ms with those of 64.
IMAGES_AT_A_TIME = 8


@dataclass(frozen=True)
class DepthSums:
    """Sums over the valid pixels of each image, float64, in the order in which the images came.

    With d the truth and p the prediction, in metres, after alignment and clamping:

    num_valid: pixels that count.
    num_clamped: of these, predictions outside the protocol's range (NaN among them) before clamping.
    squared_error: sum of (d - p)^2, square metres.
    absolute_error: sum of |d - p|, metres.
    relative_error: sum of |d - p| / d.
    relative_squared_error: sum of (d - p)^2 / d, metres.
    log_ratio: sum of g = ln p - ln d.
    squared_log_ratio: sum of g^2.
    absolute_log_ratio: sum of |g|.
    num_beyond: pixels with max(d/p, p/d) >= 1.25, 1.25^2, 1.25^3.
    squared_deviation: sum of (d - mean depth of the training split)^2, square metres.
    """

    num_valid: Float64[np.ndarray, " images"]
    num_clamped: Float64[np.ndarray, " images"]
    squared_error: Float64[np.ndarray, " images"]
    absolute_error: Float64[np.ndarray, " images"]
    relative_error: Float64[np.ndarray, " images"]
    relative_squared_error: Float64[np.ndarray, " images"]
    log_ratio: Float64[np.ndarray, " images"]
    squared_log_ratio: Float64[np.ndarray, " images"]
    absolute_log_ratio: Float64[np.ndarray, " images"]
    num_beyond: Float64[np.ndarray, "images 3"]
    squared_deviation: Float64[np.ndarray, " images"]

    @classmethod
    def concatenate(cls, parts: Sequence["DepthSums"]) -> "DepthSums":
        """Join batches in order: the result is that of one batch. Needs at least one part."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    def pooled(self) -> "DepthSums":
        """Return the sums over all images, as those of one image with all their pixels."""
        return DepthSums(*(getattr(self, each.name).sum(axis=0, keepdims=True) for each in fields(self)))

    def per_image(self) -> dict[str, Float64[np.ndarray, " images"]]:
        """Return every metric of every image by name; NaN where an image has no valid pixel.

        Metres: rmse, mae, sq_rel; square metres: mse; the others have no unit, silog is times 100.
        """
        count = np.where(self.num_valid > 0, self.num_valid, np.nan)
        mse = self.squared_error / count
        mean_log_ratio = self.log_ratio / count
        mean_squared_log_ratio = self.squared_log_ratio / count
        # Rounding may leave -1e-17 where all ratios of an image are equal.
        log_variance = np.maximum(mean_squared_log_ratio - mean_log_ratio**2, 0.0)
        within = 1.0 - self.num_beyond / count[:, None]
        return {
            "mse": mse,
            "rmse": np.sqrt(mse),
            "mae": self.absolute_error / count,
            "abs_rel": self.relative_error / count,
            "sq_rel": self.relative_squared_error / count,
            "rmse_log": np.sqrt(mean_squared_log_ratio),
            "log10": self.absolute_log_ratio / count / np.log(10.0),
            "silog": 100.0 * np.sqrt(log_variance),
            "delta1": within[:, 0],
            "delta2": within[:, 1],
            "delta3": within[:, 2],
        }

    def summary(self) -> dict[str, float]:
        """Return the averages by name: plain names per image and then over images, `_pooled` over all pixels.

        `r2` and `clamped_share` exist pooled over all pixels only; `r2` is NaN where all truth equals the
        training mean. `num_images` were averaged, and `num_images_without_truth` could not be.
        Raises InputError where no image has a valid pixel.
        """
        has_truth = self.num_valid > 0
        if not has_truth.any():
            raise InputError(f"metrics: none of {len(has_truth)} images has a valid depth. Check mask and depth range.")
        pooled = self.pooled()
        result = {name: float(values[has_truth].mean()) for name, values in self.per_image().items()}
        result |= {f"{name}_pooled": float(values[0]) for name, values in pooled.per_image().items()}
        deviation = float(pooled.squared_deviation[0])
        result["r2"] = 1.0 - float(pooled.squared_error[0]) / deviation if deviation > 0 else float("nan")
        result["clamped_share"] = float(pooled.num_clamped[0] / pooled.num_valid[0])
        result["num_images"] = float(has_truth.sum())
        result["num_images_without_truth"] = float((~has_truth).sum())
        return result


def depth_metrics(
    prediction_m: Float[Tensor, "batch H W"],
    truth_m: Float[Tensor, "batch H W"],
    valid: Bool[Tensor, "batch H W"],
    protocol: Protocol,
    train_mean_m: float,
) -> DepthSums:
    """Hold predicted against true depth, both in metres.

    Pixels count where `valid` and the truth lies in the protocol's range. The prediction is aligned as the
    protocol says and then clamped to its range; infinity and NaN become its far end, for the inverse of a
    vanishing inverse depth is farther than anything.
    train_mean_m: mean depth of the training split, which `r2` is measured from.
    Raises InputError where the protocol's range or `train_mean_m` does not allow ratios and logarithms, and
    ValueError where the shapes differ.
    """
    near, far = protocol.min_depth_m, protocol.max_depth_m
    if not 0.0 < near < far < np.inf:
        raise InputError(f"protocol {protocol.name!r}: depth range {near} to {far} m, expected 0 < min < max.")
    if not 0.0 < train_mean_m < np.inf:
        raise InputError(f"metrics: the training split's mean depth is {train_mean_m} m, expected more than 0.")
    if not prediction_m.shape == truth_m.shape == valid.shape or prediction_m.ndim != 3:
        shapes = f"{tuple(prediction_m.shape)}, {tuple(truth_m.shape)} and {tuple(valid.shape)}"
        raise ValueError(f"prediction, truth and valid have shapes {shapes}, expected (batch, H, W) thrice")

    chunks = zip(
        prediction_m.split(IMAGES_AT_A_TIME),
        truth_m.split(IMAGES_AT_A_TIME),
        valid.split(IMAGES_AT_A_TIME),
        strict=True,
    )
    return DepthSums.concatenate([_sums(p, d, mask, protocol, train_mean_m) for p, d, mask in chunks])


def aligned_and_clamped(
    prediction_m: Float[Tensor, "batch H W"],
    truth_m: Float[Tensor, "batch H W"],
    valid: Bool[Tensor, "batch H W"],
    protocol: Protocol,
) -> Float[Tensor, "batch H W"]:
    """Return what `depth_metrics` measures: the prediction, aligned as the protocol says and clamped to its range.

    valid: pixels that count, whose truth lies in that range.
    """
    return _clamp(align(prediction_m, truth_m, valid, protocol.alignment), protocol)


def _clamp(aligned: Float[Tensor, "batch H W"], protocol: Protocol) -> Float[Tensor, "batch H W"]:
    return aligned.nan_to_num(nan=protocol.max_depth_m).clamp_(protocol.min_depth_m, protocol.max_depth_m)


def _sums(
    prediction_m: Float[Tensor, "batch H W"],
    truth_m: Float[Tensor, "batch H W"],
    valid: Bool[Tensor, "batch H W"],
    protocol: Protocol,
    train_mean_m: float,
) -> DepthSums:
    """Do the work of `depth_metrics` on a few images."""
    near, far = protocol.min_depth_m, protocol.max_depth_m
    counted = valid & (truth_m >= near) & (truth_m <= far)
    aligned = align(prediction_m, truth_m, counted, protocol.alignment)
    clamped = counted & ~((aligned >= near) & (aligned <= far))  # NaN is in no range
    # What does not count becomes a pixel that is average and right: it adds nothing to any sum below.
    p = _clamp(aligned, protocol).masked_fill(~counted, train_mean_m)
    d = truth_m.masked_fill(~counted, train_mean_m)

    error = p - d
    size = error.abs()
    relative = size / d
    log_ratio = p.log() - d.log()
    # The ratio itself, and not |g| < ln 1.25: a division rounds 5 / 4 to 1.25 exactly, so that "strictly"
    # holds at the edge; the difference of two rounded logarithms falls to either side.
    ratio = torch.maximum(p, d) / torch.minimum(p, d)
    sums = (
        total(counted),
        total(clamped),
        total_square(error),
        total(size),
        total(relative),
        total(relative * size),
        total(log_ratio),
        total_square(log_ratio),
        total(log_ratio.abs()),
        torch.stack([total(ratio >= limit) for limit in DELTA_RATIOS], dim=1),
        total_square(d - train_mean_m),
    )
    return DepthSums(*(each.cpu().numpy() for each in sums))
