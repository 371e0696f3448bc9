"""The report of a prepared dataset."""

from collections.abc import Mapping

import numpy as np

from idl import __version__, figures
from idl.data.splits import Split
from idl.data.store import Store
from idl.probes.exact import Solution
from idl.report import RunReport
from idl.reporting.shared import CONTEXTS, dataset_inputs
from idl.targets import Target

NUM_SHEET_IMAGES = 18


def prepare_report(
    store: Store,
    split: Split,
    target: Target,
    constant: Solution,
    shown: Mapping[str, np.ndarray],
    names: tuple[str, ...],
) -> RunReport:
    """What a dataset looks like: a contact sheet, its numbers, and the constant arm's losses.

    shown: layers of some images, by name, (image, ...).
    """
    sheet = figures.contact_sheet(
        list(shown["rgb"]),
        list(shown["depth"]),
        list(shown["valid"]),
        list(shown["normals"].astype(np.float32)) if "normals" in shown else None,
        (0.0, store.shown_depth_m),
        names=names,
    )
    counts = {f"num_{name}": len(indices) for name, indices in split.indices.items()}
    scenes = {f"num_{name}_scenes": len(listed) for name, listed in split.scenes.items()}
    square = figures.squared(target.unit)
    description = (
        f"**{store.name}**: {store.num_images} images from {len(set(store.scenes))} scenes ({store.source}), split "
        f"by scene into {counts['num_train']} / {counts['num_val']} / {counts['num_test']}. "
        f"A constant {target.name} has a validation loss of {constant.val_loss:.4g} {square}: what "
        f"every probe has to fall below. Layers: {', '.join(store.layers)}."
    )
    return RunReport(
        params={
            "dataset": store.name,
            "target": target.name,
            "protocol": store.protocol.name,
            "depth_range_m": f"{store.protocol.min_depth_m:g}..{store.protocol.max_depth_m:g}",
            **counts,
            **scenes,
        },
        metrics={
            "train_loss": constant.train_loss,
            "val_loss": constant.val_loss,
            "num_images": store.num_images,
        },
        figures={"contact_sheet.png": sheet},
        panels={"contact_sheet": sheet},
        datasets=dataset_inputs(store, split, tuple(CONTEXTS)),
        description=description + "".join(f"\n\n> {note}" for note in store.notes),
        tags={
            "dataset": store.name,
            "dataset_digest": store.digest,
            "protocol_digest": store.protocol.digest,
            "split_digest": split.digest,
            "store": str(store.path),
            "idl.version": __version__,
        },
    )
