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
    step = max(1, grey.shape[0] // _EDGES_HEIGHT)
    sparse = np.where(valid, depth_m, np.nan)[::step, ::step]
    small = Image.fromarray(grey.astype(np.float32)).resize(sparse.shape[::-1], Image.Resampling.BOX)
    in_image = _steepness(np.asarray(small))
    with np.errstate(invalid="ignore", divide="ignore"):
        in_depth = _steepness(np.log(np.where(sparse > 0, sparse, np.nan)))
    turned = (in_depth, in_depth[:, ::-1], in_depth[::-1], in_depth[::-1, ::-1])
    return {name: _correlation(in_image, each) for name, each in zip((AS_IS, *TURNS), turned, strict=True)}


def _steepness(values: np.ndarray) -> np.ndarray:
    if min(values.shape) < 2:
        return np.full(values.shape, np.nan)
    down, across = np.gradient(values)
    found = np.hypot(down, across)
    # A jump counts as a jump, however far.
    return np.minimum(found, np.nanquantile(found, 0.95)) if np.isfinite(found).any() else found


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < 64 or not one[both].std() or not other[both].std():
        return 0.0
    return float(np.corrcoef(one[both], other[both])[0, 1])
