"""One image, its truth, its prediction and the error between them in a row, for MLflow's image grid."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from idl.figures.canvas import Page
from idl.figures.colour import ANGLE_MAP, DEPTH_MAP, ERROR_MAP, FAINT, FIELD_MAP, colourise, normals_to_rgb, resized

TILE_HEIGHT = 256
MARGIN, GAP = 16, 12
TILE_TOP = 66
BAR_TOP = TILE_TOP + TILE_HEIGHT + 10
PANEL_HEIGHT = BAR_TOP + 46
BALL_SIDE = 40


@dataclass(frozen=True)
class PanelParts:
    """The tiles of a panel without their words, and the keys to the colours of the values and of the errors."""

    rgb: UInt8[np.ndarray, "height width 3"]
    truth: UInt8[np.ndarray, "height width 3"]
    prediction: UInt8[np.ndarray, "height width 3"]
    error: UInt8[np.ndarray, "height width 3"]
    value_key: UInt8[np.ndarray, "key_height key_width 3"]
    error_key: UInt8[np.ndarray, "key_height width 3"]


def panel_parts(panel: UInt8[np.ndarray, "height width 3"]) -> PanelParts:
    """Take any panel of this module apart, to be laid out anew."""
    width = (panel.shape[1] - 2 * MARGIN - 3 * GAP) // 4
    lefts = [MARGIN + i * (width + GAP) for i in range(4)]
    rgb, truth, prediction, error = (
        panel[TILE_TOP : TILE_TOP + TILE_HEIGHT, left : left + width].copy() for left in lefts
    )
    keys = panel[BAR_TOP - 2 :]
    return PanelParts(
        rgb,
        truth,
        prediction,
        error,
        keys[:, lefts[1] : lefts[2] + width].copy(),
        keys[:, lefts[3] : lefts[3] + width].copy(),
    )


def depth_panel(
    rgb: UInt8[np.ndarray, "H W 3"],
    truth_m: Float[np.ndarray, "H W"],
    prediction_m: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
    depth_range_m: tuple[float, float],
    error_range_m: float,
    title: str,
    caption: str = "",
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw RGB, true depth, predicted depth and the signed error, prediction - truth, all in metres.

    Both depths share `depth_range_m`, near is bright; the error runs from -error_range_m (blue, too near) to
    +error_range_m (red, too far). The caller fixes the ranges, never the image, so that panels stand side by
    side. Truth and error are hatched where not `valid`; the prediction is shown everywhere.
    """
    told = "error: blue too near, red too far"
    return _signed_panel(
        rgb, truth_m, prediction_m, valid, depth_range_m, error_range_m, DEPTH_MAP, "m", told, title, caption
    )


