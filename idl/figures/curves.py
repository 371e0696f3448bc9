"""Loss over k: how much of a target the leading directions of a feature space hold."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from idl.figures.chart import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    RULE,
    SECOND,
    blank_chart,
    place,
    rendered,
    spread,
    squared,
    with_unit,
)

WIDTH_IN, HEIGHT_IN = 8.0, 4.8
# Height of a line of labels, as a share of the axes.
LABEL_GAP = 0.056


def loss_over_k(
    k: Sequence[int],
    train_loss: Sequence[float],
    cv_loss: Sequence[float],
    chosen_k: int,
    test_loss_at_chosen: float,
    arms: Mapping[str, float],
    smallest_k_within: int | None,
    unit: str,
    title: str = "Loss over k",
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw training and cross-validated loss over k on a logarithmic axis, from loss 0.

    unit: of the target ("m", "ln m", "1/m", or "1" for none); losses are in its square.
    arms: cross-validated loss of the arms that do not depend on k (constant, null, ...), as lines across.
    smallest_k_within: the smallest k whose cross-validated loss is within 1 % of the best: a dotted line.
    """
    square = squared(unit)
    figure, axes = blank_chart(
        WIDTH_IN, HEIGHT_IN, title, "what a linear probe that reads k numbers at each cell leaves unexplained"
    )
    place(figure, axes, left_in=0.75, right_in=1.95)
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(k) * 0.94, max(max(k), 2 * min(k)))
    axes.set_ylim(0, 1.08 * max([*train_loss, *cv_loss, *arms.values(), test_loss_at_chosen]))
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=14))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("k: leading components read at each cell", fontsize=9.5, color=INK)
    axes.set_ylabel(", ".join(filter(None, ("mean squared error over all pixels", square))), fontsize=9.5, color=INK)
    axes.grid(axis="y", color=RULE, linewidth=0.7)

    for loss in arms.values():
        axes.axhline(loss, color=MUTED, linewidth=1.1)
    # Between points the loss is known for no k: markers show where it was computed, if they are few.
    marker = "o" if len(k) <= 24 else ""
    axes.plot(k, train_loss, color=SECOND, linewidth=1.6, marker=marker, markersize=3)
    axes.plot(k, cv_loss, color=ACCENT, linewidth=2.2, marker=marker, markersize=4)
    if smallest_k_within is not None:
        _mark_smallest(axes, smallest_k_within)
    _mark_chosen(axes, chosen_k, test_loss_at_chosen, square)
    _label_right(
        axes,
        [
            ("cross-validated", cv_loss[-1], ACCENT),
            ("training", train_loss[-1], SECOND),
            *((name, loss, FAINT) for name, loss in arms.items()),
        ],
    )
    return rendered(figure)


def _mark_smallest(axes: Axes, k: int) -> None:
    """Draw a dotted line at the smallest k that is as good as the best, labelled above the axes."""
    axes.axvline(k, color=FAINT, linewidth=1.0, linestyle=(0, (1, 2)))
    axes.text(
        k,
        1.01,
        f"within 1 % of the best from k = {k}",
        transform=axes.get_xaxis_transform(),
        fontsize=8.5,
        color=FAINT,
        ha=_side(axes, k),
        va="bottom",
    )


def _mark_chosen(axes: Axes, k: int, test_loss: float, unit: str) -> None:
    """Draw a diamond at the test loss, with words where a falling curve leaves room.

    That is right of it and above in the left half; left of it and below in the right half, unless the axis is
    too near.
    """
    side = _side(axes, k)
    is_below = side == "right" and test_loss > 0.14 * axes.get_ylim()[1]
    axes.plot([k], [test_loss], marker="D", markersize=7, color=INK, markeredgecolor="white", zorder=5)
    axes.annotate(
        f"test at k = {k}: {with_unit(test_loss, unit)}",
        (k, test_loss),
        xytext=(0, -17 if is_below else 12),
        textcoords="offset points",
        fontsize=9,
        color=INK,
        ha=side,
        va="top" if is_below else "bottom",
        zorder=6,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
    )


def _side(axes: Axes, k: int) -> str:
    """Tell how text at k has room: it starts there in the left half, and ends there in the right."""
    first, last = axes.get_xlim()
    return "left" if k**2 < first * last else "right"


def _label_right(axes: Axes, lines: Sequence[tuple[str, float, str]]) -> None:
    """Write name, value at the right end of every line, moved apart where they would touch."""
    top = axes.get_ylim()[1]
    heights = [loss / top for _, loss, _ in lines]
    moved = spread(heights, LABEL_GAP, 0.0, 1.0)
    for (name, loss, colour), height, at in zip(lines, heights, moved, strict=True):
        leader = ([1.0, 1.02, 1.03], [height, at, at])
        axes.plot(*leader, transform=axes.transAxes, color=colour, linewidth=0.9, clip_on=False)
        words = f"{name}  {loss:.3g}"
        axes.text(1.04, at, words, transform=axes.transAxes, fontsize=9, color=colour, va="center_baseline")
