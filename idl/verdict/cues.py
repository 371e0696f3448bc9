"""Which cue does a frozen probe read: its loss on test images with one cue removed, against the clean ones.

What a probe knows is its lead: how much lower its loss is than that of the best constant on the same images. An edit
matters where it costs more than READ_SHARE of the lead, and does not where it costs less, by the interval over clusters
of the loss against that threshold; where the interval holds the threshold, nothing is said. A probe whose own lead is
not beyond doubt reads nothing that could be named. A cue is read where one of the edits that decide about it matters,
and not where none does. Two go with another one, when that is removed: a flat luminance has no texture, and shuffled
tiles have another position. They are read beside it only where their edit adds more than EXPLAINED times the loss that
the other's does, by the lower end of the interval with the losses paired by cluster: with features that add up,
EXPLAINED = 2 asks that the one alone is worth more than the other alone. Of position only the vertical one is asked
about, and what has a top and a bottom goes with it, such as light from above.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import Encoder
from idl.errors import InputError
from idl.probes.linear_probe import LinearProbe
from idl.progress import Progress, silent
from idl.targets import Kind, Target
from idl.verdict.cue_edits import (
    CLEAN,
    CONSTANT,
    FLAT,
    GREY,
    HUE,
    LOW_PASS,
    REMOVED,
    TILES,
    TURNED,
    CueExample,
    CuePredictions,
    predict,
)
from idl.verdict.intervals import Interval, Series, interval, log_ratio, resample, resampled_sums
from idl.verdict.result import StudyConfig

# A quarter: a reader of light and dark alone was measured to lose a sixth by the low-pass, which mixes neighbours.
READ_SHARE = 0.25
# The low-pass leaves edges, so that it takes less than all texture: of a reader of texture alone, flattening was
# measured to do 1.3 times as much harm. To a reader of height alone shuffling did 0.6 times as much as turning.
EXPLAINED = 2.0
_THRESHOLD = "threshold"
# Test images that are measured, spread evenly over the split.
MAX_IMAGES = 180
# Variance below this share of the mean square is rounding: what does not vary goes with nothing, 0.
_ROUNDING = 1e-10


class Cue(NamedTuple):
    """What an image may tell of a scene.

    words: for people. edits: those that decide. explained_by: the cue that goes with it, and the edit of that.
    """

    words: str
    edits: tuple[str, ...]
    explained_by: tuple[str, str] | None = None


CUES: Mapping[str, Cue] = {
    "colour": Cue("colour", (GREY, HUE)),
    "brightness": Cue("light and dark", (FLAT,), ("texture", LOW_PASS)),
    "texture": Cue("texture and fine edges", (LOW_PASS,)),
    "layout": Cue("the layout of larger parts", (TILES,), ("position", TURNED)),
    "position": Cue("which way up the image is", (TURNED,)),
}
# What a higher value is called, and a lower one.
_DIRECTIONS = {
    "depth": ("farther", "nearer"),
    "log-depth": ("farther", "nearer"),
    "inverse-depth": ("nearer", "farther"),
}
# A correlation below this is called none: it accounts for 1 % of the variance.
_CORRELATED = 0.1


class Reading(StrEnum):
    """What is said of a cue.

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
    def ratio(self) -> Interval:
        """Loss over that of the clean images."""
        return self.log_ratio.exponential()


@dataclass(frozen=True)
class CueFinding:
    """What is said of one of `CUES`. edit: the one that decides."""

    cue: str
    reading: Reading
    edit: EditLoss


