"""How each kind of target is shown: the range of its colours, its panels, and its metrics in words."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from idl import cache
from idl.data.loading import batches
from idl.data.splits import Split
from idl.data.store import Store
from idl.evaluate import Evaluation, PanelValues
from idl.fitting import read_target
from idl.report import Image, tiles
from idl.targets import Target

NORMALS_ERROR_DEG = 90.0
PERCENTILES = (1.0, 99.0)
NUM_IMAGES = 256
# Every fourth row and column: a million values in all are plenty for a percentile.
STEP = 4
IMAGES_AT_A_TIME = 8


def shown_range(store: Store, split: Split, target: Target, folder: Path) -> tuple[float, float]:
    """Return the range of values that pictures of a target show, one for every run of a dataset.

    Depth: metres, from 0 to what the store says. Normals: degrees of error. A field: the 1st to the 99th percentile of
    its truth (the first output's) in the training split, kept in `folder`.
    """
    if target.kind == "depth":
        return 0.0, store.shown_depth_m
    if target.kind == "normals":
        return 0.0, NORMALS_ERROR_DEG
    path = folder / f"{target.key}-{store.digest}-{store.protocol.digest}-{split.digest}.range"
    content = cache.read(path)
    if content is None:
        content = json.dumps(_percentiles(store, split.indices["train"], target)).encode()
        cache.write(path, content)
    low, high = json.loads(content)
    return low, high


def _percentiles(store: Store, indices: Sequence[int], target: Target) -> tuple[float, float]:
    """Measure them on images spread evenly; where they coincide, the range is widened until it is one."""
    positions = np.unique(np.linspace(0, len(indices) - 1, min(NUM_IMAGES, len(indices))).round().astype(int))
    found: list[np.ndarray] = []
    for layers in batches(store, (target.layer, "valid"), [indices[each] for each in positions], IMAGES_AT_A_TIME):
        truth, valid = read_target(target, layers)
        found.append(truth[:, 0, ::STEP, ::STEP][valid[:, ::STEP, ::STEP]].numpy())
    values = np.concatenate(found)
    if not values.size:
        return 0.0, 1.0
    # A rare value, such as that of an edge, may lie outside both percentiles.
    for ends in (np.percentile(values, PERCENTILES), (values.min(), values.max())):
        low, high = map(float, ends)
        if low < high:
            return low, high
    return low - 0.5, high + 0.5


def panels(shown: Iterable[PanelValues], target: Target, limits: tuple[float, float], caption: str) -> dict[str, Image]:
    """Return a picture an image by its key, which is equal where two runs' panels may stand side by side.

    Depth and log-depth are both in metres, while two fields of one layer have different units. limits: `shown_range`.
    """
    kind, (low, high) = target.kind, limits
    folder, what, unit = target.layer, "", "m"
    error_range = {"depth": high / 4, "normals": high, "field": (high - low) / 2}[kind]
    if kind == "field":
        several = f", output 1 of {target.num_outputs}" if target.num_outputs > 1 else ""
        folder, what, unit = target.name, f": {target.name}{several}", _unit(target)
    return {
        f"{folder}/{each.name}": tiles.panel(
            *(each.rgb, each.truth, each.prediction, each.valid),
            *(limits, error_range, each.name + what, caption, kind, unit),
        )
        for each in shown
    }


def quality(summary: Mapping[str, float], target: Target) -> str:
    """Return the metrics that say most, averaged over images, in words for a bracket in a sentence."""
    if target.kind == "normals":
        return f"mean angle {summary['angle_mean_deg']:.1f}° an image"
    rmse, r2 = summary["rmse"], summary["r2"]
    if target.kind == "field":
        return f"RMSE {f'{rmse:.4g} {_unit(target)}'.strip()} an image, R² {r2:.3f}"
    return f"RMSE {rmse:.3f} m an image, δ<1.25 {summary['delta1']:.3f}, R² {r2:.3f}"


def per_image_table(store: Store, order: Sequence[int], test: Evaluation) -> dict[str, list[object]]:
    """Return the columns of the table with a row an image: names, valid pixels, and all metrics."""
    table: dict[str, list[object]] = {
        "image": [store.names[index] for index in order],
        "scene": [store.scenes[index] for index in order],
        "num_valid": test.num_valid.astype(int).tolist(),
    }
    return table | {name: values.tolist() for name, values in test.sums.per_image().items()}


def _unit(target: Target) -> str:
    return "" if target.unit == "1" else target.unit
