"""From maps to fitted probes: statistics of the splits, one exact fit an arm, and trials of gradient descent."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor

from idl import cache
from idl.data.splits import NUM_FOLDS, folds
from idl.errors import InputError
from idl.features import EncodedDataset, MapBatch, MapSource
from idl.probes.basis import ARMS, Columns
from idl.probes.exact import PENALTIES, Fit, fit
from idl.probes.gradient_fit import TrainResult, Trial, fit_by_gradient
from idl.probes.image_statistics import HeldStatistics, ImageGrams, ImageStatistics, Plan, StreamedStatistics, plan
from idl.probes.statistics import FoldedStatistics, Statistics
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


def read_target(target: Target, layers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Bring a batch of the store to the target's space: (batch, out, H, W) and its mask (batch, H, W)."""
    return target.encode(layers[target.layer].float(), layers["valid"])


def layers_read(targets: Iterable[Target]) -> tuple[str, ...]:
    """Return the layers of the store that `read_target` needs for these targets, each once."""
    return tuple(dict.fromkeys([*(each.layer for each in targets), "valid"]))


def fit_statistics(
    source: MapSource,
    targets: Sequence[Target],
    progress: Progress,
    offsets: Mapping[str, tuple[float, ...]] | None = None,
) -> list[FoldedStatistics]:
    """Accumulate training and validation split for each target, or take them from the cache: the same on every rank.

    Targets that are valid at the same pixels share X'X, most of the work.
    offsets: of each target, by its key; None: the mean of the training split's first batch.
    Raises InputError where no pixel of a split is valid.
    """
    offsets = dict(offsets or {})
    kept: dict[tuple[str, str], tuple[dict[str, Tensor], dict[str, Any]]] = {}
    for name in ("train", "val"):
        ending = f"{name}-{source.digest}-v{STATISTICS_VERSION}.statistics"
        paths = {each.key: source.folder / f"{each.key}-{ending}" for each in targets}
        for key, path in paths.items():
            read, offset = source.world.once(partial(cache.read_tensors, path)), offsets.get(key)
            # The offset is that of the training split's first batch: another batch size gives another one.
            if read is not None and (offset is None or list(offset) == read[1]["offset"]):
                kept[key, name] = read
        missing = [each for each in targets if (each.key, name) not in kept]
        for key, made in (_accumulated(source, name, missing, progress, offsets) if missing else {}).items():
            kept[key, name] = made
            if source.world.is_first:
                cache.write_tensors(paths[key], made[0], **made[1])
        offsets = {each.key: tuple(kept[each.key, name][1]["offset"]) for each in targets}
    return [_folded(kept[each.key, "train"], kept[each.key, "val"]) for each in targets]


def _folded(*splits: tuple[dict[str, Tensor], dict[str, Any]]) -> FoldedStatistics:
    """Return what the cache keeps of the training and of the validation split."""
    folds_of_splits = (
        tuple(
            Statistics(*each)
            for each in zip(*(sums[name] for name in _SUMS), values["num_valid"], values["num_images"], strict=True)
        )
        for sums, values in splits
    )
    _, of_train = splits[0]
    return FoldedStatistics(*folds_of_splits, offset=tuple(of_train["offset"]), mean_depth_m=of_train["mean_layer"])


