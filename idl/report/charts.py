"""Charts, by matplotlib: one typography, one palette, and figures that belong to nobody else (no pyplot)."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from scipy.optimize import isotonic_regression

from idl.report.canvas import Rgb, ticks

INK, FAINT, RULE = "#212529", "#6c757d", "#dee2e6"
ACCENT, SECOND, MUTED = "#31688e", "#d08c60", "#adb5bd"
# Twice the pixels of a page at 72 dots an inch: small text stays crisp.
DOTS_PER_INCH = 144
# HEAD_IN: room for title and subtitle.
WIDTH_IN, HEIGHT_IN, HEAD_IN = 8.0, 4.8, 0.75
# Height of a line of labels, as a share of the axes.
LABEL_GAP = 0.056
NUM_WORST = 10
# Losses beyond so many times the best one would squeeze all others onto one line.
SHOWN_RATIO = 20.0
# From here on a logarithmic axis says more.
WIDE_RATIO = 3.0
K_LABEL = "k: leading components read at each cell"


def squared(unit: str) -> str:
    """Return the unit of a squared error: "m" becomes "m²", "ln m" "(ln m)²", and "1" (no unit) nothing."""
    if unit == "1":
        return ""
    return f"{unit}²" if unit.isalpha() else f"({unit})²"


def _measure(unit: str) -> str:
    return f"mean squared error over all pixels, {squared(unit)}".removesuffix(", ")


def _chart(
    title: str, subtitle: str, x: str = "", y: str = "", height_in: float = HEIGHT_IN, grid: str = "y"
) -> tuple[Figure, Axes]:
    """Return a white figure with title and subtitle, and axes without a frame that leave room for what is beside."""
    figure = Figure((WIDTH_IN, height_in), DOTS_PER_INCH, facecolor="white", layout="constrained")
    figure.set_layout_engine("constrained", rect=(0.01, 0.01, 0.98, 0.98 - HEAD_IN / height_in))
    figure.text(0.02, 1 - 0.32 / height_in, title, fontsize=13, weight="bold", color=INK)
    figure.text(0.02, 1 - 0.57 / height_in, subtitle, fontsize=9.5, color=FAINT)
    axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(which="both", colors=FAINT, labelsize=9, length=3, width=0.8)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=RULE, linewidth=0.7)  # pyright: ignore[reportArgumentType]
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    return figure, axes


def _pixels(figure: Figure) -> Rgb:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def _bars(
    values: Mapping[str, float], title: str, subtitle: str, unit: str, highlighted: Sequence[str], end: float = 0.0
) -> Rgb:
    """Draw a horizontal bar for each name, the first on top, with its value printed; none where it is not finite.

    highlighted: names in colour, the others are grey. end: of the axis; 0: right behind the longest bar.
    """
    figure, axes = _chart(title, subtitle, height_in=HEAD_IN + 0.6 + 0.34 * len(values), grid="x")
    rows, lengths = range(len(values)), [value if np.isfinite(value) else 0.0 for value in values.values()]
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_yticks(rows, [*values], fontsize=10, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, end or 1.02 * max(lengths) or 1.0)
    bars = axes.barh(rows, lengths, height=0.62, color=[ACCENT if name in highlighted else MUTED for name in values])
    words = [f"{value:.3g} {unit}" if np.isfinite(value) else "none" for value in values.values()]
    axes.bar_label(bars, words, padding=5, fontsize=9.5, color=INK)
    return _pixels(figure)


def arms_chart(test_loss: Mapping[str, float], unit: str, highlighted: str) -> Rgb:
    """Draw the test loss of every arm by its name; the arm `highlighted` in colour.

    unit: of the target ("m", "ln m", "1/m", or "1" for none); losses are in its square.
    """
    return _bars(test_loss, "Test loss of every arm", f"{_measure(unit)}; less is better", squared(unit), [highlighted])


def importance_chart(names: Sequence[str], shares: Sequence[float]) -> Rgb:
    """Draw the share of each setting in what makes a trial good, the largest first."""
    values = {name: 100 * share for share, name in sorted(zip(shares, names, strict=True), reverse=True)}
    return _bars(values, "What mattered", "share of each setting in the variance of the trials' loss", "%", names, 100)


def per_scene_error(rmse_m: Mapping[str, float]) -> Rgb:
    """Draw the RMSE of scenes in metres: the worst ten, the median of all and the best."""
    ranked = sorted(rmse_m, key=rmse_m.__getitem__, reverse=True)
    worst = ranked[: max(1, min(NUM_WORST, len(ranked) - 1))]
    rows = {name: rmse_m[name] for name in worst} | {"median": float(np.median([*rmse_m.values()]))}
    rows |= {name: rmse_m[name] for name in ranked[-1:]}
    subtitle = f"RMSE of the worst of {len(ranked)} scenes, the median of all, and the best"
    return _bars(rows, "Error by scene", subtitle, "m", ranked)


def loss_over_k(
    k: Sequence[int],
    train_loss: Sequence[float],
    cv_loss: Sequence[float],
    chosen_k: int,
    test_loss_at_chosen: float,
    arms: Mapping[str, float],
    smallest_k_within: int,
    unit: str,
    title: str = "Loss over k",
) -> Rgb:
    """Draw training and cross-validated loss over k on a logarithmic axis, from loss 0.

    unit: of the target ("m", "ln m", "1/m", or "1" for none); losses are in its square.
    arms: cross-validated loss of the arms that do not depend on k (constant, null, ...), as lines across.
    smallest_k_within: the smallest k whose cross-validated loss is within 1 % of the best: a dotted line.
    """
    subtitle = "what a linear probe that reads k numbers at each cell leaves unexplained"
    figure, axes = _chart(title, subtitle, K_LABEL, _measure(unit))
    first, last = axes.set_xlim(min(k) * 0.94, max(max(k), 2 * min(k)))
    # A constant depth leaves no loss at all.
    top = 1.08 * max([*train_loss, *cv_loss, *arms.values(), test_loss_at_chosen]) or 1
    axes.set_ylim(0, top)
    _octaves(axes)
    # Between points the loss is known for no k: markers show where it was computed, if they are few.
    marker = "o" if len(k) <= 24 else ""
    axes.plot(k, train_loss, color=SECOND, linewidth=1.6, marker=marker, markersize=3)
    axes.plot(k, cv_loss, color=ACCENT, linewidth=2.2, marker=marker, markersize=4)
    axes.plot(chosen_k, test_loss_at_chosen, "D", markersize=7, color=INK, markeredgecolor="white", clip_on=False)
    for loss in arms.values():
        axes.axhline(loss, color=MUTED, linewidth=1.1)
    lines = [("cross-validated", cv_loss[-1], ACCENT), ("training", train_loss[-1], SECOND)]
    lines += [(f"test, k = {chosen_k}", test_loss_at_chosen, INK), *((*each, FAINT) for each in arms.items())]
    heights = [loss / top for _, loss, _ in lines]
    for (name, loss, colour), height, at in zip(lines, heights, spread(heights, LABEL_GAP, 0.0, 1.0), strict=True):
        leader = ([1.0, 1.02, 1.03], [height, at, at])
        axes.plot(*leader, transform=axes.transAxes, color=colour, linewidth=0.9, clip_on=False)
        words = f"{name}  {loss:.3g}"
        axes.text(1.04, at, words, transform=axes.transAxes, fontsize=9, color=colour, va="center_baseline")
    axes.axvline(smallest_k_within, color=FAINT, linewidth=1.0, linestyle=":")
    words, across = f"within 1 % of the best from k = {smallest_k_within}", axes.get_xaxis_transform()
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
    losses, numbers = np.asarray(loss, dtype=float), np.arange(1, len(loss) + 1)
    subtitle = "a dot for each trial, a tick where it diverged or is far above; the line is the best so far"
    figure, axes = _chart(title, subtitle, "trial", measure)
    best, worst = _shown_range(losses)
    if worst > WIDE_RATIO * best > 0:
        axes.set_yscale("log")
        top = axes.set_ylim(best / 1.1, worst * 1.1)[1]
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:.3g}")
    else:
        margin = 0.08 * max(worst - best, 0.02 * best, 1e-12)
        top = axes.set_ylim(best - margin, max(worst, best + 10 * margin) + margin)[1]
    axes.set_xlim(0, len(losses) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    is_inside = losses <= top
    axes.plot(numbers[is_inside], losses[is_inside], "o", markersize=4.5, color=ACCENT)
    outside = numbers[~is_inside]
    axes.plot(outside, np.full(len(outside), top), "|", markersize=9, color=MUTED, clip_on=False, in_layout=False)
    so_far = np.minimum.accumulate(losses)
    axes.step(numbers, np.where(np.isfinite(so_far), so_far, np.nan), where="post", color=SECOND, linewidth=1.8)
    if np.isfinite(so_far[-1]):
        across, words = axes.get_yaxis_transform(), f"{so_far[-1]:.4g}"
        axes.text(1.02, so_far[-1], words, transform=across, va="center_baseline", fontsize=9.5, color=INK)
    return _pixels(figure)


def _shown_range(losses: np.ndarray) -> tuple[float, float]:
    """Return the best loss, and the worst that is not far above it."""
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        return 1.0, 2.0
    return float(finite.min()), float(min(finite.max(), SHOWN_RATIO * finite.min()))


def search_plane(k: Sequence[int], lr: Sequence[float], loss: Sequence[float], measure: str) -> Rgb:
    """Draw every trial at its k and learning rate, coloured by its loss; the best is ringed.

    Trials that diverged are crosses. The arguments are as for `search_history`.
    """
    losses, x, y = (np.asarray(each, dtype=float) for each in (loss, k, lr))
    is_sound, (best, worst) = np.isfinite(losses), _shown_range(losses)
    subtitle = "a dot for each trial; crosses diverged"
    figure, axes = _chart("Loss over k and learning rate", subtitle, K_LABEL, "learning rate", grid="both")
    axes.set_yscale("log")
    axes.plot(x[~is_sound], y[~is_sound], "x", markersize=5, color=MUTED)
    if is_sound.any():
        worst = max(worst, best + 1e-12)
        norm = (LogNorm if best > 0 else Normalize)(best, worst)
        dots = axes.scatter(x[is_sound], y[is_sound], c=losses[is_sound], cmap="viridis", norm=norm, s=36, zorder=3)
        at = losses.argmin()
        axes.plot(x[at], y[at], "o", markersize=12, color=INK, markerfacecolor="none", zorder=4)
        bar = figure.colorbar(dots, ax=axes, aspect=35, pad=0.03, ticks=ticks(best, worst), format="{x:.4g}")
        bar.ax.minorticks_off()
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        bar.ax.tick_params(colors=FAINT, labelsize=8.5, length=3)
        bar.set_label(measure, fontsize=9.5, color=INK)
    _octaves(axes)
    return _pixels(figure)
