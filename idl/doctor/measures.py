"""What is measured of one image and its depth at native size, before they are judged together."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from idl.doctor.edges import Fit, best_fit

# A row or column belongs to a white frame where so many of its pixels have all channels at least so bright.
_WHITE, _WHITE_SHARE = 250, 0.95


@dataclass(frozen=True)
class Measured:
    """One image.

    size: (height, width), pixels. valid_share: of the pixels. depth_m: least, median and greatest valid depth, metres;
    nan where none is valid. frame: pixels of white at the top, bottom, left and right.
    warmth: (red - blue) / (red + blue) of the lower two thirds, where they are not white. spread: standard deviation
    of the grey values. fit: how the depth's edges fit the image's best; None where it cannot be told.
    """

    name: str
    size: tuple[int, int]
    valid_share: float
    depth_m: tuple[float, float, float]
    frame: tuple[int, int, int, int]
    warmth: float
    spread: float
    fit: Fit | None


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
        best_fit(grey, depth_m, valid),
    )


def _frame(white: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    def leading(shares: np.ndarray) -> int:
        dark = np.flatnonzero(shares < _WHITE_SHARE)
        return int(dark[0]) if len(dark) else 0

    rows, columns = white.mean(axis=1), white.mean(axis=0)
    return leading(rows), leading(rows[::-1]), leading(columns), leading(columns[::-1])