def _accumulated(
    source: MapSource,
    name: str,
    targets: Sequence[Target],
    progress: Progress,
    offsets: Mapping[str, tuple[float, ...]],
) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
    """Return, by target, the sums of all ranks, one entry a fold, and the other values: what the cache keeps."""
    columns, device, world = source.columns, source.device, source.world
    fold_of = torch.tensor(folds(source.store, source.split)[name])
    # By targets of one mask, whose outputs stand side by side, and the fold.
    accumulated: dict[tuple[tuple[str, ...], int], Statistics] = {}
    depth_sums = dict.fromkeys((each.key for each in targets), 0.0)
    with progress(f"{name} statistics", len(source.share(name))) as advance:
        for batch in source.stream(name, layers_read(targets)):
            read = {each.key: read_target(each, batch.layers) for each in targets}
            if not offsets:
                # The split's first batch is rank 0's.
                offsets = world.broadcast({key: _means(*each) for key, each in read.items()})
            of_batch = fold_of[batch.position : batch.position + len(batch.maps)]
            for keys in _of_one_mask({key: valid for key, (_, valid) in read.items()}):
                valid = read[keys[0]][1]
                truth = torch.cat([read[key][0] - torch.tensor(offsets[key])[:, None, None] for key in keys], dim=1)
                for fold in of_batch.unique().tolist():
                    chosen = of_batch == fold
                    before = accumulated.get((keys, fold)) or Statistics.empty(columns.total, truth.shape[1])
                    of_fold = (columns.assemble(batch.maps[chosen].to(device)), truth[chosen].to(device))
                    accumulated[keys, fold] = before.accumulate(*of_fold, valid[chosen].to(device))
            for each in targets:
                if each.kind == "depth":
                    # Depth is 0 where it is not valid.
                    depth_m = batch.layers["depth"] * read[each.key][1]
                    depth_sums[each.key] += float(depth_m.sum(dtype=torch.float64))
            advance(len(batch.maps))
    if not offsets:
        # This rank has no batch at all.
        offsets = world.broadcast({})
    made = {}
    for each in targets:
        statistics = [Statistics.empty(columns.total, each.num_outputs)] * NUM_FOLDS
        for (keys, fold), part in accumulated.items():
            if each.key in keys:
                first = sum(one.num_outputs for one in targets if one.key in keys[: keys.index(each.key)])
                statistics[fold] += part.outputs(slice(first, first + each.num_outputs))
        made[each.key] = _of_all_ranks(source, name, each, statistics, offsets[each.key], depth_sums[each.key])
    return made


