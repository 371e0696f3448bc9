"""An image beside the feature maps that an encoder makes of it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from idl.figures.canvas import Page
from idl.figures.colour import FAINT, FEATURE_MAP, colourise, resized, robust_limits

TILE_HEIGHT = 160
MARGIN, GAP, LABEL = 16, 10, 20
TILE_TOP = 44
MAX_COLUMNS = 6
MAX_MAPS = 23


def feature_panel(
    rgb: UInt8[np.ndarray, "H W 3"],
    features: Float[np.ndarray, "channels h w"],
    title: str,
    names: Sequence[str] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the image and its leading feature maps, at most 23, as a grid of tiles.

    Each map has its own scale: its median is white, and orange (above) and purple (below) are saturated where
    the 2 % farthest from the median begin. Cells are drawn as squares of their own, not interpolated.
    names: one for each channel; "1", "2", ... otherwise.
    """
    labels = list(names) if names is not None else [str(i + 1) for i in range(len(features))]
    shown = min(len(features), MAX_MAPS)
    width = max(1, round(TILE_HEIGHT * rgb.shape[1] / rgb.shape[0]))
    columns = min(MAX_COLUMNS, shown + 1)
    rows = -(-(shown + 1) // columns)
    page = Page.blank(
        2 * MARGIN + columns * width + (columns - 1) * GAP, TILE_TOP + rows * (TILE_HEIGHT + LABEL + GAP) + 6
    )
    page.text(title, MARGIN, 14, 17, bold=True, width=page.image.width - 2 * MARGIN)
    for i in range(shown + 1):
        left = MARGIN + i % columns * (width + GAP)
        top = TILE_TOP + LABEL + i // columns * (TILE_HEIGHT + LABEL + GAP)
        page.text("image" if i == 0 else labels[i - 1], left, top - 18, 13, colour=FAINT, width=width)
        if i == 0:
            page.picture(rgb, left, top, width, TILE_HEIGHT)
            continue
        values = features[i - 1].astype(np.float32)
        limits = robust_limits(values)
        values = resized(values, TILE_HEIGHT, width)
        page.tile(colourise(values, np.isfinite(values), limits, FEATURE_MAP), left, top)
    return page.pixels()
