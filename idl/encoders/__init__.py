"""Encoders: one file a kind, one line each in `ENCODERS`, one contract test; and which one stands for which task."""

import re
from collections.abc import Mapping
from difflib import get_close_matches

import torch

from idl import plugins
from idl.encoders import autoencoder, custom, null, sizes, timm
from idl.encoders.base import Arithmetic, Builder, Encoder, EncoderConfig, Origin, Size, digest_of
from idl.errors import InputError

ENCODERS: dict[str, Builder] = {
    "null": null.build,
    "autoencoder": autoencoder.build,
    "convnext": timm.build,
    "timm": timm.build,
}

UNKNOWN = "unknown"
# By the name that stands in `Origin.task`. None of these weights falls back to others: a verdict on a task must not
# silently be one on another.
TASKS: Mapping[str, EncoderConfig] = {
    "reconstruction": EncoderConfig(name="autoencoder", weights="shipped"),
    "segmentation": EncoderConfig(name="convnext", weights="shipped:segmentation"),
    "rooms-recognition": EncoderConfig(name="convnext", weights="shipped:rooms-recognition"),
    "imagenet": EncoderConfig(name="convnext", weights="imagenet"),
    # The architecture of those that ship, so that they differ in nothing but the task.
    "none": EncoderConfig(name="timm:convnext_atto", weights="random"),
}
ALIASES = {
    **dict.fromkeys(("autoencoder", "autoencoding"), "reconstruction"),
    **dict.fromkeys(("recognition", "rooms", "rooms-kinds", "rooms-kinds-materials"), "rooms-recognition"),
    **dict.fromkeys(("rooms-kinds-and-materials", "multi-label"), "rooms-recognition"),
    **dict.fromkeys(("imagenet-1k", "imagenet1k", "in1k"), "imagenet"),
    **dict.fromkeys(("random", "untrained"), "none"),
}

__all__ = [
    "ENCODERS",
    "TASKS",
    "Arithmetic",
    "Encoder",
    "EncoderConfig",
    "Origin",
    "build",
    "digest_of",
    "encoder_for_task",
    "task_name",
    "task_of",
]


def build(config: EncoderConfig, device: torch.device, image_size: Size | None = None) -> Encoder:
    """Build the encoder that `config` names, on `device`.

    image_size: (height, width) of the images that it is for, as of `sizes.fitted`; None: whatever it takes.
    The global random state is left as it was. Raises InputError for anything in `config` that cannot be had.
    """
    kind, colon, _ = config.name.partition(":")
    builder = ENCODERS.get(kind) if bool(colon) == (kind == "timm") else None
    if builder is None and plugins.is_named(config.name):
        builder = custom.build
    if builder is None:
        names = {name: "timm:NAME" if name == "timm" else name for name in ENCODERS}
        near = get_close_matches(kind, ENCODERS, n=1, cutoff=0.4)
        hint = f" Did you mean {names[near[0]]}?" if near else ""
        raise InputError(
            f"encoder={config.name}: no such encoder.{hint} "
            f"Pass one of {', '.join(names.values())}, package.module:factory."
        )
    if config.stage is not None and builder is not timm.build:
        raise InputError(f"stage={config.stage}: {config.name} has one level only. Leave the stage at auto.")
    return builder(config, device) if image_size is None else sizes.fitted(builder, config, device, image_size)


def task_name(text: str) -> str:
    """Return a task's one name: small letters, - between words, aliases resolved.

    A name that is not known stays; nothing at all is "unknown".
    """
    name = re.sub(r"[\s_]+", "-", text.strip().lower())
    return ALIASES.get(name, name) or UNKNOWN


def encoder_for_task(name: str) -> EncoderConfig:
    """Return the encoder that stands for a task where only the task is named.

    Its ImageNet weights may still not be had: `build` then says what to do.
    Raises InputError where no encoder stands for `name`.
    """
    known = task_name(name)
    if known in TASKS:
        return TASKS[known]
    near = get_close_matches(known, (*TASKS, *ALIASES), n=1, cutoff=0.5)
    hint = f" Did you mean {task_name(near[0])}?" if near else ""
    raise InputError(
        f"task={name}: no encoder stands for this task.{hint} Pass one of {', '.join(TASKS)}, "
        "or name the encoder itself, with its weights."
    )


def task_of(origin: Origin, named: str = "") -> str:
    """Return the task that an encoder was trained for, as its weights record it, or else as the user has `named` it.

    Raises InputError where neither does, or they contradict each other.
    """
    recorded, given = task_name(origin.task), task_name(named)
    if recorded == UNKNOWN and given == UNKNOWN:
        raise InputError(
            f"{origin.source}: its weights do not say what they were trained for, on which a verdict is given. "
            "Name the task: --task ..."
        )
    if UNKNOWN not in (recorded, given) and recorded != given:
        raise InputError(
            f"task={named}: the weights {origin.source} were trained for {recorded}. Leave the task out, "
            "or pass others."
        )
    return given if recorded == UNKNOWN else recorded
