"""What is measured of one image and its depth at native size, before they are judged together."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

# A row or column belongs to a white frame where so many of its pixels have all channels at least so bright.
_WHITE, _WHITE_SHARE = 250, 0.95
# Pixels; edges are compared on images about so high.
_EDGES_HEIGHT = 96
# Of log depth, from one of these pixels to the next: a jump counts as a jump, however far.
_JUMP = 0.1
# How depth may lie on its image, besides as it should.
AS_IS, TURNS = "as it is", ("mirrored", "upside down", "turned by 180 degrees")


@dataclass(frozen=True)
class Measured:
    """One image.

    size: (height, width), pixels. valid_share: of the pixels. depth_m: least, median and greatest valid depth, metres;
    nan where none is valid. frame: pixels of white at the top, bottom, left and right.
    warmth: (red - blue) / (red + blue) of the lower two thirds, where they are not white. spread: standard deviation
    of the grey values. edges: correlation of the image's edges with those of the depth, as it is and turned.
    """

    name: str
    size: tuple[int, int]
    valid_share: float
    depth_m: tuple[float, float, float]
    frame: tuple[int, int, int, int]
    warmth: float
    spread: float
    edges: Mapping[str, float]


def measure(
    name: str, rgb: UInt8[np.ndarray, "H W 3"], depth_m: Float[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]
) -> Measured:
    """Measure one image. depth_m: metres along the optical axis, of any value where not valid."""
    known = depth_m[valid]
    low, median, high = (known.min(), np.median(known), known.max()) if known.size else (np.nan,) * 3
    white = rgb.min(axis=-1) >= _WHITE
    grey = rgb.mean(axis=-1)
    lower = slice(rgb.shape[0] // 3, None)
    red, blue = (float(rgb[lower, :, channel][~white[lower]].sum(dtype=np.float64)) for channel in (0, 2))
    return Measured(
        name,
        rgb.shape[:2],
        float(valid.mean()),
        (float(low), float(median), float(high)),
        _frame(white),
        (red - blue) / (red + blue) if red + blue else 0.0,
        float(grey.std()),
        _edges(grey, depth_m, valid),
    )


def _frame(white: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    def leading(shares: np.ndarray) -> int:
        dark = np.flatnonzero(shares < _WHITE_SHARE)
        return int(dark[0]) if len(dark) else 0

    rows, columns = white.mean(axis=1), white.mean(axis=0)
    return leading(rows), leading(rows[::-1]), leading(columns), leading(columns[::-1])


def _edges(
    grey: Float[np.ndarray, "H W"], depth_m: Float[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]
) -> dict[str, float]:
    # Here, because it takes a while to import.
    from scipy.ndimage import gaussian_filter

    step = max(1, grey.shape[0] // _EDGES_HEIGHT)
    known = valid[::step, ::step] & (depth_m[::step, ::step] > 0)
    small = Image.fromarray(grey.astype(np.float32)).resize(known.shape[::-1], Image.Resampling.BOX)
    in_image = _steepness(gaussian_filter(np.asarray(small, np.float64), 0.7))
    in_image = gaussian_filter(np.minimum(in_image, np.quantile(in_image, 0.95)), 1)
    log_m = np.log(np.where(known, depth_m[::step, ::step], 1)).astype(np.float64)
    # Smoothed before and after: on 24 frames of a head-worn time-of-flight camera, a third of them holes, the
    # correlation is then 0.20 as it is and at most 0.03 when turned; without, it is 0.00.
    steep = np.minimum(_steepness(_smoothed(log_m, known, 1.5)), _JUMP)
    in_depth = _smoothed(np.nan_to_num(steep), np.isfinite(steep), 1)
    in_depth[~np.isfinite(steep)] = np.nan
    turned = (in_depth, in_depth[:, ::-1], in_depth[::-1], in_depth[::-1, ::-1])
    return {name: _correlation(in_image, each) for name, each in zip((AS_IS, *TURNS), turned, strict=True)}


def _smoothed(
    values: Float[np.ndarray, "H W"], known: Bool[np.ndarray, "H W"], sigma: float
) -> Float[np.ndarray, "H W"]:
    """Gaussian average of the known values only; nan where hardly any is near."""
    from scipy.ndimage import gaussian_filter

    weight = gaussian_filter(known.astype(np.float64), sigma)
    total = gaussian_filter(np.where(known, values, 0), sigma)
    return np.where(weight > 0.3, total / np.maximum(weight, 1e-9), np.nan)


def _steepness(values: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    if min(values.shape) < 2:
        return np.full(values.shape, np.nan)
    down, across = np.gradient(values)
    return np.hypot(down, across)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < 64 or not one[both].std() or not other[both].std():
        return 0.0
    return float(np.corrcoef(one[both], other[both])[0, 1])
