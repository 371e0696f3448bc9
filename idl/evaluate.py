"""Predictions measured image by image: every arm on the test split, a whole model on images, many probes at once.

Measuring is the same for all of them: see `idl.measures`. The test split is read here, once.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from idl.data.loading import batches, images_of
from idl.data.store import Store
from idl.distributed import ALONE, World
from idl.features import EncodedDataset
from idl.fitting import PROBE, ArmFit, read_target
from idl.measures import Measure, Truth, is_native
from idl.metrics import Sums
from idl.probe_config import EncodedData
from idl.probes.grid import upsample
from idl.progress import Progress, silent
from idl.protocol import Protocol
from idl.targets import Target

# RGB in [0, 1] (batch, 3, h, w) to a map at (h, w).
Model = Callable[[Tensor], Tensor]
# The one arm of a whole model.
MODEL = "model"
NUM_PANELS = 12
# Maps of eight images and their predictions stay in the processor's caches.
IMAGES_AT_A_TIME = 8
# An exported program may refuse a grid that is one cell high or wide.
MIN_CELLS = 2


@dataclass(frozen=True)
class PanelValues:
    """One image with truth and prediction: metres or a field's unit (H, W), or unit normals (3, H, W)."""

    name: str
    rgb: UInt8[np.ndarray, "H W 3"]
    truth: np.ndarray
    prediction: np.ndarray
    valid: Bool[np.ndarray, "H W"]


@dataclass(frozen=True)
class Evaluation:
    """Some images of a store under every arm.

    losses: by arm, one mean squared error an image in target units squared (NaN without a valid pixel).
    num_valid: valid pixels of each image.
    arm_errors: by arm, its error in both averages: "rmse" and "rmse_pooled" in metres or a field's unit, or angles in
      degrees.
    sums: of the probe, for all metrics. Under a native protocol depth is measured at native size; losses and num_valid
      are of the size of the fit.
    panels: images spread evenly over the split, and those that were requested.
    """

    losses: Mapping[str, Float64[np.ndarray, " images"]]
    num_valid: Float64[np.ndarray, " images"]
    arm_errors: Mapping[str, Mapping[str, float]]
    sums: Sums
    panels: tuple[PanelValues, ...]

    def pooled_loss(self, arm: str) -> float:
        """Mean squared error over all valid pixels and outputs, target units squared."""
        seen = self.num_valid > 0
        return float((self.losses[arm][seen] * self.num_valid[seen]).sum() / self.num_valid.sum())


def evaluate(
    data: EncodedData, arms: Mapping[str, ArmFit], progress: Progress = silent, shown_names: Collection[str] = ()
) -> Evaluation:
    """Predict the test split with every arm and measure it, in one stream: the same result on every rank.

    shown_names: images with a panel beside those that are spread over the split.
    Raises InputError where no image has a valid pixel.
    """
    encoded, target = data.encoded, data.target
    share = encoded.share("test")
    means = (data.statistics.mean_depth_m, data.statistics.mean)
    order = data.split.indices["test"]
    collector = _Collector(data.store, order, target, data.protocol, means, tuple(arms), len(share), shown_names)
    weights = encoded.columns.side_by_side([(arm.columns, arm.weights) for arm in arms.values()])
    weights = weights.float().to(encoded.device)
    with progress("test", len(share)) as advance:
        for batch in encoded.stream("test", (target.layer, "valid")):
            cells = encoded.columns.assemble(batch.maps.to(encoded.device)).permute(0, 2, 3, 1)
            collector.add(batch.position, (cells @ weights).permute(0, 3, 1, 2).cpu(), batch.layers)
            advance(len(batch.maps))
    return collector.evaluation(encoded.world)


def evaluate_model(
    model: Model,
    store: Store,
    order: Sequence[int],
    reference: Sequence[int],
    target: Target,
    protocol: Protocol,
    stride: int,
    progress: Progress = silent,
    *,
    label: str = "test",
) -> Evaluation:
    """Predict the images `order` of a store with `model` and measure them as a probe's run does, as the arm "model".

    model: RGB in [0, 1] in; out what `target` decodes to: metres (batch, 1, H, W), unit normals (batch, 3, H, W), or
      a field in its own unit.
    reference: images whose mean a `r2` of 0 stands for: those of the dataset's training split, as for a probe that
      is fitted there.
    stride: pixels a cell of the model's grid.

    Pixels count where a probe of this target would count them: of depth under a native protocol, at native size. There
    a probe's own run differs where it predicts beyond the range, since a whole model clamps before it is upsampled.
    """
    means = _means(store, reference, target, progress)
    collector = _Collector(store, order, target, protocol, means, (MODEL,), len(order))
    position = 0
    with progress(label, len(order)) as advance:
        for layers in batches(store, ("rgb", target.layer, "valid"), order, IMAGES_AT_A_TIME):
            with torch.inference_mode():
                output = padded(model, images_of(layers["rgb"]), stride)
                if target.kind == "depth":
                    # Measures take what decodes to it; unit normals and fields stay what they are under `decode`.
                    metres = output[:, 0]
                    output, _ = target.encode(metres, torch.ones_like(metres, dtype=torch.bool))
                collector.add(position, output, layers)
            position += len(output)
            advance(len(output))
    return collector.evaluation(ALONE)


