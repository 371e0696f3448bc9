"""Addresses of databases and servers: passwords that are not shown, and locks that end with their process."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import unquote, unquote_plus

HIDDEN = "***"
MAX_REASON_CHARACTERS = 200
# A value may go on beyond an & that was meant as a part of it: everything behind such a key is hidden.
_SECRET = re.compile(r"(?P<key>[^?&=]*(?:pass|pwd|odbc_connect)[^=]*=)(?P<value>.*)", re.IGNORECASE)
# What libraries make of an error of a driver; known by their names, since importing them takes seconds.
_WRAPPERS = ("MlflowException", "StorageInternalError")


@contextmanager
def locked(address: str, name: str = "tables", connect: Mapping[str, object] | None = None) -> Iterator[None]:
    """Let no other process into a block of this name and database meanwhile; one that wants in waits.

    The lock is a file beside an sqlite file, and one of the server's in PostgreSQL: the system frees it when the
    process ends, however it ends. Other databases have none. Libraries make their tables under "tables": two that do
    so at the same moment break an sqlite file for good, or end in an error.

    address: as SQLAlchemy takes it. connect: arguments of the driver's connection.
    Raises what the driver raises where it cannot connect, and OSError where the lock's file cannot be made.
    """
    path = sqlite_path(address)
    if path is not None and path.absolute().parent.is_dir() and not path.is_dir():
        import filelock

        # Beside the database: /tmp is not shared between containers that share a folder.
        lock = filelock.FileLock(path.absolute().with_name(f".{path.name}.{name}.lock"))
    elif is_postgresql(address):
        lock = _server_lock(address, name, connect or {})
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


def without_password(address: str) -> str:
    """Return `address` without user and password, and with passwords of its query as ***.

    It may be what was meant as an address: a password may hold characters that should stand there as %2F or %40.
    Rather too much is hidden than a part of one shown.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        # A path may hold an @; a slip in an address has a colon, too.
        return re.sub(r"(?s)^.*:.*@", HIDDEN + "@", address)
    if _is_file(scheme):
        return address
    login, _, place = rest.rpartition("@")
    if "?" in login:
        # Whether the @ is a part of the query's password cannot be told.
        return f"{scheme}://{HIDDEN}"
    return f"{scheme}://" + _SECRET.sub(rf"\g<key>{HIDDEN}", place)


def is_unequivocal(address: str) -> bool:
    """Tell whether everybody finds user and password of a URL at the same place: /, ? and @ are quoted in them."""
    scheme, _, rest = address.partition("://")
    return _is_file(scheme) or not set("/?@") & set(rest.rpartition("@")[0])


def reason_of(error: BaseException, address: str) -> str:
    """Say in one line what a driver or the system said of `address`, without its password.

    error: the driver's, or one that sqlalchemy, mlflow, Optuna or urllib made of it.
    """
    while type(error).__name__ in _WRAPPERS and error.__cause__ is not None:
        error = error.__cause__
    for name in ("orig", "reason"):
        inner = getattr(error, name, None)
        error = inner if isinstance(inner, BaseException) else error
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join((text.strip().splitlines() or [type(error).__name__])[0].split())
    for secret in _secrets(address):
        line = line.replace(secret, HIDDEN)
    return line[:MAX_REASON_CHARACTERS]


def _secrets(address: str) -> list[str]:
    """Return the passwords of an address, as they stand there and as drivers read them, the longest first."""
    login = address.partition("://")[2].rpartition("@")[0]
    found = [login.partition(":")[2], *(each["value"] for each in _SECRET.finditer(address))]
    written = {form for each in found for form in (each, unquote(each), unquote_plus(each))}
    return sorted(written - {""}, key=len, reverse=True)


def _is_file(scheme: str) -> bool:
    return scheme.partition("+")[0] in ("sqlite", "file")


@contextmanager
def _server_lock(address: str, name: str, connect: Mapping[str, object]) -> Iterator[None]:
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    # PostgreSQL's advisory locks are 64-bit numbers.
    number = int.from_bytes(hashlib.sha256(f"idl {name}".encode()).digest()[:8], "big", signed=True)
    engine = create_engine(address, connect_args=dict(connect), poolclass=NullPool)
    with engine.connect() as connection:
        # Of the session, so that no transaction stays open meanwhile; closing the connection frees it.
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": number})
        connection.commit()
        yield
