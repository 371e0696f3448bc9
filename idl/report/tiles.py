"""Tiles on a page: an image with what a probe makes of it, and sheets of many images, feature maps or predictions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from idl.report.canvas import (
    ANGLE_MAP,
    DEPTH_MAP,
    ERROR_MAP,
    FEATURE_MAP,
    FIELD_MAP,
    INK,
    PAPER,
    Colour,
    Limits,
    Map,
    Mask,
    Page,
    Rgb,
    Vectors,
    colourise,
    photograph,
    resized,
)
from idl.targets import Kind

MARGIN, GAP, LABEL_WIDTH, LINE = 16, 10, 100, 20
TITLE_HEIGHT, BAR_HEIGHT, BAR_WIDTH = 34, 46, 360
PANEL_HEIGHT, BALL_SIDE = 256, 40
PANEL_TOP = MARGIN + TITLE_HEIGHT + LINE
BAR_TOP = PANEL_TOP + PANEL_HEIGHT + 10
# Side of tiles that show a network under training.
NETWORK_SIDE = 192
COLUMNS, MAX_MAPS = 6, 23
# Labels of an image stand in so many columns.
LABEL_COLUMNS = 2
# By whether a label was said, and whether it is true. The colour is not all that tells them apart.
MARKS: dict[tuple[bool, bool], tuple[str, str, Colour]] = {
    (True, True): ("", "found", INK),
    (False, True): ("\N{MINUS SIGN} ", "missed", (200, 60, 40)),
    (True, False): ("+ ", "not there", (40, 90, 180)),
}


class Band(NamedTuple):
    """Rows of tiles by their labels. names: over the columns, or one over all of them."""

    rows: Mapping[str, Sequence[Rgb]]
    names: Sequence[str] = ()


def panel_parts(panel: Rgb) -> dict[str, Rgb]:
    """Take a panel apart, to be laid out anew: its tiles without their words, and the keys to values and errors."""
    width = (panel.shape[1] - 2 * MARGIN - 3 * GAP) // 4
    lefts = [MARGIN + i * (width + GAP) for i in range(4)]
    places = zip(("rgb", "truth", "prediction", "error"), lefts, strict=True)
    tiles = {name: panel[PANEL_TOP : PANEL_TOP + PANEL_HEIGHT, left : left + width] for name, left in places}
    keys = panel[BAR_TOP - 2 : BAR_TOP + BAR_HEIGHT - 2]
    return {
        **tiles,
        "value_key": keys[:, lefts[1] : lefts[2] + width],
        "error_key": keys[:, lefts[3] : lefts[3] + width],
    }


def panel(
    rgb: Rgb,
    truth: Map | Vectors,
    prediction: Map | Vectors,
    valid: Mask,
    limits: Limits,
    error_range: float,
    title: str,
    caption: str = "",
    kind: Kind = "depth",
    unit: str = "m",
) -> Rgb:
    """Draw an image, its truth, a prediction and the error in a row; of a depth near is bright, of a field high.

    Values share the colours of `limits`; the error, prediction - truth, runs from -error_range (blue, too near or low)
    to +error_range (red, too far or high). That of normals, in camera coordinates and of any length, is the angle, from
    0 to error_range degrees. The caller fixes the ranges, never the image, so that panels stand side by side. Truth and
    error are hatched where not `valid`; the prediction is shown everywhere. unit: "" for none.
    """
    size = _size(PANEL_HEIGHT, truth)
    width = size[1]
    truth, prediction, valid = (resized(each, *size) for each in (truth, prediction, valid))
    colours, lefts = DEPTH_MAP if kind == "depth" else FIELD_MAP, [MARGIN + i * (width + GAP) for i in range(4)]
    if kind == "normals":
        valid = valid & np.any(truth != 0, axis=2)
        error, error_limits, error_map, unit = _angle_deg(truth, prediction), (0.0, error_range), ANGLE_MAP, "°"
        names = ["image", "true normals", "prediction", "angle between them"]
    else:
        # Two infinities have no difference; NaN is hatched.
        with np.errstate(invalid="ignore"):
            error, error_limits, error_map = prediction - truth, (-error_range, error_range), ERROR_MAP
        low, high = ("near", "far") if kind == "depth" else ("low", "high")
        names = ["image", "truth", "prediction", f"error: blue too {low}, red too {high}"]
    values = _coloured((truth, prediction), (valid, np.ones_like(valid)), size, limits, colours)
    row = [photograph(rgb, *size), *values, colourise(error, valid, error_limits, error_map)]
    page = _sheet([Band({"": row}, names)], title, foot=BAR_HEIGHT - GAP)
    page.paragraph(caption, MARGIN, BAR_TOP - 2, width)
    if kind == "normals":
        page.tile(_ball(), lefts[1], BAR_TOP - 2)
        for line, words in enumerate(("red: facing right, green: facing up,", "blue: facing the camera")):
            page.text(words, lefts[1] + BALL_SIDE + 10, BAR_TOP + 2 + 17 * line)
    else:
        page.colour_bar(lefts[1], BAR_TOP, 2 * width + GAP, limits, colours, unit)
    page.colour_bar(lefts[3], BAR_TOP, width, error_limits, error_map, unit)
    return page.pixels()


def _ball() -> Rgb:
    """Return a ball seen from the front, coloured by its normals, on white: the key to the colours."""
    y, x = (np.mgrid[:BALL_SIDE, :BALL_SIDE] + 0.5) / BALL_SIDE * 2 - 1
    squared = x**2 + y**2
    normals, inside = np.stack([x, y, -np.sqrt(np.maximum(1 - squared, 0))], axis=2), squared < 1
    return np.where(inside[..., None], colourise(normals, inside, (0.0, 1.0), ""), np.uint8(255))


def _angle_deg(a: Vectors, b: Vectors) -> Map:
    """Return the angle between vectors of any length in degrees; 90 where one of them is zero."""
    dot, squared_a, squared_b = (np.einsum("hwc,hwc->hw", *each) for each in ((a, b), (a, a), (b, b)))
    lengths = np.sqrt(squared_a * squared_b)
    cosine = np.divide(dot, lengths, out=np.zeros_like(dot), where=lengths > 0)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def contact_sheet(
    rgb: UInt8[np.ndarray, "images H W 3"],
    depth_m: Float[np.ndarray, "images H W"],
    valid: Bool[np.ndarray, "images H W"],
    normals: Float[np.ndarray, "images H W 3"] | None,
    limits: Limits,
    names: Sequence[str],
) -> Rgb:
    """Draw images in bands of six, each over its depth, in metres and hatched where not valid, and its normals."""
    size = _size(144, rgb[0])
    rows = {"image": _photographs(rgb, size), "depth": _coloured(depth_m, valid, size, limits)}
    if normals is not None:
        rows["normals"] = _coloured(normals, valid, size, limits)
    return _sheet(_bands(rows, names), bar=(limits, DEPTH_MAP, "m")).pixels()


def feature_panel(rgb: Rgb, features: Float[np.ndarray, "channels h w"], title: str) -> Rgb:
    """Draw the image and its leading feature maps, at most 23, as a grid of tiles.

    Each map has its own scale: its median is white, and orange (above) and purple (below) are saturated where
    the 2 % farthest from the median begin.
    """
    size = _size(160, rgb)
    tiles = _photographs([rgb], size)
    for values in features[:MAX_MAPS].astype(np.float32):
        tiles += _coloured([values], None, size, _robust_limits(values), FEATURE_MAP)
    return _sheet(_bands({"": tiles}, ["image", *map(str, range(1, len(tiles)))]), title).pixels()


def _robust_limits(values: Map) -> Limits:
    """Return the median plus and minus the 98th percentile of the distance from it: outliers saturate."""
    finite = values[np.isfinite(values)]
    centre = float(np.median(finite)) if finite.size else 0.0
    reach = float(np.percentile(np.abs(finite - centre), 98)) if finite.size else 0.0
    # A map that is constant but for rounding is drawn in the middle colour rather than as its noise.
    reach = max(reach, 1e-5 * abs(centre)) or 1.0
    return centre - reach, centre + reach


def cue_strip(
    labels: Sequence[str],
    names: Sequence[str],
    rgb: Sequence[UInt8[np.ndarray, "edits H W 3"]],
    predictions: Sequence[Float[np.ndarray, "edits out H W"]],
    kind: Kind,
    limits: Limits,
    unit: str,
    title: str,
) -> Rgb:
    """Draw each image under every edit in a row, and beneath each what the probe makes of it.

    labels: of the edits. names, rgb, predictions: one an image; predictions in `unit`, coloured over `limits`, or
    normals. Of several outputs of a field the first is shown.
    """
    size, is_normals = _size(128, rgb[0][0]), kind == "normals"
    colours = DEPTH_MAP if kind == "depth" else FIELD_MAP
    bands = []
    for name, pictures, values in zip(names, rgb, predictions, strict=True):
        maps = np.moveaxis(values, 1, -1) if is_normals else values[:, 0]
        rows = {"image": _photographs(pictures, size), "prediction": _coloured(maps, None, size, limits, colours)}
        bands.append(Band(rows, [name]))
    return _sheet(bands, title, labels, None if is_normals else (limits, colours, unit)).pixels()


def picture_rows(rows: Mapping[str, Sequence[Rgb]]) -> Rgb:
    """Draw rows of square pictures, one below the other: images, and what a network made of them."""
    size = (NETWORK_SIDE, NETWORK_SIDE)
    return _sheet([Band({name: _photographs(pictures, size) for name, pictures in rows.items()})]).pixels()


def recognised(
    rgb: Sequence[Rgb],
    said: Bool[np.ndarray, "images labels"],
    truth: Bool[np.ndarray, "images labels"],
    names: Sequence[str],
) -> Rgb:
    """Draw images in one row, and under each its labels: found, missed, and said of what is not there.

    A label has one place, so that steps can be compared; it is blank where it is rightly not said.
    """
    side, lines = NETWORK_SIDE, -(-len(names) // LABEL_COLUMNS)
    page = _sheet([Band({"image": _photographs(rgb, (side, side))})], foot=LINE * max(lines, len(MARKS)))
    top = MARGIN + side + GAP
    for line, (sign, words, colour) in enumerate(MARKS.values()):
        page.text(sign + words, MARGIN + LABEL_WIDTH - 10, top + line * LINE, colour=colour, anchor="ra")
    for column, index in np.argwhere(said | truth):
        sign, _, colour = MARKS[bool(said[column, index]), bool(truth[column, index])]
        left = MARGIN + LABEL_WIDTH + column * (side + GAP) + index // lines * (side // LABEL_COLUMNS)
        y, width = top + index % lines * LINE, side // LABEL_COLUMNS - 4
        page.text(f"{sign}{names[index]}", left, y, colour=colour, width=width)
    return page.pixels()


def _size(height: int, picture: np.ndarray) -> tuple[int, int]:
    """Return the height, and the width that keeps a picture's proportions."""
    return height, max(1, round(height * picture.shape[1] / picture.shape[0]))


