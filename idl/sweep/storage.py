"""Where a study is kept."""

import shlex
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, fail_stale_trials
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

from idl.databases import making_tables
from idl.errors import InputError
from idl.passwords import is_unequivocal, reason_of, without_password
from idl.sweep.config import MEMORY, SweepConfig, journal_name
from idl.sweep.database import Database
from idl.sweep.journal import Journal, open_journal
from idl.sweep.workers import enqueue_again, grace_seconds, heartbeat_seconds

# By default a connection to a machine that does not answer, or no longer does, is waited for by minutes.
_LIBPQ = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000}
# A worker that asks for a batch holds an sqlite file's only lock while the sampler thinks.
_SQLITE = {"timeout": 60}
CONNECT = {"postgresql+psycopg": _LIBPQ, "postgresql+psycopg2": _LIBPQ, "sqlite": _SQLITE, "sqlite+pysqlite": _SQLITE}


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
    return folder / journal_name(study)


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
    shown = without_password(address)
    database = _connected(_parsed(address), address)
    try:
        yield database
    except (SQLAlchemyError, StorageInternalError) as error:
        raise InputError(
            f"storage={shown}: lost, or no longer fit to be written ({reason_of(error, address)}). What study {study} "
            f"was told is kept. See to the database; the same command with --study {shlex.quote(study)} then goes on, "
            "and tries the trials in hand again."
        ) from error
    finally:
        with suppress(SQLAlchemyError):
            database.remove_session()
        database.engine.dispose()


def _parsed(address: str) -> URL:
    shown = without_password(address)
    try:
        url = make_url(address)
    except (SQLAlchemyError, ValueError):
        # What the error says may hold a part of the password.
        raise InputError(
            f"storage={shown}: not the URL of a database. Pass one such as postgresql://user@host/name, memory, or "
            "nothing for a journal file."
        ) from None
    if not is_unequivocal(address):
        raise InputError(
            f"storage={shown}: it cannot be told where its password ends. Leave it to PGPASSWORD, or write / as %2F, "
            "? as %3F and @ as %40."
        )
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise InputError(f"storage={shown}: a database that nobody else sees. Name a file, or pass memory.")
    # The driver that `pip install '.[postgres]'` brings; which one goes without saying depends on SQLAlchemy.
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _connected(url: URL, address: str) -> Database:
    """Open the database, its tables made where it has none; workers that start together make them in turn."""
    shown, complete = without_password(address), url.render_as_string(hide_password=False)
    connect = CONNECT.get(url.drivername, {})
    heartbeat, grace = heartbeat_seconds(), grace_seconds()
    try:
        with warnings.catch_warnings(), making_tables(complete, connect):
            warnings.simplefilter("ignore", ExperimentalWarning)
            return Database(
                complete,
                # A connection that was dropped while a batch trained is opened again.
                engine_kwargs={"connect_args": connect, "pool_pre_ping": True},
                heartbeat_interval=heartbeat,
                grace_period=grace,
                heartbeat_stale_trial_callback=enqueue_again,
            )
    except NoSuchModuleError:
        raise InputError(
            f"storage={shown}: {url.drivername} is no database that is known. Write postgresql://user@host/name, or "
            "sqlite:///FILE."
        ) from None
    except ImportError as error:
        remedy = "pip install '.[postgres]'" if url.drivername == "postgresql+psycopg" else "Install it"
        raise InputError(
            f"storage={shown}: the database's driver is not installed ({error.__cause__ or error}). {remedy}, or "
            "pass another storage."
        ) from error
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError, OSError) as error:
        raise InputError(
            f"storage={shown}: cannot be reached ({reason_of(error, address)}). Start it, or pass another."
        ) from error


def count_trials(config: SweepConfig, folder: Path) -> int:
    """Count the trials of a study, those that have not ended included. Raises InputError as `opened`."""
    if config.storage == MEMORY:
        return 0
    with opened(config, config.study, folder) as storage:
        study = optuna.load_study(study_name=config.study, storage=storage.optuna)
        return len(study.get_trials(deepcopy=False))


def fail_stale(study: optuna.Study) -> None:
    """Have trials tried again whose signs of life have stopped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)
