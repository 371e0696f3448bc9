"""Where a study is kept, and whether it is the study of this sweep."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage, fail_stale_trials
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from idl.errors import InputError
from idl.sweep.config import SweepConfig
from idl.sweep.journal import Journal, open_journal
from idl.sweep.searching import SeededSampler, make_pruner
from idl.sweep.space import SearchSpace
from idl.sweep.workers import GRACE_SECONDS, HEARTBEAT_SECONDS, enqueue_again

CONNECT_SECONDS = 10
# A storage that ends with this process.
MEMORY = "memory"


@dataclass(frozen=True)
class Storage:
    """An open storage: a journal, a database or this process's memory."""

    optuna: BaseStorage
    journal: Journal | None = None
    database: RDBStorage | None = None

    def as_one(self) -> AbstractContextManager[None]:
        """Make the writes of a block one, where that is faster."""
        return nullcontext() if self.journal is None else self.journal.as_one()


def journal_path(folder: Path, study: str) -> Path:
    """Where a study is kept that has no database."""
    return folder / f"{quote(study, safe=' ')}.journal"


@contextmanager
def opened(config: SweepConfig, study: str, folder: Path) -> Iterator[Storage]:
    """Open the storage. Raises InputError where it cannot be reached, or is damaged."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if config.storage == MEMORY:
            yield Storage(InMemoryStorage())
        elif config.storage:
            database = _database(config.storage)
            try:
                yield Storage(database, database=database)
            finally:
                database.remove_session()
                database.engine.dispose()
        else:
            storage, journal = open_journal(journal_path(folder, study))
            yield Storage(storage, journal=journal)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _database(url: str) -> RDBStorage:
    try:
        parsed = make_url(url)
    except SQLAlchemyError as error:
        raise InputError(
            f"storage={url}: not the URL of a database. Pass one such as postgresql+psycopg://user@host/name, "
            "memory, or nothing for a journal file."
        ) from error
    shown = parsed.render_as_string(hide_password=True)
    # By default a connection to a machine that does not answer is waited for by minutes.
    options = {"connect_timeout": CONNECT_SECONDS} if parsed.get_backend_name() == "postgresql" else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(
                url,
                engine_kwargs={"connect_args": options},
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=enqueue_again,
            )
    except ImportError as error:
        raise InputError(f"storage={shown}: the database's driver is not installed ({error.__cause__}).") from error
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise InputError(f"storage={shown}: cannot be reached ({reason}). Start it, or pass another.") from error


def fail_stale(study: optuna.Study) -> None:
    """Have trials tried again whose signs of life have stopped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)


def open_study(storage: Storage, config: SweepConfig, name: str, subject: Mapping[str, str]) -> optuna.Study:
    """Create the study, or go on with the one of that name. Raises InputError where that is another subject's."""
    study = optuna.create_study(
        storage=storage.optuna,
        sampler=SeededSampler(config.sampler, config.seed),
        pruner=make_pruner(config),
        study_name=name,
        load_if_exists=True,
    )
    _require_same(study, subject)
    return study


def require_space(study: optuna.Study, space: SearchSpace, config: SweepConfig) -> None:
    """Raise InputError where the study's trials were drawn from another space, or trained in another way."""
    fixed = asdict(config.fixed)
    fixed["step_images"] = fixed.pop("batch_size")
    searched = {name: bounds for name, bounds in asdict(space).items() if bounds}
    _require_same(study, {name: _in_words(value) for name, value in (fixed | searched).items()})


def _require_same(study: optuna.Study, expected: Mapping[str, str]) -> None:
    """Raise InputError where an attribute of the study is another one; note those that it does not have."""
    has = study.user_attrs
    differing = [
        f"{name} is {has[name]} there, {value} here"
        for name, value in expected.items()
        if has.get(name, value) != value
    ]
    if differing:
        raise InputError(f"study {study.study_name}: {'; '.join(differing)}. Pass another study name.")
    missing = expected.keys() - has.keys()
    if missing and any(study.get_trials(deepcopy=False)):
        raise InputError(
            f"study {study.study_name}: its trials were made without {', '.join(sorted(missing))}. "
            "Pass another study name."
        )
    for name in sorted(missing):
        study.set_user_attr(name, expected[name])


def _in_words(value: Any) -> str:
    return ":".join(map(str, value)) if isinstance(value, tuple) else str(value)
