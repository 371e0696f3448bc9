"""Where a training stands, and what it leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from idl.errors import InputError


@dataclass(frozen=True)
class Trained:
    """What came out.

    state: the weights with the lowest validation loss, on the CPU.
    step, num_steps: steps done, and those that were planned. is_converged: it ended before its last step.
    metrics: what `Objective.evaluate` says of `state`. untrained: the same before the first step.
    images_per_s: of the training steps since it was begun or resumed, all ranks together; None where there was none.
    notes: a line each, for people: a damaged checkpoint that was passed over.
    """

    state: Mapping[str, Tensor]
    step: int
    num_steps: int
    is_converged: bool
    metrics: Mapping[str, float]
    untrained: Mapping[str, float]
    images_per_s: float | None
    notes: tuple[str, ...] = ()


@dataclass
class Standing:
    """Where the training stands beside weights and optimiser.

    gained: the validation loss at the last look that was a gain.
    """

    step: int = 0
    looks_without_gain: int = 0
    gained: float = float("inf")
    untrained: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_state: dict[str, Tensor] = field(default_factory=dict)


class DivergedError(InputError):
    """The loss is no number any more, or never fell below that of the untrained network."""
