"""What a probe can be asked for. A new target is one file and one line in `TARGETS`."""

from difflib import get_close_matches

from idl.errors import InputError
from idl.targets.base import Target
from idl.targets.depth import Depth
from idl.targets.inverse_depth import InverseDepth
from idl.targets.log_depth import LogDepth
from idl.targets.normals import Normals

__all__ = ["TARGETS", "Target", "target"]

TARGETS: dict[str, Target] = {each.name: each for each in (Depth(), LogDepth(), InverseDepth(), Normals())}


def target(name: str) -> Target:
    """Look a target up by its name. Raises InputError with the nearest name where there is none."""
    if name in TARGETS:
        return TARGETS[name]
    nearest = get_close_matches(name, TARGETS, n=1, cutoff=0.0)
    raise InputError(
        f"target {name!r} does not exist: did you mean {nearest[0]!r}? Choose one of {', '.join(TARGETS)}."
    )
