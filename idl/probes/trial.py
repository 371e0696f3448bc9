"""One training of a probe by gradient descent: as it is asked for, and what came of it."""

import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from jaxtyping import Float64
from torch import Tensor

from idl.errors import InputError
from idl.schedule import rate_at

Solver = Literal["sgd", "adam"]
Schedule = Literal["constant", "cosine"]
Outcome = Literal["finished", "converged", "ended", "diverged"]


@dataclass(frozen=True)
class Trial:
    """A probe's training by gradient descent. Raises InputError for what cannot be.

    k: components read besides the bias.
    solver: "sgd" (momentum 0.9) or "adam", as `torch.optim.SGD` and `torch.optim.Adam` define them.
    lr: the learning rate at its highest; the target is standardised, so that it has no unit.
    weight_decay: of the weights, not of the bias, as an L2 term of the loss (not decoupled): with either solver a
      training that converges ends at the ridge optimum with penalty weight_decay * outputs / 2.
    batch_size: images a step.
    epochs: passes over the training images, if it does not converge before.
    schedule: "constant", or "cosine": a straight rise over `warmup`, then a half cosine down to 0.
    warmup: share of the steps over which the cosine schedule rises to `lr`.
    patience: epochs without gain after which the training has converged and ends.
    min_gain: fraction by which the best validation loss must fall to count as a gain.
    seed: of the order of the images; trials of one seed see the same minibatches.

    With the defaults the loss was 0.03 to 0.41 % above the optimum, for depth and normals at 10, 64 and 384
    components of a ConvNeXt on 1,320 images; with lr 0.01 it was 0.09 to 1.6 %.
    """

    k: int
    solver: Solver = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 32
    epochs: int = 50
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    patience: int = 5
    min_gain: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("solver", get_args(Solver)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name}={getattr(self, name)}: expected {' or '.join(choices)}.")
        least = {"k": 0, "batch_size": 1, "epochs": 1, "patience": 1}
        for name, value in asdict(self).items():
            if isinstance(value, str):
                continue
            if not math.isfinite(value):
                raise InputError(f"{name}={value}: expected a finite number.")
            if value < least.get(name, 0):
                raise InputError(f"{name}={value}: expected {least.get(name, 0)} or more.")
        if self.lr == 0:
            raise InputError(f"lr={self.lr}: expected more than 0.")
        for name in ("warmup", "min_gain"):
            if getattr(self, name) >= 1:
                raise InputError(f"{name}={getattr(self, name)}: expected a share below 1.")

    def rate_at(self, step: int, num_steps: int) -> float:
        """Share of the learning rate at `step`, from 0, of `num_steps`."""
        if self.schedule == "constant":
            return 1.0
        return rate_at(step, num_steps, self.warmup)


@dataclass(frozen=True)
class Descent:
    """A trial's result. Losses are unpenalised mean squared errors, target units squared.

    weights: those of the epoch with the lowest validation loss, in the target's own scale, the bias first; zero
      beyond k. Those of the constant where the trial diverged.
    train_loss, val_loss: of these weights; infinite where the trial diverged.
    excess_loss: (train_loss - optimum) / optimum, with the optimum at penalty 0 and the same k: 0 is as good as the
      exact solver. Infinite where the optimum is 0, or the trial diverged.
    train_losses, val_losses: after each epoch, on the whole split.
    best_epoch: whose weights these are, from 1; 0 where the trial diverged.
    outcome: "finished" its epochs, "converged" before, "ended" from outside, or "diverged".
    """

    trial: Trial
    weights: Float64[Tensor, "columns out"]
    train_loss: float
    val_loss: float
    excess_loss: float
    train_losses: tuple[float, ...]
    val_losses: tuple[float, ...]
    best_epoch: int
    outcome: Outcome
