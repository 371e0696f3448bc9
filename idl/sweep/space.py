"""What a sweep searches: the settings of a trial, and their bounds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

from idl.errors import InputError
from idl.probes.trial import Solver
from idl.targets import target as find_target

ALL = "all"


class Place(NamedTuple):
    """Where a trial trains: a stage of the encoder and a target, each None where it is not searched."""

    stage: int | None = None
    target: str | None = None


@dataclass(frozen=True)
class SearchSpace:
    """Bounds, both included. Raises InputError where a range is empty or inverted.

    k: whole numbers, evenly in the logarithm; None: up to all components.
    lr: evenly in the logarithm.
    weight_decay: evenly in the logarithm; None: not searched.
    step_images, solver, stage, target: choices; empty: not searched.
    """

    k: tuple[int, int | None] = (1, None)
    lr: tuple[float, float] = (1e-4, 1.0)
    weight_decay: tuple[float, float] | None = None
    step_images: tuple[int, ...] = ()
    solver: tuple[Solver, ...] = ()
    stage: tuple[int, ...] = ()
    target: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_range("k", self.k[0], math.inf if self.k[1] is None else self.k[1], least=1)
        _require_range("lr", *self.lr)
        if self.weight_decay is not None:
            _require_range("weight_decay", *self.weight_decay)
        for name in ("step_images", "solver", "stage", "target"):
            _require_choices(name, getattr(self, name))
        if any(count < 1 for count in self.step_images):
            raise InputError(f"step_images={_listed(self.step_images)}: expected 1 or more.")
        for solver in self.solver:
            if solver not in get_args(Solver):
                raise InputError(f"solver={solver}: expected {' or '.join(get_args(Solver))}.")
        others = [name for name in self.target if find_target(name).kind != "depth"]
        if others and len(self.target) > 1:
            raise InputError(
                f"targets={_listed(self.target)}: a loss of {others[0]} cannot be brought to metres, and compared. "
                "Search depth, log-depth and inverse-depth, or sweep it alone."
            )

    @classmethod
    def parsed(cls, texts: Mapping[str, str]) -> "SearchSpace":
        """Read what `described` writes. Raises InputError for what is none of it."""
        return cls(
            k=_bounds("k_range", texts["k_range"], lambda text: None if text == ALL else int(text)),
            lr=_bounds("lr_range", texts["lr_range"], float),
            weight_decay=(
                _bounds("weight_decay_range", texts["weight_decay_range"], float)
                if texts["weight_decay_range"]
                else None
            ),
            step_images=_choices("step_images_choices", texts["step_images_choices"], int),
            solver=_choices("solvers", texts["solvers"], str),  # pyright: ignore[reportArgumentType]
            stage=_choices("stages", texts["stages"], int),
            target=_choices("targets", texts["targets"], str),
        )

    def described(self) -> dict[str, str]:
        """Return the space in words, by the names of the command's options; "" for what is not searched."""
        return {
            "k_range": f"{self.k[0]}:{ALL if self.k[1] is None else self.k[1]}",
            "lr_range": _ranged(self.lr),
            "weight_decay_range": _ranged(self.weight_decay) if self.weight_decay else "",
            "step_images_choices": _listed(self.step_images),
            "solvers": _listed(self.solver),
            "stages": _listed(self.stage),
            "targets": _listed(self.target),
        }

    @property
    def places(self) -> tuple[Place, ...]:
        """Every stage with every target: each is a training set of its own."""
        return tuple(Place(stage, target) for stage in self.stage or (None,) for target in self.target or (None,))

    def within(self, most: int, of: str = "components") -> "SearchSpace":
        """Put a number to k's open end. Raises InputError where k goes beyond `most`, which the encoder has of `of`."""
        first, last = self.k
        self._require(max(first, last or 0), most, of)
        return replace(self, k=(first, most if last is None else last))

    def clipped(self, num_components: int) -> "SearchSpace":
        """Bring k's end down to the components that there are: a channel that never varies gives none.

        Raises InputError where k begins beyond them.
        """
        first, last = self.k
        self._require(first, num_components, "components")
        return replace(self, k=(first, num_components if last is None else min(last, num_components)))

    def _require(self, k: int, most: int, of: str) -> None:
        if k > most:
            raise InputError(
                f"k_range={self.described()['k_range']}: the encoder has {most} {of}. Pass a range within 1:{most}."
            )


def _bounds(name: str, text: str, read: Callable[[str], Any]) -> tuple[Any, Any]:
    first, colon, last = text.partition(":")
    try:
        if not colon:
            raise ValueError
        bounds = read(first), read(last)
    except ValueError:
        bounds = None, None
    if bounds[0] is None:
        raise InputError(f"{name}={text}: expected two numbers, the lower one first, such as {_EXAMPLES[name]}.")
    return bounds


def _choices(name: str, text: str, read: Callable[[str], Any]) -> tuple[Any, ...]:
    try:
        return tuple(read(part.strip()) for part in text.split(",")) if text else ()
    except ValueError:
        raise InputError(f"{name}={text}: expected whole numbers with commas between, such as 1,2.") from None


def _ranged(bounds: tuple[float, float]) -> str:
    return ":".join(f"{bound:.12g}" for bound in bounds)


_EXAMPLES = {"k_range": "1:64 or 1:all", "lr_range": "1e-4:1", "weight_decay_range": "1e-6:1e-2"}


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
