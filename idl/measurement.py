"""A whole model, from the registry for one, measured on images of any prepared dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from idl.data.loading import batches, images_of
from idl.data.store import Store
from idl.evaluation import IMAGES_AT_A_TIME, NUM_PANELS, PanelValues, spread
from idl.fitting import read_target
from idl.measures import Sums, Truth, measure_of
from idl.native import NativeMeasure, native_results
from idl.prediction.maps import Model, padded
from idl.progress import Progress
from idl.protocol import Protocol
from idl.targets import Target


@dataclass(frozen=True)
class Measurement:
    """What a model does on some images of a store.

    num_valid: valid pixels of each image. sums: all metrics. panels: images spread evenly over the order.
    """

    num_valid: Float64[np.ndarray, " images"]
    sums: Sums
    panels: tuple[PanelValues, ...]


def measure(
    model: Model,
    store: Store,
    order: Sequence[int],
    reference: Sequence[int],
    target: Target,
    protocol: Protocol,
    stride: int,
    progress: Progress,
    *,
    label: str = "test",
) -> Measurement:
    """Predict the images `order` of a store with `model` and hold them against the truth, as a probe's run does.

    model: RGB in [0, 1] in; out what `target` decodes to: metres (batch, 1, H, W), unit normals (batch, 3, H, W), or
      a field in its own unit.
    reference: images whose mean a `r2` of 0 stands for: those of the dataset's training split, as for a probe that
      is fitted there.
    stride: pixels a cell of the model's grid.

    Pixels count where a probe of this target would count them: of depth under a native protocol, at native size. There
    a probe's own run differs where it predicts beyond the range, since a whole model clamps before it is upsampled.
    """
    means = _means(store, reference, target, progress)
    measure = measure_of(target, protocol, *means)
    native = NativeMeasure.of(store, target, protocol, means[0])
    shown = spread(len(order), NUM_PANELS)
    counts, rows, totals, native_rows = [], [], [], []
    panels: list[PanelValues] = []
    position = 0
    with progress(label, len(order)) as advance:
        for read in batches(store, ("rgb", *_layers(target)), order, IMAGES_AT_A_TIME):
            truth = Truth(*_of(target, read))
            with torch.inference_mode():
                output = padded(model, images_of(read["rgb"]), stride)
                encoded = _encoded(output, target)
                measured = measure.measure(encoded, truth, is_whole=True)
                if native is not None:
                    # To it, maps of the images' size are the finest of grids.
                    indices = order[position : position + len(output)]
                    native_rows.append(native.measure(encoded, indices, probe=0))
            counts.append(truth.valid.sum(dim=(1, 2), dtype=torch.float64).numpy())
            rows.append(measured.rows)
            totals.append(measured.totals or {})
            for row in range(len(output)):
                if position + row in shown:
                    values = (measure.shown_truth(truth)[row], measured.shown[row], truth.valid[row])
                    # Copies: a view of one row would keep its whole batch.
                    copies = (each.numpy().copy() for each in (read["rgb"][row], *values))
                    panels.append(PanelValues(store.names[order[position + row]], *copies))
            position += len(output)
            advance(len(output))
    if native_rows:
        sums: Sums = native_results(_joined(native_rows), ("model",))[1]
    else:
        added = {name: reduce(np.add, (part[name] for part in totals)) for name in totals[0]}
        sums = measure.sums(_joined(rows), added)
    return Measurement(np.concatenate(counts), sums, tuple(panels))


def _joined(rows: Sequence[Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}


def _layers(target: Target) -> tuple[str, str]:
    return target.layer, "valid"


def _of(target: Target, read: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the truth in the target's space, the layer as it is stored, and the pixels where it is defined."""
    encoded, valid = read_target(target, read)
    return encoded, read[target.layer], valid


def _encoded(output: Float[Tensor, "batch out H W"], target: Target) -> Float[Tensor, "batch out H W"]:
    """Bring a model's output to what decodes to it again: measures take predictions in the target's space.

    Unit normals and fields stay what they are under `decode`.
    """
    if target.kind != "depth":
        return output
    metres = output[:, 0]
    return target.encode(metres, torch.ones_like(metres, dtype=torch.bool))[0]


def _means(
    store: Store, reference: Sequence[int], target: Target, progress: Progress
) -> tuple[float, tuple[float, ...]]:
    """Return the mean of the layer, where it is a depth, and of the target, over the pixels where it is defined."""
    layer_sum, count = 0.0, 0
    target_sum = torch.zeros(target.num_outputs, dtype=torch.float64)
    with progress("mean", len(reference)) as advance:
        for read in batches(store, _layers(target), reference, IMAGES_AT_A_TIME):
            truth, layer, valid = _of(target, read)
            if target.kind == "depth":
                layer_sum += float((layer * valid).sum(dtype=torch.float64))
            target_sum += (truth * valid[:, None]).sum(dim=(0, 2, 3), dtype=torch.float64)
            count += int(valid.sum())
            advance(len(valid))
    divisor = max(count, 1)
    return layer_sum / divisor, tuple((target_sum / divisor).tolist())
