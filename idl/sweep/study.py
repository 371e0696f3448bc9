"""A study in a database, to which any number of workers add finished trials."""

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from idl.databases import connect_arguments, is_unequivocal, locked, reason_of, sqlite_path, without_password
from idl.errors import InputError

FILE = "studies.db"
# Attributes of a study: what it is of, its largest k, how many workers came, and the trial that was tested.
SUBJECT, LAST_K, NUM_WORKERS, TESTED = "subject", "last_k", "num_workers", "tested"
# Attribute of a trial: the number of the worker that trained it.
WORKER = "worker"
# Trials below which importances are noise.
LEAST_FOR_IMPORTANCES = 10


@contextmanager
def opened(address: str, folder: Path) -> Iterator[RDBStorage]:
    """Open a database of studies, and make its tables where it has none; workers that start together do so in turn.

    address: a URL; "": a file in `folder`. Raises InputError where it cannot be opened, or is lost within the block.
    """
    if not address:
        folder.mkdir(parents=True, exist_ok=True)
        address = URL.create("sqlite", database=str(folder.absolute() / FILE)).render_as_string()
    url, shown = None, without_password(address)
    with suppress(SQLAlchemyError, ValueError):
        url = make_url(address)
    is_in_memory = address.startswith("sqlite") and sqlite_path(address) is None
    if url is None or is_in_memory or not is_unequivocal(address):
        # What the error says may hold a part of the password.
        raise InputError(
            f"storage={shown}: not the URL of a database. Pass postgresql://user@host/name (in a password / is %2F, ? "
            "is %3F, @ is %40) or sqlite:///FILE."
        )
    if url.drivername == "postgresql":
        # The driver that `pip install '.[postgres]'` brings; which one goes without saying depends on SQLAlchemy.
        url = url.set(drivername="postgresql+psycopg")
    address = url.render_as_string(hide_password=False)
    # A line for each study and each trial.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with locked(address):
            # A connection that was dropped while a batch trained is opened again.
            engine = {"connect_args": connect_arguments(address), "pool_pre_ping": True}
            storage = RDBStorage(address, engine_kwargs=engine)
    except (SQLAlchemyError, OptunaError, ImportError, RuntimeError, OSError) as error:
        raise InputError(
            f"storage={shown}: cannot be opened ({reason_of(error, address)}). Start it, install its driver (pip "
            "install '.[postgres]'), or pass another."
        ) from error
    try:
        yield storage
    except (SQLAlchemyError, StorageInternalError) as error:
        raise InputError(
            f"storage={shown}: lost, or no longer fit to be written ({reason_of(error, address)}). What it was told is "
            "kept. See to the database and run again."
        ) from error
    finally:
        with suppress(SQLAlchemyError):
            storage.remove_session()
        storage.engine.dispose()


@dataclass(frozen=True)
class SharedStudy:
    """A study as its worker of this number sees it. All its trials are finished: each is added as a whole."""

    storage: RDBStorage
    study: optuna.Study
    worker: int

    @classmethod
    def joined(cls, storage: RDBStorage, name: str, subject: Mapping[str, str]) -> "SharedStudy":
        """Make the study, or join the one of that name; "": a new one, named by the time.

        subject: what all its trials have in common, by name. Raises InputError where the study is of another.
        """
        name = name or f"sweep-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        with locked(storage.url):
            study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
            _require_subject(study, subject)
            study.set_user_attr(SUBJECT, dict(subject))
            worker = study.user_attrs.get(NUM_WORKERS, 0)
            study.set_user_attr(NUM_WORKERS, worker + 1)
            return cls(storage, study, worker)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.study_name

    def trials(self, count: int | None = None) -> list[FrozenTrial]:
        """Return the first trials of all workers by number, as many as `count`; None: all."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [trial for trial in trials if WORKER in trial.user_attrs][:count]

    def draw(
        self, count: int, distributions: dict[str, BaseDistribution], sampler: str, seed: int
    ) -> list[dict[str, Any]]:
        """Draw the settings of `count` trials on a copy of the study in memory.

        What is drawn depends on the seed, the trials that are known and the worker: workers with one seed draw others.
        """
        known = self.trials()
        copy, drawn = _in_memory(known), []
        for number in range(len(known), len(known) + count):
            own = int(np.random.SeedSequence((seed, number, self.worker)).generate_state(1)[0])
            copy.sampler = TPESampler(seed=own) if sampler == "tpe" else RandomSampler(seed=own)
            drawn.append(copy.ask(distributions).params)
        return drawn

    def add(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Add finished trials of this worker, each as a whole; return them with their numbers."""
        for trial in trials:
            trial.set_user_attr(WORKER, self.worker)
        self.study.add_trials(trials)
        return [trial for trial in self.trials() if trial.user_attrs[WORKER] == self.worker][-len(trials) :]

    def last_k(self, here: int | None = None) -> int | None:
        """Return the largest k of the study's trials: the first worker's, which is `here` where none came before."""
        with locked(self.storage.url):
            if here is not None and LAST_K not in self.study.user_attrs:
                self.study.set_user_attr(LAST_K, here)
            return self.study.user_attrs.get(LAST_K)

    def concluded(self, num_trials: int) -> tuple[int, str] | None:
        """Return the number of the best of so many trials, and the run that tested it; None: there is more to do."""
        trials = self.trials(num_trials)
        tested = self.study.user_attrs.get(TESTED)
        if tested is None or len(trials) < num_trials:
            return None
        best = min(trials, key=lambda each: each.values[0])
        return (best.number, tested["run"]) if tested["trial"] == best.number else None

    def note_tested(self, number: int, run_id: str) -> None:
        """Note that a run has tested and registered this trial."""
        self.study.set_user_attr(TESTED, {"trial": number, "run": run_id})

    def concluding(self) -> AbstractContextManager[None]:
        """Let no other worker test the best meanwhile; where one is killed at that, the next one may."""
        return locked(self.storage.url, hashlib.sha256(self.name.encode()).hexdigest()[:16])


def importances_of(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Return the share of each searched setting in what makes a trial good; empty where too few trials tell."""
    # Here, because it imports scikit-learn, which takes a second and a half.
    from optuna.importance import get_param_importances

    sound = [trial for trial in trials if np.isfinite(trial.values[0])]
    if len(sound) < LEAST_FOR_IMPORTANCES:
        return {}
    searched = sorted(name for name, each in sound[0].distributions.items() if not each.single())
    return dict(get_param_importances(_in_memory(sound), params=searched)) if searched else {}


def _in_memory(trials: Sequence[FrozenTrial]) -> optuna.Study:
    study = optuna.create_study()
    study.add_trials(trials)
    return study


def _require_subject(study: optuna.Study, subject: Mapping[str, str]) -> None:
    """Raise InputError where a study was not made by a sweep, or by one of something else."""
    noted: Mapping[str, str] = study.user_attrs.get(SUBJECT, {})
    problem = ""
    if len(study.directions) > 1:
        problem = f"has {len(study.directions)} objectives; a sweep has one"
    elif study.direction != optuna.study.StudyDirection.MINIMIZE:
        problem = "is made to maximise; a sweep minimises"
    elif noted:
        problem = "; ".join(
            f"{each} is {noted.get(each) or 'not searched'} there, {subject.get(each) or 'not searched'} here"
            for each in sorted(noted.keys() | subject.keys())
            if noted.get(each) != subject.get(each)
        )
    elif study.get_trials(deepcopy=False):
        # One without trials was made for workers by hand, or its worker was killed at once.
        problem = "its trials were not made by this version of sweep"
    if problem:
        raise InputError(f"study {study.study_name}: {problem}. Pass another study name.")
