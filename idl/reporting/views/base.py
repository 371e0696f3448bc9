"""What a view of a kind of target offers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from idl.evaluation import PanelValues
from idl.protocol import Averaging
from idl.report import Image
from idl.targets import Target


@dataclass(frozen=True)
class Shown:
    """What all panels of a run share.

    limits: range of the colours, in the unit that is shown; one for every run of a dataset, so that panels stand
      side by side.
    """

    target: Target
    limits: tuple[float, float]
    caption: str


class View(ABC):
    """How one kind of target is put in pictures and words."""

    @abstractmethod
    def folder(self, target: Target) -> str:
        """Name before the slash in the panels' keys: equal where two runs' panels may stand side by side."""

    @abstractmethod
    def panel(self, values: PanelValues, shown: Shown) -> Image:
        """Draw an image, its truth, its prediction and the error."""

    @abstractmethod
    def quality(self, summary: Mapping[str, float], target: Target, averaging: Averaging) -> str:
        """Put the metrics that say most, in the average `averaging`, into words, for a bracket in a sentence."""


def headline(summary: Mapping[str, float], averaging: Averaging) -> tuple[Mapping[str, float], str]:
    """Return the metrics with those of the headline's average under their plain names, and that average in words."""
    if averaging == "image":
        return summary, "an image"
    pooled = {name.removesuffix("_pooled"): value for name, value in summary.items() if name.endswith("_pooled")}
    return {**summary, **pooled}, "over all pixels"
