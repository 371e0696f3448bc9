"""What came of a sweep, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass

from idl.probes.trial import Descent, Outcome, Trial
from idl.sweep.space import Place, SearchSpace

# Outcomes of trials that can be the best.
SOUND = ("finished", "converged")


@dataclass(frozen=True)
class SweepTrial:
    """A finished trial of a study. Losses as in `Descent`.

    number: in the study, from 0. place: where it trained.
    loss: what the study minimises: val_loss, or, where several targets are searched, the mean squared error over
      the validation pixels in metres squared. Infinite where the trial diverged.
    outcome: only one that is SOUND can be the best; others "ended" (by the pruner) or "diverged".
    """

    number: int
    place: Place
    trial: Trial
    outcome: Outcome
    loss: float
    train_loss: float
    val_loss: float
    excess_loss: float
    best_epoch: int


@dataclass(frozen=True)
class Seconds:
    """Where this worker's time went.

    predicting: of validation pixels, where several targets are searched. watching: by the sweep's watcher, who logs.
    waiting: for the last trials of other workers.
    """

    asking: float = 0.0
    training: float = 0.0
    reporting: float = 0.0
    predicting: float = 0.0
    watching: float = 0.0
    telling: float = 0.0
    waiting: float = 0.0


@dataclass(frozen=True)
class SweepResult:
    """A study with all its trials.

    study: its name, to go on with.
    space: with k's end as a number.
    number: of the best trial. best: its training. place: where it trained.
    trials: all finished ones, also of other workers, by number.
    importances: share of each searched setting in what makes a trial good; empty where too few trials tell.
    num_trained: trials that this worker trained.
    """

    study: str
    space: SearchSpace
    number: int
    place: Place
    best: Descent
    trials: tuple[SweepTrial, ...]
    importances: Mapping[str, float]
    num_trained: int
    seconds: Seconds
