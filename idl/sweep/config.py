"""How a sweep searches, and where its study is kept."""

from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import quote

from idl.errors import InputError
from idl.probes.trial import Trial

Sampler = Literal["tpe", "random"]
Pruner = Literal["median", "hyperband", "none"]

# A storage that ends with this process.
MEMORY = "memory"
# What a study in a file is kept in, and the lock of those that write to it.
JOURNAL, WRITING = ".journal", ".writing"
# Of the name of a file, in bytes; of the column of a database.
MAX_FILE_NAME, MAX_IN_DATABASE = 255, 512


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
    study: the name; one that exists goes on. "": a new one, named by the time. Of characters
      that can be printed, and not longer than its storage can keep.
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
        _require_name(self.study, self.storage)


def journal_name(study: str) -> str:
    """Return the name of the file that keeps a study which has no database."""
    return quote(study, safe=" ") + JOURNAL


def _require_name(study: str, storage: str) -> None:
    # Bytes of an argument that are no text are none either, and no file can be named by them.
    if not study.isprintable():
        raise InputError(f"study={study!a}: a character that cannot be printed. Pass another name.")
    # MLflow's search, which finds the runs of a study's trials, has no way to write such names.
    if ("'" in study and '"' in study) or study.endswith("\\"):
        raise InputError(f"study={study}: both kinds of quotes, or a backslash at the end. Pass another name.")
    spare = MAX_IN_DATABASE - len(study) if storage else MAX_FILE_NAME - len(journal_name(study) + WRITING)
    if spare < 0:
        raise InputError(
            f"study={study[:40]}...: {len(study)} characters are too many to be kept there. Pass a shorter name."
        )
