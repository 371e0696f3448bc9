"""The range of values that pictures of a target show: one for every run of a dataset."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from idl import cache
from idl.data.splits import Split
from idl.data.store import Store
from idl.fitting import read_target
from idl.targets import Target

NORMALS_ERROR_DEG = 90.0
PERCENTILES = (1.0, 99.0)
NUM_IMAGES = 256
# Every fourth row and column: a million values in all are plenty for a percentile.
STEP = 4
IMAGES_AT_A_TIME = 8


def shown_range(store: Store, split: Split, target: Target, folder: Path) -> tuple[float, float]:
    """Give the range in the unit that is shown.

    Depth: metres, from 0 to what the store says. Normals: degrees of error. A field: the 1st to the 99th percentile of
    its truth (the first output's) in the training split, kept in `folder`.
    """
    match target.kind:
        case "depth":
            return 0.0, store.shown_depth_m
        case "normals":
            return 0.0, NORMALS_ERROR_DEG
        case "field":
            path = folder / f"{target.key}-{store.digest}-{store.protocol.digest}-{split.digest}.range"
            content = cache.read(path)
            if content is None:
                content = json.dumps(_percentiles(store, split.indices["train"], target)).encode()
                cache.write(path, content)
            low, high = json.loads(content)
            return low, high


def _percentiles(store: Store, indices: Sequence[int], target: Target) -> tuple[float, float]:
    """Measure them on images spread evenly; where they coincide, the range is widened until it is one."""
    places = np.unique(np.linspace(0, len(indices) - 1, min(NUM_IMAGES, len(indices))).round().astype(int))
    seen: list[np.ndarray] = []
    for first in range(0, len(places), IMAGES_AT_A_TIME):
        part = [indices[place] for place in places[first : first + IMAGES_AT_A_TIME]]
        layers = {name: torch.from_numpy(each) for name, each in store.read((target.layer, "valid"), part).items()}
        truth, valid = read_target(target, layers)
        seen.append(truth[:, 0, ::STEP, ::STEP][valid[:, ::STEP, ::STEP]].numpy())
    values = np.concatenate(seen)
    if not values.size:
        return 0.0, 1.0
    low, high = (float(each) for each in np.percentile(values, PERCENTILES))
    if low == high:
        # A rare value, such as that of an edge, may lie outside both percentiles.
        low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)
