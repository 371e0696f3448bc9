"""What the doctor says: one finding a check, and what follows from all of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Diagnosis:
    """All findings on a dataset.

    source: what was looked at. num_images: that are there, 0 where that is not known; num_looked_at: whose pixels
    were read.
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

    def count(self, level: Level) -> int:
        """How many findings are of this level."""
        return sum(finding.level == level for finding in self.findings)

    def to_dict(self) -> dict[str, object]:
        """Everything, as JSON values."""
        values: dict[str, object] = asdict(self)
        return {**values, "can_probe": not self.reason, "reason": self.reason}


def spread(num_images: int, sample: int) -> tuple[int, ...]:
    """Indices of at most `sample` images, evenly spread from the first to the last; 0: all."""
    if not sample or sample >= num_images:
        return tuple(range(num_images))
    if sample == 1:
        return (num_images // 2,)
    return tuple(round(step * (num_images - 1) / (sample - 1)) for step in range(sample))


def several(names: Sequence[str], noun: str) -> str:
    """Say "3 nouns, the first NAME", or the one by its name."""
    return names[0] if len(names) == 1 else f"{len(names)} {noun}, the first {names[0]}"
