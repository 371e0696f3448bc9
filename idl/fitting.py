"""From maps to fitted probes: statistics of the splits, one exact fit an arm, and trials of gradient descent."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float64, Int
from torch import Tensor

from idl import cache
from idl.data.splits import NUM_FOLDS, folds
from idl.errors import InputError
from idl.features import EncodedDataset, MapBatch, MapSource
from idl.probes.basis import ARMS, Columns
from idl.probes.exact import PENALTIES, Fit, fit
from idl.probes.gradient_fit import TrainResult, Trial, fit_by_gradient
from idl.probes.image_statistics import (
    FORMS,
    HeldStatistics,
    ImageGrams,
    ImageStatistics,
    Plan,
    StreamedStatistics,
    plan,
)
from idl.probes.statistics import FoldedStatistics, Statistics, accumulate_parts, total
from idl.progress import Progress
from idl.targets import Target

# Raised whenever the kept statistics, of splits and of single images, change their meaning.
STATISTICS_VERSION = 3
IMAGES_VERSION = 2
PROBE = "probe"
# Share of the memory that is free: the rest is for all else that runs.
SHARE_OF_FREE = 0.5
# Used where the system does not tell.
DEFAULT_BYTES = 2 * 2**30
# Of streamed images that are read together.
BYTES_PER_READ = 256 * 2**20
_SUMS = ("xtx", "xty", "yty")


@dataclass(frozen=True)
class SplitStatistics:
    """Statistics of one split for one target.

    folds: of the target less `offset`, one entry a fold of `idl.data.splits.folds`.
    offset: a constant near the target's mean, one an output. The bias takes it up exactly, and what float32 truth
      loses of a mean that is large against the spread (40 times as much for depth) is not lost.
    mean_layer: mean of a depth over valid pixels in the store's unit (metres), 0 for other kinds of targets.
    """

    folds: tuple[Statistics, ...]
    offset: tuple[float, ...]
    mean_layer: float

    @cached_property
    def statistics(self) -> Statistics:
        """Of the whole split."""
        return total(self.folds)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the target over valid pixels, one an output, in its own unit."""
        # The bias is the first column: a one everywhere.
        above = self.statistics.xty[0] / self.statistics.num_valid
        return tuple((above + torch.tensor(self.offset, dtype=torch.float64)).tolist())

    def subset(self, index: Int[Tensor, " chosen"]) -> Self:
        """Statistics of some of the columns, in the order of `index`."""
        return replace(self, folds=tuple(fold.subset(index) for fold in self.folds))


