"""What is looked at before an hour of training: does the dataset suit the network, and can a run be gone on with."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from idl.data.splits import Split
from idl.data.store import Store
from idl.errors import InputError
from idl.protocol import Protocol
from idl.training.checkpoints import Checkpoints
from idl.training.config import TrainingConfig
from idl.training.objective import Objective


def require_size(objective: Objective, config: TrainingConfig, protocol: Protocol) -> None:
    """Raise InputError where the images are not square, or the network takes none of their size or of the crop's."""
    resolution = protocol.resolution
    if not protocol.is_square:
        raise InputError(
            f"protocol={protocol.name}: a training takes square images, and these have {resolution} x "
            f"{protocol.width} pixels. Pass protocol=idl."
        )
    if config.crop > resolution:
        raise InputError(f"crop={config.crop}: the images have {resolution} x {resolution} pixels. Pass less, or 0.")
    objective.require(resolution)
    if config.crop:
        try:
            objective.require(config.crop)
        except InputError as error:
            raise InputError(f"crop={config.crop}: {error}") from error


def require_layers(objective: Objective, layers: Collection[str], where: str) -> None:
    """Raise InputError where the dataset lacks what the loss is computed from. where: path or name, for people."""
    missing = [layer for layer in objective.layers if layer not in layers]
    if missing:
        have = ", ".join(layers)
        raise InputError(f"{where}: no layer {missing[0]!r}, which {objective.task} learns from. It has: {have}.")


def require_batches(config: TrainingConfig, num_images: int, num_ranks: int) -> None:
    """Raise InputError where `num_images` of the training split, or that many ranks, do not make up a batch."""
    if num_images < config.batch_size:
        raise InputError(f"batch_size={config.batch_size}: the training split has {num_images} images. Pass less.")
    if config.batch_size % (num_ranks * config.accumulate):
        raise InputError(
            f"batch_size={config.batch_size}: {num_ranks} ranks times accumulate={config.accumulate} do not divide it. "
            f"Pass a multiple of {num_ranks * config.accumulate}."
        )


def settings_of(objective: Objective, config: TrainingConfig, asked: Mapping[str, object]) -> dict[str, Any]:
    """All that decides the weights; how often a checkpoint is written does not. asked: of dataset and split."""
    settings = asdict(config) | dict(objective.settings) | {"task": objective.task} | dict(asked)
    del settings["checkpoint_minutes"]
    return settings


def digests_of(store: Store, split: Split) -> dict[str, str]:
    """Give what of the dataset decides the weights."""
    return {"dataset_digest": store.digest, "split_digest": split.digest}


def newest(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the newest state in `folder` that is not damaged, and a note for each that was. Raises InputError."""
    state, damaged = Checkpoints(folder).load()
    if state is None and damaged:
        raise InputError(f"{folder}: every checkpoint was damaged, and is gone. Train anew.")
    if state is None:
        raise InputError(
            f"{folder}: no checkpoint to resume from. It is kept where the training ran: pass the id of its run and "
            "the same cache=, or train anew."
        )
    return state, tuple(f"{path}: damaged; the training goes on from the checkpoint before." for path in damaged)


def require_same(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise InputError, naming each setting with both values, where a training was begun under others."""
    names = [name for name in dict.fromkeys((*asked, *saved)) if saved.get(name) != asked.get(name)]
    if names:
        told = ", ".join(f"{name} was {saved.get(name)}, is {asked.get(name)}" for name in names)
        raise InputError(f"resume: the run has other settings ({told}). Pass the same ones, or train anew.")


def require_resumable(
    folder: Path, objective: Objective, config: TrainingConfig, asked: Mapping[str, object]
) -> tuple[str, ...]:
    """Make sure, before the dataset is opened, that there is something to go on with; return notes as `newest`.

    Raises InputError where there is no checkpoint, or it is of other settings.
    """
    state, notes = newest(folder)
    # The dataset's digests are compared as soon as it is there.
    saved = {name: value for name, value in state["settings"].items() if not name.endswith("_digest")}
    require_same(saved, settings_of(objective, config, asked))
    return notes