@dataclass(frozen=True)
class CueTable:
    """Which cues a frozen probe reads.

    encoder: its name. target: whose values are probed.
    clean_loss: mean squared error on the images as they are, target units squared.
    constant: loss of the best constant on these images, as one more edit: what is left where all is gone.
    edits, findings: one an edit and one a cue.
    correlations: Pearson's with luminance over valid pixels, with intervals over clusters, of "predicted" and "true",
      each "within" (of what each image's pixels lie above that image's means, pooled) and "overall" (of all pixels);
      empty where the target has several outputs.
    num_images: that were measured.
    """

    encoder: str
    target: str
    unit: str
    kind: Kind
    clean_loss: float
    constant: EditLoss
    edits: tuple[EditLoss, ...]
    findings: tuple[CueFinding, ...]
    correlations: Mapping[tuple[str, str], Interval]
    num_images: int
    examples: tuple[CueExample, ...]

    @property
    def leads(self) -> bool:
        """Whether the probe is better than the best constant beyond doubt: whether it reads anything."""
        return self.constant.log_ratio.low > 0

    @property
    def rows(self) -> tuple[tuple[EditLoss, str], ...]:
        """Every edit, the best constant last, with what is said of the cue; "" where it decides about none."""
        readings = {finding.edit.name: str(finding.reading) for finding in self.findings}
        return tuple((edit, readings.get(edit.name, "")) for edit in (*self.edits, self.constant))

    def named(self, reading: Reading) -> tuple[CueFinding, ...]:
        """Return the cues of which `reading` is said, that of the highest loss first."""
        findings = [finding for finding in self.findings if finding.reading is reading]
        return tuple(sorted(findings, key=lambda finding: -finding.edit.log_ratio.estimate))

    @property
    def sentences(self) -> tuple[str, str]:
        """Two sentences that say what the probe reads: the first what it does, the second what it does not."""
        first = f"For {self.target}, the probe on {self.encoder}"
        if self.leads:
            below = _share(1 - 1 / self.constant.ratio.estimate)
            read = self._costs(self.named(Reading.READ)) or "none of the cues beyond doubt"
            first += f", whose loss is {below} below that of a constant, reads {read}."
        else:
            first += " is not better than a constant beyond doubt, so that it reads no cue that could be named."
        second = []
        if not_read := self.named(Reading.NOT_READ):
            less = f"which cost less than {READ_SHARE:.0%} of the lead"
            second.append(f"it does not read {self._costs(not_read)}, {less}")
        for finding in self.named(Reading.IMPLIED):
            explains, _ = CUES[finding.cue].explained_by or ("", "")
            second.append(f"{self._costs([finding])} cannot be told from {CUES[explains].words}")
        if undecided := self.named(Reading.UNDECIDED):
            second.append(f"of {self._costs(undecided)} nothing can be said")
        if self.correlations:
            second.append(self._of_luminance())
        words = "; ".join(second) or "there is none of the cues that it does not read"
        return first, f"{words[:1].upper()}{words[1:]}."

    def _costs(self, findings: Sequence[CueFinding]) -> str:
        """List cues with what each costs: a share of the lead over a constant, where there is a lead."""
        parts = []
        for finding in findings:
            edit = finding.edit
            has_share = self.leads and not math.isnan(edit.lost)
            cost = f"{_share(edit.lost)} of the lead" if has_share else f"loss {edit.ratio.estimate:.4g} times as high"
            parts.append(f"{CUES[finding.cue].words} ({cost})")
        return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))

    def _of_luminance(self) -> str:
        """Say which way the prediction goes with luminance within images, and which way the truth does."""
        within, true = self.correlations["predicted", "within"], self.correlations["true", "within"]
        higher, lower = _DIRECTIONS.get(self.target, ("higher", "lower"))
        if max(abs(within.low), abs(within.high)) < _CORRELATED:
            words = "lighter pixels are predicted no different from darker ones"
        elif abs(within.estimate) >= _CORRELATED and not within.low <= 0 <= within.high:
            words = f"lighter pixels are predicted {higher if within.estimate > 0 else lower}"
        else:
            words = f"whether lighter pixels are predicted {higher} or {lower} cannot be told"
        return f"{words} (correlation within an image {within.estimate:+.2f}, of the truth {true.estimate:+.2f})"


def _share(value: float) -> str:
    """Write a share with two digits."""
    return f"{value:.0%}" if abs(value) >= 0.095 else f"{value:.1%}"


def cues(
    store: Store,
    split: Split,
    encoder: Encoder,
    probes: Sequence[tuple[LinearProbe, Target]],
    config: StudyConfig,
    batch_size: int,
    *,
    clusters: Sequence[str] | None = None,
    progress: Progress = silent,
) -> list[CueTable]:
    """Measure frozen probes on test images with one cue removed at a time, against the clean truth.

    A prediction for tiles that were shuffled, or for an image upside down, is mapped back on the encoder's grid,
    before it is upsampled: a probe of single cells that the edit does not touch keeps its loss exactly.
    probes: each with what it predicts. config: its level, draws and seed are those of the intervals over clusters.
    batch_size: images encoded at once.
    clusters: what each test image belongs to, in the split's order; None: scenes.
    Raises InputError where no test image has a valid pixel.
    """
    order = split.indices["test"]
    spread = np.linspace(0, len(order) - 1, min(MAX_IMAGES, len(order)))
    chosen: list[int] = np.unique(spread.round().astype(int)).tolist()
    of_image: Sequence[str] = [store.scenes[index] for index in order] if clusters is None else clusters
    labels = [of_image[position] for position in chosen]
    indices = [order[position] for position in chosen]
    made = predict(store, indices, encoder, probes, batch_size, progress)
    for each, (_, target) in zip(made, probes, strict=True):
        if not each.num_valid.any():
            raise InputError(f"{store.path}: no pixel of the test split has a valid {target.name}.")
    return [_table(each, encoder.name, target, labels, config) for each, (_, target) in zip(made, probes, strict=True)]


