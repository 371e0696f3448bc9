"""What a check says of a dataset, and what all of them come to: rows of a table for people."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from textwrap import wrap
from typing import Literal

# ok: as expected. note: good to know. missing: could be there, and is not. doubt: look at it. bad: probing would fail.
Level = Literal["ok", "note", "missing", "doubt", "bad"]


@dataclass(frozen=True)
class Finding:
    """What one check found. found: in words. advice: what to do about it, "" for nothing."""

    check: str
    level: Level
    found: str
    advice: str = ""


@dataclass
class Diagnosis:
    """What was examined, and all findings on it.

    source: in words. num_images: that are there, 0 where that is not known; num_looked_at: whose pixels were measured.
    """

    dataset: str
    source: str
    num_images: int = 0
    num_looked_at: int = 0
    findings: list[Finding] = field(default_factory=list)

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
        return {**asdict(self), "can_probe": not self.reason, "reason": self.reason}

    def lines(self, width: int) -> list[str]:
        """Lines of at most `width` characters, longer paths apart: a head, a row for each finding, the conclusion."""
        examined = f"{self.num_images} images, {self.num_looked_at} of them measured"
        rows = [("", f"{self.dataset}: {self.source}"), ("", examined if self.num_images else "no image measured")]
        rows.append(("", ""))
        for each in self.findings:
            start = f"{each.level:<7}  {each.check:<16}  "
            rows += [(start, each.found), *([(" " * len(start), each.advice)] if each.advice else [])]
        told: list[str] = []
        for start, text in [*rows, ("", ""), ("", self.conclusion)]:
            rest = " " * len(start)
            told += wrap(text, width, initial_indent=start, subsequent_indent=rest, break_on_hyphens=False) or [""]
        return told


def several(names: Sequence[str], noun: str) -> str:
    """Return "3 nouns, the first NAME", or the one name."""
    return names[0] if len(names) == 1 else f"{len(names)} {noun}, the first {names[0]}"
