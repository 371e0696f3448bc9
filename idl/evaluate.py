"""Predictions measured image by image: every arm on the test split, a whole model on images.

The test split is read here, once.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from idl.data.loading import batches, images_of
from idl.data.store import Store
from idl.errors import InputError
from idl.fitting import PROBE, ArmFit, read_target
from idl.metrics import Sums, aligned_and_clamped, depth_metrics, field_metrics, normals_metrics
from idl.probe_config import EncodedData
from idl.probes.grid import upsample, upsampling
from idl.progress import Progress, silent
from idl.protocol import NATIVE, Protocol
from idl.targets import Target

# RGB in [0, 1] (batch, 3, h, w) to a map at (h, w).
Model = Callable[[Tensor], Tensor]
# Position of the first image in its order, predictions (batch, arms * out, h, w) in the target's space, the layers.
Predicted = tuple[int, Tensor, Mapping[str, Tensor]]
# Of each image: the mean error, and the mean squared error; NaN without a valid pixel.
Errors = Float64[np.ndarray, "images 2"]
# The one arm of a whole model.
MODEL = "model"
NUM_PANELS = 12
# Maps of eight images and their predictions stay in the processor's caches.
IMAGES_AT_A_TIME = 8
# An exported program may refuse a grid that is one cell high or wide.
MIN_CELLS = 2
# Of a window, the share by which the next one lies farther, at most: the rest is blended.
_STEP = 0.75


@dataclass(frozen=True)
class PanelValues:
    """One image with truth and prediction: metres or a field's unit (H, W), or unit normals (H, W, 3)."""

    name: str
    rgb: UInt8[np.ndarray, "H W 3"]
    truth: np.ndarray
    prediction: np.ndarray
    valid: Bool[np.ndarray, "H W"]


@dataclass(frozen=True)
class Evaluation:
    """Some images of a store under every arm.

    losses: by arm, one mean squared error an image in target units squared (NaN without a valid pixel).
    num_valid: valid pixels of each image, at the size of the fit, as for losses.
    arm_errors: by arm, "rmse" and "rmse_pooled" in metres or a field's unit, or angles in degrees.
    sums: of the probe, for all metrics; at native size where the protocol has it.
    panels: images spread evenly over the split, and those that were requested.
    """

    losses: Mapping[str, Float64[np.ndarray, " images"]]
    num_valid: Float64[np.ndarray, " images"]
    arm_errors: Mapping[str, Mapping[str, float]]
    sums: Sums
    panels: tuple[PanelValues, ...]

    def pooled_loss(self, arm: str) -> float:
        """Return the mean squared error over all valid pixels and outputs, target units squared."""
        seen = self.num_valid > 0
        return float((self.losses[arm][seen] * self.num_valid[seen]).sum() / self.num_valid.sum())


class Truth(NamedTuple):
    """A few images. target: in its space, 0 where not defined. layer: as stored. valid: where it is defined."""

    target: Float[Tensor, "batch out H W"]
    layer: Tensor
    valid: Bool[Tensor, "batch H W"]