def _of_one_mask(valid: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """Return the keys in groups whose masks are equal."""
    groups: list[tuple[str, ...]] = []
    for key, mask in valid.items():
        at = next((at for at, keys in enumerate(groups) if torch.equal(valid[keys[0]], mask)), len(groups))
        groups[at : at + 1] = [(*groups[at], key) if at < len(groups) else (key,)]
    return groups


def _of_all_ranks(
    source: MapSource,
    name: str,
    target: Target,
    statistics: Sequence[Statistics],
    offset: tuple[float, ...],
    depth_sum: float,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a target's sums of all ranks, and the other values. statistics: of this rank's share, one entry a fold."""
    world = source.world
    sums = {each: world.sum(torch.stack([getattr(fold, each) for fold in statistics])) for each in _SUMS}
    # Ranks are added in one order here and in another there: symmetric up to rounding only.
    sums["xtx"] = (sums["xtx"] + sums["xtx"].mT) / 2
    counts = torch.tensor([[fold.num_valid, fold.num_images] for fold in statistics], dtype=torch.float64)
    num_valid, num_images = world.sum(counts).long().T.tolist()
    depth_sum = float(world.sum(torch.tensor([depth_sum], dtype=torch.float64)))
    if sum(num_valid) == 0:
        raise InputError(f"{source.store.path}: no pixel of the {name} split has a valid {target.name}.")
    mean_layer = depth_sum / sum(num_valid)
    return sums, {"num_valid": num_valid, "num_images": num_images, "offset": offset, "mean_layer": mean_layer}


def _means(truth: Tensor, valid: Tensor) -> tuple[float, ...]:
    """Mean of each output over valid pixels; 0 where there is none."""
    count = max(1, int(valid.sum()))
    return tuple((truth * valid[:, None]).sum(dim=(0, 2, 3), dtype=torch.float64).div(count).float().tolist())


@dataclass(frozen=True)
class ArmFit:
    """An arm's fit. columns: what it reads of the joint system, the bias first."""

    columns: tuple[int, ...]
    fit: Fit

    @property
    def weights(self) -> Float64[Tensor, "columns out"]:
        """Weights of the target itself, on `columns`; zero beyond the chosen k."""
        return self.fit.solution.weights


def fit_arms(statistics: FoldedStatistics, columns: Columns, k: int | None) -> dict[str, ArmFit]:
    """Fit the fixed arms and the probe, each on its own columns of the joint system.

    k: components that the probe reads, or all where there are fewer; None: chosen by cross-validation.
    """
    fits = {}
    for name in (*ARMS, PROBE):
        index = columns.of_arm(name)
        num_fixed, num_read = len(index), 0
        if name == PROBE:
            num_fixed, num_read = 1, None if k is None else min(k, columns.num_components)
        result = fit(statistics.subset(torch.tensor(index)), num_fixed=num_fixed, k=num_read, penalties=PENALTIES)
        fits[name] = ArmFit(tuple(index), result)
    return fits


@dataclass(frozen=True)
class TrainingSet:
    """What trials are trained and judged on: columns [bias | leading components], the target less its offset.

    images: the training split, image by image. plan: how they are held.
    """

    images: ImageStatistics
    statistics: FoldedStatistics
    plan: Plan

    @property
    def num_components(self) -> int:
        """Largest k of a trial."""
        return self.images.num_columns - 1


def training_set(
    encoded: EncodedDataset,
    target: Target,
    statistics: FoldedStatistics,
    k: int | None,
    progress: Progress,
    budget: int | None = None,
) -> TrainingSet:
    """Make per-image statistics of the training split, whose maps are all in the cache, or take them from there.

    k: the largest that a trial reads; None: as many components as memory is well spent on.
    budget: bytes for the images; None: half of what is free where the work is done.
    Raises InputError where several ranks share the run.
    """
    if encoded.world.size > 1:
        raise InputError("solver: gradient descent runs on one rank. Leave torchrun out, or pass solver=exact.")
    num_images, num_components = statistics.whole_train.num_images, encoded.basis.num_components
    budget = _free_bytes(encoded.device) if budget is None else budget
    chosen = plan(num_images, encoded.grid, num_components, target.num_outputs, budget=budget, k=k)
    form, device, layers = chosen.form, encoded.device, (target.layer, "valid")
    columns = torch.tensor(encoded.columns.of_arm(PROBE)[: 1 + chosen.k_max])

    def images_of(batch: MapBatch) -> HeldStatistics:
        truth, valid = read_target(target, batch.layers)
        truth = truth - torch.tensor(statistics.offset)[:, None, None]
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
    elif kept is not None and kept[1]["offset"] == list(statistics.offset):
        images = ImageGrams(**kept[0]).to(device)
    else:
        parts = []
        with progress("image statistics", num_images) as advance:
            for batch in encoded.stream("train", layers):
                parts.append(images_of(batch))
                advance(len(batch.maps))
        images = form.cat(parts)
        if form is ImageGrams:
            cache.write_tensors(path, vars(images), offset=statistics.offset)
    return TrainingSet(images, statistics.subset(columns), chosen)


def _free_bytes(device: torch.device) -> int:
    """Bytes that per-image statistics may take."""
    if device.type == "cuda":
        return int(SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0])
    try:
        (kilobytes,) = re.findall(r"^MemAvailable: +(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return DEFAULT_BYTES
    return int(SHARE_OF_FREE * 1024 * int(kilobytes))


def train_trials(data: TrainingSet, trials: list[Trial]) -> list[TrainResult]:
    """Train `trials` as one; see `fit_by_gradient`."""
    return fit_by_gradient(data.images, data.statistics, trials)


def arm_of(result: TrainResult, exact: ArmFit) -> ArmFit:
    """Return the probe arm with a trial's weights instead of the exact ones; its curve stays the exact solver's.

    Raises InputError where the trial diverged.
    """
    trial = result.trial
    if result.outcome == "diverged":
        raise InputError(f"solver={trial.solver}: diverged with lr={trial.lr:g}. Pass a lower lr.")
    solution = replace(
        exact.fit.solution,
        k=trial.k,
        penalty=trial.weight_decay * result.weights.shape[1] / 2,
        weights=F.pad(result.weights, (0, 0, 0, len(exact.columns) - len(result.weights))),
        train_loss=result.train_loss,
        val_loss=result.val_loss,
        # Of the exact solver's fit: this one is not cross-validated.
        cv_loss=math.nan,
        cv_error=math.nan,
    )
    return replace(exact, fit=replace(exact.fit, solution=solution))
