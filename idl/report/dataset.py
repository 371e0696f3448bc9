"""The report of a prepared dataset, and of every run the splits that it read."""

from typing import Literal

import numpy as np

from idl import __version__
from idl.data.splits import Split
from idl.data.store import Store
from idl.probes.exact import Solution
from idl.protocol import Protocol
from idl.report import DatasetInput, RunReport, charts, tiles
from idl.targets import Target

NUM_SHEET_IMAGES = 18
CONTEXTS: dict[str, Literal["training", "validation", "testing"]] = {
    "train": "training",
    "val": "validation",
    "test": "testing",
}


def dataset_inputs(store: Store, split: Split, names: tuple[str, ...] = tuple(CONTEXTS)) -> tuple[DatasetInput, ...]:
    """Return the splits that a run read."""
    return tuple(
        DatasetInput(store.name, store.digest, store.source, CONTEXTS[name], len(indices), len(split.scenes[name]))
        for name, indices in ((name, split.indices[name]) for name in names)
    )


def dataset_tags(store: Store, split: Split, protocol: Protocol) -> dict[str, str]:
    """Return the tags that tell on what a run was made."""
    digests = {"dataset_digest": store.digest, "split_digest": split.digest, "protocol_digest": protocol.digest}
    return {"dataset": store.name, **digests, "idl.version": __version__}


def prepare_report(store: Store, split: Split, target: Target, constant: Solution) -> RunReport:
    """Return what a dataset looks like: a contact sheet, its numbers, and the losses of a constant prediction."""
    order = split.indices["train"][:NUM_SHEET_IMAGES]
    has_normals = "normals" in store.layers
    shown = store.read(("rgb", "depth", "valid", *(("normals",) if has_normals else ())), order)
    normals = shown["normals"].astype(np.float32) if has_normals else None
    names, limits = [store.names[index] for index in order], (0.0, store.shown_depth_m)
    sheet = tiles.contact_sheet(shown["rgb"], shown["depth"], shown["valid"], normals, limits, names)
    counts = {f"num_{name}": len(indices) for name, indices in split.indices.items()}
    description = (
        f"**{store.name}**: {store.num_images} images from {len(set(store.scenes))} scenes ({store.source}), split "
        f"by scene into {counts['num_train']} / {counts['num_val']} / {counts['num_test']}. "
        f"A constant {target.name} has a validation loss of {constant.val_loss:.4g} {charts.squared(target.unit)}: "
        f"what every probe has to fall below. Layers: {', '.join(store.layers)}."
    )
    return RunReport(
        params={**counts, **{f"num_{name}_scenes": len(scenes) for name, scenes in split.scenes.items()}},
        metrics={"train_loss": constant.train_loss, "val_loss": constant.val_loss, "num_images": store.num_images},
        figures={"contact_sheet.png": sheet},
        panels={"contact_sheet": sheet},
        datasets=dataset_inputs(store, split),
        description=description + "".join(f"\n\n> {note}" for note in store.notes),
        tags=dataset_tags(store, split, store.protocol) | {"store": str(store.path)},
    )