def _photographs(rgb: Iterable[Rgb], size: tuple[int, int]) -> list[Rgb]:
    return [photograph(each, *size) for each in rgb]


def _coloured(
    values: Iterable[np.ndarray],
    valid: Sequence[Mask] | np.ndarray | None,
    size: tuple[int, int],
    limits: Limits,
    colours: str = DEPTH_MAP,
) -> list[Rgb]:
    """Return maps, or normals, as tiles; hatched where not valid, which is nowhere if that is None."""
    tiles = []
    for i, each in enumerate(values):
        visible = np.ones(size, bool) if valid is None else resized(valid[i], *size)
        tiles.append(colourise(resized(each, *size), visible, limits, colours))
    return tiles


def _bands(rows: Mapping[str, Sequence[Rgb]], names: Sequence[str]) -> list[Band]:
    """Return rows of any length as bands of at most COLUMNS tiles."""
    cuts = [slice(first, first + COLUMNS) for first in range(0, len(names), COLUMNS)]
    return [Band({label: tiles[cut] for label, tiles in rows.items()}, names[cut]) for cut in cuts]


def _sheet(
    bands: Sequence[Band],
    title: str = "",
    heads: Sequence[str] = (),
    bar: tuple[Limits, str, str] | None = None,
    foot: int = 0,
) -> Page:
    """Draw bands of tiles, all of one size, one below the other.

    heads: over the columns of all bands. bar: limits, colour map and unit of the key to the colours, at the bottom.
    foot: pixels to leave free there.
    """
    height, width = next(iter(bands[0].rows.values()))[0].shape[:2]
    is_labelled = any(any(band.rows) for band in bands)
    left, top = MARGIN + LABEL_WIDTH * is_labelled, MARGIN + TITLE_HEIGHT * bool(title) + LINE * bool(heads)
    columns = max(len(tiles) for band in bands for tiles in band.rows.values())
    tall = sum(LINE * bool(band.names) + len(band.rows) * (height + GAP) + GAP for band in bands)
    # A bar with its numbers needs some width, however few the tiles.
    across = max(columns * (width + GAP) - GAP, 120)
    size = (left + across + MARGIN, top + tall + BAR_HEIGHT * bool(bar) + foot + MARGIN - GAP)
    page = Page(Image.new("RGB", size, PAPER))
    page.text(title, MARGIN, MARGIN - 2, 18, colour=INK, bold=True, width=page.image.width - 2 * MARGIN)
    for column, words in enumerate(heads):
        page.text(words, left + column * (width + GAP), top - LINE - 2, 14, width=width)
    for rows, names in bands:
        for column, words in enumerate(names):
            page.text(words, left + column * (width + GAP), top, 12, width=width if len(names) > 1 else across)
        top += LINE * bool(names)
        for label, tiles in rows.items():
            page.text(label, left - 10, top + height // 2, anchor="rm")
            for column, pixels in enumerate(tiles):
                page.tile(pixels, left + column * (width + GAP), top)
            top += height + GAP
        top += GAP
    if bar is not None:
        limits, colours, unit = bar
        page.text("depth" if colours == DEPTH_MAP else "", left - 10, top + GAP + 6, anchor="rm")
        page.colour_bar(left, top + GAP, min(BAR_WIDTH, across), limits, colours, unit)
    return page
