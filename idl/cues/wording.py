"""Two sentences that say what a probe reads: the first of what it does, the second of what it does not."""

import math
from collections.abc import Sequence
from dataclasses import replace

from idl.cues.reading import READ_SHARE
from idl.cues.result import Cue, CueFinding, CueTable, Reading

# A correlation below this is called none: it accounts for 1 % of the variance.
CORRELATED = 0.1
_NAMES = {
    Cue.COLOUR: "colour",
    Cue.BRIGHTNESS: "light and dark",
    Cue.TEXTURE: "texture and fine edges",
    Cue.LAYOUT: "the layout of larger parts",
    Cue.POSITION: "which way up the image is",
}
# What a higher value is called, and a lower one.
_DIRECTIONS = {
    "depth": ("farther", "nearer"),
    "log-depth": ("farther", "nearer"),
    "inverse-depth": ("nearer", "farther"),
}


def sentences(table: CueTable) -> CueTable:
    """Return the table with its sentences."""
    return replace(table, sentences=(_first(table), _second(table)))


def _first(table: CueTable) -> str:
    if not table.leads:
        return (
            f"For {table.target}, the probe on {table.encoder} is not better than a constant beyond doubt (its loss is "
            f"{_digits(1 / table.constant.ratio)} times the constant's), so that it reads no cue that could be named."
        )
    below = _share(1 - 1 / table.constant.ratio)
    subject = f"For {table.target}, the probe on {table.encoder}, whose loss is {below} below that of a constant, reads"
    read = table.named(Reading.READ)
    if not read:
        return f"{subject} none of the cues beyond doubt."
    most, *others = read
    words = (
        f"{subject} {'mostly ' if others else ''}{_NAMES[most.cue]}: on images that are {_edit_words(table, most)} "
        f"{_loses(most)} (loss {_digits(most.edit.ratio)} times as high, "
        f"{100 * table.level:g} % interval {_digits(most.edit.low)} to {_digits(most.edit.high)})"
    )
    return f"{words}; it reads {_listed(table, others)} too." if others else f"{words}."


def _second(table: CueTable) -> str:
    parts = []
    not_read = table.named(Reading.NOT_READ)
    if not_read:
        parts.append(f"it does not read {_listed(table, not_read)}, which cost less than {READ_SHARE:.0%} of the lead")
    parts += [
        f"{_NAMES[finding.cue]} ({_figures(table, finding)}) cannot be told from {_NAMES[finding.explained_by]}"
        for finding in table.named(Reading.IMPLIED)
        if finding.explained_by is not None
    ]
    undecided = table.named(Reading.UNDECIDED)
    if undecided:
        parts.append(f"of {_listed(table, undecided)} nothing can be said")
    parts.append(_of_luminance(table) if table.predicted else "")
    words = "; ".join(part for part in parts if part) or "there is none of the cues that it does not read"
    return f"{words[:1].upper()}{words[1:]}."


def _of_luminance(table: CueTable) -> str:
    """Say which way the prediction goes with luminance within images, and which way the truth does."""
    assert table.predicted is not None
    assert table.true is not None
    predicted, true = table.predicted.within, table.true.within
    figures = f"(correlation within an image {predicted.estimate:+.2f}, of the truth {true.estimate:+.2f})"
    higher, lower = _DIRECTIONS.get(table.target, ("higher", "lower"))
    if max(abs(predicted.low), abs(predicted.high)) < CORRELATED:
        return f"lighter pixels are predicted no different from darker ones {figures}"
    if abs(predicted.estimate) >= CORRELATED and not predicted.low <= 0 <= predicted.high:
        return f"lighter pixels are predicted {higher if predicted.estimate > 0 else lower} {figures}"
    return f"whether lighter pixels are predicted {higher} or {lower} cannot be told {figures}"


def _edit_words(table: CueTable, finding: CueFinding) -> str:
    return {
        "grey": "grey",
        "hue rotated": "of other hues",
        "luminance flat": "of one luminance all over",
        "low-passed": f"blurred (sigma {table.sigma:g} pixels)",
        "tiles": f"shuffled in tiles of {table.tile} pixels",
        "upside down": "upside down",
    }[finding.edit.name]


def _listed(table: CueTable, findings: Sequence[CueFinding]) -> str:
    parts = [f"{_NAMES[finding.cue]} ({_figures(table, finding)})" for finding in findings]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _figures(table: CueTable, finding: CueFinding) -> str:
    """Say what a cue costs: a share of the lead over a constant, where there is one to take a share of."""
    if math.isnan(finding.edit.lost) or not table.leads:
        return f"loss {_digits(finding.edit.ratio)} times as high"
    return f"{_share(finding.edit.lost)} of the lead"


def _loses(finding: CueFinding) -> str:
    share = finding.edit.lost
    return "all of this lead is lost" if share >= 1 else f"{_share(share)} of this lead is lost"


def _share(value: float) -> str:
    """Write a share with two digits."""
    return f"{value:.0%}" if abs(value) >= 0.095 else f"{value:.1%}"


def _digits(ratio: float) -> str:
    # Of a weak probe, a thousandth counts.
    return f"{ratio:.3f}" if ratio < 10 else f"{ratio:.3g}"