def _table(
    made: CuePredictions, encoder: str, target: Target, of_image: Sequence[str], config: StudyConfig
) -> CueTable:
    """Return what is said of one probe. of_image: the cluster of each image that was measured."""
    keep = made.num_valid > 0
    labels = [cluster for cluster, kept in zip(of_image, keep, strict=True) if kept]
    losses = {name: errors[keep] for name, errors in made.errors.items()}
    losses[_THRESHOLD] = (1 - READ_SHARE) * losses[CLEAN] + READ_SHARE * losses[CONSTANT]
    for cue in CUES.values():
        if cue.explained_by is not None:
            (edit,), (_, by) = cue.edits, cue.explained_by
            # a - clean > EXPLAINED (b - clean), written so that both sides are sums of what is not negative.
            losses[f"{edit} > {by}"] = losses[edit] + (EXPLAINED - 1) * losses[CLEAN]
            losses[f"{by} < {edit}"] = EXPLAINED * losses[by]
    resampled = resample(losses, labels, draws=config.draws, seed=config.bootstrap_seed)
    num_values = float(made.num_valid.sum()) * target.num_outputs
    mean = {name: float(values.sum()) / num_values for name, values in losses.items()}
    lead = mean[CONSTANT] - mean[CLEAN]

    def between(above: str, below: str) -> Interval:
        return interval(log_ratio(resampled[above], resampled[below]), config.level)

    def measured(name: str, removed: str) -> EditLoss:
        lost = (mean[name] - mean[CLEAN]) / lead if lead > 0 else math.nan
        return EditLoss(name, removed, mean[name], between(name, CLEAN), lost, between(name, _THRESHOLD))

    constant = measured(CONSTANT, "everything")
    by_name = {name: measured(name, removed) for name, removed in REMOVED.items()}
    correlations = {
        (whose, where): _correlation(of_images, labels, config)
        for whose, sums in made.luminance.items()
        for where, of_images in (("within", _within(sums[keep])), ("overall", sums[keep]))
    }
    return CueTable(
        encoder=encoder,
        target=target.name,
        unit=target.unit,
        kind=target.kind,
        clean_loss=mean[CLEAN],
        constant=constant,
        edits=tuple(by_name.values()),
        findings=find(by_name, lambda a, b: between(f"{a} > {b}", f"{b} < {a}"), leads=constant.log_ratio.low > 0),
        correlations=correlations,
        num_images=len(of_image),
        examples=made.examples,
    )


def find(edits: Mapping[str, EditLoss], exceeds: Callable[[str, str], Interval], leads: bool) -> tuple[CueFinding, ...]:
    """Return what is said of every cue.

    exceeds: of two edits, the interval of a figure that is above 0 where the loss that the first adds is more than
      EXPLAINED times what the second adds. leads: whether the probe has a lead.
    """
    findings: dict[str, CueFinding] = {}
    for name, cue in CUES.items():
        worst_first = sorted((edits[edit] for edit in cue.edits), key=lambda edit: -edit.log_ratio.estimate)
        matters = [edit for edit in worst_first if leads and edit.log_over_read.low > 0]
        is_harmless = leads and all(edit.log_over_read.high < 0 for edit in worst_first)
        reading = Reading.READ if matters else Reading.NOT_READ if is_harmless else Reading.UNDECIDED
        findings[name] = CueFinding(name, reading, (matters or worst_first)[0])
    for name, finding in findings.items():
        if finding.reading is Reading.READ and (explained := CUES[name].explained_by):
            other, edit = explained
            if findings[other].reading is Reading.READ and exceeds(finding.edit.name, edit).low <= 0:
                findings[name] = replace(finding, reading=Reading.IMPLIED)
    return tuple(findings.values())


def _within(sums: Float64[np.ndarray, "images 6"]) -> Float64[np.ndarray, "images 6"]:
    """Return the sums about each image's own means, with a count of 0. sums: of images that have a valid pixel."""
    count, x, y, xx, yy, xy = sums.T
    about = np.stack([xx - x * x / count, yy - y * y / count, xy - x * y / count], axis=1)
    flat = (about[:, :2] <= _ROUNDING * sums[:, 3:5]).any(axis=1)
    about[flat, 2] = 0
    return np.concatenate([sums[:, :3] * 0, about], axis=1)


def _correlation(sums: Float64[np.ndarray, "images 6"], clusters: Sequence[str], config: StudyConfig) -> Interval:
    parts = resampled_sums([*sums.T], clusters, config.draws, config.bootstrap_seed)
    total, drawn, left_out = (_pearson(np.atleast_2d(each)) for each in parts)
    return interval(Series(float(total[0]), drawn, left_out), config.level)


def _pearson(sums: Float64[np.ndarray, "n 6"]) -> Float64[np.ndarray, " n"]:
    """Correlate about the means of the sums; sums about means come with a count of 0."""
    count, x, y, xx, yy, xy = sums.T
    count = np.where(count > 0, count, 1)
    variance_x, variance_y, both = xx - x * x / count, yy - y * y / count, xy - x * y / count
    varies = (variance_x > _ROUNDING * xx) & (variance_y > _ROUNDING * yy)
    root = np.sqrt(np.where(varies, variance_x * variance_y, 1))
    return np.where(varies, np.clip(both / root, -1, 1), 0)