def field_panel(
    rgb: UInt8[np.ndarray, "H W 3"],
    truth: Float[np.ndarray, "H W"],
    prediction: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
    value_range: tuple[float, float],
    error_range: float,
    unit: str,
    title: str,
    caption: str = "",
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw RGB, truth, prediction and the signed error, prediction - truth, of a field in `unit`.

    As `depth_panel`, but that high is bright; "" is no unit.
    """
    told = "error: blue too low, red too high"
    return _signed_panel(rgb, truth, prediction, valid, value_range, error_range, FIELD_MAP, unit, told, title, caption)


def _signed_panel(
    rgb: UInt8[np.ndarray, "H W 3"],
    truth: Float[np.ndarray, "H W"],
    prediction: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
    value_range: tuple[float, float],
    error_range: float,
    colours: str,
    unit: str,
    error_label: str,
    title: str,
    caption: str,
) -> UInt8[np.ndarray, "height width 3"]:
    height, width = _tile_size(truth)
    true, predicted, mask = (resized(each, height, width) for each in (truth, prediction, valid))
    # Two infinities have no difference; NaN is hatched.
    with np.errstate(invalid="ignore"):
        error = predicted - true
    everywhere = np.ones_like(mask)
    error_limits = (-error_range, error_range)
    page, lefts = _row(
        rgb,
        [
            ("truth", colourise(true, mask, value_range, colours)),
            ("prediction", colourise(predicted, everywhere, value_range, colours)),
            (error_label, colourise(error, mask, error_limits, ERROR_MAP)),
        ],
        title,
        caption,
    )
    page.colour_bar(lefts[1], BAR_TOP, 2 * width + GAP, value_range, colours, unit)
    page.colour_bar(lefts[3], BAR_TOP, width, error_limits, ERROR_MAP, unit, signed=True)
    return page.pixels()


def normals_panel(
    rgb: UInt8[np.ndarray, "H W 3"],
    truth: Float[np.ndarray, "H W 3"],
    prediction: Float[np.ndarray, "H W 3"],
    valid: Bool[np.ndarray, "H W"],
    error_range_deg: float,
    title: str,
    caption: str = "",
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw RGB, true normals, predicted normals and the angle between them, 0 to `error_range_deg` degrees.

    Normals are in camera coordinates (x right, y down, z forward), of any length. Truth and error are hatched
    where not `valid` or where the true normal is zero.
    """
    height, width = _tile_size(truth)
    true, predicted, mask = (resized(each, height, width) for each in (truth, prediction, valid))
    mask = mask & np.any(true != 0, axis=2)
    angle_deg = _angle_deg(true, predicted)
    page, lefts = _row(
        rgb,
        [
            ("true normals", normals_to_rgb(true, mask)),
            ("prediction", normals_to_rgb(predicted, np.ones_like(mask))),
            ("angle between them", colourise(angle_deg, mask, (0.0, error_range_deg), ANGLE_MAP)),
        ],
        title,
        caption,
    )
    page.tile(_ball(), lefts[1], BAR_TOP - 2)
    words_left = lefts[1] + BALL_SIDE + 10
    page.text("red: facing right, green: facing up,", words_left, BAR_TOP + 2, 13, colour=FAINT)
    page.text("blue: facing the camera", words_left, BAR_TOP + 19, 13, colour=FAINT)
    page.colour_bar(lefts[3], BAR_TOP, width, (0.0, error_range_deg), ANGLE_MAP, "°")
    return page.pixels()


def _tile_size(map_: np.ndarray) -> tuple[int, int]:
    """Height and width of a tile in pixels: the height is fixed, the width keeps the map's proportions."""
    return TILE_HEIGHT, max(1, round(TILE_HEIGHT * map_.shape[1] / map_.shape[0]))


def _row(
    rgb: UInt8[np.ndarray, "H W 3"],
    tiles: list[tuple[str, UInt8[np.ndarray, "height width 3"]]],
    title: str,
    caption: str,
) -> tuple[Page, list[int]]:
    """Place title, RGB, labelled tiles, and the caption under the RGB; return the tiles' left edges too."""
    height, width = tiles[0][1].shape[:2]
    lefts = [MARGIN + i * (width + GAP) for i in range(len(tiles) + 1)]
    page = Page.blank(lefts[-1] + width + MARGIN, PANEL_HEIGHT)
    page.text(title, MARGIN, 14, 18, bold=True, width=page.image.width - 2 * MARGIN)
    page.text("image", lefts[0], TILE_TOP - 20, 14, colour=FAINT)
    page.picture(rgb, lefts[0], TILE_TOP, width, height)
    for (label, pixels), left in zip(tiles, lefts[1:], strict=True):
        page.text(label, left, TILE_TOP - 20, 14, colour=FAINT, width=width)
        page.tile(pixels, left, TILE_TOP)
    page.paragraph(caption, lefts[0], BAR_TOP - 2, 13, width, max_lines=2)
    return page, lefts


def _ball() -> UInt8[np.ndarray, "side side 3"]:
    """Return a ball seen from the front, coloured by its normals, on white: the key to the colours."""
    y, x = (np.mgrid[:BALL_SIDE, :BALL_SIDE] + 0.5) / BALL_SIDE * 2 - 1
    squared = x**2 + y**2
    normals = np.stack([x, y, -np.sqrt(np.maximum(1 - squared, 0))], axis=2)
    inside = squared < 1
    return np.where(inside[..., None], normals_to_rgb(normals, inside), np.uint8(255))


def _angle_deg(a: Float[np.ndarray, "H W 3"], b: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W"]:
    """Return the angle between vectors of any length in degrees; 90 where one of them is zero."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    dot = np.einsum("hwc,hwc->hw", a, b)
    lengths = np.sqrt(np.einsum("hwc,hwc->hw", a, a) * np.einsum("hwc,hwc->hw", b, b))
    cosine = np.divide(dot, lengths, out=np.zeros_like(dot), where=lengths > 0)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))
