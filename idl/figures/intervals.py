"""Estimates with their intervals: a line an arm, a comparison or a cue."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from idl.figures.chart import ACCENT, FAINT, HEAD_IN, INK, RULE, blank_chart, place, rendered, write_beside

WIDTH_IN = 8.0


def interval_chart(
    names: Sequence[str],
    estimates: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    *,
    title: str,
    subtitle: str,
    highlighted: Sequence[str] = (),
    reference: float | None = None,
    reference_name: str = "",
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw each estimate as a dot on the line of its interval, in the order given, with the values printed.

    lows, highs: bounds; one that is infinite runs to the edge of the chart. highlighted: names in colour, the others in
    grey. reference: a value that all are held against, drawn as a line with `reference_name` above it.
    """
    height_in = HEAD_IN + 0.6 + 0.34 * len(names)
    figure, axes = blank_chart(WIDTH_IN, height_in, title, subtitle)
    place(figure, axes, left_in=0.45 + 0.078 * max(map(len, names)), right_in=1.9, bottom_in=0.45)
    middle, low, high = (np.asarray(values, dtype=float) for values in (estimates, lows, highs))
    finite = np.concatenate([values[np.isfinite(values)] for values in (middle, low, high)])
    if reference is not None:
        finite = np.append(finite, reference)
    first, last = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    margin = 0.04 * (last - first or abs(last) or 1.0)
    axes.set_xlim(first - margin, last + margin)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names, fontsize=10, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    if reference is not None:
        axes.axvline(reference, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.annotate(
            reference_name,
            (reference, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=FAINT,
        )
    for row, name in enumerate(names):
        colour = ACCENT if name in highlighted else FAINT
        if not np.isfinite(middle[row]):
            words = "none"
        else:
            ends = np.clip(
                np.nan_to_num(np.array([low[row], high[row]]), posinf=1e300, neginf=-1e300), *axes.get_xlim()
            )
            axes.plot(ends, [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
            axes.plot([middle[row]], [row], color=colour, marker="o", markersize=6)
            words = f"{middle[row]:.3g}  ({low[row]:.3g} to {high[row]:.3g})"
        write_beside(axes, row, words)
    return rendered(figure)
