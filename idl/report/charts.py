"""Charts, by matplotlib: one typography, one palette, and figures that belong to nobody else (no pyplot)."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter
from scipy.optimize import isotonic_regression

from idl.report.canvas import Rgb, ticks

INK, FAINT, RULE = "#212529", "#6c757d", "#dee2e6"
ACCENT, SECOND, MUTED = "#31688e", "#d08c60", "#adb5bd"
DASHED, DOTTED = (0, (4, 3)), (0, (1, 2))
# Twice the pixels of a page at 72 dots an inch: small text stays crisp.
DOTS_PER_INCH = 144
# HEAD_IN: room for title, subtitle and a line of labels above the axes.
WIDTH_IN, HEIGHT_IN, HEAD_IN = 8.0, 4.8, 0.9
# Height of a line of labels, as a share of the axes.
LABEL_GAP = 0.056
NUM_NAMED = 5
# Losses beyond so many times the best one would squeeze all others onto one line.
SHOWN_RATIO = 20.0
# From here on a logarithmic axis says more.
WIDE_RATIO = 3.0


def squared(unit: str) -> str:
    """Return the unit of a squared error: "m" becomes "m²", "ln m" "(ln m)²", and "1" (no unit) nothing."""
    if unit == "1":
        return ""
    return f"{unit}²" if unit.isalpha() else f"({unit})²"


def _measure(unit: str) -> str:
    return ", ".join(filter(None, ("mean squared error over all pixels", squared(unit))))


def _chart(
    title: str, subtitle: str, left_in: float, right_in: float, height_in: float = HEIGHT_IN, bottom_in: float = 0.6
) -> tuple[Figure, Axes]:
    """Return a white figure with title and subtitle, and axes without a frame within margins in inches."""
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DOTS_PER_INCH, facecolor="white")
    inner_width, inner_height = WIDTH_IN - left_in - right_in, height_in - bottom_in - HEAD_IN
    axes = figure.add_axes(
        (left_in / WIDTH_IN, bottom_in / height_in, inner_width / WIDTH_IN, inner_height / height_in)
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(which="both", colors=FAINT, labelsize=9, length=3, width=0.8)
    axes.set_axisbelow(True)
    # Placed by inches, so that charts of any height keep the same head.
    figure.text(0.02, 1 - 0.32 / height_in, title, fontsize=13, weight="bold", color=INK)
    figure.text(0.02, 1 - 0.57 / height_in, subtitle, fontsize=9.5, color=FAINT)
    return figure, axes


def _name_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.grid(axis="y", color=RULE, linewidth=0.7)


def _pixels(figure: Figure) -> Rgb:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def _rows(names: Sequence[str], title: str, subtitle: str, right_in: float) -> tuple[Figure, Axes]:
    """Return a chart with a row for each name, the first on top."""
    left_in, height_in = 0.45 + 0.078 * max(map(len, names)), HEAD_IN + 0.6 + 0.34 * len(names)
    figure, axes = _chart(title, subtitle, left_in, right_in, height_in, bottom_in=0.45)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names, fontsize=10, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    return figure, axes


def arms_chart(names: Sequence[str], test_loss: Sequence[float], unit: str, highlighted: str = "trained") -> Rgb:
    """Draw the test loss of every arm as horizontal bars, in the order given, with the values printed.

    unit: of the target ("m", "ln m", "1/m", or "1" for none); losses are in its square. The arm
    `highlighted` is in colour, the controls in grey. An arm without a finite loss has no bar.
    """
    losses = np.asarray(test_loss, dtype=float)
    words = [f"{loss:.3g} {squared(unit)}".strip() if np.isfinite(loss) else "none" for loss in losses]
    colours = [ACCENT if name == highlighted else MUTED for name in names]
    lengths = np.where(np.isfinite(losses), losses, 0.0)
    figure, axes = _bars(names, lengths, words, colours, "Test loss of every arm", f"{_measure(unit)}; less is better")
    axes.set_xlim(0, 1.02 * (lengths.max() or 1.0))
    return _pixels(figure)


def importance_chart(names: Sequence[str], shares: Sequence[float]) -> Rgb:
    """Draw the share of each setting in what makes a trial good, as horizontal bars, the largest first."""
    shared = sorted(zip(shares, names, strict=True), reverse=True)
    ranked, lengths = [name for _, name in shared], np.array([share for share, _ in shared])
    words = [f"{100 * share:.3g} %" for share in lengths]
    subtitle = "share of each setting in the variance of the trials' loss"
    figure, axes = _bars(ranked, lengths, words, [ACCENT] * len(ranked), "What mattered", subtitle)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    return _pixels(figure)


def _bars(
    names: Sequence[str], lengths: np.ndarray, words: Sequence[str], colours: Sequence[str], title: str, subtitle: str
) -> tuple[Figure, Axes]:
    """Return a chart with a bar for each name, and words at its end."""
    figure, axes = _rows(names, title, subtitle, right_in=1.0)
    bars = axes.barh(range(len(names)), lengths, height=0.62, color=colours)
    axes.bar_label(bars, words, padding=5, fontsize=9.5, color=INK)
    return figure, axes


def interval_chart(
    names: Sequence[str],
    estimates: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    *,
    title: str,
    subtitle: str,
    highlighted: Sequence[str] = (),
    references: Mapping[str, float] | None = None,
) -> Rgb:
    """Draw each estimate as a dot on the line of its interval, in the order given, with the values printed.

    lows, highs: bounds; one that is infinite runs to the edge of the chart. highlighted: names in colour, the others in
    grey. references: at most two values that all are held against, drawn as lines with their names above; one that is
    not finite is left out.
    """
    figure, axes = _rows(names, title, subtitle, right_in=1.9)
    marks = {name: value for name, value in (references or {}).items() if np.isfinite(value)}
    known = np.array([*estimates, *lows, *highs, *marks.values()], dtype=float)
    known = known[np.isfinite(known)] if np.isfinite(known).any() else np.array([0.0, 1.0])
    margin = 0.04 * (np.ptp(known) or abs(known[0]) or 1.0)
    first, last = known.min() - margin, known.max() + margin
    axes.set_xlim(first, last)
    # Names that would be written over each other stand side by side.
    is_near = len(marks) == 2 and np.ptp([*marks.values()]) < 0.14 * (last - first)
    sides = ("right", "left") if is_near else ("center", "center")
    for (name, value), side in zip(sorted(marks.items(), key=lambda each: each[1]), sides, strict=False):
        axes.axvline(value, color=FAINT, linewidth=1.0, linestyle=DASHED)
        axes.text(value, 1.02, name, transform=axes.get_xaxis_transform(), ha=side, fontsize=9, color=FAINT)
    for row, (name, middle, low, high) in enumerate(zip(names, estimates, lows, highs, strict=True)):
        words = "none"
        if np.isfinite(middle):
            colour = ACCENT if name in highlighted else FAINT
            axes.hlines(row, max(low, first), min(high, last), color=colour, linewidth=2.2)
            axes.plot(middle, row, color=colour, marker="o", markersize=6)
            words = f"{middle:.4g}  ({low:.4g} to {high:.4g})"
        _write_beside(axes, row, words)
    return _pixels(figure)


def _write_beside(axes: Axes, y: float, words: str) -> None:
    """Write words right of the axes at the height of a value."""
    axes.text(1.02, y, words, transform=axes.get_yaxis_transform(), va="center_baseline", fontsize=9.5, color=INK)


def per_scene_error(scenes: Sequence[str], rmse_m: Sequence[float]) -> Rgb:
    """Draw the RMSE of every scene in metres, worst first; the five worst are named beside, and the best."""
    ranked = sorted(zip(rmse_m, scenes, strict=True), key=lambda each: -each[0])
    values = [rmse for rmse, _ in ranked]
    ranks, median = range(1, len(values) + 1), float(np.median(values))
    figure, axes = _chart("Error by scene", "a dot for each scene, worst first", 0.75, right_in=2.0, height_in=3.8)
    axes.vlines(ranks, 0, values, color=RULE, linewidth=1.0)
    axes.axhline(median, color=FAINT, linewidth=1.0, linestyle=DASHED)
    axes.plot(ranks, values, "o", markersize=4.5, color=ACCENT)
    axes.set_ylim(0, 1.1 * max(values))
    axes.set_xlim(0, len(values) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _name_axes(axes, "rank of the scene", "RMSE (m)")
    # Right of the middle all dots lie under the median: there is room above the line.
    words, across = f"median {median:.3g} m", axes.get_yaxis_transform()
    axes.text(0.995, median, words, transform=across, fontsize=9, color=FAINT, ha="right", va="bottom")
    for top, heading, rows in ((1.0, "worst", ranked[:NUM_NAMED]), (0.14, "best", ranked[-1:])):
        lines = [heading, *(f"{rmse:.3f} m  {name}" for rmse, name in rows)]
        for i, words in enumerate(lines):
            colour = INK if i else FAINT
            axes.text(1.04, top - 0.085 * i, words, transform=axes.transAxes, fontsize=9, color=colour, va="top")
    return _pixels(figure)


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
) -> Rgb:
    """Draw training and cross-validated loss over k on a logarithmic axis, from loss 0.

    unit: of the target ("m", "ln m", "1/m", or "1" for none); losses are in its square.
    arms: cross-validated loss of the arms that do not depend on k (constant, null, ...), as lines across.
    smallest_k_within: the smallest k whose cross-validated loss is within 1 % of the best: a dotted line.
    """
    subtitle = "what a linear probe that reads k numbers at each cell leaves unexplained"
    figure, axes = _chart(title, subtitle, left_in=0.75, right_in=1.95)
    _name_axes(axes, "k: leading components read at each cell", _measure(unit))
    axes.set_xlim(min(k) * 0.94, max(max(k), 2 * min(k)))
    # A constant depth leaves no loss at all.
    top = 1.08 * max([*train_loss, *cv_loss, *arms.values(), test_loss_at_chosen]) or 1
    axes.set_ylim(0, top)
    _octaves(axes)
    # Between points the loss is known for no k: markers show where it was computed, if they are few.
    marker = "o" if len(k) <= 24 else ""
    axes.plot(k, train_loss, color=SECOND, linewidth=1.6, marker=marker, markersize=3)
    axes.plot(k, cv_loss, color=ACCENT, linewidth=2.2, marker=marker, markersize=4)
    axes.plot(chosen_k, test_loss_at_chosen, "D", markersize=7, color=INK, markeredgecolor="white", clip_on=False)
    lines = [("cross-validated", cv_loss[-1], ACCENT), ("training", train_loss[-1], SECOND)]
    lines.append((f"test, k = {chosen_k}", test_loss_at_chosen, INK))
    for name, loss in arms.items():
        axes.axhline(loss, color=MUTED, linewidth=1.1)
        lines.append((name, loss, FAINT))
    heights = [loss / top for _, loss, _ in lines]
    for (name, loss, colour), height, at in zip(lines, heights, spread(heights, LABEL_GAP, 0.0, 1.0), strict=True):
        leader = ([1.0, 1.02, 1.03], [height, at, at])
        axes.plot(*leader, transform=axes.transAxes, color=colour, linewidth=0.9, clip_on=False)
        words = f"{name}  {loss:.3g}"
        axes.text(1.04, at, words, transform=axes.transAxes, fontsize=9, color=colour, va="center_baseline")
    if smallest_k_within is not None:
        axes.axvline(smallest_k_within, color=FAINT, linewidth=1.0, linestyle=DOTTED)
        words, across = f"within 1 % of the best from k = {smallest_k_within}", axes.get_xaxis_transform()
        first, last = axes.get_xlim()
        side = "left" if smallest_k_within**2 < first * last else "right"
        axes.text(smallest_k_within, 1.01, words, transform=across, fontsize=8.5, color=FAINT, ha=side)
    return _pixels(figure)


def _octaves(axes: Axes) -> None:
    """Label a logarithmic axis of k by powers of two."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=14))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions as little as possible (least squares) until none is nearer than `gap` to the next.

    They keep their order, and stay within `low` to `high` where there is room. This is an isotonic regression
    of the sorted positions less i * gap.
    """
    order, steps = np.argsort(positions, kind="stable"), gap * np.arange(len(positions))
    flat = isotonic_regression(np.asarray(positions)[order] - steps).x
    result = np.empty(len(positions))
    result[order] = np.clip(flat, low, max(low, high - steps[-1])) + steps
    return result.tolist()


def search_history(loss: Sequence[float], measure: str, title: str) -> Rgb:
    """Draw the loss of every trial in the order of their numbers, and the best so far.

    loss: infinite where a trial diverged; that, and what is far above the best, is a tick at the upper edge.
    measure: what the loss is, with its unit.
    """
    losses = np.asarray(loss, dtype=float)
    numbers = np.arange(1, len(losses) + 1)
    subtitle = "a dot for each trial, a tick where it diverged or is far above; the line is the best so far"
    figure, axes = _chart(title, subtitle, left_in=0.85, right_in=1.0)
    _name_axes(axes, "trial", measure)
    _scale_losses(axes, losses[np.isfinite(losses)])
    axes.set_xlim(0, len(losses) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    top = axes.get_ylim()[1]
    is_inside = losses <= top
    axes.plot(numbers[is_inside], losses[is_inside], "o", markersize=4.5, color=ACCENT)
    axes.plot(numbers[~is_inside], np.full((~is_inside).sum(), top), "|", markersize=9, color=MUTED, clip_on=False)
    best = np.minimum.accumulate(losses)
    known = np.isfinite(best)
    axes.step(numbers[known], best[known], where="post", color=SECOND, linewidth=1.8)
    if known.any():
        _write_beside(axes, best[-1], f"{best[-1]:.4g}")
    return _pixels(figure)


def _scale_losses(axes: Axes, losses: np.ndarray) -> None:
    """An axis from below the best loss to what is not far above it; logarithmic where that is a wide range."""
    best, worst = _shown_range(losses) if len(losses) else (1.0, 2.0)
    if worst > WIDE_RATIO * best > 0:
        axes.set_yscale("log")
        axes.set_ylim(best / 1.1, worst * 1.1)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:.3g}")
    else:
        margin = 0.08 * max(worst - best, 0.02 * best, 1e-12)
        axes.set_ylim(best - margin, max(worst, best + 10 * margin) + margin)


def _shown_range(losses: np.ndarray) -> tuple[float, float]:
    best = float(losses.min())
    return best, min(float(losses.max()), SHOWN_RATIO * best)


def search_plane(k: Sequence[int], lr: Sequence[float], loss: Sequence[float], measure: str) -> Rgb:
    """Draw every trial at its k and learning rate, coloured by its loss; the best is ringed.

    Trials that diverged are crosses. The arguments are as for `search_history`.
    """
    losses, x, y = (np.asarray(each, dtype=float) for each in (loss, k, lr))
    is_sound = np.isfinite(losses)
    figure, axes = _chart("Loss over k and learning rate", "a dot for each trial; crosses diverged", 0.85, 1.35)
    _name_axes(axes, "k: leading components read at each cell", "learning rate")
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_yscale("log")
    axes.plot(x[~is_sound], y[~is_sound], "x", markersize=5, color=MUTED)
    if is_sound.any():
        best, worst = _shown_range(losses[is_sound])
        worst = max(worst, best + 1e-12)
        norm = LogNorm(best, worst) if best > 0 else Normalize(best, worst)
        dots = axes.scatter(x[is_sound], y[is_sound], c=losses[is_sound], cmap="viridis", norm=norm, s=36, zorder=3)
        at = losses.argmin()
        axes.plot(x[at], y[at], "o", markersize=12, color=INK, markerfacecolor="none", zorder=4)
        box = axes.get_position()
        bar = figure.add_axes((box.x1 + 0.02, box.y0, 0.018, box.height))
        figure.colorbar(dots, cax=bar, ticks=ticks(best, worst), format="{x:.4g}")
        bar.minorticks_off()
        bar.tick_params(colors=FAINT, labelsize=8.5, length=3)
        bar.set_title(measure, fontsize=8.5, color=FAINT, loc="left", pad=8)
    _octaves(axes)
    return _pixels(figure)