@dataclass(frozen=True)
class Measure:
    """How a target is held against its truth, by its kind. Predictions are in its space, at the truth's size.

    train_mean_m, train_mean: over the training split, which R2 is measured from: of a depth in metres, and of a field
    in its own space, one an output.
    """

    target: Target
    protocol: Protocol
    train_mean_m: float
    train_mean: tuple[float, ...]

    def sums(self, prediction: Float[Tensor, "batch out H W"], truth: Truth) -> Sums:
        """Return what all metrics follow from."""
        decoded = self.target.decode(prediction)
        if self.target.kind == "depth":
            return depth_metrics(decoded[:, 0], truth.layer, truth.valid, self.protocol, self.train_mean_m)
        if self.target.kind == "normals":
            return normals_metrics(decoded, truth.target, truth.valid)
        return field_metrics(decoded, truth.target, truth.valid, self.train_mean)

    def errors(self, prediction: Float[Tensor, "batch out H W"], truth: Truth) -> Errors:
        """Return the mean error and mean squared error of each image: root mean squares, or angles in degrees."""
        if self.target.kind == "depth":
            # Without the other sums, which the control arms do not need.
            layer, metres = self.shown(prediction, truth)
            squared = (metres - layer).mul_(truth.valid.float()).square_().sum(dim=(1, 2), dtype=torch.float64)
            squared = (squared / truth.valid.sum(dim=(1, 2), dtype=torch.float64)).numpy()
            return np.stack([np.sqrt(squared), squared], axis=1)
        per_image = self.sums(prediction, truth).per_image()
        if self.target.kind == "field":
            return np.stack([per_image["rmse"], per_image["mse"]], axis=1)
        return np.stack([per_image["angle_mean_deg"], per_image["angle_rmse_deg"] ** 2], axis=1)

    def native(
        self, store: Store, grid: Float[Tensor, "batch arms h w"], indices: Sequence[int], probe: int
    ) -> tuple[Float64[np.ndarray, "batch arms 2"], Sums]:
        """Return every arm's errors of depth at native size, as published protocols have it, and the sums of one arm.

        The prediction is upsampled to the size of the fit, then to the native size, then inverted to metres, cropped,
        aligned and clamped. grid: in the target's space, of the images `indices` of the store. probe: that arm.
        """
        # One at a time: seven arms of a frame of 768 x 1024 are 22 MB.
        errors, sums = [], []
        for cells, index in zip(grid, indices, strict=True):
            whole = torch.from_numpy(store.read((NATIVE,), [index])[NATIVE][0])
            top, bottom, left, right = self.protocol.native_crop or (0, whole.shape[0], 0, whole.shape[1])
            # Cropped before the products: a pixel does not depend on another.
            rows = _twice_upsampling(cells.shape[1], self.protocol.resolution, whole.shape[0])[top:bottom]
            columns = _twice_upsampling(cells.shape[2], self.protocol.width, whole.shape[1])[left:right]
            prediction = (rows @ cells @ columns.T)[:, None]
            layer = whole[top:bottom, left:right].expand(len(cells), -1, -1)
            valid = (layer >= self.protocol.min_depth_m) & (layer <= self.protocol.max_depth_m)
            errors.append(self.errors(prediction, Truth(layer[:, None], layer, valid)))
            one = slice(probe, probe + 1)
            sums.append(self.sums(prediction[one], Truth(layer[one, None], layer[one], valid[one])))
        return np.stack(errors), Sums.concatenate(sums)

    def shown(self, prediction: Float[Tensor, "batch out H W"], truth: Truth) -> tuple[Tensor, Tensor]:
        """Return truth and prediction as a picture shows them: unit normals, metres, or the first output of a field."""
        decoded = self.target.decode(prediction)
        if self.target.kind == "depth":
            return truth.layer, aligned_and_clamped(decoded[:, 0], truth.layer, truth.valid, self.protocol)
        if self.target.kind == "normals":
            return truth.target.movedim(1, -1), decoded.movedim(1, -1)
        return truth.target[:, 0], decoded[:, 0]

    def averaged(self, errors: Errors, num_valid: Float64[np.ndarray, " images"]) -> dict[str, float]:
        """Return an arm's errors by name: the mean over images, and the root over all pixels."""
        is_angle = self.target.kind == "normals"
        of_image, pooled = ("angle_mean_deg", "angle_rmse_deg_pooled") if is_angle else ("rmse", "rmse_pooled")
        seen = num_valid > 0
        squared = (errors[seen, 1] * num_valid[seen]).sum() / num_valid.sum()
        return {of_image: float(errors[seen, 0].mean()), pooled: float(np.sqrt(squared))}


def is_native(target: Target, protocol: Protocol) -> bool:
    """Return whether metrics are taken at native size, which only those of a depth are."""
    return protocol.is_native and (target.kind, target.layer) == ("depth", "depth")


def require_native(store: Store, target: Target, indices: Sequence[int]) -> None:
    """Raise InputError where images to be tested lack the native depth that the store's protocol measures."""
    if not is_native(target, store.protocol):
        return
    missing = store.lacking(NATIVE, indices) if NATIVE in store.layers else tuple(indices)
    if missing:
        raise InputError(
            f"split: {len(missing)} of {len(indices)} images that are tested under it, {store.names[missing[0]]} among "
            f"them, have no native depth, which protocol {store.protocol.name} measures. Pass split=auto, or "
            "protocol=idl."
        )


@lru_cache(maxsize=16)
def _twice_upsampling(num_cells: int, num_pixels: int, num_native: int) -> Float[Tensor, "native cells"]:
    """Matrix of bilinear upsampling to the size of the fit, and from there to the native size."""
    wide = torch.float64
    return (upsampling(num_pixels, num_native, wide) @ upsampling(num_cells, num_pixels, wide)).float()


