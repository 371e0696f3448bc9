"""What the doctor reports: one finding a check, what follows from all of them, and the table for people."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import Literal

# ok: as expected. note: good to know. missing: could be there, and is not. doubt: look at it. bad: probing would fail.
Level = Literal["ok", "note", "missing", "doubt", "bad"]

_LEVEL_WIDTH, _CHECK_WIDTH, _NARROWEST = 7, 16, 20


@dataclass(frozen=True)
class Finding:
    """What one check found. found: in words. advice: what to do about it, "" for nothing."""

    check: str
    level: Level
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings on a dataset.

    source: what was examined. num_images: that are there, 0 where that is not known; num_looked_at: whose pixels
    were measured.
    """

    dataset: str
    source: str
    num_images: int
    num_looked_at: int
    findings: tuple[Finding, ...]

    @property
    def reason(self) -> str:
        """Why probing cannot go ahead, in one line; "" where it can."""
        return next((finding.found for finding in self.findings if finding.level == "bad"), "")

    @property
    def conclusion(self) -> str:
        """Whether probing can go ahead, in one line."""
        if self.reason:
            return f"probing cannot go ahead: {self.reason}"
        doubts, missing = (sum(each.level == level for each in self.findings) for level in ("doubt", "missing"))
        parts = [f"{doubts} doubt{'s' if doubts > 1 else ''}"] if doubts else []
        parts += [f"{missing} missing"] if missing else []
        return "probing can go ahead" + (f" ({', '.join(parts)})" if parts else "")

    def to_dict(self) -> dict[str, object]:
        """Everything, as JSON values."""
        values: dict[str, object] = asdict(self)
        return {**values, "can_probe": not self.reason, "reason": self.reason}

    def lines(self, width: int) -> list[str]:
        """Lines of at most `width` characters: a head, a row for each finding, and the conclusion."""
        examined = f"{self.num_images} images, {self.num_looked_at} of them measured"
        rows = [line for finding in self.findings for line in _row(finding, width)]
        head = _wrapped(f"{self.dataset}: {self.source}", width)
        return [
            *head,
            examined if self.num_images else "no image measured",
            "",
            *rows,
            "",
            *_wrapped(self.conclusion, width),
        ]


def _row(finding: Finding, width: int) -> list[str]:
    indent = _LEVEL_WIDTH + 2 + _CHECK_WIDTH + 2
    room = max(width - indent, _NARROWEST)
    text = _wrapped(finding.found, room) + (_wrapped(finding.advice, room) if finding.advice else [])
    first = f"{finding.level:<{_LEVEL_WIDTH}}  {finding.check:<{_CHECK_WIDTH}}  {text[0]}"
    return [first.rstrip(), *(" " * indent + line for line in text[1:])]


def _wrapped(text: str, width: int) -> list[str]:
    # A path that is longer than the line is cut only where it must be.
    return wrap(text, width, break_on_hyphens=False) or [""]


def several(names: Sequence[str], noun: str) -> str:
    """Return "3 nouns, the first NAME", or the one name."""
    return names[0] if len(names) == 1 else f"{len(names)} {noun}, the first {names[0]}"
