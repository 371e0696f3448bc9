"""Loss over k as SVG: how much of a target the leading directions of a feature space hold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from idl.figures.canvas import ticks
from idl.study.page.content import EncoderPart, LossCurve
from idl.study.page.markup import Markup, element, fixed, joined, short
from idl.study.page.plots import stretched
from idl.study.page.words import arm_words

# Arms that read no features have one loss for all k; of the joint ones the loss is known at the ks that were asked for.
_ACROSS = ("constant", "position", "null")
_POINTS = ("pixels", "trained+pixels")
_MOST_TICKS = 7


@dataclass(frozen=True)
class _Series:
    """A line, or points, with the class that it is drawn by. last: what the legend says, the loss at the largest k."""

    words: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    look: str


def curve_chart(encoder: EncoderPart, unit: str) -> Markup:
    """Draw the losses of one encoder over k. unit: of the losses, "" for none."""
    series = _series(encoder)
    first, last = 1.0, float(max(2, *(max(each.xs) for each in series)))
    top = 1.06 * (max((value for each in series for value in each.ys if math.isfinite(value)), default=0.0) or 1.0)
    drawn, labels = [], []
    for value in ticks(0.0, top, 5):
        height = 100 * value / top
        drawn.append(element("path", d=f"M0 {100 - height:.2f}H100", class_="grid"))
        labels.append(element("span", short(value), class_="y", style=f"bottom:{height:.2f}%"))
    labels += [
        element("span", str(k), class_="x", style=f"left:{_across(k, first, last):.2f}%") for k in _k_ticks(int(last))
    ]
    drawn += [_drawn(each, first, last, top) for each in series]
    words = f"{encoder.name}: mean squared error{f' in {unit}' if unit else ''} over k, on a logarithmic scale"
    chart = element(
        "div", stretched(*drawn), *labels, class_="chart", role="img", aria_label=f"{words}. {_told(series)}"
    )
    legend = element("ul", *(_entry(each) for each in series), class_="legend")
    below = element("p", element("small", f"{words}. The figures in the legend are those at the right end."))
    return joined(chart, legend, below)


def _series(encoder: EncoderPart) -> list[_Series]:
    found = []
    for place, curve in enumerate(encoder.curves):
        ks = tuple(float(k) for k in curve.k)
        # Cross-validation chose the penalty: its loss, not the training loss, is compared between arms.
        found.append(_Series(f"{_name(curve)}, cross-validated", ks, curve.cv_loss, f"c{min(place, 2)} val"))
        if place == 0:
            found.append(_Series(f"{_name(curve)}, training", ks, curve.train_loss, "c0 dots"))
    last = encoder.answers[-1]
    reach = (1.0, max(max(each.xs) for each in found))
    by_name = {arm.name: arm.cv_loss for arm in last.fits}
    dashes = ("c3", "c3 dash", "c3 dots")
    for name, look in zip(_ACROSS, dashes, strict=True):
        if name in by_name:
            found.append(_Series(f"{arm_words(name)}, cross-validated", reach, (by_name[name],) * 2, look))
    for name, look in zip(_POINTS, ("c3 point", "c0 point"), strict=True):
        at = [(answer.k, arm.cv_loss) for answer in encoder.answers for arm in answer.fits if arm.name == name]
        if at:
            xs, ys = zip(*at, strict=True)
            found.append(_Series(f"{arm_words(name)}, cross-validated", tuple(map(float, xs)), ys, look))
    return found


def _name(curve: LossCurve) -> str:
    return arm_words(curve.name)


def _across(k: float, first: float, last: float) -> float:
    return 100 * math.log(k / first) / math.log(last / first)


def _k_ticks(last: int) -> list[int]:
    powers = [1 << power for power in range(last.bit_length())]
    kept = powers[:: -(-len(powers) // _MOST_TICKS)]
    # The last k has a label where the one before leaves room.
    return kept if last < 1.7 * kept[-1] else [*kept, last]


def _drawn(series: _Series, first: float, last: float, top: float) -> Markup:
    places = [
        f"{_across(x, first, last):.2f} {100 - 100 * min(y, top) / top:.2f}"
        for x, y in zip(series.xs, series.ys, strict=True)
        if math.isfinite(y)
    ]
    if "point" in series.look:
        return element("path", d="".join(f"M{place}h.001" for place in places), class_=series.look)
    return element("path", d="M" + "L".join(places), class_=series.look)


def _entry(series: _Series) -> Markup:
    line = "M50 5h.001" if "point" in series.look else "M0 5H100"
    swatch = stretched(element("path", d=line, class_=series.look), height=10)
    return element("li", swatch, element("span", series.words, " ", element("b", fixed(series.ys[-1]))))


def _told(series: Sequence[_Series]) -> str:
    return "; ".join(f"{each.words}: {fixed(each.ys[0])} to {fixed(each.ys[-1])}" for each in series)
