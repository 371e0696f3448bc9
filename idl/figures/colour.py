"""From values to colours: fixed ranges, perceptually uniform maps, and a hatching for what is not known."""

from functools import cache

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8

from idl.errors import InputError

# Near is bright: what is close stands out from the page of a grid of small pictures, and far sinks back as it
# does in haze and dark. viridis has uniform steps of lightness, survives grey printing and colour blindness.
DEPTH_MAP = "viridis_r"
# Any other quantity: uniform too, and not to be taken for a depth.
FIELD_MAP = "cividis"
# White is right; blue too near (too low), red too far (too high).
ERROR_MAP = "RdBu_r"
# Pale is right here too.
ANGLE_MAP = "magma_r"
# Features have a sign but no unit: another pair of colours than the error's.
FEATURE_MAP = "PuOr_r"

PAPER = (255, 255, 255)
INK = (33, 37, 41)
FAINT = (108, 117, 125)
HATCH_LIGHT, HATCH_DARK = (226, 226, 226), (196, 196, 196)
HATCH_PERIOD = 8


@cache
def table(name: str) -> UInt8[np.ndarray, "256 3"]:
    """Return matplotlib's colour map `name` as 256 colours, read-only."""
    colours = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]
    colours.setflags(write=False)
    return colours


def colourise(
    values: Float[np.ndarray, "H W"], visible: Bool[np.ndarray, "H W"], limits: tuple[float, float], name: str
) -> UInt8[np.ndarray, "H W 3"]:
    """Colour `values` by the map `name` over `limits`; what lies outside takes the colour of the nearer end.

    Pixels that are not `visible`, and NaN, are hatched in grey. Raises InputError where the range is empty.
    """
    low, high = limits
    if not low < high:
        raise InputError(f"figure: the colour range {low} to {high} is empty. Give the lower end first.")
    known = visible & ~np.isnan(values)
    share = (np.where(known, values, low) - low) / (high - low)
    index = (np.clip(share, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
    return np.where(known[..., None], table(name)[index], hatching(*values.shape))


@cache
def hatching(height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Return grey diagonal stripes, read-only."""
    rows, columns = np.ogrid[:height, :width]
    is_dark = (rows + columns) % HATCH_PERIOD < HATCH_PERIOD // 4
    stripes = np.where(is_dark[..., None], np.array(HATCH_DARK, np.uint8), np.array(HATCH_LIGHT, np.uint8))
    stripes.setflags(write=False)
    return stripes


def normals_to_rgb(normals: Float[np.ndarray, "H W 3"], visible: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Colour normals (x right, y down, z forward) in the usual way: red right, green up, blue to the camera.

    Lengths do not matter. Pixels that are not `visible` or have no direction are hatched in grey.
    """
    vectors = normals.astype(np.float32)
    length = np.sqrt(np.square(vectors).sum(axis=2))
    known = visible & (length > 0) & np.isfinite(length)
    unit = vectors / np.where(known, length, 1.0)[..., None]
    facing = unit * np.array([1.0, -1.0, -1.0], dtype=np.float32)
    colours = np.where(known[..., None], facing, 0.0) * 127.5 + 128.0
    return np.where(known[..., None], np.clip(colours, 0, 255).astype(np.uint8), hatching(*length.shape))


def robust_limits(values: Float[np.ndarray, "h w"]) -> tuple[float, float]:
    """Return the median plus and minus the 98th percentile of the distance from it: outliers saturate."""
    finite = values[np.isfinite(values)]
    centre = float(np.median(finite)) if finite.size else 0.0
    reach = float(np.percentile(np.abs(finite - centre), 98)) if finite.size else 0.0
    # A map that is constant but for rounding is drawn in the middle colour rather than as its noise.
    reach = max(reach, 1e-5 * abs(centre)) or 1.0
    return centre - reach, centre + reach


def resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Repeat or drop rows and columns, nearest first, so that every pixel keeps its exact value."""
    rows = np.arange(height) * values.shape[0] // height
    columns = np.arange(width) * values.shape[1] // width
    return values[rows[:, None], columns]
