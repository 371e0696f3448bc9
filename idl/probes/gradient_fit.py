"""Gradient descent on per-image statistics: many trials as one product, losses an epoch, and how far from the optimum.

The target is standardised on the training split, each output by itself, and the bias starts at its mean. The
gradient is that of the minibatch's mean squared error over valid pixels and outputs. Trials that see the same
minibatches are the rows of one matrix, and a step of all of them is its product with the minibatch's matrix.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64
from torch import Tensor

from idl.errors import InputError
from idl.probes.exact import losses_of_all_k
from idl.probes.image_statistics import ImageStatistics, Minibatch
from idl.probes.statistics import FoldedStatistics

Solver = Literal["sgd", "adam"]
Outcome = Literal["finished", "converged", "diverged"]

# A training loss so many times the target's variance does not come back to anything of use.
DIVERGED_RATIO = 1e6
# Steps whose products have fewer multiplications than this gain little time by a second thread (1,200 images of 65
# columns: 100 trials none, 400 a tenth), and lose up to half where a core has something else to do.
MULTIPLICATIONS_PER_THREAD = 2**21
# Share of the steps over which the learning rate rises.
WARMUP = 0.05
# Fraction by which the best validation loss must fall to count as a gain.
MIN_GAIN = 1e-4
MOMENTUM = 0.9
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def rate_at(step: int, num_steps: int, warmup: float) -> float:
    """Share of the learning rate at `step`, from 0, of `num_steps`: a straight rise, then a half cosine down to 0.

    warmup: share of the steps over which it rises.
    """
    rising = round(warmup * num_steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, num_steps - rising)))


@dataclass(frozen=True)
class Trial:
    """The settings of one training of a probe. Raises InputError for what cannot be.

    k: components read besides the bias.
    solver: "sgd" (momentum 0.9) or "adam", as `torch.optim.SGD` and `torch.optim.Adam` define them.
    lr: the learning rate at its highest; the target is standardised, so that it has no unit.
    weight_decay: of the weights, not of the bias, as an L2 term of the loss (not decoupled): with either solver a
      training that converges ends at the ridge optimum with penalty weight_decay * outputs / 2.
    batch_size: images a step. epochs: passes over the training images, if it does not converge before.
    patience: epochs without gain after which it has converged. seed: of the order of the images.
    """

    k: int
    solver: Solver = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int = 32
    epochs: int = 50
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.solver not in get_args(Solver):
            raise InputError(f"solver={self.solver}: expected {' or '.join(get_args(Solver))}.")
        least = {"k": 0, "lr": math.nextafter(0, 1), "weight_decay": 0, "batch_size": 1, "epochs": 1, "patience": 1}
        for name, bound in (least | {"seed": 0}).items():
            if not bound <= getattr(self, name) < math.inf:
                expected = "more than 0" if name == "lr" else f"{bound} or more"
                raise InputError(f"{name}={getattr(self, name)}: expected {expected}, and a finite number.")

    @property
    def minibatches(self) -> tuple[int, int, int]:
        """What trials that see the same minibatches have in common."""
        return self.batch_size, self.epochs, self.seed


@dataclass(frozen=True)
class TrainResult:
    """A trial's result. Losses are unpenalised mean squared errors, target units squared.

    weights: of the target itself, of the epoch with the lowest validation loss, the bias first; zero beyond k. Those of
      the constant where the trial diverged.
    train_loss, val_loss: of these weights; infinite where the trial diverged.
    excess_loss: (train_loss - optimum) / optimum, with the optimum at penalty 0 and the same k. Infinite where the
      optimum is 0, or the trial diverged.
    train_losses, val_losses: after each epoch, on the whole split.
    best_epoch: whose weights these are, from 1; 0 where the trial diverged.
    outcome: "finished" its epochs, "converged" before, or "diverged".
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


def fit_by_gradient(
    images: ImageStatistics, statistics: FoldedStatistics, trials: Sequence[Trial]
) -> list[TrainResult]:
    """Train all `trials`, those of one batch size, number of epochs and seed as one.

    images: the training split, image by image, on the device that is to do the work.
    statistics: of the same columns and the same target; the bias comes first.

    A trial's result does not depend on the others, but for the rounding of float32; one that diverges ends alone.
    Equal seeds give equal minibatches, on every device. Small steps are taken on one of torch's threads.
    """
    train = statistics.whole_train
    optima = losses_of_all_k(train, 0.0, [train])[0] / train.num_terms
    results: dict[int, TrainResult] = {}
    # Those of one solver stand next to each other, Adam's first.
    order = sorted(range(len(trials)), key=lambda position: (trials[position].minibatches, trials[position].solver))
    for _, group in groupby(order, key=lambda position: trials[position].minibatches):
        positions = list(group)
        of_group = _train(images, statistics, [trials[position] for position in positions], optima)
        results.update(zip(positions, of_group, strict=True))
    return [results[position] for position in range(len(trials))]