def evaluate(
    data: EncodedData, arms: Mapping[str, ArmFit], progress: Progress = silent, shown_names: Collection[str] = ()
) -> Evaluation:
    """Predict the test split with every arm and measure it, in one stream: the same result on every rank.

    shown_names: images with a panel beside the usual ones. Raises InputError where no image has a valid pixel.
    """
    encoded, num_images = data.encoded, len(data.encoded.share("test"))
    measure = Measure(data.target, data.protocol, data.statistics.mean_depth_m, data.statistics.mean)
    weights = encoded.columns.side_by_side([(arm.columns, arm.weights) for arm in arms.values()])
    weights = weights.float().to(encoded.device)

    def predicted() -> Iterator[Predicted]:
        with progress("test", num_images) as advance:
            for batch in encoded.stream("test", (data.target.layer, "valid")):
                cells = encoded.columns.assemble(batch.maps.to(encoded.device)).permute(0, 2, 3, 1)
                yield batch.position, (cells @ weights).permute(0, 3, 1, 2).cpu(), batch.layers
                advance(len(batch.maps))

    order = data.split.indices["test"]
    part = _collected(predicted(), measure, data.store, order, tuple(arms), num_images, shown_names)
    return _evaluation(encoded.world.gather(part), measure, tuple(arms))


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
    window: tuple[int, int] | None = None,
    label: str = "test",
) -> Evaluation:
    """Predict the images `order` of a store with `model` and measure them as a probe's run does, as the arm "model".

    Under a native protocol a probe's own run differs where it predicts beyond the range: a whole model clamps before it
    is upsampled.

    model: gives what `target` decodes to: metres (batch, 1, H, W), unit normals (batch, 3, H, W), or a field.
    reference: images whose mean a `r2` of 0 stands for: the training split. stride, window: as of `predict_whole`.
    """
    measure = Measure(target, protocol, *_means(store, reference, target, progress))

    def predicted() -> Iterator[Predicted]:
        position = 0
        with progress(label, len(order)) as advance:
            for layers in batches(store, ("rgb", target.layer, "valid"), order, IMAGES_AT_A_TIME):
                with torch.inference_mode():
                    output = predict_whole(model, images_of(layers["rgb"]), stride, window)
                if target.kind == "depth":
                    # Measures take what decodes to it; unit normals and fields stay what they are under `decode`.
                    metres = output[:, 0]
                    output, _ = target.encode(metres, torch.ones_like(metres, dtype=torch.bool))
                elif target.kind == "normals" and window:
                    output = target.decode(output)  # a blend of two is shorter
                yield position, output, layers
                position += len(output)
                advance(len(output))

    part = _collected(predicted(), measure, store, order, (MODEL,), len(order))
    return _evaluation([part], measure, (MODEL,))


# By name what there is of each image, and what is added up over them; some images as they are shown.
_Part = tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[PanelValues]]


def _collected(
    predicted: Iterable[Predicted],
    measure: Measure,
    store: Store,
    order: Sequence[int],
    arms: Sequence[str],
    num_images: int,
    shown_names: Collection[str] = (),
) -> _Part:
    """Measure images of a store while they stream by, in order. num_images: that this rank measures."""
    target, probe = measure.target, arms.index(PROBE) if PROBE in arms else 0
    spread = np.linspace(0, len(order) - 1, min(NUM_PANELS, len(order))).round().astype(int).tolist()
    shown = {order[place] for place in spread} | {index for index in order if store.names[index] in shown_names}
    rows: dict[str, np.ndarray] = {}
    totals: dict[str, np.ndarray] = {}
    panels: list[PanelValues] = []
    num_added = 0
    for first, grids, all_layers in predicted:
        for start in range(0, len(grids), IMAGES_AT_A_TIME):
            part = slice(start, start + IMAGES_AT_A_TIME)
            grid, layers = grids[part], {name: values[part] for name, values in all_layers.items()}
            indices = order[first + start : first + start + len(grid)]
            in_space, valid = read_target(target, layers)
            truth, size = Truth(in_space, layers[target.layer], valid), in_space.shape[2:]
            # A whole model's maps are the finest of grids.
            predictions = grid if grid.shape[2:] == size else upsample(grid.contiguous(), *size)
            by_arm = predictions.unflatten(1, (len(arms), target.num_outputs)).unbind(1)
            count = valid.sum(dim=(1, 2), dtype=torch.float64)
            # Normals that do not exist (an edge, a hole) are zero; everything else is a plain mask.
            mask = valid[:, None].float()
            squared = [(each - in_space).mul_(mask).square_().sum((1, 2, 3), dtype=torch.float64) for each in by_arm]
            losses = torch.stack(squared, dim=1) / (count * target.num_outputs)[:, None]
            if is_native(target, measure.protocol):
                errors, sums = measure.native(store, grid, indices, probe)
            else:
                errors = np.stack([measure.errors(each, truth) for each in by_arm], axis=1)
                sums = measure.sums(by_arm[probe], truth)
            of_images = {"pixels": count.numpy(), "losses": losses.numpy(), "errors": errors, **sums.rows}
            for name, values in of_images.items():
                # Arrays made once: small ones that stay between large ones that come and go would leave holes in the
                # heap into which no batch fits, 0.2 MB an image.
                if name not in rows:
                    rows[name] = np.full((num_images, *values.shape[1:]), np.nan)
                rows[name][num_added : num_added + len(values)] = values
            num_added += len(grid)
            totals = {name: values + totals.get(name, 0) for name, values in sums.totals.items()}
            for row, index in enumerate(indices):
                if index in shown:
                    one = Truth(*(each[row : row + 1] for each in truth))
                    pair = measure.shown(by_arm[probe][row : row + 1], one)
                    rgb = store.read(("rgb",), [index])["rgb"][0]
                    # Copies: a view of one row would keep its whole batch.
                    maps = (each[0].numpy().copy() for each in (*pair, one.valid))
                    panels.append(PanelValues(store.names[index], rgb, *maps))
    return rows, totals, panels


