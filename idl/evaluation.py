"""The one look at the test split: every arm predicts it, at full resolution, and is measured."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from idl.distributed import World
from idl.features import EncodedDataset
from idl.fitting import PROBE, ArmFit, read_target
from idl.measures import Measure, Sums, Truth
from idl.native import NativeMeasure, native_results
from idl.probes.grid import upsample
from idl.progress import Progress
from idl.targets import Target

NUM_PANELS = 12
# Maps of eight images and their predictions stay in the processor's caches.
IMAGES_AT_A_TIME = 8


@dataclass(frozen=True)
class PanelValues:
    """One test image with truth and prediction: metres or a field's unit (H, W), or unit normals (3, H, W)."""

    name: str
    rgb: UInt8[np.ndarray, "H W 3"]
    truth: np.ndarray
    prediction: np.ndarray
    valid: Bool[np.ndarray, "H W"]


@dataclass(frozen=True)
class Evaluation:
    """The test split under every arm.

    losses: by arm, one mean squared error an image in target units squared (NaN without a valid pixel).
    num_valid: valid pixels of each image.
    arm_errors: by arm, its error in both averages: "rmse" and "rmse_pooled" in metres or a field's unit, or angles in
      degrees.
    sums: all metrics of the probe. Under a native protocol depth is measured at native size; losses and num_valid are
      of the size of the fit.
    panels: images spread evenly over the split, and those that were asked for.
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
    encoded: EncodedDataset,
    target: Target,
    arms: Mapping[str, ArmFit],
    measure: Measure,
    progress: Progress,
    native: NativeMeasure | None = None,
    shown_names: Collection[str] = (),
) -> Evaluation:
    """Predict the test split with every arm and measure it, in one stream: the same result on every rank.

    native: measures depth at native size instead.
    shown_names: images whose panels are wanted beside those that are spread over the split.
    """
    order = encoded.split.indices["test"]
    shown = spread(len(order), NUM_PANELS)
    shown |= {position for position, index in enumerate(order) if encoded.store.names[index] in shown_names}
    num_images = len(encoded.share("test"))
    collected = _Collected(measure, tuple(arms), num_images)
    probe = list(arms).index(PROBE)
    panels: list[PanelValues] = []
    weights = encoded.columns.side_by_side([(arm.columns, arm.weights) for arm in arms.values()])
    weights = weights.float().to(encoded.device)
    with progress("test", num_images) as advance:
        for batch in encoded.stream("test", (target.layer, "valid")):
            truth, valid = read_target(target, batch.layers)
            cells = encoded.columns.assemble(batch.maps.to(encoded.device)).permute(0, 2, 3, 1)
            grid = (cells @ weights).permute(0, 3, 1, 2).cpu()
            for first in range(0, len(grid), IMAGES_AT_A_TIME):
                part = slice(first, first + IMAGES_AT_A_TIME)
                images = Truth(truth[part], batch.layers[target.layer][part], valid[part])
                prediction = collected.add(grid[part], images)
                if native is not None:
                    start = batch.position + first
                    indices = order[start : start + len(prediction)]
                    collected.add_native(native.measure(grid[part], indices, probe))
                for row in range(len(prediction)):
                    position = batch.position + first + row
                    if position in shown:
                        index = order[position]
                        # Copies: a view of one row would keep its whole batch.
                        panels.append(
                            PanelValues(
                                encoded.store.names[index],
                                encoded.store.read(("rgb",), [index])["rgb"][0],
                                measure.shown_truth(images)[row].numpy().copy(),
                                prediction[row].numpy().copy(),
                                images.valid[row].numpy().copy(),
                            )
                        )
            advance(len(batch.maps))
    collected.add_up(encoded.world)
    return collected.evaluation(tuple(panel for part in encoded.world.gather(panels) for panel in part))


def spread(count: int, wanted: int) -> set[int]:
    """Positions spread evenly over `count`: the same for every run on the same split."""
    return {round(position) for position in np.linspace(0, count - 1, min(wanted, count))}


class _Rows:
    """Arrays with one row an image, made once and filled from the front.

    Small arrays that stay between large ones that come and go would leave holes in the heap into which no batch
    fits: 0.2 MB an image.
    """

    def __init__(self, num_images: int) -> None:
        self._num_images = num_images
        self._arrays: dict[str, np.ndarray] = {}
        self._filled: dict[str, int] = {}

    @classmethod
    def joined(cls, parts: Sequence["_Rows"]) -> "_Rows":
        """Return the rows of all parts, one part after the other."""
        whole = cls(sum(part._num_images for part in parts))
        for part in parts:
            for name, values in part._arrays.items():
                whole.put(name, values)
        return whole

    def put(self, name: str, values: np.ndarray) -> None:
        """Append rows to the array `name`."""
        if name not in self._arrays:
            self._arrays[name] = np.full((self._num_images, *values.shape[1:]), np.nan)
        first = self._filled.get(name, 0)
        self._arrays[name][first : first + len(values)] = values
        self._filled[name] = first + len(values)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def of(self, prefix: str) -> dict[str, np.ndarray]:
        """All arrays under `prefix`, by the rest of their names."""
        return {name.partition(".")[2]: rows for name, rows in self._arrays.items() if name.startswith(f"{prefix}.")}


class _Collected:
    """What was measured of the test split, image by image, while it streams by."""

    def __init__(self, measure: Measure, arms: Sequence[str], num_images: int) -> None:
        self._measure = measure
        self._arms = arms
        self._rows = _Rows(num_images)
        self._totals: dict[str, dict[str, np.ndarray]] = {arm: {} for arm in arms}

    def add(self, grid: Float[Tensor, "batch arms_out h w"], truth: Truth) -> Tensor:
        """Measure a few images under every arm; return the probe's prediction as it is shown."""
        num_outputs, height, width = truth.target.shape[1:]
        # Normals that do not exist (an edge, a hole) are zero; everything else is a plain mask.
        mask = truth.valid[:, None].float()
        predictions = upsample(grid.contiguous(), height, width).unflatten(1, (len(self._arms), num_outputs))
        count = truth.valid.sum(dim=(1, 2), dtype=torch.float64)
        self._rows.put("num_valid", count.numpy())
        losses, shown = [], torch.empty(0)
        for number, arm in enumerate(self._arms):
            prediction = predictions[:, number]
            error = (prediction - truth.target).mul_(mask).square_().sum(dim=(1, 2, 3), dtype=torch.float64)
            losses.append(error / (count * num_outputs))
            measured = self._measure.measure(prediction, truth, is_whole=arm == PROBE)
            for name, values in measured.rows.items():
                self._rows.put(f"{arm}.{name}", values)
            self._totals[arm] = _added(self._totals[arm], measured.totals or {})
            shown = measured.shown if arm == PROBE else shown
        self._rows.put("losses", torch.stack(losses, dim=1).numpy())
        return shown

    def add_native(self, rows: Mapping[str, np.ndarray]) -> None:
        """Keep what was measured of a few images at native size."""
        for name, values in rows.items():
            self._rows.put(f"native.{name}", values)

    def add_up(self, world: World) -> None:
        """Make this what all ranks have collected; their shares follow each other in the split's order."""
        parts = world.gather((self._rows, self._totals))
        self._rows = _Rows.joined([rows for rows, _ in parts])
        self._totals = {arm: reduce(_added, (totals[arm] for _, totals in parts)) for arm in self._arms}

    def evaluation(self, panels: tuple[PanelValues, ...]) -> Evaluation:
        num_valid = self._rows["num_valid"]
        losses = dict(zip(self._arms, self._rows["losses"].T.copy(), strict=True))
        if at_native_size := self._rows.of("native"):
            native_errors, native_sums = native_results(at_native_size, self._arms)
            return Evaluation(losses, num_valid, native_errors, native_sums, panels)
        errors = {arm: self._measure.errors(self._rows.of(arm), self._totals[arm], num_valid) for arm in self._arms}
        sums = self._measure.sums(self._rows.of(PROBE), self._totals[PROBE])
        return Evaluation(losses, num_valid, errors, sums, panels)


def _added(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add up by name; a rank without images has no names at all."""
    return {**one, **{name: values + one[name] if name in one else values for name, values in other.items()}}
