"""The page: one HTML document that needs nothing else. What it says and how stands in `templates`.

Here is what the template cannot do by itself: numbers as text, axes and curves, pictures as data URIs, tables.
"""

import base64
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image as Pillow

from idl.report import Image
from idl.report.canvas import ticks
from idl.report.charts import squared
from idl.report.tiles import panel_parts
from idl.verdict.result import counted

# An object of `idl.verdict.document`, and the columns that an interval has in a table.
Record = Mapping[str, Any]
_PARTS = ("estimate", "low", "high", "standard_error")
# Ratios at which a logarithmic axis may have a label.
_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 2, 3, 5, 10, 20, 50, 100, 1000)
_MOST_RATIOS, _MOST_KS = 6, 7
# How the curves are drawn of arms that read no features, which have one loss for all k, and of the joint arms, whose
# losses are known at the ks that were asked for. The names are classes of `page.css`.
_LINES = {"constant": "c3", "position": "c3 dash", "null": "c3 dots"}
_POINTS = {"pixels": "c3 point", "trained+pixels": "c0 point"}
_DASH, _MINUS, _TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


class Pictures(NamedTuple):
    """The pictures of one feature.

    panels: by encoder, "null" among them, those of its probe's run by key, "depth/<image>".
    strips: by encoder, example images under each edit of a cue, predictions beneath.
    """

    panels: Mapping[str, Mapping[str, Image]]
    strips: Mapping[str, Image]


def page(content: Record, *pictures: Pictures) -> str:
    """Return the page. It has no script and takes nothing from elsewhere; it can be read in a sandboxed frame.

    content: of `idl.verdict.document.document`. pictures: one entry a feature.
    """
    parts: Sequence[Record] = content.get("features") or [content]
    views, environment = [], _environment()
    for part, of_part in zip(parts, pictures, strict=True):
        # The key's folder is the view's.
        names = {image["name"] for image in part["images"]}
        shown = {
            encoder: {
                name: panel_parts(each) for key, each in found.items() if (name := key.partition("/")[2]) in names
            }
            for encoder, found in of_part.panels.items()
        }
        cells: dict[str, list[Record]] = {}
        for cell in part["cells"]:
            cells.setdefault(cell["encoder"], []).append(cell)
        variables = {**content, **part, "by_encoder": cells, "panels": shown, "strips": of_part.strips}
        views.append(environment.get_template("feature.html.j2").make_module(variables))
    outline = environment.get_template("page.html.j2")
    return outline.render({"matrix": [], **content, "parts": parts, "views": views}).strip() + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("idl.verdict"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (number, fixed, cell, comparisons, data_uri, squared)
    functions = (loss_axis, ratio_axis, curve_chart, table, rows, same_answers, matrix_rows, listed, counted)
    environment.filters |= {each.__name__: each for each in filters}
    environment.globals |= {each.__name__: each for each in (*functions, math.exp, math.log, zip)}
    return environment


def number(value: float | None) -> str:
    """Return four digits, a whole number with all of them, a dash for what is not known or not finite."""
    if value is None or not math.isfinite(value):
        return _DASH
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 1000):
        text = f"{int(value):,}"
    else:
        text = f"{value:.4g}"
    return "0" if text == "-0" else text.replace("-", _MINUS)


def fixed(value: float) -> str:
    """Return three digits, zeros at the end too, so that values below one another can be compared."""
    return f"{value:#.3g}".removesuffix(".").replace("-", _MINUS) if math.isfinite(value) else _DASH


def cell(value: object) -> str:
    """Return a value as it stands in a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(cell(each) for each in value)
    return number(value) if value is None or isinstance(value, int | float) else str(value)


def times(log_ratio: float) -> str:
    """Return a ratio, of its logarithm."""
    if abs(log_ratio) > math.log(1e6):
        return "\N{INFINITY}" if log_ratio > 0 else "0"
    ratio = math.exp(log_ratio)
    # Three decimals, so that a bound can be told from a margin close to it.
    return f"{_TIMES}{ratio:.3f}" if ratio < 10 else f"{_TIMES}{fixed(ratio)}"


def data_uri(pixels: Image) -> str:
    """Return pixels as PNG; one of 256 colours or fewer by a table of them, without loss, in a third of the bytes."""
    image, written = Pillow.fromarray(pixels), io.BytesIO()
    if image.getcolors(256):
        image = image.quantize(256, dither=Pillow.Dither.NONE)
    image.save(written, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def comparisons(cell: Record) -> tuple[Record, ...]:
    """Return all that LEARNED needs to be above the margin."""
    return (cell["beyond_pixels"], cell["learned"], *cell["seeds"])


def same_answers(cells: Iterable[Record]) -> list[list[Record]]:
    """Return neighbours with the same answer together: one sentence serves them."""
    return [list(group) for _, group in itertools.groupby(cells, itemgetter("outcome", "meaning"))]


def matrix_rows(cells: Iterable[Record]) -> list[tuple[str, str, list[list[Record]]]]:
    """Return name and task of each network, and its cells, feature by feature, that of the largest k first."""
    found: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for cell in cells:
        found.setdefault((cell["encoder"], cell["task"]), {}).setdefault(cell["feature"], []).insert(0, cell)
    return [(*network, [*by_feature.values()]) for network, by_feature in found.items()]


def listed(words: Iterable[str]) -> str:
    """Return "a, b and c"."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


