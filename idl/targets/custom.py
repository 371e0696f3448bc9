"""A target from outside: "package.module:factory"."""

import copy
import hashlib
import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import get_args

import numpy as np
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
    """Return the target that a factory makes, with an identity of its own.

    The identity comes from the factory's name, the sources of its module and of what that imports (installed packages
    aside), the target's attributes, and `version` where it has one: for what these do not show, such as a data file.
    built_in: names that it may not have.
    Raises InputError where there is no such factory, or its result is no usable target.
    """
    factory = plugins.load("target", name)
    with _user_code(f"target={name}: fails, called without arguments"):
        made = factory()
    if not isinstance(made, Target):
        hint = " itself, not an instance" if isinstance(made, type) and issubclass(made, Target) else ""
        given = made.__name__ if isinstance(made, type) else type(made).__name__
        raise InputError(f"target={name}: gives {given}{hint}. Return an instance of a subclass of idl.targets.Target.")
    for attribute, kind in {"name": str, "layer": str, "unit": str, "num_outputs": int}.items():
        is_kind = isinstance(getattr(made, attribute, None), kind)
        _require(is_kind, f"target={name}: its {attribute} is no {kind.__name__}", "Set it in the class.")
    taken, kinds = (*built_in, *RESERVED), get_args(Kind)
    layer, num_outputs = {"depth": ("depth", 1), "normals": ("normals", 3)}.get(
        getattr(made, "kind", ""), (made.layer, made.num_outputs)
    )
    for holds, problem, remedy in (
        (
            NAME.fullmatch(made.name) and made.name not in taken,
            f"its name {made.name!r} cannot be used in model names, or is taken",
            f"Choose one of small letters, digits and -, a letter first, 40 at most, and none of {', '.join(taken)}.",
        ),
        (made.num_outputs >= 1 and made.unit, 'expected num_outputs of 1 or more, and a unit ("1" for none)', REMEDY),
        (getattr(made, "kind", "") in kinds, f"its kind is none of {', '.join(kinds)}", "Set it in the class."),
        (
            (made.layer, made.num_outputs) == (layer, num_outputs),
            f"its kind is measured against layer {layer!r} with num_outputs = {num_outputs}",
            'Set these, or kind = "field".',
        ),
    ):
        _require(holds, f"target={name}: {problem}", remedy)
    # A copy: the factory may give the same instance to others.
    target = copy.copy(made)
    object.__setattr__(target, "identity", _identity(name, made))
    return target


def check_output(target: Target, values: Tensor, valid: Bool[Tensor, "batch H W"]) -> None:
    """Try a target from outside on some of the store's maps, its layer in float32, before work starts.

    Raises InputError where the result breaks the contract, or `decode` cannot be part of an exported model.
    """
    where = f"target={target.name}: "
    with _user_code(f"{where}encode fails on {_shape(values)}"):
        result = target.encode(values, valid)
    is_pair = isinstance(result, tuple) and len(result) == 2 and all(isinstance(each, Tensor) for each in result)
    _require(is_pair, f"{where}encode gives no pair of tensors, the target and where it is defined")
    truth, defined = result
    expected = (len(valid), target.num_outputs, *valid.shape[1:])
    is_right = tuple(truth.shape) == expected and truth.dtype == torch.float32
    _require(is_right, f"{where}encode gives {_shape(truth)}, expected float32 {expected}")
    is_mask = defined.shape == valid.shape and defined.dtype == torch.bool
    _require(is_mask, f"{where}encode's mask is {_shape(defined)}, expected {_shape(valid)}")
    is_subset = not bool((defined & ~valid).any())
    _require(is_subset, f"{where}encode's mask holds pixels that are not valid", "Return a subset of `valid`.")
    is_finite = bool(truth.isfinite().all())
    _require(is_finite, f"{where}encode gives numbers that are not finite", "Put 0 where it is not defined.")
    decode = nn.Module()
    decode.forward = target.decode
    with _user_code(f"{where}decode cannot be exported into a model", "Write it with torch functions alone."):
        # Two images, as a model is exported with: a batch of one would be fixed.
        pair = truth[:1].repeat(2, 1, 1, 1)
        decoded = torch.export.export(decode, (pair,)).module()(pair)
    is_alike = isinstance(decoded, Tensor) and decoded.shape == pair.shape
    _require(is_alike, f"{where}decode changes the shape of {_shape(truth)}")


def _require(holds: object, problem: str, remedy: str = REMEDY) -> None:
    if not holds:
        raise InputError(f"{problem}. {remedy}")


@contextmanager
def _user_code(problem: str, remedy: str = REMEDY) -> Iterator[None]:
    """Turn whatever a user's file, or torch.export of it, may raise into an InputError."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{problem}: {type(error).__name__}: {plugins.reason(error)}. {remedy}") from error


def _identity(name: str, target: Target) -> str:
    """First 12 hex digits of the SHA-256 over all that is known to decide what the target is."""
    sources = plugins.source_digest(name.partition(":")[0], *(each.__module__ for each in type(target).__mro__))
    attributes = {str(key): value for key, value in vars(target).items()}
    parts = [name, type(target).__qualname__, sources, attributes, str(getattr(target, "version", ""))]
    try:
        content = json.dumps(parts, sort_keys=True, default=_content)
    except (TypeError, ValueError):  # a mapping with keys of several types, or one that holds itself
        content = repr(parts)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _content(value: object) -> object:
    """Put an attribute into JSON: numbers whole, for a repr abbreviates them.

    Whatever else goes by its repr; one that holds an address makes the target new in every run.
    """
    if isinstance(value, nn.Module):
        return [repr(value), dict(value.state_dict())]
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    return repr(value)


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
