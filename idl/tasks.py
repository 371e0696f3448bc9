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
# What else people call them.
ALIASES = {
    "autoencoder": "reconstruction",
    "autoencoding": "reconstruction",
    "rooms": "rooms-recognition",
    "rooms-kinds": "rooms-recognition",
    "rooms-kinds-materials": "rooms-recognition",
    "rooms-kinds-and-materials": "rooms-recognition",
    "multi-label": "rooms-recognition",
    "imagenet-1k": "imagenet",
    "imagenet1k": "imagenet",
    "in1k": "imagenet",
    "random": "none",
    "untrained": "none",
}


def task_name(text: str) -> str:
    """Give a task's one name: small letters, - between words, and not what else it may be called.

    A name that is not known stays; nothing at all is "unknown".
    """
    name = re.sub(r"[\s_]+", "-", text.strip().lower())
    return ALIASES.get(name, name) or UNKNOWN


def encoder_for_task(name: str) -> EncoderConfig:
    """Give the encoder that stands for a task where only the task is named.

    Its ImageNet weights may still not be had: `build` then says what to do.
    Raises InputError where no encoder stands for `name`.
    """
    known = task_name(name)
    if known in TASKS:
        return TASKS[known]
    names = (*TASKS, *ALIASES)
    near = get_close_matches(known, names, n=1, cutoff=0.5)
    hint = f" Did you mean {task_name(near[0])}?" if near else ""
    raise InputError(
        f"task={name}: no encoder stands for this task.{hint} Pass one of {', '.join(TASKS)}, "
        "or the encoder itself: --encoder ... --weights ..."
    )


def task_of(origin: Origin, said: str = "") -> str:
    """Give the task that an encoder was trained for, as its weights say, or else as the user has `said`.

    Raises InputError where neither says it, or they contradict each other.
    """
    recorded, named = task_name(origin.task), task_name(said)
    if recorded == UNKNOWN and named == UNKNOWN:
        raise InputError(
            f"{origin.source}: its weights do not say what they were trained for, on which a verdict is given. "
            "Name the task: --task ..."
        )
    if UNKNOWN not in (recorded, named) and recorded != named:
        raise InputError(
            f"task={said}: the weights {origin.source} were trained for {recorded}. Leave the task out, or pass others."
        )
    return named if recorded == UNKNOWN else recorded
