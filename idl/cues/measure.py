"""The test images under every edit, and what a frozen probe loses by it."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from idl.cues.config import CuesConfig
from idl.cues.correlation import correlation
from idl.cues.looking import CLEAN, Seen
from idl.cues.reading import DECIDED_BY, EXPLAINED, EXPLAINS, READ_SHARE, REMOVED, find
from idl.cues.result import Correlation, CueTable, EditLoss
from idl.cues.wording import sentences
from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import Encoder
from idl.errors import InputError
from idl.probes.linear_probe import LinearProbe
from idl.progress import Progress, silent
from idl.targets import Target
from idl.verdict import Interval
from idl.verdict.intervals import interval
from idl.verdict.resampling import cluster_numbers, resample

CONSTANT, _THRESHOLD = "constant", "threshold"
DEFAULT = CuesConfig()
# An edit, and the one that may explain it.
_PAIRS = [(edit, by) for cue, (_, by) in EXPLAINS.items() for edit in DECIDED_BY[cue]]


def cues(
    store: Store,
    split: Split,
    encoder: Encoder,
    probe: LinearProbe,
    target: Target,
    config: CuesConfig = DEFAULT,
    *,
    clusters: Sequence[str] | None = None,
    clusters_are: str = "scene",
    progress: Progress = silent,
) -> CueTable:
    """Measure the frozen `probe` on test images with one cue removed at a time, against the clean truth.

    A prediction for tiles that were shuffled, or for an image upside down, is mapped back on the encoder's grid,
    before it is upsampled: a probe of single cells that the edit does not touch keeps its loss exactly.
    encoder, probe: as they were fitted. clusters: what each test image belongs to, in the split's order, and what that
    is called; None: scenes. Time is that of encoding each image once clean and once for every edit.
    Raises InputError where no test image has a valid pixel.
    """
    order = split.indices["test"]
    chosen = _spread(len(order), config.max_images)
    of_image = [store.scenes[index] for index in order] if clusters is None else clusters
    seen = Seen.of(store, [order[position] for position in chosen], encoder, probe, target, config, progress)

    keep = seen.num_valid > 0
    if not keep.any():
        raise InputError(f"{store.path}: no pixel of the test split has a valid {target.name}.")
    numbers = cluster_numbers([of_image[position] for position, kept in zip(chosen, keep, strict=True) if kept])
    num_values = float(seen.num_valid.sum()) * target.num_outputs
    losses = {name: errors[keep] for name, errors in seen.errors.items()}
    losses[CONSTANT] = seen.constant_errors[keep]
    losses[_THRESHOLD] = (1 - READ_SHARE) * losses[CLEAN] + READ_SHARE * losses[CONSTANT]
    for above, below in _PAIRS:
        # a - clean > EXPLAINED (b - clean), written so that both sides are sums of what is not negative.
        losses[f"{above} > {below}"] = losses[above] + (EXPLAINED - 1) * losses[CLEAN]
        losses[f"{below} < {above}"] = EXPLAINED * losses[below]
    resampled = resample(losses, numbers, draws=config.draws, seed=config.bootstrap_seed)

    def between(above: str, below: str) -> Interval:
        return interval(resampled.log_ratio(above, below), config.level)

    def exceeds(above: str, below: str) -> Interval:
        return between(f"{above} > {below}", f"{below} < {above}")

    mean = {name: float(values.sum()) / num_values for name, values in losses.items()}
    lead = mean[CONSTANT] - mean[CLEAN]

    def measured(name: str, removed: str) -> EditLoss:
        lost = (mean[name] - mean[CLEAN]) / lead if lead > 0 else math.nan
        return EditLoss(name, removed, mean[name], between(name, CLEAN), lost, between(name, _THRESHOLD))

    constant = measured(CONSTANT, "everything")
    by_name = {name: measured(name, removed) for name, removed in REMOVED.items()}
    predicted, true = (_correlation(each, keep, numbers, config) for each in (seen.predicted, seen.true))
    table = CueTable(
        encoder=encoder.name,
        target=target.name,
        unit=target.unit,
        kind=target.kind,
        clean_loss=mean[CLEAN],
        constant=constant,
        edits=tuple(by_name.values()),
        findings=find(by_name, exceeds, leads=constant.log_ratio.low > 0),
        predicted=predicted,
        true=true,
        num_images=len(chosen),
        num_test=len(order),
        num_clusters=int(numbers.max()) + 1,
        clusters=clusters_are,
        level=config.level,
        tile=seen.tile,
        sigma=config.sigma,
        sentences=("", ""),
        examples=seen.examples,
    )
    return sentences(table)


def _correlation(
    sums: np.ndarray | None, keep: np.ndarray, numbers: Int64[np.ndarray, " images"], config: CuesConfig
) -> Correlation | None:
    if sums is None:
        return None
    return correlation(sums[keep], numbers, draws=config.draws, seed=config.bootstrap_seed, level=config.level)


def _spread(count: int, most: int) -> list[int]:
    """Give at most `most` positions out of `count`, spread evenly."""
    return sorted({round(position) for position in np.linspace(0, count - 1, min(most, count))})
