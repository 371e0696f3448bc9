"""Gradient descent on per-image statistics: many trials as one product, losses an epoch, and how far from the optimum.

The target is standardised on the training split, each output by itself, and the bias starts at its mean. The
gradient is that of the minibatch's mean squared error over valid pixels and outputs. Trials of one batch size, number
of epochs and seed see the same minibatches: their weights are the rows of one matrix, and a step of all of them is
its product with the minibatch's matrix.
"""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from idl.probes.exact import losses_of_all_k
from idl.probes.image_statistics import ImageStatistics, Minibatch
from idl.probes.optimisers import OPTIMISERS, Optimiser
from idl.probes.standing import Standing
from idl.probes.statistics import Statistics
from idl.probes.trial import Descent, Trial

# A training loss so many times the target's variance does not come back to anything of use.
DIVERGED_RATIO = 1e6
# Steps whose products have fewer multiplications than this gain little time by a second thread (1,200 images of 65
# columns: 100 trials none, 400 a tenth), and lose up to half where a core has something else to do: its share of every
# product is waited for.
MULTIPLICATIONS_PER_THREAD = 2**21

Report = Callable[[int, Mapping[int, float]], Collection[int]]


def descend(
    images: ImageStatistics,
    train: Statistics,
    val: Statistics,
    trials: Sequence[Trial],
    *,
    report: Report | None = None,
) -> list[Descent]:
    """Train all `trials`, those of one batch size, number of epochs and seed as one.

    images: the training split, image by image, on the device that is to do the work.
    train, val: sums over the splits, of the same columns and the same target; the bias comes first.
    report: called after each epoch with its number, from 1, and the validation losses of the trials that trained in
      it (infinite where one diverged), by their position in `trials`; returns the positions of those to end. Trials
      that cannot train as one follow each other, and are reported apart.

    A trial's result does not depend on the others, but for the rounding of float32; one that diverges ends alone.
    Equal seeds give equal minibatches, on every device. Small steps are taken on one thread; the number of torch's
    threads, which is the process's, is what it was when this ends.
    Raises ValueError where a k, or the sums, do not fit `images`.
    """
    _require_fit(images, train, val, trials)
    optima = losses_of_all_k(train, 0.0, [train])[0] / train.num_terms
    results: dict[int, Descent] = {}
    for group in _groups(trials):
        together = _Together(images, train, val, [trials[position] for position in group])
        standing = _run(together, group, report)
        of_group = standing.results(images.num_columns, optima[[trials[position].k for position in group]])
        results.update(zip(group, of_group, strict=True))
    return [results[position] for position in range(len(trials))]


def _require_fit(images: ImageStatistics, train: Statistics, val: Statistics, trials: Sequence[Trial]) -> None:
    sizes = (images.num_columns, images.num_outputs)
    if any(statistics.moment.shape != sizes for statistics in (train, val)) or train.num_images != images.num_images:
        raise ValueError(
            f"{images.num_images} images with (columns, outputs) = {sizes}, but sums over {train.num_images} images "
            f"with {tuple(train.moment.shape)} (train) and {tuple(val.moment.shape)} (val)"
        )
    for trial in trials:
        if trial.k >= images.num_columns:
            raise ValueError(f"k={trial.k} does not fit {images.num_columns} columns")


def _groups(trials: Sequence[Trial]) -> Iterator[list[int]]:
    """Positions of trials that share minibatches, those of one rule next to each other."""

    def shared(position: int) -> tuple[int, int, int]:
        trial = trials[position]
        return trial.batch_size, trial.epochs, trial.seed

    ordered = sorted(range(len(trials)), key=lambda position: (shared(position), _rule(trials[position])))
    for _, group in groupby(ordered, key=shared):
        yield list(group)


def _rule(trial: Trial) -> tuple[str, str, float]:
    """What trials of one optimiser have in common."""
    return trial.solver, trial.schedule, trial.warmup


def _run(together: "_Together", positions: Sequence[int], report: Report | None) -> Standing:
    """Train until every trial has ended. positions: of the trials, for the report."""
    limit = DIVERGED_RATIO * together.variance
    standing = Standing(together.trials, together.target_weights())
    for epoch in range(1, together.trials[0].epochs + 1):
        was_running = standing.is_running
        together.train_epoch()
        weights = together.target_weights()
        train_losses, val_losses = together.losses(weights)
        # A comparison with what is no number is False.
        standing.note(weights, train_losses, val_losses, (train_losses <= limit) & val_losses.isfinite())
        if report is not None:
            losses = standing.last_val_losses(was_running)
            ended = set(report(epoch, {positions[row]: loss for row, loss in losses.items()}))
            standing.end([row for row, position in enumerate(positions) if position in ended])
        if not standing.is_running.any():
            break
        if not torch.equal(standing.is_running, was_running):
            together.keep(standing.is_running)
    return standing