def padded(model: Model, rgb: Float[Tensor, "batch 3 H W"], stride: int) -> Float[Tensor, "batch out H W"]:
    """Predict for images of any size: continued below and to the right up to whole cells, and cut again."""
    height, width = rgb.shape[2:]
    down, right = (max(MIN_CELLS, -(-side // stride)) * stride - side for side in (height, width))
    if not down and not right:
        return model(rgb)
    # The edge repeated: against the real pixels, 8 of which were cut off a side, the shipped ConvNeXt's depth is off
    # by 0.030 m (RMSE over rooms of 256 x 256); by 0.038 m with a mirror, by 0.117 m with black.
    return model(F.pad(rgb, (0, right, 0, down), mode="replicate"))[:, :, :height, :width]


def _means(
    store: Store, reference: Sequence[int], target: Target, progress: Progress
) -> tuple[float, tuple[float, ...]]:
    """Return the mean of the layer, where it is a depth, and of the target, over the pixels where it is defined."""
    layer_sum, count = 0.0, 0
    target_sum = torch.zeros(target.num_outputs, dtype=torch.float64)
    with progress("mean", len(reference)) as advance:
        for layers in batches(store, (target.layer, "valid"), reference, IMAGES_AT_A_TIME):
            truth, valid = read_target(target, layers)
            if target.kind == "depth":
                layer_sum += float((layers[target.layer] * valid).sum(dtype=torch.float64))
            target_sum += (truth * valid[:, None]).sum(dim=(0, 2, 3), dtype=torch.float64)
            count += int(valid.sum())
            advance(len(valid))
    return layer_sum / max(count, 1), tuple((target_sum / max(count, 1)).tolist())


class _Collector:
    """Measures images of a store while they stream by, in order, and keeps a row an image.

    means: of a depth in metres and of the target, over the training split. num_images: that this rank adds.
    """

    def __init__(
        self,
        store: Store,
        order: Sequence[int],
        target: Target,
        protocol: Protocol,
        means: tuple[float, tuple[float, ...]],
        arms: tuple[str, ...],
        num_images: int,
        shown_names: Collection[str] = (),
    ) -> None:
        self._store, self._order, self._target, self._arms = store, order, target, arms
        self._measure = Measure(target, protocol, *means)
        self._is_native = is_native(target, protocol)
        self._probe = arms.index(PROBE) if PROBE in arms else 0
        spread = np.linspace(0, len(order) - 1, min(NUM_PANELS, len(order))).round().astype(int)
        self._shown = {*spread.tolist(), *(p for p, index in enumerate(order) if store.names[index] in shown_names)}
        self._num_images, self._num_added = num_images, 0
        self._rows: dict[str, np.ndarray] = {}
        self._totals: dict[str, np.ndarray] = {}
        self._panels: list[PanelValues] = []

    def add(self, position: int, grid: Float[Tensor, "batch arms_out h w"], layers: Mapping[str, Tensor]) -> None:
        """Measure images. position: of the first in the order. grid: predictions in the target's space.

        layers: the store's of these images, the target's and "valid" among them.
        """
        for first in range(0, len(grid), IMAGES_AT_A_TIME):
            part = slice(first, first + IMAGES_AT_A_TIME)
            self._add(position + first, grid[part], {name: values[part] for name, values in layers.items()})

    def _add(self, position: int, grid: Tensor, layers: Mapping[str, Tensor]) -> None:
        target = self._target
        in_space, valid = read_target(target, layers)
        truth = Truth(in_space, layers[target.layer], valid)
        size = in_space.shape[2:]
        # A whole model's maps are the finest of grids.
        predictions = grid if grid.shape[2:] == size else upsample(grid.contiguous(), *size)
        by_arm = predictions.unflatten(1, (len(self._arms), target.num_outputs)).unbind(1)
        count = valid.sum(dim=(1, 2), dtype=torch.float64)
        # Normals that do not exist (an edge, a hole) are zero; everything else is a plain mask.
        mask = valid[:, None].float()
        squared = [(each - in_space).mul_(mask).square_().sum((1, 2, 3), dtype=torch.float64) for each in by_arm]
        if self._is_native:
            indices = self._order[position : position + len(grid)]
            errors, sums = self._measure.native(self._store, grid, indices, self._probe)
        else:
            errors = np.stack([self._measure.errors(each, truth) for each in by_arm], axis=1)
            sums = self._measure.sums(by_arm[self._probe], truth)
        losses = torch.stack(squared, dim=1) / (count * target.num_outputs)[:, None]
        self._put({"pixels": count.numpy(), "losses": losses.numpy(), "errors": errors, **sums.rows})
        self._totals = {name: values + self._totals.get(name, 0) for name, values in sums.totals.items()}
        for row in range(len(grid)):
            if position + row in self._shown:
                one = slice(row, row + 1)
                seen = Truth(in_space[one], truth.layer[one], valid[one])
                self._panels.append(self._panel(self._order[position + row], by_arm[self._probe][one], seen))

    def _panel(self, index: int, prediction: Tensor, truth: Truth) -> PanelValues:
        rgb = self._store.read(("rgb",), [index])["rgb"][0]
        # Copies: a view of one row would keep its whole batch.
        values = (each[0].numpy().copy() for each in (*self._measure.shown(prediction, truth), truth.valid))
        return PanelValues(self._store.names[index], rgb, *values)

    def _put(self, rows: Mapping[str, np.ndarray]) -> None:
        # Arrays made once: small ones that stay between large ones that come and go would leave holes in the heap
        # into which no batch fits, 0.2 MB an image.
        first = self._num_added
        for name, values in rows.items():
            if name not in self._rows:
                self._rows[name] = np.full((self._num_images, *values.shape[1:]), np.nan)
            self._rows[name][first : first + len(values)] = values
        self._num_added = first + len(rows["pixels"])

    def evaluation(self, world: World) -> Evaluation:
        """Return what all ranks have collected; their shares follow each other in the split's order."""
        # A rank without images has no rows.
        parts = [each for each in world.gather((self._rows, self._totals, self._panels)) if each[0]]
        rows = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
        totals = {name: np.sum([part[1][name] for part in parts], axis=0) for name in parts[0][1]}
        num_valid, losses, errors = (rows.pop(name) for name in ("pixels", "losses", "errors"))
        sums = Sums(self._target.kind, rows, totals)
        sums.summary()  # raises InputError where nothing was measured
        counted = sums.num_valid if self._is_native else num_valid
        named = {arm: self._measure.averaged(errors[:, number], counted) for number, arm in enumerate(self._arms)}
        panels = tuple(panel for part in parts for panel in part[2])
        return Evaluation(dict(zip(self._arms, losses.T.copy(), strict=True)), num_valid, named, sums, panels)


@dataclass(frozen=True)
class ShownImages:
    """A few validation images, to see what probes make of them.

    truth: metres (images, H, W), normals (images, H, W, 3), or the first output of any other target (images, H, W).
    cells: of the grid, on all columns [bias | components].
    """

    target: Target
    names: tuple[str, ...]
    rgb: UInt8[np.ndarray, "images H W 3"]
    truth: Float[np.ndarray, "images H W *three"]
    valid: Bool[np.ndarray, "images H W"]
    cells: Float[Tensor, "images h w columns"]

    @classmethod
    def of(cls, encoded: EncodedDataset, target: Target, num_images: int) -> "ShownImages":
        """Read images spread evenly over the validation split, whose maps are in the cache."""
        order = encoded.split.indices["val"]
        positions = np.unique(np.linspace(0, len(order) - 1, num_images).round().astype(int)).tolist()
        batch = encoded.read("val", positions, ("rgb", target.layer, "valid"))
        in_space, valid = read_target(target, batch.layers)
        truth = in_space[:, 0] if target.kind == "field" else batch.layers[target.layer].float()
        columns = encoded.columns.assemble(batch.maps.to(encoded.device))[:, list(encoded.columns.of_arm(PROBE))]
        return cls(
            target,
            tuple(encoded.store.names[order[position]] for position in positions),
            batch.layers["rgb"].numpy(),
            truth.numpy(),
            valid.numpy(),
            columns.permute(0, 2, 3, 1).float().cpu(),
        )

    def predicted(self, weights: Sequence[Float64[Tensor, "columns out"]], side: int) -> list[np.ndarray]:
        """Predict every image with every probe, by one product.

        weights: on [bias | leading components], the same number of columns for all, for the target itself.
        side: of the pictures, pixels.
        Returns for each probe what `truth` is of, (images, side, side) or (images, side, side, 3).
        """
        if not weights:
            return []
        joint = torch.cat(list(weights), dim=1).float()
        grid = (self.cells[..., : len(joint)] @ joint).permute(0, 3, 1, 2)
        values = upsample(grid.contiguous(), side, side).unflatten(1, (len(weights), -1)).transpose(0, 1)
        decoded = self.target.decode(values.flatten(0, 1)).unflatten(0, values.shape[:2]).numpy()
        return [np.moveaxis(each, 1, -1) if self.target.kind == "normals" else each[:, 0] for each in decoded]
