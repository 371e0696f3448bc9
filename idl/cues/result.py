"""What the cues of a probe come to: plain values, for tables, pictures and pages."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float32, UInt8

from idl.targets import Kind
from idl.verdict import Interval


class Cue(StrEnum):
    """What an image may tell of a scene."""

    COLOUR = "colour"
    BRIGHTNESS = "brightness"
    TEXTURE = "texture"
    LAYOUT = "layout"
    POSITION = "position"


class Reading(StrEnum):
    """What is said of a cue; the rules are `idl.cues.reading`'s.

    IMPLIED: the loss rises, but no more than the loss of another cue, which goes with this one, explains.
    """

    READ = "read"
    NOT_READ = "not read"
    IMPLIED = "implied"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class EditLoss:
    """The loss on images that were edited in one way.

    name: "grey", ... removed: the cue that is gone, in words.
    loss: mean squared error in target units squared, pooled over pixels.
    log_ratio: ln(loss / loss of the clean images), with its interval over clusters.
    lost: share of the probe's lead that is lost, (loss - clean) / (constant - clean); above 1 where the probe does
      worse than the constant. NaN where it has no lead.
    log_over_read: ln(loss / the loss from which on the cue counts as read), with its interval.
    """

    name: str
    removed: str
    loss: float
    log_ratio: Interval
    lost: float
    log_over_read: Interval

    @property
    def ratio(self) -> float:
        """Loss over that of the clean images."""
        return math.exp(self.log_ratio.estimate)

    @property
    def low(self) -> float:
        """Lower end of the ratio's interval; 0 where there is none."""
        return math.exp(self.log_ratio.low)

    @property
    def high(self) -> float:
        """Upper end of the ratio's interval; infinite where there is none."""
        return math.exp(self.log_ratio.high)


@dataclass(frozen=True)
class CueFinding:
    """What is said of one cue. edit: the one that decides. explained_by: the cue that implies it, or None."""

    cue: Cue
    reading: Reading
    edit: EditLoss
    explained_by: Cue | None = None


@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation with luminance over valid pixels, with its interval over clusters.

    within: of what each image's pixels lie above that image's means, pooled. overall: of all pixels.
    """

    within: Interval
    overall: Interval


@dataclass(frozen=True)
class CueExample:
    """A test image under each edit and what the probe makes of it, as the picture stands, not mapped back.

    rgb: the clean image first, then as `CueTable.edits`. prediction: as the target decodes it, each (out, H, W).
    """

    name: str
    rgb: UInt8[np.ndarray, "edits H W 3"]
    prediction: Float32[np.ndarray, "edits out H W"]


@dataclass(frozen=True)
class CueTable:
    """Which cues a frozen probe reads.

    encoder, target: names. unit: of the target's own space. kind: how the target is shown.
    clean_loss: mean squared error on the images as they are, target units squared.
    constant: loss of the best constant on these images, as one more edit: what is left where all is gone. The probe's
      lead is how much lower its clean loss is.
    edits, findings: one an edit and one a cue.
    predicted, true: with luminance; None where the target has several outputs.
    num_images: that were measured, of `num_test`. num_clusters: of `clusters`, such as "scene". level: of intervals.
    tile: side of the shuffled tiles, pixels. sigma: of the low-pass, pixels.
    sentences: two, that say what the probe reads.
    """

    encoder: str
    target: str
    unit: str
    kind: Kind
    clean_loss: float
    constant: EditLoss
    edits: tuple[EditLoss, ...]
    findings: tuple[CueFinding, ...]
    predicted: Correlation | None
    true: Correlation | None
    num_images: int
    num_test: int
    num_clusters: int
    clusters: str
    level: float
    tile: int
    sigma: float
    sentences: tuple[str, str]
    examples: tuple[CueExample, ...]

    @property
    def leads(self) -> bool:
        """Whether the probe is better than the best constant beyond doubt: whether it reads anything."""
        return self.constant.log_ratio.low > 0

    def named(self, reading: Reading) -> tuple[CueFinding, ...]:
        """Return the cues of which `reading` is said, that of the highest loss first."""
        found = [finding for finding in self.findings if finding.reading is reading]
        return tuple(sorted(found, key=lambda finding: -finding.edit.log_ratio.estimate))
