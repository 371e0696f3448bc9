"""The tables of a fresh tracking store, created by one process while the others wait."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from idl.databases import is_postgresql, making_tables, sqlite_path
from idl.errors import InputError
from idl.passwords import reason_of, without_password


def create_schema(tracking_uri: str, registry_uri: str) -> None:
    """Create the tables of stores in sqlite or PostgreSQL that lack them; other stores are left to their server.

    Raises InputError: a file that is no database, one of another version of mlflow, or one that does not let us in.
    """
    for uri in dict.fromkeys((tracking_uri, registry_uri)):
        if sqlite_path(uri) is not None:
            _open_locked(uri)
        elif is_postgresql(uri):
            _open_once(uri)


@cache
def _open_once(uri: str) -> None:
    """Open a store on a PostgreSQL server; once a process, since each look is a connection."""
    _open_locked(uri)


def _open_locked(uri: str) -> None:
    # mlflow's own lock is a file of one machine.
    with _explained(uri), making_tables(uri):
        _open_store(uri)


def _open_store(uri: str) -> None:
    """Build mlflow's store on `uri`, which creates the tables, or checks their version."""
    import mlflow

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
        reason = reason_of(error, uri)
        remedy = "Set MLFLOW_TRACKING_URI to one that can be."
        if "schema" in reason:
            remedy = f"Run `mlflow db upgrade {shown}` after a backup, or set MLFLOW_TRACKING_URI."
        raise InputError(f"tracking store {shown}: cannot be opened ({reason}). {remedy}") from error
