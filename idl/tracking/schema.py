"""The tables of a fresh tracking store, created by one process while the others wait."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from idl.errors import InputError
from idl.passwords import without_password
from idl.tracking.reachable import sqlite_path

# Of PostgreSQL's advisory locks, which are numbers, in the database that gets the tables.
LOCK_NUMBER = 0x1D1_5C4E3A


def create_schema(tracking_uri: str, registry_uri: str) -> None:
    """Create the tables of stores in sqlite or PostgreSQL that lack them; other stores are left to their server.

    Two processes that create them at the same moment break the file for good, or end in an error, so that the second
    waits: on a lock file beside the database, or on a lock that the server frees when the process ends.

    Raises InputError: a file that is no database, one of another version of mlflow, or one that does not let us in.
    """
    for uri in dict.fromkeys((tracking_uri, registry_uri)):
        path = sqlite_path(uri)
        if path is not None:
            import filelock

            # Beside the database: /tmp is not shared between containers that share a folder.
            with filelock.FileLock(path.absolute().with_name(f".{path.name}.lock")):
                _open_store(uri)
        elif uri.startswith(("postgresql:", "postgresql+")):
            _open_once(uri)


@cache
def _open_once(uri: str) -> None:
    """Open a store on a PostgreSQL server; once a process, since each look is a connection."""
    with _explained(uri), _locked(uri):
        _open_store(uri)


@contextmanager
def _locked(uri: str) -> Iterator[None]:
    """Hold the lock of the tables' creation; mlflow's own is a file of one machine."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection:
        # Of the session, so that no transaction stays open meanwhile; closing the connection frees it.
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": LOCK_NUMBER})
        connection.commit()
        yield


def _open_store(uri: str) -> None:
    """Build mlflow's store on `uri`, which creates the tables, or checks their version."""
    import mlflow

    with _explained(uri):
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_registered_models(max_results=1)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Raise InputError for what a database answers that cannot be used."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    shown = without_password(uri)
    try:
        yield
    except ImportError as error:
        remedy = "pip install '.[postgres]'" if error.name == "psycopg" else "Install it, or write postgresql+psycopg:"
        raise InputError(
            f"tracking store {shown}: the database's driver is not installed ({error.name}). {remedy}."
        ) from error
    except (MlflowException, SQLAlchemyError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        remedy = "Set MLFLOW_TRACKING_URI to one that can be."
        if "schema" in reason:
            remedy = f"Run `mlflow db upgrade {shown}` after a backup, or set MLFLOW_TRACKING_URI."
        raise InputError(f"tracking store {shown}: cannot be opened ({reason}). {remedy}") from error
