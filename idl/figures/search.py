"""A search: its trials one after the other, where in the space they lie, what mattered, and what one has learned."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from idl.figures.canvas import Page
from idl.figures.chart import (
    ACCENT,
    FAINT,
    HEAD_IN,
    INK,
    MUTED,
    RULE,
    SECOND,
    blank_chart,
    place,
    rendered,
    with_unit,
)
from idl.figures.colour import DEPTH_MAP, colourise, normals_to_rgb, resized
from idl.figures.colour import FAINT as FAINT_RGB

WIDTH_IN, HEIGHT_IN = 8.0, 4.8
# Losses beyond so many times the best one would squeeze all others onto one line.
SHOWN_RATIO = 20.0
# From here on a logarithmic axis says more.
WIDE_RATIO = 3.0
TILE_SIDE, GAP, LABEL_WIDTH, TITLE_HEIGHT = 112, 6, 78, 30
NUM_ROWS = 3


def search_history(
    loss: Sequence[float], is_sound: Sequence[bool], measure: str, title: str = "Search"
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the loss of every trial in the order of their numbers, and the best so far.

    loss: infinite where a trial diverged. is_sound: it came to an end that counts; others are drawn as rings, or,
    where their loss is far above, as ticks at the upper edge. measure: what the loss is, with its unit.
    """
    losses, sound = np.asarray(loss, dtype=float), np.asarray(is_sound, dtype=bool)
    numbers = np.arange(1, len(losses) + 1)
    figure, axes = blank_chart(WIDTH_IN, HEIGHT_IN, title, "a dot for each trial; the line is the best so far")
    place(figure, axes, left_in=0.85, right_in=1.5)
    _scale_losses(axes, losses[sound], measure)
    axes.set_xlim(0, len(losses) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("trial", fontsize=9.5, color=INK)
    top = axes.get_ylim()[1]
    inside = losses <= top
    axes.plot(numbers[sound & inside], losses[sound & inside], linestyle="", marker="o", markersize=4.5, color=ACCENT)
    ended = ~sound & inside
    axes.plot(
        numbers[ended], losses[ended], linestyle="", marker="o", markersize=4, color=MUTED, markerfacecolor="none"
    )
    axes.plot(numbers[~inside], np.full((~inside).sum(), top), linestyle="", marker="|", markersize=7, color=MUTED)
    best = np.minimum.accumulate(np.where(sound, losses, np.inf))
    known = np.isfinite(best)
    axes.step(numbers[known], best[known], where="post", color=SECOND, linewidth=1.8)
    lines = [("best so far", SECOND), ("finished", ACCENT), ("ended early", MUTED), ("| far above", MUTED)]
    for i, (words, colour) in enumerate(lines):
        axes.text(1.03, 0.98 - 0.06 * i, words, transform=axes.transAxes, fontsize=9, color=colour, va="top")
    if known.any():
        words = f"{best[-1]:.4g}"
        axes.text(1.03, best[-1], words, transform=axes.get_yaxis_transform(), fontsize=9.5, color=INK, va="center")
    return rendered(figure)


def search_plane(
    k: Sequence[int],
    lr: Sequence[float],
    loss: Sequence[float],
    is_sound: Sequence[bool],
    measure: str,
    title: str = "Loss over k and learning rate",
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw every trial at its k and learning rate, coloured by its loss; the best is ringed.

    Trials that were ended early or diverged are crosses. The arguments are as for `search_history`.
    """
    losses, sound = np.asarray(loss, dtype=float), np.asarray(is_sound, dtype=bool)
    x, y = np.asarray(k, dtype=float), np.asarray(lr, dtype=float)
    figure, axes = blank_chart(WIDTH_IN, HEIGHT_IN, title, "a dot for each trial; crosses were ended early or diverged")
    place(figure, axes, left_in=0.85, right_in=1.35)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("k: leading components read at each cell", fontsize=9.5, color=INK)
    axes.set_ylabel("learning rate", fontsize=9.5, color=INK)
    axes.grid(color=RULE, linewidth=0.7)
    axes.plot(x[~sound], y[~sound], linestyle="", marker="x", markersize=5, color=MUTED)
    if sound.any():
        best = float(losses[sound].min())
        worst = min(float(losses[sound].max()), SHOWN_RATIO * best)
        norm = LogNorm(best, worst) if 0 < best < worst else Normalize(best, max(worst, best + 1e-12))
        dots = axes.scatter(x[sound], y[sound], c=losses[sound], cmap="viridis", norm=norm, s=36, zorder=3)
        at = np.flatnonzero(sound)[losses[sound].argmin()]
        axes.plot(x[at], y[at], marker="o", markersize=12, color=INK, markerfacecolor="none", zorder=4)
        box = axes.get_position()
        bar = figure.add_axes((box.x1 + 0.02, box.y0, 0.018, box.height))
        figure.colorbar(dots, cax=bar)
        bar.tick_params(which="both", colors=FAINT, labelsize=8.5, length=3)
        bar.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        bar.yaxis.set_minor_formatter(
            FuncFormatter(lambda value, _: f"{value:.3g}") if worst < 5 * best else NullFormatter()
        )
        bar.set_title(measure, fontsize=8.5, color=FAINT, loc="left", pad=8)
    return rendered(figure)


def importance_chart(
    names: Sequence[str], shares: Sequence[float], title: str = "What mattered"
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the share of each setting in what makes a trial good, as horizontal bars, the largest first."""
    order = np.argsort(-np.asarray(shares, dtype=float), kind="stable")
    ranked = [(names[int(i)], float(shares[int(i)])) for i in order]
    height_in = HEAD_IN + 0.55 + 0.4 * len(ranked)
    figure, axes = blank_chart(WIDTH_IN, height_in, title, "share of each setting in the variance of the trials' loss")
    place(figure, axes, left_in=0.45 + 0.078 * max(len(name) for name, _ in ranked), right_in=0.9, bottom_in=0.45)
    rows = np.arange(len(ranked))
    axes.barh(rows, [share for _, share in ranked], height=0.62, color=ACCENT)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_yticks(rows, [name for name, _ in ranked], fontsize=10, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.grid(axis="x", color=RULE, linewidth=0.7)
    for row, (_, share) in enumerate(ranked):
        where = (share + 0.01, row)
        axes.text(*where, with_unit(100 * share, "%"), va="center_baseline", fontsize=9.5, color=INK)
    return rendered(figure)


def trial_sheet(
    rgb: UInt8[np.ndarray, "images H W 3"],
    truth: Float[np.ndarray, "images H W *three"],
    valid: Bool[np.ndarray, "images H W"],
    limits: tuple[float, float],
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw images above their truth, with an empty row below for what a trial predicts.

    truth: metres, hatched where not `valid`; or normals. All trials of a sweep share this page: `with_predictions`
    fills it in, in a tenth of the time.
    """
    width = LABEL_WIDTH + len(rgb) * (TILE_SIDE + GAP)
    page = Page.blank(width, TITLE_HEIGHT + NUM_ROWS * (TILE_SIDE + GAP))
    for row, label in enumerate(("image", "truth", "prediction")):
        middle = TITLE_HEIGHT + row * (TILE_SIDE + GAP) + TILE_SIDE // 2
        page.text(label, LABEL_WIDTH - 8, middle, 13, colour=FAINT_RGB, anchor="rm")
    for i, picture in enumerate(rgb):
        left = LABEL_WIDTH + i * (TILE_SIDE + GAP)
        page.picture(picture, left, TITLE_HEIGHT, TILE_SIDE, TILE_SIDE)
        small, mask = (resized(each, TILE_SIDE, TILE_SIDE) for each in (truth[i], valid[i]))
        page.tile(_coloured(small, mask, limits), left, TITLE_HEIGHT + TILE_SIDE + GAP)
    return page.pixels()


def with_predictions(
    sheet: UInt8[np.ndarray, "height width 3"],
    prediction: Float[np.ndarray, "images side side *three"],
    limits: tuple[float, float],
    title: str,
) -> UInt8[np.ndarray, "height width 3"]:
    """Fill a `trial_sheet` with a trial's predictions: metres or normals, TILE_SIDE pixels wide."""
    page = Page.of(sheet)
    page.text(title, GAP, 8, 14, bold=True, width=sheet.shape[1] - 2 * GAP)
    visible = np.ones(prediction.shape[1:3], dtype=bool)
    for i, each in enumerate(prediction):
        left = LABEL_WIDTH + i * (TILE_SIDE + GAP)
        page.tile(_coloured(each, visible, limits), left, TITLE_HEIGHT + 2 * (TILE_SIDE + GAP))
    return page.pixels()


def _coloured(
    values: np.ndarray, visible: Bool[np.ndarray, "H W"], limits: tuple[float, float]
) -> UInt8[np.ndarray, "H W 3"]:
    if values.ndim == 3:
        return normals_to_rgb(values, visible)
    return colourise(values, visible, limits, DEPTH_MAP)


def _scale_losses(axes: Axes, losses: np.ndarray, measure: str) -> None:
    """An axis from below the best loss to what is not far above it; logarithmic where that is a wide range."""
    best = float(losses.min()) if len(losses) else 1.0
    worst = min(float(losses.max()), SHOWN_RATIO * best) if len(losses) else 2 * best
    if worst > WIDE_RATIO * best > 0:
        axes.set_yscale("log")
        axes.set_ylim(best / 1.1, worst * 1.1)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    else:
        margin = 0.08 * max(worst - best, 0.02 * best, 1e-12)
        axes.set_ylim(best - margin, max(worst, best + 10 * margin) + margin)
    axes.set_ylabel(measure, fontsize=9.5, color=INK)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
