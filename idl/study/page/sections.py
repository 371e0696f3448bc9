"""What the answers rest on, section by section."""

import math
from collections.abc import Iterable

from idl.figures import squared
from idl.study.page.content import EncoderCues, EncoderPart, PageContent
from idl.study.page.curves import curve_chart
from idl.study.page.markup import Markup, element, joined, number
from idl.study.page.pictures import colour_keys, shown_image, strip
from idl.study.page.plots import Row, interval_plot, loss_axis, ratio_axis
from idl.study.page.tables import cue_table, curve_table, figures_of, image_table, rules
from idl.study.page.words import arm_words
from idl.verdict import Outcome

_DECIDING = "trained+pixels"
_READ = "read"
# What a verdict goes by in the JSON was hashed before there was one.
_HASHED = {"verdict": "plan"}


def comparisons(content: PageContent) -> Markup:
    """Both estimands of every question, and each seed alone, against the margin."""
    margin = content.rules.margin
    values = [each.log_ratio for answer in content.answers for each in answer.verdict.comparisons]
    rows = []
    for answer in content.answers:
        verdict = answer.verdict
        said = "INVALID: none of these decides" if verdict.outcome is Outcome.INVALID else str(verdict.outcome)
        rows.append(Row(f"{verdict.cell}:", said))
        rows += [
            Row(each.name, value=each.log_ratio, is_mine=True) for each in (verdict.beyond_pixels, verdict.learned)
        ]
        rows += [Row(arm_words(each.above[0]), "this seed by itself", each.log_ratio) for each in verdict.seeds]
    caption = (
        f"How many times the loss would be without it; the line is the {100 * content.rules.level:g} % interval, "
        f"dashed the margin of \N{MULTIPLICATION SIGN}{math.exp(margin):.3g}"
    )
    reasons = [
        element("p", element("b", f"{answer.verdict.cell}: "), answer.verdict.reason) for answer in content.answers
    ]
    return _section(
        "What decides",
        "The loss is the mean squared error. Two comparisons decide: with the network's numbers left out (beyond "
        "pixels), and with an untrained network in its place (learned, not built in). LEARNED needs all lines to lie "
        "right of the dashed one; NOT LEARNED needs one of the first two to lie left of it.",
        element("div", interval_plot(caption, rows, ratio_axis(values, margin), is_ratio=True), class_="card"),
        *reasons,
    )


def arms(content: PageContent) -> Markup:
    """The loss of everything that was tried, a plot a question; the largest k of each encoder is open."""
    described = [(each, each.verdict.description) for each in content.answers]
    losses = [arm.mse for _, found in described if found is not None for arm in found.arms]
    if not losses:
        return Markup()
    axis = loss_axis(losses)
    square = squared(content.unit)
    plots = []
    for encoder in content.encoders:
        for answer in encoder.answers:
            found = answer.verdict.description
            if found is None:
                continue
            rows = [
                Row(arm_words(arm.name), _alias(arm.name), arm.mse, arm.name in ("trained", _DECIDING))
                for arm in found.arms
            ]
            caption = (
                f"Mean squared error on the test images{f', {square}' if square else ''}, with "
                f"{100 * content.rules.level:g} % intervals over {answer.verdict.counted_clusters}; "
                "less is better"
            )
            plots.append(
                element(
                    "details",
                    element("summary", answer.verdict.cell),
                    element("div", interval_plot(caption, rows, axis), class_="card"),
                    open="" if answer is encoder.answers[-1] else None,
                )
            )
    return _section(
        "Everything that was compared",
        "Each line is one way to make the guess: its loss, and how far that may be off by the luck of the scenes. All "
        "use the same grid, the same pixels and the same way of fitting, so that what they read is all that differs.",
        *plots,
    )


def curves(content: PageContent) -> Markup:
    """Losses over k of every encoder."""
    unit = squared(content.unit)
    charts = [
        element("div", element("h3", encoder.name), curve_chart(encoder, unit), class_="card")
        for encoder in content.encoders
        if encoder.curves
    ]
    if not charts:
        return Markup()
    return _section(
        "How many numbers it takes",
        "k is how many numbers of the network the probe reads at a place, the strongest directions first. Where the "
        "curve of the trained network lies below that of the untrained one, training has put something there.",
        element("div", *charts, class_="cards"),
    )


