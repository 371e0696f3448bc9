"""How a sweep searches, and where its study is kept."""

from dataclasses import dataclass
from typing import Literal, get_args

from idl.errors import InputError
from idl.probes.trial import Trial

Sampler = Literal["tpe", "random"]
Pruner = Literal["median", "hyperband", "none"]


@dataclass(frozen=True)
class SweepConfig:
    """Raises InputError for what cannot be.

    trials: finished trials that the study is to have, those of other workers and of earlier sweeps included.
    at_once: trials that are asked for, and trained, as one. The sampler learns between batches only: with as many
      as `trials` it would be a random search.
    sampler: "tpe" (multivariate, running trials count as bad ones) or "random".
    pruner: "median", "hyperband" or "none". What it ends makes way for nobody: a batch takes about as long with 20
      trials as with one.
    report_epochs: the pruner sees every so many epochs.
    seed: of the sampler. What is drawn for a trial depends on it, on the trial's number and on what is known by
      then: workers with one seed draw different trials, and a study that is continued draws what it would have drawn.
    storage: "": a journal file a study in the caller's folder; "memory"; else the URL of a database.
    study: the name; one that exists goes on. "": a new one, named by the time.
    fixed: what the space does not search: epochs, schedule, patience, the seed of the minibatches; its k and lr are
      not read.
    """

    trials: int = 100
    at_once: int = 20
    sampler: Sampler = "tpe"
    pruner: Pruner = "median"
    report_epochs: int = 5
    seed: int = 0
    storage: str = ""
    study: str = ""
    fixed: Trial = Trial(k=0)  # noqa: RUF009

    def __post_init__(self) -> None:
        for name, choices in (("sampler", get_args(Sampler)), ("pruner", get_args(Pruner))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name}={getattr(self, name)}: expected {', '.join(choices)}.")
        for name, least in (("trials", 1), ("at_once", 1), ("report_epochs", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)}: expected {least} or more.")
