"""The page: one HTML document that needs nothing else, the answer first."""

import itertools

from idl.study.page.content import Answer, EncoderPart, PageContent
from idl.study.page.markup import Markup, element, joined, spelt
from idl.study.page.sections import arms, comparisons, cue_section, curves, figures, origin, pictures
from idl.study.page.style import STYLE
from idl.study.page.words import OUTCOMES
from idl.verdict import Outcome

# Paths within 16 x 16, so that outcomes differ by more than colour.
_SIGNS = {
    Outcome.LEARNED: "M2 9l4 4 8-10",
    Outcome.NOT_LEARNED: "M3 3l10 10M13 3L3 13",
    Outcome.INCONCLUSIVE: "M1 8c2.5-5 4.5-5 7 0s4.500 5 7 0",
    Outcome.INVALID: "M8 2v7M8 13.5v.01",
}
_TYPICAL = {
    "constant": "the same guess everywhere",
    "pixels": "the image's own pixels",
    "untrained+pixels": "untrained network + pixels",
    "trained+pixels": "trained network + pixels",
}


def page(content: PageContent) -> str:
    """Write the page. No script, and nothing from elsewhere; it can be read in a sandboxed frame."""
    title = _title(content)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("title", title),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("style", Markup(STYLE)),
    )
    body = element(
        "main",
        element("h1", title),
        _lead(content),
        _glance(content),
        element("div", *(_card(content, encoder) for encoder in content.encoders), class_="cards"),
        *(element("p", note, class_="note") for note in content.notes),
        _reading(),
        comparisons(content),
        arms(content),
        curves(content),
        pictures(content),
        cue_section(content),
        origin(content),
        figures(content),
    )
    return f'<!doctype html>\n<html lang="en">{head}{element("body", body)}</html>\n'


def _title(content: PageContent) -> str:
    if len(content.encoders) == 1:
        return f"Has {content.encoders[0].name} learned {content.feature}?"
    return f"Which network has learned {content.feature}?"


def _lead(content: PageContent) -> Markup:
    many = len(content.encoders)
    who = "A network was" if many == 1 else f"{many} networks were"
    verdict = content.answers[0].verdict
    return element(
        "p",
        f"{who} trained for something else and then frozen. Do the numbers inside tell {content.feature} all the same? "
        f"Measured on {verdict.num_images} images of {verdict.counted_clusters} of "
        f"{content.provenance.dataset} that nothing was fitted on.",
        class_="lead",
    )


def _glance(content: PageContent) -> Markup:
    """All answers in a list that fits on a phone's first screen; one alone needs none."""
    if len(content.answers) == 1:
        return Markup()
    lines = [
        element(
            "li",
            element("span", element("b", encoder.name), " ", element("small", _numbers(answer))),
            _badge(answer.verdict.outcome),
        )
        for encoder in content.encoders
        for answer in encoder.answers
    ]
    return element("ul", *lines, class_="glance", aria_label="all answers")


def _card(content: PageContent, encoder: EncoderPart) -> Markup:
    head = element("h2", encoder.name, " ", element("small", f"trained for {encoder.task}"))
    parts = []
    # One sentence serves several k where it is the same.
    for _, group in itertools.groupby(encoder.answers, lambda each: (each.verdict.outcome, each.meaning)):
        same = list(group)
        ks = _k(*same)
        badges = element("div", _badge(same[0].verdict.outcome), element("small", ks), class_="badges")
        bars = [_bars(content, answer) for answer in same]
        parts.append(element("div", badges, element("p", same[0].meaning), *bars, class_="answer"))
    return element("section", head, *parts, class_="card")


def _k(*answers: Answer) -> str:
    return f"reading {_numbers(*answers)} a place"


def _numbers(*answers: Answer) -> str:
    """Say how many numbers the probe reads: "10 and all 160 numbers"."""
    return " and ".join(f"{'all ' if answer.is_all else ''}{answer.k}" for answer in answers) + " numbers"


def _badge(outcome: Outcome) -> Markup:
    sign = element("svg", element("path", d=_SIGNS[outcome]), viewBox="0 0 16 16", aria_hidden="true")
    return element("span", sign, str(outcome), class_=f"badge {OUTCOMES[outcome][0]}")


def _bars(content: PageContent, answer: Answer) -> Markup:
    """How far off the guesses are, without and with the network: what needs no statistics to be read."""
    if not answer.typical:
        return Markup()
    longest = max(each.value for each in answer.typical) or 1.0
    rows = [
        element(
            "tr",
            element("th", _TYPICAL.get(each.name, each.name), scope="row"),
            element("td", element("i", style=f"width:{100 * each.value / longest:.1f}%"), class_="bar"),
            element("td", spelt(each.value, content.unit)),
            class_="mine" if each.name == "trained+pixels" else None,
        )
        for each in answer.typical
    ]
    caption = f"How far off {content.feature} typically is, {_k(answer)}:"
    return element("table", element("caption", caption), element("tbody", *rows), class_="bars")


def _reading() -> Markup:
    outcomes = [
        joined(element("dt", _badge(outcome)), element("dd", words)) for outcome, (_, words) in OUTCOMES.items()
    ]
    return element(
        "section",
        element("h2", "What the answers mean"),
        element(
            "p",
            "At each place of the image the frozen network gives a few numbers. The best weighted sum of them is "
            "sought that guesses what is asked for: a linear probe. It can only pick up what already lies open in the "
            "network. Much of any picture can be guessed from its colours, or from the place in the image, so the "
            "network has to beat what the pixels themselves say; and it has to beat itself without its training.",
        ),
        element("dl", *outcomes, class_="words"),
    )
