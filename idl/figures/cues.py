"""What becomes of a probe when a cue is removed from its images: losses as bars, and pictures."""

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from idl.figures.canvas import Page
from idl.figures.chart import ACCENT, FAINT, HEAD_IN, INK, MUTED, RULE, blank_chart, place, rendered, write_beside
from idl.figures.colour import DEPTH_MAP, FIELD_MAP, colourise, normals_to_rgb, resized
from idl.figures.colour import FAINT as FAINT_RGB

WIDTH_IN = 8.0
TILE_HEIGHT = 128
MARGIN, GAP, LABEL_WIDTH, HEAD, NAME, FOOT = 16, 6, 84, 78, 20, 52


def cue_bars(
    names: Sequence[str],
    ratios: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    constant: float,
    title: str,
    subtitle: str,
    highlighted: Collection[str] = (),
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw a bar a kind of edit, from 1 to its loss over that of the clean images, with its interval.

    lows, highs: ends of intervals; one that is infinite runs to the edge. constant: the ratio of a prediction that
    knows nothing of the image, drawn as a line. highlighted: names in colour, the others in grey.
    """
    figure, axes = blank_chart(WIDTH_IN, HEAD_IN + 0.6 + 0.36 * len(names), title, subtitle)
    place(figure, axes, left_in=0.45 + 0.078 * max(map(len, names)), right_in=1.9, bottom_in=0.45)
    known = np.array([1.0, constant, *ratios, *lows, *highs], dtype=float)
    known = known[np.isfinite(known)]
    margin = 0.04 * (known.max() - known.min() or 1.0)
    axes.set_xlim(max(0.0, known.min() - margin), known.max() + margin)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names, fontsize=10, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    first, last = axes.get_xlim()
    marks = [(1.0, "clean")]
    if np.isfinite(constant):
        # Side by side where both would be written over each other.
        marks.append((constant, "constant"))
    for place_x, words in marks:
        near = abs(constant - 1.0) < 0.14 * (last - first)
        side = "center" if not near else ("right" if (place_x == 1.0) == (constant >= 1.0) else "left")
        axes.axvline(place_x, color=FAINT, linewidth=1.0, linestyle="-" if words == "clean" else (0, (4, 3)))
        axes.annotate(
            words,
            (place_x, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha=side,
            fontsize=9,
            color=FAINT,
        )
    for row, name in enumerate(names):
        colour = ACCENT if name in highlighted else MUTED
        if np.isfinite(ratios[row]):
            axes.barh(row, ratios[row] - 1.0, left=1.0, height=0.5, color=colour)
        ends = np.clip([lows[row], highs[row]], first, last)
        axes.plot(ends, [row, row], color=INK, linewidth=1.2, solid_capstyle="butt")
        write_beside(axes, row, f"{_digits(ratios[row])}  ({_digits(lows[row])} to {_digits(highs[row])})")
    return rendered(figure)


def cue_strip(
    labels: Sequence[str],
    names: Sequence[str],
    rgb: Sequence[UInt8[np.ndarray, "edits H W 3"]],
    predictions: Sequence[Float[np.ndarray, "edits out H W"]],
    kind: Literal["depth", "normals", "field"],
    limits: tuple[float, float],
    unit: str,
    title: str,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw each image under every edit in a row, and beneath each what the probe makes of it.

    labels: of the edits. names, rgb, predictions: one an image; predictions in `unit`, coloured over `limits`, or
    normals, of which neither counts. Of several outputs of a field the first is shown.
    """
    height, width = TILE_HEIGHT, max(1, round(TILE_HEIGHT * rgb[0].shape[2] / rgb[0].shape[1]))
    band = NAME + 2 * (height + GAP) + 8
    page = Page.blank(
        2 * MARGIN + LABEL_WIDTH + len(labels) * (width + GAP) - GAP, HEAD + len(names) * band + FOOT - NAME
    )
    page.text(title, MARGIN, 14, 18, bold=True, width=page.image.width - 2 * MARGIN)
    lefts = [MARGIN + LABEL_WIDTH + column * (width + GAP) for column in range(len(labels))]
    for left, label in zip(lefts, labels, strict=True):
        page.text(label, left, HEAD - NAME - 10, 14, colour=FAINT_RGB, width=width)
    for band_number, (name, pictures, values) in enumerate(zip(names, rgb, predictions, strict=True)):
        top = HEAD - 10 + band_number * band
        page.text(name, lefts[0], top, 12, colour=FAINT_RGB, width=page.image.width - lefts[0] - MARGIN)
        top += NAME
        for row, word in enumerate(("image", "prediction")):
            middle = top + row * (height + GAP) + height // 2
            page.text(word, MARGIN + LABEL_WIDTH - 10, middle, 13, colour=FAINT_RGB, anchor="rm")
        for left, picture, prediction in zip(lefts, pictures, values, strict=True):
            page.picture(picture, left, top, width, height)
            page.tile(_coloured(prediction, kind, limits, height, width), left, top + height + GAP)
    if kind != "normals":
        foot = page.image.height - FOOT + 6
        page.colour_bar(lefts[0], foot, min(360, page.image.width - lefts[0] - MARGIN), limits, _map(kind), unit)
    return page.pixels()


def _digits(ratio: float) -> str:
    # Of a weak probe, a thousandth counts.
    return f"{ratio:.3f}" if ratio < 10 else f"{ratio:.3g}"


def _coloured(
    values: Float[np.ndarray, "out H W"], kind: str, limits: tuple[float, float], height: int, width: int
) -> UInt8[np.ndarray, "height width 3"]:
    everywhere = np.ones((height, width), bool)
    if kind == "normals":
        return normals_to_rgb(resized(np.moveaxis(values, 0, -1), height, width), everywhere)
    return colourise(resized(values[0], height, width), everywhere, limits, _map(kind))


def _map(kind: str) -> str:
    return DEPTH_MAP if kind == "depth" else FIELD_MAP