def _evaluation(parts: Sequence[_Part], measure: Measure, arms: Sequence[str]) -> Evaluation:
    """Join what all ranks have measured; their shares follow each other in the split's order."""
    # A rank without images has no rows.
    parts = [part for part in parts if part[0]]
    rows = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    totals = {name: np.sum([part[1][name] for part in parts], axis=0) for name in parts[0][1]}
    num_valid, losses, errors = (rows.pop(name) for name in ("pixels", "losses", "errors"))
    sums = Sums(measure.target.kind, rows, totals)
    sums.summary()  # raises InputError where nothing was measured
    counted = sums.num_valid if is_native(measure.target, measure.protocol) else num_valid
    named = {arm: measure.averaged(errors[:, number], counted) for number, arm in enumerate(arms)}
    panels = tuple(panel for part in parts for panel in part[2])
    return Evaluation(dict(zip(arms, losses.T.copy(), strict=True)), num_valid, named, sums, panels)


def predict_whole(
    model: Model, rgb: Float[Tensor, "batch 3 H W"], stride: int, window: tuple[int, int] | None = None
) -> Float[Tensor, "batch out H W"]:
    """Predict for images of any size, at that size, without a change of their proportions.

    stride: pixels a cell of the model's grid. window: (height, width) of the images that it was fitted on, where it
    brings every image to one size itself: of images of another shape it gets windows of this one.
    """
    height, width = rgb.shape[2:]
    if window is None or height * window[1] == width * window[0]:
        return _padded(model, rgb, stride)
    scale = max(window[0] / height, window[1] / width)
    tall, wide = max(window[0], round(height * scale)), max(window[1], round(width * scale))

    def resized(maps: Tensor, *to: int) -> Tensor:
        return maps if maps.shape[2:] == to else F.interpolate(maps, size=to, mode="bilinear", antialias=True)

    covering = resized(rgb, tall, wide)
    # They differ along one side.
    axis, length = (2, tall) if tall > window[0] else (3, wide)
    side = window[axis - 2]
    num = 1 + ceil((length - side) / (_STEP * side))
    # Each fades towards its ends; where no other is, it counts alone.
    ramp = torch.arange(side) + 0.5
    weight = torch.minimum(ramp, side - ramp).unsqueeze(-1 if axis == 2 else 0)
    starts = torch.linspace(0, length - side, num).round().int().tolist()
    maps = [model(covering.narrow(axis, start, side)) for start in starts]
    total, weights = covering.new_zeros(*maps[0].shape[:2], tall, wide), torch.zeros(tall, wide)
    for start, map_ in zip(starts, maps, strict=True):
        total.narrow(axis, start, side).add_(map_ * weight)
        weights.narrow(axis - 2, start, side).add_(weight)
    return resized(total / weights, height, width)


def _padded(model: Model, rgb: Float[Tensor, "batch 3 H W"], stride: int) -> Float[Tensor, "batch out H W"]:
    """Predict for images that are continued below and to the right up to whole cells, and cut again."""
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
    layer_sum, count, target_sum = 0.0, 0, torch.zeros(target.num_outputs, dtype=torch.float64)
    with progress("mean", len(reference)) as advance:
        for layers in batches(store, (target.layer, "valid"), reference, IMAGES_AT_A_TIME):
            truth, valid = read_target(target, layers)
            if target.kind == "depth":
                layer_sum += float((layers[target.layer] * valid).sum(dtype=torch.float64))
            target_sum += (truth * valid[:, None]).sum(dim=(0, 2, 3), dtype=torch.float64)
            count += int(valid.sum())
            advance(len(valid))
    return layer_sum / max(count, 1), tuple((target_sum / max(count, 1)).tolist())
