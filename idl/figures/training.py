"""What a network under training makes of a few images."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from idl.figures.canvas import Colour, Page
from idl.figures.colour import FAINT, INK

SIDE = 192
MARGIN, GAP, LABEL_WIDTH, LINE = 16, 8, 110, 17
COLUMNS = 2
# By whether a label was said, and whether it is true. The colour is not all that tells them apart.
MARKS: dict[tuple[bool, bool], tuple[str, str, Colour]] = {
    (True, True): ("", "found", INK),
    (False, True): ("\N{MINUS SIGN} ", "missed", (200, 60, 40)),
    (True, False): ("+ ", "not there", (40, 90, 180)),
}


def reconstructions(
    rgb: Sequence[UInt8[np.ndarray, "H W 3"]], made: Sequence[UInt8[np.ndarray, "H W 3"]]
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw images in one row, and under each what came back of it."""
    page = _page(len(rgb), 2 * SIDE + GAP)
    for row, (label, pictures) in enumerate((("image", rgb), ("reconstruction", made))):
        top = MARGIN + row * (SIDE + GAP)
        page.text(label, MARGIN + LABEL_WIDTH - 10, top + SIDE // 2, 13, colour=FAINT, anchor="rm")
        for column, picture in enumerate(pictures):
            page.picture(picture, _left(column), top, SIDE, SIDE)
    return page.pixels()


def recognised(
    rgb: Sequence[UInt8[np.ndarray, "H W 3"]],
    said: Bool[np.ndarray, "images labels"],
    truth: Bool[np.ndarray, "images labels"],
    names: Sequence[str],
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw images in one row, and under each its labels: found, missed, and said of what is not there.

    A label has one place, so that steps can be compared; it is blank where it is rightly not said.
    """
    rows = -(-len(names) // COLUMNS)
    top = MARGIN + SIDE + GAP
    page = _page(len(rgb), SIDE + GAP + LINE * max(rows, len(MARKS)))
    for line, (sign, words, colour) in enumerate(MARKS.values()):
        page.text(sign + words, MARGIN + LABEL_WIDTH - 10, top + line * LINE, 13, colour=colour, anchor="ra")
    for column, picture in enumerate(rgb):
        page.picture(picture, _left(column), MARGIN, SIDE, SIDE)
        for index, name in enumerate(names):
            mark = MARKS.get((bool(said[column, index]), bool(truth[column, index])))
            if mark is not None:
                x = _left(column) + index // rows * (SIDE // COLUMNS)
                y = top + index % rows * LINE
                page.text(mark[0] + name, x, y, 13, colour=mark[2], width=SIDE // COLUMNS - 4)
    return page.pixels()


def _page(columns: int, height: int) -> Page:
    return Page.blank(_left(columns) - GAP + MARGIN, height + 2 * MARGIN)


def _left(column: int) -> int:
    return MARGIN + LABEL_WIDTH + column * (SIDE + GAP)
