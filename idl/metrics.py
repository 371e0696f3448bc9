"""How far a prediction is from the truth: sums an image, from which the averages over images and pixels both follow.

Definitions: depth as in D. Eigen, C. Puhrsch, R. Fergus, "Depth map prediction from a single image using a multi-scale
deep network", 2014, section 4.1, silog as in the KITTI depth benchmark (times 100); normals as in D. Fouhey, A. Gupta,
M. Hebert, "Data-driven 3D primitives for single image understanding", 2013, with the further limits 5 and 7.5 degrees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from idl.errors import InputError
from idl.protocol import Alignment, Protocol
from idl.targets import Kind

PerImage = Float64[np.ndarray, " images"]
DELTA_RATIOS = (1.25, 1.25**2, 1.25**3)
LIMITS_DEG = (5.0, 7.5, 11.25, 22.5, 30.0)
BINS_PER_DEGREE = 100
NUM_BINS = 180 * BINS_PER_DEGREE
# Spread of a float32 map that should be constant, relative to its mean: below it there is no scale to fit.
RELATIVE_SPREAD_OF_A_CONSTANT = 1e-6


@dataclass(frozen=True)
class Sums:
    """Sums over the pixels of each image that count: all metrics follow from them.

    kind: what is measured; the names are those of `depth_metrics`, `normals_metrics` or `field_metrics`.
    rows: by name, float64, a row an image in the order in which the images came; "num_valid" is how many pixels count.
    totals: by name, added up over the images.
    """

    kind: Kind
    rows: Mapping[str, np.ndarray]
    totals: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join batches in order: the result is that of one batch. Needs at least one part."""
        rows = {name: np.concatenate([part.rows[name] for part in parts]) for name in parts[0].rows}
        totals = {name: np.sum([part.totals[name] for part in parts], axis=0) for name in parts[0].totals}
        return cls(parts[0].kind, rows, totals)

    @property
    def num_valid(self) -> PerImage:
        """Pixels that count, of each image; of a field times its outputs."""
        return self.rows["num_valid"]

    def pooled(self) -> Self:
        """Return the sums over all images, as those of one image with all their pixels.

        The median angle of all pixels is within 0.005 degrees of the exact one, plus rounding.
        """
        rows = {name: values.sum(axis=0, keepdims=True) for name, values in self.rows.items()}
        if self.kind == "normals":
            cumulative, count = np.cumsum(self.totals["histogram"]), int(self.totals["histogram"].sum())
            # The pixel of rank r, from 0, lies in the first bin up to which more than r pixels were counted.
            middle = np.searchsorted(cumulative, [(count - 1) // 2, count // 2], side="right")
            rows["median_angle"] = np.array([(middle + 0.5).mean() / BINS_PER_DEGREE if count else np.nan])
        return replace(self, rows=rows)

    def per_image(self) -> dict[str, PerImage]:
        """Return every metric of every image by name; NaN where no pixel counts.

        In metres, or a field's unit: rmse, mae, sq_rel; squared: mse; silog is times 100. Names that end in `_deg` are
        degrees, save `under_5_deg` and so on: shares of pixels.
        """
        rows, count = self.rows, np.where(self.num_valid > 0, self.num_valid, np.nan)
        if self.kind == "normals":
            shares = rows["num_under"] / count[:, None]
            return {
                "angle_mean_deg": rows["angle"] / count,
                "angle_median_deg": rows["median_angle"],
                "angle_rmse_deg": np.sqrt(rows["squared_angle"] / count),
                **{f"under_{limit:g}_deg": shares[:, number] for number, limit in enumerate(LIMITS_DEG)},
            }
        mse = rows["squared_error"] / count
        result = {"mse": mse, "rmse": np.sqrt(mse), "mae": rows["absolute_error"] / count}
        if self.kind == "field":
            return result
        mean_squared_log_ratio = rows["squared_log_ratio"] / count
        # Rounding may leave -1e-17 where all ratios of an image are equal.
        log_variance = np.maximum(mean_squared_log_ratio - (rows["log_ratio"] / count) ** 2, 0.0)
        within = 1.0 - rows["num_beyond"] / count[:, None]
        return result | {
            "abs_rel": rows["relative_error"] / count,
            "sq_rel": rows["relative_squared_error"] / count,
            "rmse_log": np.sqrt(mean_squared_log_ratio),
            "log10": rows["absolute_log_ratio"] / count / np.log(10.0),
            "silog": 100.0 * np.sqrt(log_variance),
            **{f"delta{number + 1}": within[:, number] for number in range(3)},
        }

    def summary(self) -> dict[str, float]:
        """Return the averages by name: plain names per image and then over images, `_pooled` over all pixels.

        `r2` (NaN where all truth equals the training mean) and `clamped_share` exist over all pixels only.
        `num_images` were averaged, and `num_images_without_truth` could not be.
        Raises InputError where no image has a pixel that counts.
        """
        has_truth = self.num_valid > 0
        if not has_truth.any():
            raise InputError(
                f"metrics: none of {len(has_truth)} images has a valid pixel of {self.kind}. Check the mask (of depth "
                "also the range, or pass protocol=idl)."
            )
        pooled = self.pooled()
        result = {name: float(values[has_truth].mean()) for name, values in self.per_image().items()}
        result |= {f"{name}_pooled": float(values[0]) for name, values in pooled.per_image().items()}
        if self.kind != "normals":
            deviation, error = (float(pooled.rows[name][0]) for name in ("squared_deviation", "squared_error"))
            result["r2"] = 1.0 - error / deviation if deviation > 0 else float("nan")
        if self.kind == "depth":
            result["clamped_share"] = float(pooled.rows["num_clamped"][0] / pooled.num_valid[0])
        counts = {"num_images": has_truth.sum(), "num_images_without_truth": (~has_truth).sum()}
        return result | {name: float(count) for name, count in counts.items()}


def depth_metrics(
    prediction_m: Float[Tensor, "batch H W"],
    truth_m: Float[Tensor, "batch H W"],
    valid: Bool[Tensor, "batch H W"],
    protocol: Protocol,
    train_mean_m: float,
) -> Sums:
    """Return the sums of predicted against true depth, both in metres, where `valid` and the truth is in the range.

    The prediction is aligned as the protocol says and then clamped to its range; infinity and NaN become its far end,
    for the inverse of a vanishing inverse depth is farther than anything.
    train_mean_m: mean depth of the training split, which `r2` is measured from.
    Raises InputError where the protocol's range or `train_mean_m` does not allow ratios and logarithms, and
    ValueError where the shapes differ.
    """
    near, far = protocol.min_depth_m, protocol.max_depth_m
    if not 0.0 < near < far < np.inf:
        raise InputError(f"protocol {protocol.name!r}: depth range {near} to {far} m, expected 0 < min < max.")
    if not 0.0 < train_mean_m < np.inf:
        raise InputError(f"metrics: the training split's mean depth is {train_mean_m} m, expected more than 0.")
    _require_shapes(prediction_m, truth_m, valid, tuple(valid.shape))
    counted = valid & (truth_m >= near) & (truth_m <= far)
    aligned = align(prediction_m, truth_m, counted, protocol.alignment)
    clamped = counted & ~((aligned >= near) & (aligned <= far))  # NaN is in no range
    # With d the truth and p the prediction; what does not count becomes a pixel that is average and right: it adds
    # nothing to any sum below.
    p, d = (each.masked_fill(~counted, train_mean_m) for each in (_clamp(aligned, protocol), truth_m))
    error = p - d
    relative = error.abs() / d
    log_ratio = p.log() - d.log()
    # The ratio itself, and not |g| < ln 1.25: a division rounds 5 / 4 to 1.25 exactly, so that "strictly"
    # holds at the edge; the difference of two rounded logarithms falls to either side.
    ratio = torch.maximum(p, d) / torch.minimum(p, d)
    rows = {
        "num_valid": _total(counted),
        "num_clamped": _total(clamped),  # predictions outside the protocol's range, NaN among them
        "squared_error": _total_square(error),  # (d - p)^2
        "absolute_error": _total(error.abs()),  # |d - p|
        "relative_error": _total(relative),  # |d - p| / d
        "relative_squared_error": _total(relative * error.abs()),  # (d - p)^2 / d
        "log_ratio": _total(log_ratio),  # g = ln p - ln d
        "squared_log_ratio": _total_square(log_ratio),  # g^2
        "absolute_log_ratio": _total(log_ratio.abs()),  # |g|
        # Pixels with max(d/p, p/d) >= 1.25, 1.25^2, 1.25^3.
        "num_beyond": torch.stack([_total(ratio >= limit) for limit in DELTA_RATIOS], dim=1),
        "squared_deviation": _total_square(d - train_mean_m),
    }
    return Sums("depth", _arrays(rows))


def field_metrics(
    prediction: Float[Tensor, "batch out H W"],
    truth: Float[Tensor, "batch out H W"],
    valid: Bool[Tensor, "batch H W"],
    train_mean: Sequence[float],
) -> Sums:
    """Return the sums over pixels and outputs of a prediction against the truth where `valid`.

    train_mean: of the training split, one an output, which `r2` is measured from.
    Raises ValueError where the shapes differ.
    """
    _require_shapes(prediction, truth, valid, (len(valid), len(train_mean), *valid.shape[1:]))
    mask = valid[:, None]
    # Selected, not multiplied: infinity times zero is NaN.
    error = torch.where(mask, prediction - truth, 0.0)
    mean = torch.tensor(train_mean, dtype=torch.float64, device=truth.device)[:, None, None]
    deviation = torch.where(mask, truth - mean, 0.0)
    rows = {
        "num_valid": _total(valid) * truth.shape[1],
        "squared_error": _total_square(error),
        "absolute_error": _total(error.abs()),
        "squared_deviation": _total_square(deviation),  # each output from its own mean
    }
    return Sums("field", _arrays(rows))


def normals_metrics(
    prediction: Float[Tensor, "batch 3 H W"],
    truth: Float[Tensor, "batch 3 H W"],
    valid: Bool[Tensor, "batch H W"],
) -> Sums:
    """Return the sums of the angles between predicted and true normals, of any length, in degrees.

    Pixels count where `valid` and the true normal is not zero. A prediction without a direction (zero or NaN)
    is 90 degrees off. The total "histogram" holds the angles of all images in bins of 0.01 degrees.
    Raises ValueError where the shapes differ.
    """
    _require_shapes(prediction, truth, valid, (len(valid), 3, *valid.shape[1:]))
    squared_length = truth.square().sum(dim=1)
    counted = valid & (squared_length > 0) & (squared_length < torch.inf)
    angle = _angle_deg(prediction, truth)
    kept = torch.where(counted, angle, 0.0)
    bins = (angle[counted] * BINS_PER_DEGREE).long().clamp(max=NUM_BINS - 1)
    rows = {
        "num_valid": _total(counted),
        "angle": _total(kept),
        "squared_angle": _total_square(kept),
        "median_angle": _median(angle, counted),  # exact; NaN without a true normal
        "num_under": torch.stack([_total(counted & (angle < limit)) for limit in LIMITS_DEG], dim=1),
    }
    return Sums("normals", _arrays(rows), _arrays({"histogram": torch.bincount(bins, minlength=NUM_BINS)}))


def _require_shapes(prediction: Tensor, truth: Tensor, valid: Tensor, expected: tuple[int, ...]) -> None:
    if valid.ndim != 3 or not prediction.shape == truth.shape == expected:
        raise ValueError(f"{tuple(prediction.shape)} against {tuple(truth.shape)}: expected {expected} for both")


def aligned_and_clamped(
    prediction_m: Float[Tensor, "batch H W"],
    truth_m: Float[Tensor, "batch H W"],
    valid: Bool[Tensor, "batch H W"],
    protocol: Protocol,
) -> Float[Tensor, "batch H W"]:
    """Return what `depth_metrics` measures: the prediction, aligned as the protocol says and clamped to its range."""
    return _clamp(align(prediction_m, truth_m, valid, protocol.alignment), protocol)


def align(
    prediction: Float[Tensor, "batch H W"],
    truth: Float[Tensor, "batch H W"],
    valid: Bool[Tensor, "batch H W"],
    alignment: Alignment,
) -> Float[Tensor, "batch H W"]:
    """Bring each prediction to the scale (and shift) of its truth; both in metres.

    "median" multiplies by median truth / median prediction, where that is a positive number. "affine" applies the scale
    and shift of least squares; a constant prediction becomes the mean of the truth. The fit is over the valid pixels
    whose prediction is finite; other predictions, and images without such a pixel, stay as they are.
    """
    if alignment == "none":
        return prediction
    usable = valid & prediction.isfinite()
    if alignment == "median":
        ratio = _median(truth, usable) / _median(prediction, usable)
        scale = torch.where((ratio > 0) & ratio.isfinite(), ratio, 1.0)
        shift = torch.zeros_like(scale)
    else:
        scale, shift = _least_squares(prediction, truth, usable)
    aligned = prediction.double() * scale[:, None, None] + shift[:, None, None]
    return torch.where(prediction.isfinite(), aligned.to(prediction.dtype), prediction)


def _least_squares(prediction: Tensor, truth: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """Minimise sum (scale p + shift - d)^2 over the usable pixels: scale = cov(p, d) / var(p)."""
    p = torch.where(usable, prediction, 0.0).double()
    d = torch.where(usable, truth, 0.0).double()
    count = _total(usable)
    divisor = count.clamp(min=1.0)
    mean_p, mean_d = _total(p) / divisor, _total(d) / divisor
    # Centred before the products: raw moments of a prediction far from zero would cancel.
    centred = (p - mean_p[:, None, None]) * usable
    variance = _total(centred * centred) / divisor
    covariance = _total(centred * d) / divisor
    is_constant = variance <= (RELATIVE_SPREAD_OF_A_CONSTANT * mean_p) ** 2
    scale = torch.where(is_constant, 0.0, covariance / torch.where(is_constant, 1.0, variance))
    shift = mean_d - scale * mean_p
    return torch.where(count > 0, scale, 1.0), torch.where(count > 0, shift, 0.0)


def _clamp(aligned: Float[Tensor, "batch H W"], protocol: Protocol) -> Float[Tensor, "batch H W"]:
    return aligned.nan_to_num(nan=protocol.max_depth_m).clamp_(protocol.min_depth_m, protocol.max_depth_m)


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: values.cpu().numpy() for name, values in tensors.items()}


def _angle_deg(a: Float[Tensor, "batch 3 H W"], b: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch H W"]:
    """Return atan2(|a x b|, a . b) in degrees: the angle of acos(clamp(a . b)) for unit vectors.

    In float32, acos is blind under 0.03 degrees: the dot product of unit vectors steps by 6e-8 next to 1.
    """
    ax, ay, az = a.unbind(dim=1)
    bx, by, bz = b.unbind(dim=1)
    dot = ax * bx + ay * by + az * bz
    # Written out: linalg.cross and norm along dimension 1 take 6 ms a map of 256 x 256, this takes 0.2 ms.
    cross = ((ay * bz - az * by) ** 2 + (az * bx - ax * bz) ** 2 + (ax * by - ay * bx) ** 2).sqrt()
    angle = torch.rad2deg(torch.atan2(cross, dot))
    return torch.where(dot.abs() + cross > 0, angle, 90.0)


def _total(values: Float[Tensor, "  batch *map"] | Bool[Tensor, "  batch *map"]) -> Float64[Tensor, " batch"]:
    return values.flatten(1).double().sum(1)


def _total_square(values: Float[Tensor, "  batch *map"]) -> Float64[Tensor, " batch"]:
    # Squared after the conversion: mean g^2 - (mean g)^2 cancels, and float32 squares of a constant
    # log ratio of ln 2 would leave a silog of 0.02 where there is none.
    wide = values.flatten(1).double()
    return torch.linalg.vecdot(wide, wide)


def _median(values: Float[Tensor, "batch H W"], valid: Bool[Tensor, "batch H W"]) -> Float64[Tensor, " batch"]:
    """Take the exact median over the valid pixels of each map, NaN where there is none."""
    # numpy selects the middle two in one partition: 0.75 ms a map, against 0.9 ms for each kthvalue of torch.
    chosen = (each[mask].cpu().numpy() for each, mask in zip(values, valid, strict=True))
    medians = [float(np.median(pixels)) if pixels.size else np.nan for pixels in chosen]
    return torch.tensor(medians, dtype=torch.float64, device=values.device)