def read_target(target: Target, layers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Bring a batch of the store to the target's space: (batch, out, H, W) and its mask (batch, H, W)."""
    return target.encode(layers[target.layer].float(), layers["valid"])


def split_statistics(
    encoded: MapSource, name: str, target: Target, progress: Progress, offset: tuple[float, ...] | None = None
) -> SplitStatistics:
    """Accumulate split `name`, or take it from the cache: the same on every rank.

    offset: that of the training split; None for that split itself, whose first batch then sets it.
    Raises InputError where no pixel of the split is valid.
    """
    path = encoded.folder / f"{target.key}-{name}-{encoded.digest}-v{STATISTICS_VERSION}.statistics"
    kept = encoded.world.once(lambda: cache.read_tensors(path))
    # The offset is that of the training split's first batch: another batch size gives another one.
    if kept is None or (offset is not None and list(offset) != kept[1]["offset"]):
        kept = _accumulated(encoded, name, target, progress, offset)
        if encoded.world.is_first:
            cache.write_tensors(path, kept[0], **kept[1])
    sums, values = kept
    parts = zip(*(sums[each] for each in _SUMS), values["num_valid"], values["num_images"], strict=True)
    return SplitStatistics(tuple(Statistics(*each) for each in parts), tuple(values["offset"]), values["mean_layer"])


def _accumulated(
    encoded: MapSource, name: str, target: Target, progress: Progress, offset: tuple[float, ...] | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the sums of all ranks, one entry a fold, and the other values: what the cache keeps."""
    columns, device, world = encoded.columns, encoded.device, encoded.world
    fold_of = torch.tensor(folds(encoded.store, encoded.split)[name])
    statistics = [Statistics.empty(columns.total, target.num_outputs) for _ in range(NUM_FOLDS)]
    layer_sum = 0.0
    with progress(f"{name} statistics", len(encoded.share(name))) as advance:
        for batch in encoded.stream(name, (target.layer, "valid")):
            truth, valid = read_target(target, batch.layers)
            if offset is None:
                # The split's first batch is rank 0's.
                offset = world.broadcast(_means(truth, valid))
            truth = truth - torch.tensor(offset)[:, None, None]
            cells = columns.assemble(batch.maps.to(device))
            of_batch = fold_of[batch.position : batch.position + len(cells)]
            statistics = accumulate_parts(statistics, of_batch, cells, truth.to(device), valid.to(device))
            if target.kind == "depth":
                # Depth is 0 where it is not valid.
                layer_sum += float((batch.layers["depth"] * valid).sum(dtype=torch.float64))
            advance(len(batch.maps))
    if offset is None:
        # This rank has no batch at all.
        offset = world.broadcast(())
    # Each rank has accumulated its share.
    sums = {each: world.sum(torch.stack([getattr(fold, each) for fold in statistics])) for each in _SUMS}
    # Ranks are added in one order here and in another there: symmetric up to rounding only.
    sums["xtx"] = (sums["xtx"] + sums["xtx"].mT) / 2
    counts = torch.tensor([[fold.num_valid, fold.num_images] for fold in statistics], dtype=torch.float64)
    num_valid, num_images = world.sum(counts).long().T.tolist()
    layer_sum = float(world.sum(torch.tensor([layer_sum], dtype=torch.float64)))
    if sum(num_valid) == 0:
        raise InputError(f"{encoded.store.path}: no pixel of the {name} split has a valid {target.name}.")
    mean_layer = layer_sum / sum(num_valid)
    return sums, {"num_valid": num_valid, "num_images": num_images, "offset": offset, "mean_layer": mean_layer}


def _means(truth: Tensor, valid: Tensor) -> tuple[float, ...]:
    """Mean of each output over valid pixels; 0 where there is none."""
    count = max(1, int(valid.sum()))
    return tuple((truth * valid[:, None]).sum(dim=(0, 2, 3), dtype=torch.float64).div(count).float().tolist())


def folds_of(train: SplitStatistics, val: SplitStatistics) -> FoldedStatistics:
    """Put the splits' folds side by side: both of the target less the same offset."""
    return FoldedStatistics(train.folds, val.folds)


def with_offset(weights: Float64[Tensor, "columns out"], train: SplitStatistics) -> Float64[Tensor, "columns out"]:
    """Return weights of the target itself, for weights of the target less its offset; the bias comes first."""
    weights = weights.clone()
    weights[0] += torch.tensor(train.offset, dtype=torch.float64)
    return weights


@dataclass(frozen=True)
class ArmFit:
    """An arm and its fit.

    columns: what it reads of the joint system, the bias first.
    weights: (columns, out), float64, with the target's offset in the bias; zero beyond the chosen k.
    """

    name: str
    columns: tuple[int, ...]
    fit: Fit
    weights: Tensor


def fit_arms(train: SplitStatistics, val: SplitStatistics, columns: Columns, k: int | None) -> dict[str, ArmFit]:
    """Fit the fixed arms and the probe, each on its own columns of the joint system.

    train, val: with the same offset.
    k: components that the probe reads, or all that there are where they are fewer (a channel that never varies
      has none); None: chosen by cross-validation, as every arm's penalty is.
    """
    both, fits = folds_of(train, val), {}
    for name in (*ARMS, PROBE):
        index = columns.of_arm(name)
        num_fixed, num_read = len(index), 0
        if name == PROBE:
            num_fixed, num_read = 1, None if k is None else min(k, columns.num_components)
        result = fit(both.subset(torch.tensor(index)), num_fixed=num_fixed, k=num_read, penalties=PENALTIES)
        fits[name] = ArmFit(name, tuple(index), result, with_offset(result.solution.weights, train))
    return fits


@dataclass(frozen=True)
class TrainingSet:
    """What trials are trained and judged on: columns [bias | leading components], the target less its offset.

    images: the training split, image by image. train, val: sums. plan: how the images are held.
    """

    images: ImageStatistics
    train: SplitStatistics
    val: SplitStatistics
    plan: Plan

    @property
    def num_components(self) -> int:
        """Largest k of a trial."""
        return self.images.num_columns - 1


def training_set(
    encoded: EncodedDataset,
    target: Target,
    train: SplitStatistics,
    val: SplitStatistics,
    k: int | None,
    progress: Progress,
    budget: int | None = None,
) -> TrainingSet:
    """Make per-image statistics of the training split, or take them from the cache.

    train, val: of `split_statistics`; every map is in the cache by then.
    k: the largest that a trial reads; None: as many components as memory is well spent on.
    budget: bytes for the images; None: half of what is free where the work is done.
    Raises InputError where several ranks share the run.
    """
    if encoded.world.size > 1:
        raise InputError("solver: gradient descent runs on one rank. Leave torchrun out, or pass solver=exact.")
    num_images, num_components = train.statistics.num_images, encoded.basis.num_components
    budget = _free_bytes(encoded.device) if budget is None else budget
    chosen = plan(num_images, encoded.grid, num_components, target.num_outputs, budget=budget, k=k)
    form, device, layers = FORMS[chosen.form], encoded.device, (target.layer, "valid")
    columns = torch.tensor(encoded.columns.of_arm(PROBE)[: 1 + chosen.k_max])

    def images_of(batch: MapBatch) -> HeldStatistics:
        truth, valid = read_target(target, batch.layers)
        truth = truth - torch.tensor(train.offset)[:, None, None]
        cells = encoded.columns.assemble(batch.maps.to(device))[:, columns.to(device)]
        return form.of(cells, truth.to(device), valid.to(device))

    path = encoded.folder / f"{target.key}-images-{encoded.basis.digest}-k{chosen.k_max}-v{IMAGES_VERSION}.grams"
    # Kept, for they take as long as the split's own; what the form "maps" consists of is in the cache already.
    kept = cache.read_tensors(path) if form is ImageGrams and not chosen.is_streamed else None
    if chosen.is_streamed:
        images = StreamedStatistics(
            lambda positions: images_of(encoded.read("train", positions.tolist(), layers)),
            num_images,
            max(1, num_images * BYTES_PER_READ // chosen.num_bytes),
        )
    elif kept is not None and kept[1]["offset"] == list(train.offset):
        images = ImageGrams(**kept[0]).to(device)
    else:
        parts = []
        with progress("image statistics", num_images) as advance:
            for batch in encoded.stream("train", layers):
                parts.append(images_of(batch))
                advance(len(batch.maps))
        images = form.cat(parts)
        if form is ImageGrams:
            cache.write_tensors(path, vars(images), offset=train.offset)
    return TrainingSet(images, train.subset(columns), val.subset(columns), chosen)


def _free_bytes(device: torch.device) -> int:
    """Bytes that per-image statistics may take."""
    if device.type == "cuda":
        return int(SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0])
    try:
        with Path("/proc/meminfo").open() as lines:
            free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return DEFAULT_BYTES
    return int(SHARE_OF_FREE * 1024 * free)


def train_trials(data: TrainingSet, trials: list[Trial]) -> list[TrainResult]:
    """Train `trials` as one; see `fit_by_gradient`. Their weights are of the target less its offset."""
    return fit_by_gradient(data.images, data.train.statistics, data.val.statistics, trials)


def arm_of(result: TrainResult, exact: ArmFit, data: TrainingSet) -> ArmFit:
    """Return the probe arm with a trial's weights instead of the exact ones; its curve stays the exact solver's.

    Raises InputError where the trial diverged.
    """
    trial = result.trial
    if result.outcome == "diverged":
        raise InputError(f"solver={trial.solver}: diverged with lr={trial.lr:g}. Pass a lower lr.")
    weights = F.pad(result.weights, (0, 0, 0, len(exact.columns) - len(result.weights)))
    solution = replace(
        exact.fit.solution,
        k=trial.k,
        penalty=trial.weight_decay * result.weights.shape[1] / 2,
        weights=weights,
        train_loss=result.train_loss,
        val_loss=result.val_loss,
        # Of the exact solver's fit: this one is not cross-validated.
        cv_loss=math.nan,
        cv_error=math.nan,
    )
    return ArmFit(PROBE, exact.columns, replace(exact.fit, solution=solution), with_offset(weights, data.train))
