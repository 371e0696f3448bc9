"""Where a study is kept."""

import shlex
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, fail_stale_trials
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from idl.errors import InputError
from idl.passwords import HIDDEN, without_password
from idl.sweep.config import SweepConfig
from idl.sweep.database import Database
from idl.sweep.journal import Journal, open_journal
from idl.sweep.workers import enqueue_again, grace_seconds, heartbeat_seconds

# By default a connection to a machine that does not answer, or no longer does, is waited for by minutes.
_LIBPQ = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000}
# A worker that asks for a batch holds an sqlite file's only lock while the sampler thinks.
_SQLITE = {"timeout": 60}
CONNECT = {"postgresql+psycopg": _LIBPQ, "postgresql+psycopg2": _LIBPQ, "sqlite": _SQLITE, "sqlite+pysqlite": _SQLITE}
# A storage that ends with this process.
MEMORY = "memory"


@dataclass(frozen=True)
class Storage:
    """An open storage: a journal, a database or this process's memory."""

    optuna: BaseStorage
    journal: Journal | None = None
    database: Database | None = None

    def as_one(self, trials: Iterable[optuna.Trial]) -> AbstractContextManager[None]:
        """Make the writes to these trials in a block one, where that is faster. Nothing of it is read back before."""
        if self.database is not None:
            return self.database.as_one(trial._trial_id for trial in trials)
        return nullcontext() if self.journal is None else self.journal.as_one()

    def as_only(self, study: optuna.Study) -> AbstractContextManager[None]:
        """In a database, have no other worker ask for trials meanwhile, and a block write all or nothing."""
        return nullcontext() if self.database is None else self.database.as_only(study)

    def locked(self, study: optuna.Study) -> AbstractContextManager[object]:
        """Have no other worker in such a block of this study: what it reads is still so when it writes."""
        if self.database is not None:
            return self.database.locked(study)
        return nullcontext() if self.journal is None else self.journal.locked()

    def as_seen(self, study: optuna.Study) -> AbstractContextManager[None]:
        """Read the study's trials once, not each time that a block asks for them, where that is faster."""
        return nullcontext() if self.database is None else self.database.as_seen(study)


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
            with _database(config.storage, study) as database:
                yield Storage(database, database=database)
        else:
            storage, journal = open_journal(journal_path(folder, study))
            yield Storage(storage, journal=journal)
    finally:
        optuna.logging.set_verbosity(verbosity)


@contextmanager
def _database(address: str, study: str) -> Iterator[Database]:
    """Open a database. Raises InputError where it cannot be reached, or is lost while the block lasts."""
    url = _parsed(address)
    shown = _shown(url)
    database = _connected(url, shown)
    try:
        yield database
    except (SQLAlchemyError, StorageInternalError) as error:
        raise InputError(
            f"storage={shown}: lost, or no longer fit to be written ({_reason(error)}). What study {study} was told "
            f"is kept. See to the database; the same command with --study {shlex.quote(study)} then goes on, and "
            "tries the trials in hand again."
        ) from error
    finally:
        with suppress(SQLAlchemyError):
            database.remove_session()
        database.engine.dispose()


def _parsed(address: str) -> URL:
    try:
        url = make_url(address)
    except SQLAlchemyError as error:
        raise InputError(
            f"storage={without_password(address)}: not the URL of a database. Pass one such as "
            "postgresql://user@host/name, memory, or nothing for a journal file."
        ) from error
    # The driver that `pip install '.[postgres]'` brings; which one goes without saying depends on SQLAlchemy.
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _shown(url: URL) -> str:
    # A password may also stand behind the question mark.
    query = {name: HIDDEN if "password" in name.lower() else value for name, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def _connected(url: URL, shown: str) -> Database:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return Database(
                url.render_as_string(hide_password=False),
                # A connection that was dropped while a batch trained is opened again.
                engine_kwargs={"connect_args": CONNECT.get(url.drivername, {}), "pool_pre_ping": True},
                heartbeat_interval=heartbeat_seconds(),
                grace_period=grace_seconds(),
                heartbeat_stale_trial_callback=enqueue_again,
            )
    except ImportError as error:
        remedy = "pip install '.[postgres]'" if url.drivername == "postgresql+psycopg" else "Install it"
        raise InputError(
            f"storage={shown}: the database's driver is not installed ({error.__cause__ or error}). {remedy}, or "
            "pass another storage."
        ) from error
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        raise InputError(
            f"storage={shown}: cannot be reached ({_reason(error)}). Start it, or pass another."
        ) from error


def _reason(error: BaseException) -> str:
    """Say in one line what the driver said; Optuna wraps it in words of its own."""
    while isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def fail_stale(study: optuna.Study) -> None:
    """Have trials tried again whose signs of life have stopped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)
