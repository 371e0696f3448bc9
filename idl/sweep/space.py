"""What a sweep searches: the settings of a trial, and their bounds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from idl.errors import InputError
from idl.probes.trial import Solver


@dataclass(frozen=True)
class SearchSpace:
    """Bounds, both included. Raises InputError where a range is empty or inverted.

    k: whole numbers, evenly in the logarithm; None: up to all components.
    lr: evenly in the logarithm.
    weight_decay: evenly in the logarithm; None: not searched.
    step_images, solver: choices; empty: not searched.
    """

    k: tuple[int, int | None] = (1, None)
    lr: tuple[float, float] = (1e-4, 1.0)
    weight_decay: tuple[float, float] | None = None
    step_images: tuple[int, ...] = ()
    solver: tuple[Solver, ...] = ()

    def __post_init__(self) -> None:
        _require_range("k", self.k[0], math.inf if self.k[1] is None else self.k[1], least=1)
        _require_range("lr", *self.lr)
        if self.weight_decay is not None:
            _require_range("weight_decay", *self.weight_decay)
        _require_choices("step_images", self.step_images)
        _require_choices("solver", self.solver)
        if any(count < 1 for count in self.step_images):
            raise InputError(f"step_images={_listed(self.step_images)}: expected 1 or more.")
        for solver in self.solver:
            if solver not in get_args(Solver):
                raise InputError(f"solver={solver}: expected {' or '.join(get_args(Solver))}.")

    def within(self, num_components: int) -> "SearchSpace":
        """Put a number to k's open end. Raises InputError where k goes beyond `num_components`."""
        first, last = self.k
        last = num_components if last is None else last
        if max(first, last) > num_components:
            raise InputError(
                f"k={first}:{last}: the encoder gives {num_components} components. "
                f"Pass a range within 1:{num_components}."
            )
        return replace(self, k=(first, last))


def _require_range(name: str, first: float, last: float, least: float | None = None) -> None:
    if math.isnan(first) or math.isnan(last) or first > last:
        raise InputError(f"{name}={first:g}:{last:g}: an empty range. Pass the lower bound first.")
    if least is not None and first < least:
        raise InputError(f"{name}={first:g}:{last:g}: expected {least:g} or more.")
    if first <= 0 or (least is None and math.isinf(last)):
        raise InputError(f"{name}={first:g}:{last:g}: expected finite bounds above 0; the search is in the logarithm.")


def _require_choices(name: str, choices: Sequence[object]) -> None:
    if len(set(choices)) < len(choices):
        raise InputError(f"{name}={_listed(choices)}: a choice stands there twice.")


def _listed(choices: Sequence[object]) -> str:
    return ",".join(map(str, choices))
