"""What a probe predicts. A new target is one file and one line in `TARGETS`, or a file of the user's own."""

from difflib import get_close_matches

from idl import plugins
from idl.errors import InputError
from idl.targets import custom
from idl.targets.base import Depth, InverseDepth, Kind, LogDepth, Normals, Target
from idl.targets.custom import check_output

__all__ = ["TARGETS", "Kind", "Target", "check_output", "target"]

TARGETS: dict[str, Target] = {each.name: each for each in (Depth(), LogDepth(), InverseDepth(), Normals())}


def target(name: str) -> Target:
    """Return the target of a name in `TARGETS`, or that which "package.module:factory" makes.

    Raises InputError where there is no such target, and where a factory gives no usable one.
    """
    if name in TARGETS:
        return TARGETS[name]
    if plugins.is_named(name):
        return custom.load(name, TARGETS)
    nearest = get_close_matches(name, TARGETS, n=1, cutoff=0.5)
    meant = f": did you mean {nearest[0]!r}?" if nearest else "."
    raise InputError(
        f"target {name!r} does not exist{meant} Choose one of {', '.join(TARGETS)}, or package.module:factory of "
        "your own."
    )
