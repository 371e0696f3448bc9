"""What an encoder was trained for: the tasks that have a name, and which encoder a name means."""

import re
from collections.abc import Mapping
from difflib import get_close_matches

from idl.encoders import EncoderConfig, Origin
from idl.errors import InputError

UNKNOWN = "unknown"
# By the name that stands in `Origin.task`. None of these weights falls back to others: a verdict on a task must not
# silently be one on another.
TASKS: Mapping[str, EncoderConfig] = {
    "reconstruction": EncoderConfig(name="autoencoder", weights="shipped"),
    "rooms-recognition": EncoderConfig(name="convnext", weights="shipped"),
    "imagenet": EncoderConfig(name="convnext", weights="imagenet"),
    "none": EncoderConfig(name="convnext", weights="random"),
}
ALIASES = {
    **dict.fromkeys(("autoencoder", "autoencoding"), "reconstruction"),
    **dict.fromkeys(("rooms", "rooms-kinds", "rooms-kinds-materials"), "rooms-recognition"),
    **dict.fromkeys(("rooms-kinds-and-materials", "multi-label"), "rooms-recognition"),
    **dict.fromkeys(("imagenet-1k", "imagenet1k", "in1k"), "imagenet"),
    **dict.fromkeys(("random", "untrained"), "none"),
}


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