class Axis(NamedTuple):
    """From a value to a place between 0 and 100. ticks: values and their labels. mark: a value with a dashed line.

    is_ratio: values are logarithms of ratios.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    mark: float | None = None
    is_ratio: bool = False

    def place(self, value: float) -> str:
        """Return the place, at an end for what lies beyond."""
        inside = min(max(value, self.low), self.high)
        return f"{100 * (inside - self.low) / (self.high - self.low):.2f}"

    def text(self, value: float) -> str:
        """Return a value of this axis as it is written beside it."""
        return times(value) if self.is_ratio else fixed(value)


def loss_axis(intervals: Sequence[Record]) -> Axis:
    """From 0, to the largest estimate and the most of every interval: a few that reach far do not press the others."""
    most, high = (
        max((each[part] for each in intervals if math.isfinite(each[part])), default=1.0)
        for part in ("estimate", "high")
    )
    end = min(high, 1.8 * most) or 1.0
    return Axis(0.0, 1.02 * end, _labelled(ticks(0.0, end)))


def ratio_axis(intervals: Sequence[Record], margin: float) -> Axis:
    """Of log ratios, labelled as ratios, with the margin marked."""
    ends = [each[part] for each in intervals for part in ("low", "estimate", "high") if math.isfinite(each[part])]
    # Beyond a factor of a thousand nothing is told apart.
    low, high = max(min([-0.05, *ends]), -math.log(1e3)), min(max([margin + 0.05, *ends]), math.log(1e3))
    pad = 0.03 * (high - low)
    inside = [ratio for ratio in _RATIOS if low - pad <= math.log(ratio) <= high + pad]
    # Labels need a tenth of the width, and 1 is always there.
    kept = [1.0]
    for ratio in sorted(inside, key=lambda each: (each not in (0.5, 2, 10, 100), abs(math.log(each)))):
        if all(abs(math.log(ratio / each)) > 0.13 * (high - low) for each in kept) and len(kept) < _MOST_RATIOS:
            kept.append(ratio)
    labels = tuple((math.log(ratio), f"{_TIMES}{ratio:g}") for ratio in sorted(kept))
    return Axis(low - pad, high + pad, labels, margin, is_ratio=True)


def _labelled(values: Iterable[float]) -> tuple[tuple[float, str], ...]:
    return tuple((value, f"{value:.3g}".replace("-", _MINUS)) for value in values)


class Line(NamedTuple):
    """Losses of one arm over k. which: "cross-validated" or "training". look: classes that it is drawn by."""

    arm: str
    which: str
    look: str
    points: list[tuple[int, float]]


def curve_chart(encoder: Record, cells: Sequence[Record]) -> tuple[list[Line], Axis, Axis]:
    """Return the losses of one encoder over k, the axis of ln k and that of the losses."""
    lines = []
    for place, curve in enumerate(encoder["curves"]):
        held_out, training = ([*zip(curve["k"], curve[loss], strict=True)] for loss in ("cv_loss", "train_loss"))
        # Cross-validation chose the penalty: its loss, not the training loss, is compared between arms.
        lines.append(Line(curve["name"], "cross-validated", f"c{min(place, 2)} val", held_out))
        if place == 0:
            lines.append(Line(curve["name"], "training", "c0 dots", training))
    last = max(max(curve["k"]) for curve in encoder["curves"])
    for name, look in (_LINES | _POINTS).items():
        points = [(cell["k"], fit["cv_loss"]) for cell in cells for fit in cell["fits"] if fit["name"] == name]
        if name in _LINES:
            points = [(1, points[-1][1]), (last, points[-1][1])]
        lines.append(Line(name, "cross-validated", look, points))
    last = max(2, *(k for line in lines for k, _ in line.points))
    top = 1.06 * (max((y for line in lines for _, y in line.points if math.isfinite(y)), default=0.0) or 1.0)
    powers = [1 << power for power in range(last.bit_length())]
    ks = powers[:: -(-len(powers) // _MOST_KS)]
    # The last k has a label where the one before leaves room.
    ks += [last] if last >= 1.7 * ks[-1] else []
    across = Axis(0.0, math.log(last), tuple((math.log(k), str(k)) for k in ks))
    return lines, across, Axis(0.0, top, _labelled(ticks(0.0, top, 5)))


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> list[tuple[str, list[str], bool]]:
    """Return title, cells and whether some cell is no number of each column of a table, none if it has no rows.

    A title with "*" before it is of intervals, in four columns.
    """
    found = []
    # Not strict: without rows there is nothing to turn into columns.
    for title, values in zip(titles, zip(*rows, strict=True), strict=False):
        if title.startswith("*"):
            for part in _PARTS:
                cells = [number(each[part]) for each in values]
                found.append((title[1:] + part.replace("_", " "), cells, False))
        else:
            is_text = any(isinstance(each, str | tuple | bool) for each in values)
            found.append((title, [cell(each) for each in values], is_text))
    return found


def rows(records: Iterable[Record], *names: str) -> list[tuple[object, ...]]:
    """Return some fields of every record."""
    return [tuple(record[name] for name in names) for record in records]
