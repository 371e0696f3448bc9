"""A target from outside: "package.module:factory"."""

import copy
import hashlib
import json
import re
from collections.abc import Collection
from typing import get_args

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from idl import plugins
from idl.errors import InputError
from idl.targets.base import Kind, Target

# It becomes part of names of models, files and pictures.
NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
# "idl-encoder-..." are the registered encoders.
RESERVED = ("encoder",)
REMEDY = "Mend the target."


def load(name: str, built_in: Collection[str]) -> Target:
    """Call the factory, without arguments, and return its target with an identity of its own.

    The identity is made of the factory's name, the sources of its module and of what that imports (installed packages
    aside), the target's attributes, and `version` where it has one: that is for what none of these shows, such as a
    file of data.
    built_in: names that it may not have.
    Raises InputError where there is no such factory, or its result is no usable target.
    """
    factory = plugins.load("target", name)
    try:
        found = factory()
    except Exception as error:  # whatever a user's file may do
        raise InputError(f"target={name}: fails, called without arguments: {_told(error)}. {REMEDY}") from error
    if not isinstance(found, Target):
        hint = " itself, not an instance" if isinstance(found, type) and issubclass(found, Target) else ""
        given = found.__name__ if isinstance(found, type) else type(found).__name__
        raise InputError(f"target={name}: gives {given}{hint}. Return an instance of a subclass of idl.targets.Target.")
    _check(name, found, built_in)
    # A copy: the factory may give the same instance to others.
    target = copy.copy(found)
    object.__setattr__(target, "identity", _identity(name, found))
    return target


def check_output(target: Target, values: Tensor, valid: Bool[Tensor, "batch H W"]) -> None:
    """Try a target from outside on some of the store's maps, before work starts.

    values: its layer, float32. Raises InputError where what it makes of them breaks its contract, or `decode` cannot be
    part of an exported model.
    """
    where = f"target={target.name}"
    try:
        result = target.encode(values, valid)
    except Exception as error:  # whatever a user's file may do
        raise InputError(f"{where}: encode fails on {_shape(values)}: {_told(error)}. {REMEDY}") from error
    if not (isinstance(result, tuple) and len(result) == 2 and all(isinstance(each, Tensor) for each in result)):
        raise InputError(f"{where}: encode gives no pair of tensors, the target and where it is defined. {REMEDY}")
    truth, defined = result
    expected = (len(valid), target.num_outputs, *valid.shape[1:])
    if tuple(truth.shape) != expected or truth.dtype != torch.float32:
        raise InputError(f"{where}: encode gives {_shape(truth)}, expected float32 {expected}. {REMEDY}")
    if defined.shape != valid.shape or defined.dtype != torch.bool:
        raise InputError(f"{where}: encode's mask is {_shape(defined)}, expected {_shape(valid)}. {REMEDY}")
    if bool((defined & ~valid).any()):
        raise InputError(f"{where}: encode's mask holds pixels that are not valid. Return a subset of `valid`.")
    if not bool(truth.isfinite().all()):
        raise InputError(f"{where}: encode gives numbers that are not finite. Put 0 where it is not defined.")
    try:
        # Two images, as a model is exported with: a batch of one would be fixed.
        pair = truth[:1].repeat(2, 1, 1, 1)
        decoded = torch.export.export(_Decode(target), (pair,)).module()(pair)
    except Exception as error:  # of torch.export, in any way
        raise InputError(
            f"{where}: decode cannot be exported into a model: {_told(error)}. Write it with torch functions alone."
        ) from error
    if not isinstance(decoded, Tensor) or decoded.shape != pair.shape:
        raise InputError(f"{where}: decode changes the shape of {_shape(truth)}. {REMEDY}")


class _Decode(nn.Module):
    def __init__(self, target: Target) -> None:
        super().__init__()
        self._decode = target.decode

    def forward(self, prediction: Tensor) -> Tensor:
        return self._decode(prediction)


def _check(name: str, target: Target, built_in: Collection[str]) -> None:
    """Raise InputError where an attribute is missing or not usable."""
    where = f"target={name}"
    for attribute, kind in (("name", str), ("layer", str), ("unit", str), ("num_outputs", int)):
        if not isinstance(getattr(target, attribute, None), kind):
            raise InputError(f"{where}: its {attribute} is no {kind.__name__}. Set it in the class.")
    if not NAME.fullmatch(target.name) or target.name in (*built_in, *RESERVED):
        raise InputError(
            f"{where}: its name {target.name!r} cannot be used in model names, or is taken. Choose one of small "
            f"letters, digits and -, a letter first, 40 at most, and none of {', '.join((*built_in, *RESERVED))}."
        )
    if target.num_outputs < 1 or not target.unit:
        raise InputError(f'{where}: expected num_outputs of 1 or more, and a unit ("1" for none). {REMEDY}')
    if getattr(target, "kind", None) not in get_args(Kind):
        raise InputError(f"{where}: its kind is none of {', '.join(get_args(Kind))}. Set it in the class.")
    needed = {"depth": ("depth", 1), "normals": ("normals", 3)}.get(target.kind)
    if needed is not None and (target.layer, target.num_outputs) != needed:
        raise InputError(
            f"{where}: kind {target.kind!r} is measured against layer {needed[0]!r} with num_outputs = {needed[1]}. "
            'Set these, or kind = "field".'
        )


def _identity(name: str, target: Target) -> str:
    """First 12 hex digits of the SHA-256 over all that is known to decide what the target is."""
    modules = {name.partition(":")[0], *(each.__module__ for each in type(target).__mro__)}
    parts = [
        name,
        type(target).__qualname__,
        sorted(plugins.source_digest(module) for module in modules),
        vars(target),
        str(getattr(target, "version", "")),
    ]
    # What JSON does not know goes by its repr; one that holds an address makes the target new in every run.
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:12]


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
