"""One number an arm, or a scene: bars and ranks."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from idl.figures.chart import (
    ACCENT,
    FAINT,
    HEAD_IN,
    INK,
    MUTED,
    RULE,
    blank_chart,
    place,
    rendered,
    squared,
    with_unit,
)

WIDTH_IN = 8.0
NUM_NAMED = 5


def arms_chart(
    names: Sequence[str],
    test_loss: Sequence[float],
    unit: str,
    title: str = "Test loss of every arm",
    highlighted: str = "trained",
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the test loss of every arm as horizontal bars, in the order given, with the values printed.

    unit: of the target ("m", "ln m", "1/m", or "1" for none); losses are in its square. The arm
    `highlighted` is in colour, the controls in grey. An arm without a finite loss has no bar.
    """
    square = squared(unit)
    height_in = HEAD_IN + 0.55 + 0.34 * len(names)
    measure = ", ".join(filter(None, ("mean squared error over all pixels", square)))
    figure, axes = blank_chart(WIDTH_IN, height_in, title, f"{measure}; less is better")
    place(figure, axes, left_in=0.45 + 0.078 * max(map(len, names)), right_in=1.0, bottom_in=0.45)
    losses = np.asarray(test_loss, dtype=float)
    known = np.isfinite(losses)
    rows = np.arange(len(names))
    colours = [ACCENT if name == highlighted else MUTED for name in names]
    axes.barh(rows, np.where(known, losses, 0.0), height=0.62, color=colours)
    axes.set_xlim(0, 1.02 * max(losses[known], default=1.0))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(rows, names, fontsize=10, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    for row, loss in enumerate(losses):
        words = with_unit(float(loss), square) if known[row] else "none"
        axes.annotate(
            words,
            (loss if known[row] else 0.0, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=9.5,
            color=INK,
            annotation_clip=False,
        )
    return rendered(figure)


def per_scene_error(
    scenes: Sequence[str], rmse_m: Sequence[float], title: str = "Error by scene"
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the RMSE of every scene in metres, worst first; the five worst are named beside, and the best."""
    order = np.argsort(-np.asarray(rmse_m, dtype=float), kind="stable")
    values = np.asarray(rmse_m, dtype=float)[order]
    ranked = [(scenes[int(i)], float(rmse_m[int(i)])) for i in order]
    ranks = np.arange(1, len(values) + 1)
    median = float(np.median(values))
    figure, axes = blank_chart(WIDTH_IN, 3.8, title, "a dot for each scene, worst first")
    place(figure, axes, left_in=0.75, right_in=2.0)
    axes.vlines(ranks, 0, values, color=RULE, linewidth=1.0)
    axes.axhline(median, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.plot(ranks, values, linestyle="", marker="o", markersize=4.5, color=ACCENT)
    axes.set_ylim(0, 1.1 * float(values.max()))
    axes.set_xlim(0, len(values) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("rank of the scene", fontsize=9.5, color=INK)
    axes.set_ylabel("RMSE (m)", fontsize=9.5, color=INK)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    # Right of the middle all dots lie under the median: there is room above the line.
    axes.text(
        0.995,
        median,
        f"median {median:.3g} m",
        transform=axes.get_yaxis_transform(),
        fontsize=9,
        color=FAINT,
        ha="right",
        va="bottom",
    )
    _list_beside(axes, 1.0, "worst", ranked[:NUM_NAMED])
    _list_beside(axes, 0.14, "best", ranked[-1:])
    return rendered(figure)


def _list_beside(axes: Axes, top: float, heading: str, rows: Sequence[tuple[str, float]]) -> None:
    """Write a heading and name, value lines right of the axes, from height `top` (share of the axes) down."""
    axes.text(1.04, top, heading, transform=axes.transAxes, fontsize=9, color=FAINT, va="top")
    for i, (name, rmse) in enumerate(rows, start=1):
        line = f"{rmse:.3f} m  {name}"
        axes.text(1.04, top - 0.085 * i, line, transform=axes.transAxes, fontsize=9, color=INK, va="top")
