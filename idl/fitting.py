"""From maps to fitted arms: statistics of the training and validation splits, one exact fit an arm."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from jaxtyping import Float64, Int
from safetensors.torch import load, save
from torch import Tensor

from idl import cache
from idl.data.splits import NUM_FOLDS, folds
from idl.distributed import World
from idl.errors import InputError
from idl.features import MapSource
from idl.probes.basis import ARMS, Columns
from idl.probes.exact import PENALTIES, Fit, fit
from idl.probes.statistics import FoldedStatistics, Statistics, total
from idl.progress import Progress
from idl.targets import Target

# Raised whenever the statistics change their meaning.
STATISTICS_VERSION = 2
PROBE = "probe"
_TENSORS = ("gram", "moment", "energy")


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
        above = self.statistics.moment[0] / self.statistics.num_valid
        return tuple((above + torch.tensor(self.offset, dtype=above.dtype, device=above.device)).tolist())

    def subset(self, index: Int[Tensor, " chosen"]) -> Self:
        """Statistics of some of the columns, in the order of `index`."""
        return replace(self, folds=tuple(fold.subset(index) for fold in self.folds))


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


def read_target(target: Target, layers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Bring a batch of the store to the target's space: (batch, out, H, W) and its mask (batch, H, W)."""
    return target.encode(layers[target.layer].float(), layers["valid"])


def split_statistics(
    encoded: MapSource,
    name: str,
    target: Target,
    progress: Progress,
    offset: tuple[float, ...] | None = None,
) -> SplitStatistics:
    """Accumulate split `name`, or take it from the cache: the same on every rank.

    offset: that of the training split; None for that split itself, whose first batch then sets it.
    """
    path = encoded.folder / f"{target.key}-{name}-{encoded.digest}-v{STATISTICS_VERSION}.statistics"
    world = encoded.world
    content = world.once(lambda: cache.read(path))
    if content is not None:
        cached = _from_bytes(content)
        # The offset is that of the training split's first batch: another batch size gives another one.
        if offset is None or offset == cached.offset:
            return cached
    columns = encoded.columns
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
            device = encoded.device
            cells = columns.assemble(batch.maps.to(device))
            of_batch = fold_of[batch.position : batch.position + len(cells)]
            for fold in of_batch.unique().tolist():
                images = (of_batch == fold).nonzero()[:, 0]
                parts = (cells[images.to(device)], truth[images].to(device), valid[images].to(device))
                statistics[fold] = statistics[fold].accumulate(*parts)
            if target.kind == "depth":
                # Depth is 0 where it is not valid.
                layer_sum += float((batch.layers["depth"] * valid).sum(dtype=torch.float64))
            advance(len(batch.maps))
    if offset is None:
        # This rank has no batch at all.
        offset = world.broadcast(())
    statistics, layer_sum = _of_all_ranks(statistics, layer_sum, world)
    num_valid = sum(fold.num_valid for fold in statistics)
    if num_valid == 0:
        raise InputError(f"{encoded.store.path}: no pixel of the {name} split has a valid {target.name}.")
    result = SplitStatistics(statistics, offset, layer_sum / num_valid)
    if world.is_first:
        cache.write(path, _to_bytes(result))
    return result


def _means(truth: Tensor, valid: Tensor) -> tuple[float, ...]:
    """Mean of each output over valid pixels; 0 where there is none."""
    count = max(1, int(valid.sum()))
    return tuple((truth * valid[:, None]).sum(dim=(0, 2, 3), dtype=torch.float64).div(count).float().tolist())


def _of_all_ranks(parts: Sequence[Statistics], layer_sum: float, world: World) -> tuple[tuple[Statistics, ...], float]:
    """Add up what each rank has accumulated on its share."""
    gram, moment, energy = (world.sum(torch.stack([getattr(fold, name) for fold in parts])) for name in _TENSORS)
    counts = [[fold.num_valid, fold.num_images] for fold in parts]
    # Ranks are added in one order here and in another there: symmetric up to rounding only.
    gram = (gram + gram.mT) / 2
    numbers = world.sum(torch.tensor(counts, dtype=torch.float64)).long().tolist()
    added = zip(gram, moment, energy, *zip(*numbers, strict=True), strict=True)
    return tuple(Statistics(*part) for part in added), float(world.sum(torch.tensor([layer_sum], dtype=torch.float64)))


def folds_of(train: SplitStatistics, val: SplitStatistics) -> FoldedStatistics:
    """Put the splits' folds side by side. Raises ValueError where their offsets differ."""
    if train.offset != val.offset:
        raise ValueError(f"train and val have different offsets: {train.offset}, {val.offset}")
    return FoldedStatistics(train.folds, val.folds)


def with_offset(weights: Float64[Tensor, "columns out"], train: SplitStatistics) -> Float64[Tensor, "columns out"]:
    """Return weights of the target itself, for weights of the target less its offset; the bias comes first."""
    weights = weights.clone()
    weights[0] += torch.tensor(train.offset, dtype=torch.float64)
    return weights


def fit_arms(train: SplitStatistics, val: SplitStatistics, columns: Columns, k: int | None) -> dict[str, ArmFit]:
    """Fit the fixed arms and the probe, each on its own columns of the joint system.

    train, val: with the same offset.
    k: components that the probe reads, or all that there are where they are fewer (a channel that never varies
      has none); None: chosen by cross-validation, as every arm's penalty is.
    """
    both = folds_of(train, val)
    fits = {}
    for name in (*ARMS, PROBE):
        index = columns.of_arm(name)
        is_probe = name == PROBE
        result = fit(
            both.subset(torch.tensor(index)),
            num_fixed=1 if is_probe else len(index),
            k=(None if k is None else min(k, columns.num_components)) if is_probe else 0,
            penalties=PENALTIES,
        )
        fits[name] = ArmFit(name, tuple(index), result, with_offset(result.solution.weights, train))
    return fits


def _to_bytes(split: SplitStatistics) -> bytes:
    tensors = {name: torch.stack([getattr(fold, name) for fold in split.folds]) for name in _TENSORS}
    numbers = {name: [getattr(fold, name) for fold in split.folds] for name in ("num_valid", "num_images")}
    # json keeps every digit of a float.
    further = {"offset": split.offset, "mean_layer": split.mean_layer}
    tensors["json"] = torch.frombuffer(bytearray(json.dumps(numbers | further).encode()), dtype=torch.uint8)
    return save(tensors)


def _from_bytes(content: bytes) -> SplitStatistics:
    tensors = load(content)
    numbers = json.loads(bytes(tensors.pop("json").tolist()))
    parts = zip(*(tensors[name] for name in _TENSORS), numbers["num_valid"], numbers["num_images"], strict=True)
    return SplitStatistics(tuple(Statistics(*part) for part in parts), tuple(numbers["offset"]), numbers["mean_layer"])