def _train(
    images: ImageStatistics, statistics: FoldedStatistics, trials: Sequence[Trial], optima: Float64[Tensor, " columns"]
) -> list[TrainResult]:
    """Train trials of the same minibatches until every one has ended. optima: training losses at every k."""
    batch = TrialBatch(images, statistics, trials)
    limit = DIVERGED_RATIO * float(batch.spread.square().mean())
    patience = torch.tensor([trial.patience for trial in trials])
    start = best = batch.target_weights()
    # Of training and validation: (2, trials).
    best_losses = torch.full((2, len(trials)), torch.inf, dtype=torch.float64)
    best_epoch = without_gain = num_epochs = torch.zeros(len(trials), dtype=torch.long)
    running = torch.ones(len(trials), dtype=torch.bool)
    converged = ~running
    curves = []
    for epoch in range(1, trials[0].epochs + 1):
        batch.train_epoch()
        weights = batch.target_weights()
        losses = torch.stack([batch.train.mse(weights), batch.val.mse(weights)])
        # A comparison with what is no number is False.
        is_sound = (losses[0] <= limit) & losses[1].isfinite()
        losses = torch.where(is_sound, losses, torch.inf)
        curves.append(losses)
        num_epochs = num_epochs + running
        without_gain = torch.where(losses[1] < best_losses[1] * (1 - MIN_GAIN), 0, without_gain + 1)
        # A diverged trial loses what it had: its result is infinite.
        takes = running & ((losses[1] < best_losses[1]) | ~is_sound)
        # Spared where it changes nothing, as in most epochs: a tenth of an epoch of a hundred trials.
        kept = weights if bool(is_sound.all()) else torch.where(is_sound[:, None], weights, start)
        best = torch.where(takes[:, None], kept, best)
        best_losses = torch.where(takes, losses, best_losses)
        best_epoch = torch.where(takes, is_sound * epoch, best_epoch)
        converged = converged | (running & is_sound & (without_gain >= patience))
        before, running = running, running & is_sound & ~converged
        if not running.any():
            break
        if not torch.equal(running, before):
            batch.keep(running)
    optimum = optima[[trial.k for trial in trials]]
    # A perfect optimum: nothing is within a share of it but itself.
    of_perfect = torch.where(best_losses[0] > 0, torch.inf, 0.0)
    excess = torch.where(optimum > 0, (best_losses[0] - optimum) / optimum, of_perfect).tolist()
    padded = F.pad(best, (0, 0, 0, 0, 0, images.num_columns - len(best)))
    train_curves, val_curves = torch.stack(curves, dim=2).tolist()
    return [
        TrainResult(
            trial=trial,
            weights=statistics.with_offset(padded[:, row]),
            train_loss=float(best_losses[0, row]),
            val_loss=float(best_losses[1, row]),
            excess_loss=excess[row],
            train_losses=tuple(train_curves[row][: num_epochs[row]]),
            val_losses=tuple(val_curves[row][: num_epochs[row]]),
            best_epoch=int(best_epoch[row]),
            outcome="diverged" if best_losses[1, row].isinf() else "converged" if converged[row] else "finished",
        )
        for row, trial in enumerate(trials)
    ]


