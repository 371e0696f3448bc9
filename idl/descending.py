"""From maps to a probe that is trained by gradient descent, on statistics of single images."""

import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from jaxtyping import Float64, Int
from safetensors.torch import load, save
from torch import Tensor

from idl import cache
from idl.errors import InputError
from idl.features import EncodedDataset, MapBatch
from idl.fitting import PROBE, ArmFit, SplitStatistics, read_target, with_offset
from idl.probes.descent import Report, descend
from idl.probes.image_grams import ImageGrams
from idl.probes.image_plan import FORMS, Plan, plan
from idl.probes.image_statistics import HeldStatistics, ImageStatistics, StreamedStatistics
from idl.probes.trial import Descent, Trial
from idl.progress import Progress
from idl.targets import Target

# Raised whenever the kept statistics change their meaning.
IMAGES_VERSION = 1
# Share of the memory that is free: the rest is for all else that runs.
SHARE_OF_FREE = 0.5
# Used where the system does not tell.
DEFAULT_BYTES = 2 * 2**30
# Of streamed images that are read together.
BYTES_AT_ONCE = 256 * 2**20


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
    chosen = plan(
        train.statistics.num_images,
        encoded.grid,
        encoded.basis.num_components,
        target.num_outputs,
        budget=_free_bytes(encoded.device) if budget is None else budget,
        k=k,
    )
    columns = torch.tensor(encoded.columns.of_arm(PROBE)[: 1 + chosen.k_max])
    source = _Source(encoded, target, train.offset, columns, chosen)
    if chosen.is_streamed:
        num_images = train.statistics.num_images
        at_once = max(1, num_images * BYTES_AT_ONCE // chosen.num_bytes)
        images: ImageStatistics = StreamedStatistics(source.read, num_images, at_once)
    else:
        images = source.all(progress)
    train, val = (split.subset(columns) for split in (train, val))
    return TrainingSet(images, train, val, chosen)


def train_trials(data: TrainingSet, trials: list[Trial], report: Report | None = None) -> list[Descent]:
    """Train `trials` as one; see `descend`. Their weights are of the target less its offset."""
    return descend(data.images, data.train.statistics, data.val.statistics, trials, report=report)


def target_weights(descent: Descent, data: TrainingSet) -> Float64[Tensor, "columns out"]:
    """Return a trial's weights, the bias first, for the target itself."""
    return with_offset(descent.weights, data.train)


def arm_of(descent: Descent, exact: ArmFit, data: TrainingSet) -> ArmFit:
    """The probe arm with a trial's weights instead of the exact ones; the curve over k stays the exact solver's.

    Raises InputError where the trial diverged.
    """
    trial = descent.trial
    if descent.outcome == "diverged":
        raise InputError(f"solver={trial.solver}: diverged with lr={trial.lr:g}. Pass a lower lr.")
    weights = torch.zeros(len(exact.columns), descent.weights.shape[1], dtype=torch.float64)
    weights[: len(descent.weights)] = descent.weights
    solution = replace(
        exact.fit.solution,
        k=trial.k,
        penalty=trial.weight_decay * descent.weights.shape[1] / 2,
        weights=weights.clone(),
        train_loss=descent.train_loss,
        val_loss=descent.val_loss,
        # Of the exact solver's fit: this one is not cross-validated.
        cv_loss=math.nan,
        cv_error=math.nan,
    )
    return ArmFit(PROBE, exact.columns, replace(exact.fit, solution=solution), with_offset(weights, data.train))


@dataclass(frozen=True)
class _Source:
    """Where per-image statistics come from: maps in the cache, the truth in the store."""

    encoded: EncodedDataset
    target: Target
    offset: tuple[float, ...]
    columns: Int[Tensor, " columns"]
    plan: Plan

    def all(self, progress: Progress) -> HeldStatistics:
        """Statistics of the whole training split; matrices are kept, for they take as long as the split's own."""
        form = FORMS[self.plan.form]
        basis = self.encoded.basis.digest
        name = f"{self.target.key}-images-{basis}-k{self.plan.k_max}-v{IMAGES_VERSION}.{self.plan.form}"
        path = self.encoded.folder / name
        # What the form "maps" consists of is in the cache already.
        content = cache.read(path) if form is ImageGrams else None
        if content is not None:
            tensors = load(content)
            if tuple(json.loads(bytes(tensors.pop("json").tolist()))) == self.offset:
                return form(**tensors).to(self.encoded.device)
        parts = []
        with progress("image statistics", len(self.encoded.split.indices["train"])) as advance:
            for batch in self.encoded.stream("train", (self.target.layer, "valid")):
                parts.append(self._of(batch))
                advance(len(batch.maps))
        images = form.cat(parts)
        if form is ImageGrams:
            tensors = {each.name: getattr(images, each.name).cpu() for each in fields(images)}
            # json keeps every digit of a float.
            tensors["json"] = torch.frombuffer(bytearray(json.dumps(self.offset).encode()), dtype=torch.uint8)
            cache.write(path, save(tensors))
        return images

    def read(self, positions: Int[Tensor, " images"]) -> HeldStatistics:
        """Statistics of some images of the training split."""
        return self._of(self.encoded.read("train", positions.tolist(), (self.target.layer, "valid")))

    def _of(self, batch: MapBatch) -> HeldStatistics:
        truth, valid = read_target(self.target, batch.layers)
        truth = truth - torch.tensor(self.offset)[:, None, None]
        device = self.encoded.device
        cells = self.encoded.columns.assemble(batch.maps.to(device))[:, self.columns.to(device)]
        return FORMS[self.plan.form].of(cells, truth.to(device), valid.to(device))


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