def pictures(content: PageContent) -> Markup:
    """Test images with what each probe makes of them."""
    if not content.images:
        return Markup()
    judge = content.encoders[-1].name
    shown = [shown_image(image, content.feature, content.kind, content.unit) for image in content.images]
    return _section(
        "On three test images",
        f"The image on which the probe of {judge} does best, the one in the middle and the one on which it does worst, "
        "each at the largest k. Beside it stands null: a probe that reads nothing but the image's colours.",
        *shown,
        colour_keys(content.images[0], content.kind),
    )


def cue_section(content: PageContent) -> Markup:
    """What each probe reads."""
    if not content.cues:
        return Markup()
    return _section(
        "Which cue it reads",
        "The probe stays as it is; one cue is taken out of the test images, and the loss is compared with that on the "
        "images as they are (\N{MULTIPLICATION SIGN}1). The farther right, the more the probe leaned on it.",
        *(_cues_of(cues) for cues in content.cues),
    )


def _cues_of(cues: EncoderCues) -> Markup:
    rows = [
        Row(edit.name, ": ".join(filter(None, (edit.removed, edit.reading))), edit.log_ratio, edit.reading == _READ)
        for edit in cues.edits
    ]
    axis = ratio_axis([edit.log_ratio for edit in cues.edits], 0.0)
    plot = interval_plot("Loss on edited images, relative to that on the images as they are", rows, axis, is_ratio=True)
    said = element("p", " ".join(cues.sentences))
    return element("div", element("h3", cues.encoder), said, plot, strip(cues), class_="card")


def origin(content: PageContent) -> Markup:
    """Where all this comes from, and how to have it again."""
    given = content.provenance
    runs = "one run" if given.test_reads == 1 else f"{number(given.test_reads)} runs"
    reads = f"at least one of them, by {runs}" if given.test_reads else "none of them"
    facts: list[tuple[str, str]] = [
        ("command", element("code", given.command)),
        ("made", given.made_at),
        ("dataset", f"{given.dataset}: {given.source}"),
        *(
            (f"{each.name} split", f"{number(each.num_images)} images of {number(each.num_scenes)} scenes")
            for each in given.splits
        ),
        ("test scenes read before", reads),
        *((f"digest of the {_HASHED.get(name, name)}", element("code", each)) for name, each in given.digests.items()),
        *((encoder.name, _about(encoder)) for encoder in content.encoders),
        ("versions", ", ".join(f"{name} {version}" for name, version in given.versions.items())),
    ]
    return _section(
        "Where it comes from",
        "Data, splits, encoders, questions and rules were fixed, and their digest written down, before the test images "
        "were read. The more often "
        "test scenes have been read before, the less the intervals are worth.",
        element("dl", *_facts(facts), class_="facts"),
        element("details", element("summary", "All that was fixed"), rules(content)),
    )


def _about(encoder: EncoderPart) -> Markup:
    return joined(
        f"{encoder.architecture}, trained for {encoder.task}, {encoder.weights} weights ({encoder.source}), "
        f"stride {encoder.stride} pixels, {encoder.channels} channels, digest ",
        element("code", encoder.digest),
    )


def _facts(facts: Iterable[tuple[str, str]]) -> list[Markup]:
    return [joined(element("dt", name), element("dd", value)) for name, value in facts]


def figures(content: PageContent) -> Markup:
    """All figures of the JSON, closed until they are wanted."""
    parts = [_closed(answer.verdict.cell, figures_of(answer)) for answer in content.answers]
    parts += [_closed(f"{encoder.name}: loss over k", curve_table(encoder)) for encoder in content.encoders]
    if content.images:
        parts.append(_closed("The three test images", image_table(content)))
    parts += [_closed(f"{cues.encoder}: cues", cue_table(cues)) for cues in content.cues]
    return _section("All figures", "As in verdict.json beside this page.", *parts)


def _alias(arm: str) -> str:
    """Give an arm's name beside its words, where these do not hold it already."""
    return "" if arm.startswith("untrained") else arm


def _closed(name: str, content: Markup) -> Markup:
    return element("details", element("summary", name), content)


def _section(title: str, words: str, *parts: Markup | str) -> Markup:
    return element("section", element("h2", title), element("p", words), *parts)
