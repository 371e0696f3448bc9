"""The findings as a table for people."""

from textwrap import wrap

from idl.doctor.finding import Diagnosis, Finding

_LEVEL, _CHECK = 7, 16
_NARROWEST = 20


def lines(diagnosis: Diagnosis, width: int) -> list[str]:
    """Lines of at most `width` characters: a head, a row for each finding, and what follows."""
    head = f"{diagnosis.dataset}: {diagnosis.source}"
    told = [*_wrapped(head, width), _seen(diagnosis), ""]
    for finding in diagnosis.findings:
        told += _row(finding, width)
    return [*told, "", *_wrapped(conclusion(diagnosis), width)]


def _seen(diagnosis: Diagnosis) -> str:
    if diagnosis.num_images:
        return f"{diagnosis.num_images} images, {diagnosis.num_looked_at} of them looked at"
    if diagnosis.num_looked_at:
        return f"{diagnosis.num_looked_at} images looked at; how many there are takes a whole pass"
    return "no image looked at"


def conclusion(diagnosis: Diagnosis) -> str:
    """Whether probing can go ahead, in one line."""
    if diagnosis.reason:
        return f"probing cannot go ahead: {diagnosis.reason}"
    doubts, missing = diagnosis.count("doubt"), diagnosis.count("missing")
    parts = []
    if doubts:
        parts.append("1 doubt" if doubts == 1 else f"{doubts} doubts")
    if missing:
        parts.append(f"{missing} missing")
    return "probing can go ahead" + (f" ({', '.join(parts)})" if parts else "")


def _row(finding: Finding, width: int) -> list[str]:
    indent = _LEVEL + 2 + _CHECK + 2
    room = max(width - indent, _NARROWEST)
    text = _wrapped(finding.found, room) + (_wrapped(finding.advice, room) if finding.advice else [])
    first = f"{finding.level:<{_LEVEL}}  {finding.check:<{_CHECK}}  {text[0]}"
    return [first.rstrip(), *(" " * indent + line for line in text[1:])]


def _wrapped(text: str, width: int) -> list[str]:
    # A path that is longer than the line is cut only where it must be.
    return wrap(text, width, break_on_hyphens=False) or [""]