class TrialBatch:
    """Weights of trials that share minibatches, for the standardised target, and the state of their optimisers.

    A row is one output of a trial that still runs, those of Adam first; each has its own learning rate and weight
    decay. Columns beyond the trial's k stay 0, and the first one, the bias, has no weight decay.

    trials: those of one solver next to each other.
    train, val: sums over the splits on the columns that are read.
    spread: of the target over the valid pixels, one an output; 1 where it does not vary.
    """

    def __init__(self, images: ImageStatistics, statistics: FoldedStatistics, trials: Sequence[Trial]) -> None:
        self.trials = trials
        num_outputs, column = images.num_outputs, torch.arange(1 + max(trial.k for trial in trials))
        self.train, self.val = (each.subset(column) for each in (statistics.whole_train, statistics.whole_val))
        self.mean, square = self.train.xty[0] / self.train.num_valid, self.train.yty / self.train.num_valid
        variance = square - self.mean.square()
        self.spread = torch.where(variance > 1e-12 * square, variance, 1.0).sqrt()
        moved = [tensor.to(images.device, images.dtype) for tensor in (self.mean, self.spread)]
        self._images = images.leading(len(column) - 1, *moved)
        k, lr, decay = (
            torch.tensor([getattr(trial, name) for trial in trials], dtype=torch.float64)
            .repeat_interleave(num_outputs)[:, None]
            .to(images.device, images.dtype)
            for name in ("k", "lr", "weight_decay")
        )
        column = column.to(images.device)
        self._rates, self._decay = lr * (column <= k), decay * ((column > 0) & (column <= k))
        self._weights, self._mean, self._square = (torch.zeros_like(self._rates) for _ in range(3))
        self._rows = torch.arange(len(self._rates))
        self._num_adam = num_outputs * sum(trial.solver == "adam" for trial in trials)
        self._has_decay = bool(decay.any())
        self._generator = torch.Generator().manual_seed(trials[0].seed)
        self._num_steps = 0

    def train_epoch(self) -> None:
        """Show every image once. Nothing waits for the device."""
        first, num_images = self.trials[0], self._images.num_images
        in_all = first.epochs * -(-num_images // first.batch_size)
        gradient = torch.empty_like(self._weights)
        # torch.optim knows one learning rate a tensor, and takes 3 to 5 times as long for a matrix this small.
        state = (self._weights, gradient, self._rates, self._mean, self._square)
        adam, sgd = ([each[part] for each in state] for part in (slice(self._num_adam), slice(self._num_adam, None)))
        order = torch.randperm(num_images, generator=self._generator)
        made = self._images.minibatches(order, first.batch_size)
        with closing(_on_few_threads(made, len(gradient))) as minibatches:
            for minibatch in minibatches:
                minibatch.gradient(self._weights, out=gradient)
                if self._has_decay:
                    gradient.addcmul_(self._weights, self._decay)
                share = rate_at(self._num_steps, in_all, WARMUP)
                self._num_steps += 1
                if len(adam[0]):
                    _step_of_adam(*adam, share=share, num_steps=self._num_steps)
                if len(sgd[0]):
                    _step_of_sgd(*sgd, share=share)

    def target_weights(self) -> Float64[Tensor, "columns trials out"]:
        """Weights in the target's own scale, on the CPU; the mean alone for trials that run no more."""
        num_outputs, num_columns = len(self.mean), self._weights.shape[1]
        weights = torch.zeros(num_columns, len(self.trials) * num_outputs, dtype=torch.float64)
        weights[:, self._rows] = self._weights.to("cpu", torch.float64).T
        weights = weights.unflatten(1, (-1, num_outputs)) * self.spread
        weights[0] += self.mean
        return weights

    def keep(self, is_running: Bool[Tensor, " trials"]) -> None:
        """Go on with the trials that are running."""
        kept = is_running.repeat_interleave(len(self.mean))[self._rows]
        self._rows, self._num_adam = self._rows[kept], int(kept[: self._num_adam].sum())
        state = (self._weights, self._rates, self._decay, self._mean, self._square)
        kept = kept.to(self._weights.device)
        self._weights, self._rates, self._decay, self._mean, self._square = (each[kept] for each in state)


def _step_of_sgd(
    weights: Tensor, gradient: Tensor, rates: Tensor, velocity: Tensor, _: Tensor, *, share: float
) -> None:
    """Change the weights as `torch.optim.SGD` does, at `share` of each row's rate.

    velocity = momentum * velocity + gradient; weights -= lr * velocity.
    """
    velocity.mul_(MOMENTUM).add_(gradient)
    weights.addcmul_(velocity, rates, value=-share)


def _step_of_adam(
    weights: Tensor, gradient: Tensor, rates: Tensor, mean: Tensor, square: Tensor, *, share: float, num_steps: int
) -> None:
    """Change the weights as `torch.optim.Adam` does, at `share` of each row's rate; the gradient is left changed.

    weights -= lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon), both sides of the fraction times the root
    of 1 - beta2^t: two numbers are corrected instead of two matrices.
    """
    root = math.sqrt(1 - BETA2**num_steps)
    mean.lerp_(gradient, 1 - BETA1)
    square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    direction = torch.sqrt(square, out=gradient).add_(EPSILON * root)
    torch.div(mean, direction, out=direction)
    weights.addcmul_(direction, rates, value=-share * root / (1 - BETA1**num_steps))


def _on_few_threads(minibatches: Iterator[Minibatch], num_rows: int) -> Generator[Minibatch]:
    """Yield minibatches, made with all threads; what is done with a small one is done on one."""
    num_threads = torch.get_num_threads()
    for minibatch in minibatches:
        try:
            if num_rows * minibatch.multiplications < MULTIPLICATIONS_PER_THREAD:
                torch.set_num_threads(1)
            yield minibatch
        finally:
            torch.set_num_threads(num_threads)