class _Together:
    """Weights of trials that share minibatches, for the standardised target.

    Row (t, o) of the weights is output o of the t-th trial that still runs; the others take part no more.
    """

    def __init__(self, images: ImageStatistics, train: Statistics, val: Statistics, trials: Sequence[Trial]) -> None:
        self.trials = trials
        k_max = max(trial.k for trial in trials)
        read = torch.arange(1 + k_max)
        self._train, self._val = train.subset(read), val.subset(read)
        self._mean, self._spread = _mean_and_spread(train)
        self.variance = float(self._spread.square().mean())
        moved = [tensor.to(images.device, images.dtype) for tensor in (self._mean, self._spread)]
        self._images = images.leading(k_max).standardised(*moved)
        self._numbers = torch.arange(len(trials))
        self._weights = torch.zeros(
            len(trials), images.num_outputs, 1 + k_max, dtype=images.dtype, device=images.device
        )
        self._gradient = torch.empty_like(self._weights)
        self._optimisers = list(self._make_optimisers())
        self._generator = torch.Generator().manual_seed(trials[0].seed)
        self._step = 0

    def _make_optimisers(self) -> Iterator[tuple[Trial, slice, Optimiser]]:
        """Yield one of the trials with the same rule, their rows, and their optimiser."""
        num_outputs, num_columns = self._weights.shape[1:]
        first = 0
        for (solver, _, _), group in groupby(self.trials, key=_rule):
            trials = list(group)
            part = slice(first, first + len(trials))
            first = part.stop
            k = torch.tensor([trial.k for trial in trials])
            is_read = torch.arange(num_columns) <= k[:, None]
            yield (
                trials[0],
                part,
                OPTIMISERS[solver](
                    self._weights[part].flatten(0, 1),
                    self._gradient[part].flatten(0, 1),
                    lr=self._a_row([trial.lr for trial in trials]),
                    weight_decay=self._a_row([trial.weight_decay for trial in trials]),
                    is_read=is_read.repeat_interleave(num_outputs, dim=0).to(self._weights.device),
                ),
            )

    def _a_row(self, values: Sequence[float]) -> Tensor:
        """One value a trial, repeated for its outputs."""
        repeated = torch.tensor(values, dtype=torch.float64).repeat_interleave(self._weights.shape[1])
        return repeated.to(self._weights.device, self._weights.dtype)

    def train_epoch(self) -> None:
        """Show every image once. Nothing waits for the device."""
        first = self.trials[0]
        num_images = self._images.num_images
        num_steps = first.epochs * -(-num_images // first.batch_size)
        weights, gradient = self._weights.flatten(0, 1), self._gradient.flatten(0, 1)
        order = torch.randperm(num_images, generator=self._generator)
        with closing(_on_few_threads(self._images.minibatches(order, first.batch_size), len(weights))) as minibatches:
            for minibatch in minibatches:
                minibatch.gradient(weights, out=gradient)
                for trial, _, optimiser in self._optimisers:
                    optimiser.step(trial.rate_at(self._step, num_steps))
                self._step += 1

    def target_weights(self) -> Float64[Tensor, "columns trials out"]:
        """Weights in the target's own scale, on the CPU; zero for trials that run no more."""
        num_outputs, num_columns = self._weights.shape[1:]
        weights = torch.zeros(num_columns, len(self.trials), num_outputs, dtype=torch.float64)
        weights[:, self._numbers] = self._weights.to("cpu", torch.float64).permute(2, 0, 1) * self._spread
        weights[0] += self._mean
        return weights

    def losses(
        self, weights: Float64[Tensor, "columns trials out"]
    ) -> tuple[Float64[Tensor, " trials"], Float64[Tensor, " trials"]]:
        """Losses on the training and the validation split."""
        return self._train.mse(weights), self._val.mse(weights)

    def keep(self, is_running: Bool[Tensor, " trials"]) -> None:
        """Go on with the trials that are running."""
        rows = is_running[self._numbers]
        self._numbers = self._numbers[rows]
        self._weights = self._weights[rows.to(self._weights.device)]
        self._gradient = torch.empty_like(self._weights)
        optimisers, first = [], 0
        for trial, part, optimiser in self._optimisers:
            kept = slice(first, first + int(rows[part].sum()))
            first = kept.stop
            if kept.start < kept.stop:
                optimiser.keep(
                    rows[part].repeat_interleave(self._weights.shape[1]).to(self._weights.device),
                    self._weights[kept].flatten(0, 1),
                    self._gradient[kept].flatten(0, 1),
                )
                optimisers.append((trial, kept, optimiser))
        self._optimisers = optimisers


def _on_few_threads(minibatches: Iterator[Minibatch], num_rows: int) -> Generator[Minibatch]:
    """Yield minibatches, made with all threads; what is done with a small one is done on one."""
    num_threads = torch.get_num_threads()
    for minibatch in minibatches:
        try:
            if minibatch.num_multiplications(num_rows) < MULTIPLICATIONS_PER_THREAD:
                torch.set_num_threads(1)
            yield minibatch
        finally:
            torch.set_num_threads(num_threads)


def _mean_and_spread(train: Statistics) -> tuple[Float64[Tensor, " out"], Float64[Tensor, " out"]]:
    """Mean and standard deviation of each output over the valid pixels; a spread of 1 where it does not vary."""
    mean = train.moment[0] / train.num_valid
    energy = train.energy / train.num_valid
    variance = energy - mean.square()
    return mean, torch.where(variance > 1e-12 * energy, variance, 1.0).sqrt()
