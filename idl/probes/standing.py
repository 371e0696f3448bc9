"""Where trials stand after each epoch: which of them still train, their losses so far, their best weights."""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from idl.probes.trial import Descent, Outcome, Trial


class Standing:
    """What is known of trials that train together; all on the CPU.

    start: weights before the first epoch, those of the constant.
    """

    def __init__(self, trials: Sequence[Trial], start: Float64[Tensor, "columns trials out"]) -> None:
        self._trials = trials
        self._start = start
        self._patience = torch.tensor([trial.patience for trial in trials])
        self._must_fall_to = 1 - torch.tensor([trial.min_gain for trial in trials], dtype=torch.float64)
        self._is_running = torch.ones(len(trials), dtype=torch.bool)
        self._outcomes: list[Outcome] = ["finished"] * len(trials)
        self._weights = start
        self._best_train = torch.full((len(trials),), torch.inf, dtype=torch.float64)
        self._best_val = self._best_train
        self._best_epoch = torch.zeros(len(trials), dtype=torch.long)
        self._without_gain = torch.zeros(len(trials), dtype=torch.long)
        self._num_epochs = torch.zeros(len(trials), dtype=torch.long)
        self._curves: list[tuple[Tensor, Tensor]] = []

    @property
    def is_running(self) -> Bool[Tensor, " trials"]:
        """Trials that train on."""
        return self._is_running

    def note(
        self,
        weights: Float64[Tensor, "columns trials out"],
        train_losses: Float64[Tensor, " trials"],
        val_losses: Float64[Tensor, " trials"],
        is_sound: Bool[Tensor, " trials"],
    ) -> None:
        """Take in an epoch of the trials that ran in it: keep the best, end those that converged or are not sound."""
        running = self._is_running
        train_losses = torch.where(is_sound, train_losses, torch.inf)
        val_losses = torch.where(is_sound, val_losses, torch.inf)
        self._curves.append((train_losses, val_losses))
        self._num_epochs += running
        is_gain = val_losses < self._best_val * self._must_fall_to
        self._without_gain = torch.where(is_gain, 0, self._without_gain + 1)
        # A diverged trial loses what it had: its result is infinite.
        takes = running & ((val_losses < self._best_val) | ~is_sound)
        # Spared where it changes nothing, as in most epochs: a tenth of an epoch of a hundred trials.
        kept = weights if bool(is_sound.all()) else torch.where(is_sound[:, None], weights, self._start)
        self._weights = torch.where(takes[:, None], kept, self._weights)
        self._best_train = torch.where(takes, train_losses, self._best_train)
        self._best_val = torch.where(takes, val_losses, self._best_val)
        self._best_epoch = torch.where(takes, is_sound * len(self._curves), self._best_epoch)
        self._end(running & ~is_sound, "diverged")
        self._end(running & is_sound & (self._without_gain >= self._patience), "converged")

    def end(self, rows: Collection[int]) -> None:
        """End those of `rows` that still train."""
        chosen = torch.zeros_like(self._is_running)
        chosen[list(rows)] = True
        self._end(chosen & self._is_running, "ended")

    def _end(self, chosen: Bool[Tensor, " trials"], outcome: Outcome) -> None:
        for row in chosen.nonzero().flatten().tolist():
            self._outcomes[row] = outcome
        self._is_running = self._is_running & ~chosen

    def last_val_losses(self, rows: Bool[Tensor, " trials"]) -> dict[int, float]:
        """Validation losses of the last epoch, by row."""
        losses = self._curves[-1][1]
        return {row: float(losses[row]) for row in rows.nonzero().flatten().tolist()}

    def results(self, num_columns: int, optima: Float64[Tensor, " trials"]) -> list[Descent]:
        """One result a trial, its weights filled up with zeros to `num_columns`. optima: training losses."""
        train_curves, val_curves = (torch.stack(curves).T.tolist() for curves in zip(*self._curves, strict=True))
        missing = num_columns - len(self._weights)
        padded = torch.nn.functional.pad(self._weights, (0, 0, 0, 0, 0, missing))
        excess = (self._best_train - optima) / optima
        # A perfect optimum: nothing is within a share of it but itself.
        excess = torch.where(optima > 0, excess, torch.where(self._best_train > 0, torch.inf, 0.0))
        return [
            Descent(
                trial=trial,
                weights=padded[:, row].clone(),
                train_loss=float(self._best_train[row]),
                val_loss=float(self._best_val[row]),
                excess_loss=float(excess[row]),
                train_losses=tuple(train_curves[row][:num_epochs]),
                val_losses=tuple(val_curves[row][:num_epochs]),
                best_epoch=int(self._best_epoch[row]),
                outcome=self._outcomes[row],
            )
            for row, (trial, num_epochs) in enumerate(zip(self._trials, self._num_epochs.tolist(), strict=True))
        ]
