"""A contact sheet: what is in a dataset, at a glance."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from idl.errors import InputError
from idl.figures.canvas import Page
from idl.figures.colour import DEPTH_MAP, FAINT, colourise, normals_to_rgb, resized

TILE_SIDE = 144
MARGIN, GAP, NAME = 16, 6, 20
LABEL_WIDTH = 64
FOOT = 52
BAR_WIDTH = 360


def contact_sheet(
    rgb: Sequence[UInt8[np.ndarray, "H W 3"]],
    depth_m: Sequence[Float[np.ndarray, "H W"]],
    valid: Sequence[Bool[np.ndarray, "H W"]],
    normals: Sequence[Float[np.ndarray, "H W 3"]] | None,
    depth_range_m: tuple[float, float],
    columns: int = 6,
    names: Sequence[str] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw images in bands of `columns`, each over its depth and, where given, its normals.

    All depths share `depth_range_m` in metres, near is bright; pixels that are not valid are hatched.
    Raises InputError where there is no image.
    """
    if not rgb:
        raise InputError("contact sheet: no image was given. Choose a split that has images.")
    labels = ["image", "depth"] + (["normals"] if normals is not None else [])
    columns = min(columns, len(rgb))
    num_bands = -(-len(rgb) // columns)
    step = TILE_SIDE + GAP
    # As high as all others, and as wide as the images ask for.
    tile_width = max(1, round(TILE_SIDE * rgb[0].shape[1] / rgb[0].shape[0]))
    across = tile_width + GAP
    band_height = NAME + len(labels) * step + 10
    width = 2 * MARGIN + LABEL_WIDTH + columns * across - GAP
    page = Page.blank(max(width, 2 * MARGIN + LABEL_WIDTH + 120), MARGIN + num_bands * band_height + FOOT)
    for i, (picture, depth, mask) in enumerate(zip(rgb, depth_m, valid, strict=True)):
        left = MARGIN + LABEL_WIDTH + i % columns * across
        top = MARGIN + i // columns * band_height
        if i % columns == 0:
            for row, label in enumerate(labels):
                middle = top + NAME + row * step + TILE_SIDE // 2
                page.text(label, MARGIN + LABEL_WIDTH - 10, middle, 13, colour=FAINT, anchor="rm")
        if names is not None:
            page.text(names[i], left, top, 12, colour=FAINT, width=tile_width)
        top += NAME
        page.picture(picture, left, top, tile_width, TILE_SIDE)
        small_mask = resized(mask, TILE_SIDE, tile_width)
        small_depth = resized(depth, TILE_SIDE, tile_width)
        page.tile(colourise(small_depth, small_mask, depth_range_m, DEPTH_MAP), left, top + step)
        if normals is not None:
            small_normals = resized(normals[i], TILE_SIDE, tile_width)
            page.tile(normals_to_rgb(small_normals, small_mask), left, top + 2 * step)
    bar_width = min(BAR_WIDTH, page.image.width - 2 * MARGIN - LABEL_WIDTH)
    foot = page.image.height - FOOT + 6
    page.text("depth", MARGIN + LABEL_WIDTH - 10, foot + 6, 13, colour=FAINT, anchor="rm")
    page.colour_bar(MARGIN + LABEL_WIDTH, foot, bar_width, depth_range_m, DEPTH_MAP, "m")
    return page.pixels()
