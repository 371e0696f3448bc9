"""What the charts share: one typography, one palette, and a matplotlib figure that belongs to nobody else."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, FAINT, RULE = "#212529", "#6c757d", "#dee2e6"
ACCENT, SECOND, MUTED = "#31688e", "#d08c60", "#adb5bd"
# Twice the pixels of a page at 72 dots an inch: small text stays crisp.
DOTS_PER_INCH = 144
# Room for title, subtitle and a line of labels above the axes.
HEAD_IN = 0.9


def blank_chart(width_in: float, height_in: float, title: str, subtitle: str) -> tuple[Figure, Axes]:
    """Return a white figure with one pair of axes, title and subtitle above them, and no frame."""
    figure = Figure(figsize=(width_in, height_in), dpi=DOTS_PER_INCH, facecolor="white")
    axes = figure.add_subplot()
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=FAINT, labelsize=9, length=3, width=0.8)
    axes.set_axisbelow(True)
    # Placed by inches, so that charts of any height keep the same head.
    figure.text(0.16 / width_in, 1 - 0.32 / height_in, title, fontsize=13, weight="bold", color=INK)
    figure.text(0.16 / width_in, 1 - 0.57 / height_in, subtitle, fontsize=9.5, color=FAINT)
    return figure, axes


def place(figure: Figure, axes: Axes, *, left_in: float, right_in: float, bottom_in: float = 0.6) -> None:
    """Give the axes all of the figure but these margins, in inches, and the head."""
    width, height = figure.get_size_inches()
    inner_width, inner_height = width - left_in - right_in, height - bottom_in - HEAD_IN
    axes.set_position((left_in / width, bottom_in / height, inner_width / width, inner_height / height))


def rendered(figure: Figure) -> UInt8[np.ndarray, "H W 3"]:
    """Draw the figure and return its pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def write_beside(axes: Axes, row: int, words: str) -> None:
    """Write words right of the axes, at the height of a row."""
    axes.annotate(
        words,
        (1.0, row),
        xycoords=("axes fraction", "data"),
        xytext=(6, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=9.5,
        color=INK,
        annotation_clip=False,
    )


def squared(unit: str) -> str:
    """Return the unit of a squared error: "m" becomes "m²", "ln m" "(ln m)²", and "1" (no unit) nothing."""
    if unit == "1":
        return ""
    return f"{unit}²" if unit.isalpha() else f"({unit})²"


def with_unit(value: float, unit: str) -> str:
    """Return three digits and the unit."""
    return f"{value:.3g} {unit}".strip()


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions as little as possible (least squares) until none is nearer than `gap` to the next.

    They keep their order, and stay within `low` to `high` where there is room. This is an isotonic regression
    of the sorted positions less i * gap, solved by pooling adjacent violators.
    """
    order = np.argsort(positions, kind="stable")
    pools: list[tuple[float, int]] = []
    for i, each in enumerate(order):
        mean, count = positions[each] - i * gap, 1
        while pools and pools[-1][0] > mean:
            before, size = pools.pop()
            mean, count = (before * size + mean * count) / (size + count), size + count
        pools.append((mean, count))
    flat = np.concatenate([np.full(count, mean) for mean, count in pools]) if pools else np.zeros(0)
    room = max(low, high - (len(positions) - 1) * gap)
    result = np.empty(len(positions))
    result[order] = np.clip(flat, low, room) + gap * np.arange(len(positions))
    return result.tolist()
