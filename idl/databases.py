"""The lock under which the tables of a database are made; libraries that make them do so without one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import unquote

# Of PostgreSQL's advisory locks, which are numbers, in the database that gets the tables.
LOCK_NUMBER = 0x1D1_5C4E3A


@contextmanager
def making_tables(address: str, connect: Mapping[str, object] | None = None) -> Iterator[None]:
    """Let no other process make tables in the database meanwhile; one that wants to waits.

    Two that make them at the same moment break an sqlite file for good, or end in an error. The lock is a file beside
    an sqlite file, and one that the server frees when the process ends in PostgreSQL; other databases have none.

    address: as SQLAlchemy takes it. connect: arguments of the driver's connection.
    Raises what the driver raises where it cannot connect, and OSError where the lock's file cannot be made.
    """
    path = sqlite_path(address)
    if path is not None and path.absolute().parent.is_dir() and not path.is_dir():
        import filelock

        # Beside the database: /tmp is not shared between containers that share a folder.
        lock = filelock.FileLock(path.absolute().with_name(f".{path.name}.lock"))
    elif is_postgresql(address):
        lock = _server_lock(address, connect or {})
    else:
        lock = nullcontext()
    with lock:
        yield


def is_postgresql(address: str) -> bool:
    """Tell whether a URL is of a PostgreSQL database, whatever the driver."""
    return address.startswith(("postgresql:", "postgresql+"))


def sqlite_path(address: str) -> Path | None:
    """Return the file behind a `sqlite:///...` URL; None for another URL or a database in memory."""
    scheme, _, rest = address.partition(":///")
    path = rest.partition("?")[0]
    if scheme.partition("+")[0] != "sqlite" or path in ("", ":memory:"):
        return None
    # mlflow quotes its default, "/a%20b/mlflow.db", and sqlalchemy takes the quotes off.
    return Path(unquote(path))


@contextmanager
def _server_lock(address: str, connect: Mapping[str, object]) -> Iterator[None]:
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(address, connect_args=dict(connect), poolclass=NullPool)
    with engine.connect() as connection:
        # Of the session, so that no transaction stays open meanwhile; closing the connection frees it.
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": LOCK_NUMBER})
        connection.commit()
        yield
