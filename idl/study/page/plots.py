"""Charts whose words are text of the page, so that they can be read at any width, with a line of SVG a row."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from idl.figures.canvas import ticks
from idl.study.page.markup import Markup, element, fixed, joined, short
from idl.verdict import Interval

# Ratios at which a logarithmic axis may have a label.
_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 2, 3, 5, 10, 20, 50, 100, 1000)
_MOST_TICKS = 6


@dataclass(frozen=True)
class Row:
    """A line of an interval plot; `value` None: a heading. is_mine: drawn to be seen first."""

    name: str
    words: str = ""
    value: Interval | None = None
    is_mine: bool = False


@dataclass(frozen=True)
class Axis:
    """From a value to a place between 0 and 100. ticks: values and their labels. mark: a value with a dashed line."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    mark: float | None = None

    def place(self, value: float) -> float:
        """Give the place, at an end for what lies beyond."""
        if math.isnan(value):
            return 0.0
        return 100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)


def loss_axis(intervals: Sequence[Interval]) -> Axis:
    """From 0, to the largest estimate and the most of every interval: a few that reach far do not press the others."""
    estimates = [each.estimate for each in intervals if math.isfinite(each.estimate)]
    highs = [each.high for each in intervals if math.isfinite(each.high)]
    end = min(max(highs, default=1.0), 1.8 * max(estimates, default=1.0)) or 1.0
    return Axis(0.0, 1.02 * end, tuple((value, short(value)) for value in ticks(0.0, end)))


def ratio_axis(intervals: Sequence[Interval], margin: float) -> Axis:
    """Of log ratios, labelled as ratios, with the margin marked."""
    ends = [value for each in intervals for value in (each.low, each.estimate, each.high) if math.isfinite(value)]
    low, high = min([-0.05, *ends]), max([margin + 0.05, *ends])
    # Beyond a factor of a thousand nothing is told apart.
    low, high = max(low, -math.log(1e3)), min(high, math.log(1e3))
    pad = 0.03 * (high - low)
    inside = [ratio for ratio in _RATIOS if low - pad <= math.log(ratio) <= high + pad]
    # Labels need a tenth of the width, and 1 is always there.
    kept = [1.0]
    for ratio in sorted(inside, key=lambda each: (each not in (0.5, 2, 10, 100), abs(math.log(each)))):
        if all(abs(math.log(ratio / each)) > 0.13 * (high - low) for each in kept) and len(kept) < _MOST_TICKS:
            kept.append(ratio)
    labels = tuple((math.log(ratio), f"\N{MULTIPLICATION SIGN}{ratio:g}") for ratio in sorted(kept))
    return Axis(low - pad, high + pad, labels, margin)


def interval_plot(caption: str, rows: Sequence[Row], axis: Axis, *, is_ratio: bool = False) -> Markup:
    """Draw a dot with its interval a row, and write the values beside it."""
    lines = [_row(row, axis, is_ratio) for row in rows]
    head = element(
        "tr",
        element("th", "arm" if not is_ratio else "comparison", scope="col"),
        element("th", "plot", scope="col"),
        element("th", "value and interval", scope="col"),
        hidden="",
    )
    places = joined(
        *(element("span", label, style=f"left:{axis.place(value):.2f}%") for value, label in axis.ticks),
    )
    scale = element(
        "tr",
        element("th"),
        element("td", element("span", places, class_="axis"), class_="line"),
        element("td", class_="value"),
        class_="ticks",
        aria_hidden="true",
    )
    return element(
        "table", element("caption", caption), element("thead", head), element("tbody", *lines, scale), class_="plot"
    )


def _row(row: Row, axis: Axis, is_ratio: bool) -> Markup:
    name = joined(row.name, " ", element("small", row.words)) if row.words else joined(row.name)
    if row.value is None:
        return element("tr", element("th", name, colspan=3, scope="rowgroup"), class_="group")
    show = _times if is_ratio else fixed
    value = row.value
    words = joined(
        element("b", show(value.estimate)), " ", element("small", f"{show(value.low)} to {show(value.high)}")
    )
    return element(
        "tr",
        element("th", name, scope="row"),
        element("td", _line(value, axis), class_="line"),
        element("td", words, class_="value"),
        class_="mine" if row.is_mine else None,
    )


def _times(log_ratio: float) -> str:
    if not abs(log_ratio) < math.log(1e6):
        return "none" if math.isnan(log_ratio) else "\N{INFINITY}" if log_ratio > 0 else "0"
    ratio = math.exp(log_ratio)
    # Three decimals, so that a bound can be told from a margin close to it.
    return f"\N{MULTIPLICATION SIGN}{ratio:.3f}" if ratio < 10 else f"\N{MULTIPLICATION SIGN}{fixed(ratio)}"


def _line(value: Interval, axis: Axis) -> Markup:
    stroke = [_upright(axis.place(at), "grid") for at, _ in axis.ticks]
    if axis.mark is not None:
        stroke.append(_upright(axis.place(axis.mark), "mark"))
    low, high = axis.place(value.low), axis.place(value.high)
    stroke.append(element("path", d=f"M{low:.2f} 10H{high:.2f}", class_="span"))
    # A stroke of no length with round ends: a dot that stays round however the picture is stretched.
    stroke.append(element("path", d=f"M{axis.place(value.estimate):.2f} 10h.001", class_="dot"))
    return stretched(*stroke, height=20)


def _upright(place: float, kind: str) -> Markup:
    return element("path", d=f"M{place:.2f} 0V20", class_=kind)


def stretched(*children: Markup, height: float = 100) -> Markup:
    """Draw in a square of 100 (or `height`) that takes any width; what it shows stands beside it in words."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 100 {height:g}",
        preserveAspectRatio="none",
        aria_hidden="true",
        focusable="false",
    )
