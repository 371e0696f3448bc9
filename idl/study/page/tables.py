"""All figures, for who wants to check or to quote them: what the JSON holds, as tables."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from idl.study.page.content import Answer, EncoderCues, EncoderPart, PageContent
from idl.study.page.markup import Markup, element, joined, number
from idl.verdict import Interval

# What `number` writes.
_NUMBER = re.compile("\N{EN DASH}|\N{MINUS SIGN}?[0-9][0-9.,e+\N{MINUS SIGN}]*")
_INTERVAL = ("estimate", "low", "high", "standard error")


def figures_of(answer: Answer) -> Markup:
    """Write everything that one answer rests on."""
    verdict = answer.verdict
    facts = (
        ("p", verdict.p),
        ("p after Holm", verdict.adjusted_p),
        ("questions that it was corrected for", verdict.num_tested),
        ("smallest detectable log ratio", verdict.smallest_detectable),
        (f"clusters: {verdict.clusters}s", verdict.num_clusters),
        ("images", verdict.num_images),
        ("valid pixels, times outputs", verdict.num_valid),
        *((f"typical error: {each.name}", each.value) for each in answer.typical),
    )
    parts = [
        table("The answer", ("figure", "value"), ((name, number(value)) for name, value in facts)),
        table(
            "What decides: ln(loss of the first / loss of the second)",
            ("comparison", "first", "second", *_INTERVAL, "p", "smallest detectable"),
            (
                (
                    each.name,
                    ", ".join(each.above),
                    each.below,
                    *_cells(each.log_ratio),
                    number(each.p),
                    number(each.smallest_detectable),
                )
                for each in verdict.comparisons
            ),
        ),
        table(
            "Forms of untrained, the deciding one first",
            ("form", "cross-validated loss", "arms"),
            ((form.name, number(form.cv_loss), ", ".join(form.arms)) for form in verdict.forms),
        ),
        table(
            "Conditions",
            ("condition", "holds", "found"),
            ((gate.name, "yes" if gate.passed else "no", gate.detail) for gate in verdict.gates),
        ),
        table(
            "Arms without the test split: mean squared error",
            ("arm", "k", "training", "validation", "cross-validated"),
            (
                (arm.name, *(number(each) for each in (arm.k, arm.train_loss, arm.val_loss, arm.cv_loss)))
                for arm in answer.fits
            ),
        ),
        _description(answer),
    ]
    return element("div", *parts, class_="scroll")


def _description(answer: Answer) -> Markup:
    found = answer.verdict.description
    if found is None:
        return Markup()
    losses = table(
        "Arms on the test split: mean squared error, and what is left of it once every image's prediction has the "
        "scale and shift that fit its truth best",
        ("arm", *_INTERVAL, *(f"scale and shift fitted, {name}" for name in _INTERVAL)),
        ((arm.name, *_cells(arm.mse), *_cells(arm.aligned_mse)) for arm in found.arms),
    )
    shares = table(
        "Arms on the test split: R² over the constant arm",
        ("arm", *_INTERVAL),
        ((arm.name, *_cells(arm.r2)) for arm in found.arms if arm.r2 is not None),
    )
    others = (
        ("loss of the network over that of null", found.trained_over_null),
        ("selectivity: R² on the truth less that on other images' truth", found.selectivity),
        ("beyond pixels, log ratio of the median image", found.beyond_pixels_by_image),
        ("learned, log ratio of the median image", found.learned_by_image),
    )
    rest = table(
        "Figures that decide nothing",
        ("figure", *_INTERVAL),
        ((name, *_cells(value)) for name, value in others if value is not None),
    )
    return joined(losses, shares, rest)


def rules(content: PageContent) -> Markup:
    """Write all that was fixed before the test split was read: the rules first."""
    named = [*_leaves(content.rules.to_dict()), *_leaves(content.fixed)]
    return table("", ("what was fixed", "value"), [(name.replace("_", " "), words) for name, words in named])


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield what a mapping holds, in words: a list of plain values in one line, mappings one below the other."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, f"{name} {key}".lstrip())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if any(isinstance(each, Mapping) for each in value):
            for place, each in enumerate(value, 1):
                yield from _leaves(each, f"{name} {place}")
        else:
            yield name, ", ".join(_word(each) for each in value)
    else:
        yield name, _word(value)


def _word(value: object) -> str:
    return number(value) if isinstance(value, int | float) else str(value)


def curve_table(encoder: EncoderPart) -> Markup:
    """Write losses over k: training and cross-validated of each curve."""
    rows: dict[int, dict[str, tuple[float, float]]] = {}
    for curve in encoder.curves:
        for k, train, cv in zip(curve.k, curve.train_loss, curve.cv_loss, strict=True):
            rows.setdefault(k, {})[curve.name] = (train, cv)
    names = [curve.name for curve in encoder.curves]
    written = (
        (str(k), *(number(value) for name in names for value in rows[k].get(name, (None, None)))) for k in sorted(rows)
    )
    head = ("k", *(f"{name}, {which}" for name in names for which in ("training", "cross-validated")))
    return element("div", table("Mean squared error", head, written), class_="scroll")


def image_table(content: PageContent) -> Markup:
    """Write how far off each encoder is on the images that are shown."""
    rows = (
        (image.role, image.name, each.encoder, number(each.typical))
        for image in content.images
        for each in image.predictions
    )
    return element(
        "div", table("Root of the mean squared error", ("role", "image", "encoder", "error"), rows), class_="scroll"
    )


def cue_table(cues: EncoderCues) -> Markup:
    """Write what each cue's absence costs, and the correlations with luminance."""
    losses = table(
        f"The probe on {cues.num_images} edited images; its loss on them as they are is {number(cues.clean_loss)}",
        ("edit", "loss", *(f"log ratio, {name}" for name in _INTERVAL), "share of the lead lost", "the cue is"),
        (
            (edit.name, number(edit.loss), *_cells(edit.log_ratio), number(edit.lost), edit.reading)
            for edit in cues.edits
        ),
    )
    correlations = table(
        "Correlation with luminance",
        ("of", *_INTERVAL),
        ((each.name, *_cells(each.value)) for each in cues.correlations),
    )
    return element("div", losses, correlations, class_="scroll")


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Write rows whose first cell is their name; a column in which a cell is no number is set as words."""
    cells = [list(row) for row in rows]
    if not cells:
        return Markup()
    looks = [None if all(map(_NUMBER.fullmatch, column)) else "text" for column in zip(*cells, strict=True)]
    titles = [element("th", title, scope="col", class_=look) for title, look in zip(head, looks, strict=True)]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, class_=look) for cell, look in zip(row[1:], looks[1:], strict=True)),
        )
        for row in cells
    ]
    parts = [element("caption", caption)] if caption else []
    return element("table", *parts, element("thead", element("tr", *titles)), element("tbody", *body), class_="figures")


def _cells(value: Interval | None) -> tuple[str, ...]:
    if value is None:
        return (number(None),) * len(_INTERVAL)
    return tuple(number(each) for each in (value.estimate, value.low, value.high, value.standard_error))
