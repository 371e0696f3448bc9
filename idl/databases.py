"""Addresses of databases and servers: passwords that are not shown, and locks that end with their process."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, unquote_plus

HIDDEN = "***"
MAX_REASON_CHARACTERS = 200
# A value may go on beyond an & that was meant as a part of it: everything behind such a key is hidden.
_SECRET = re.compile(r"(?P<key>[^?&=]*(?:pass|pwd|odbc_connect)[^=]*=)(?P<value>.*)", re.IGNORECASE)
# What libraries make of an error of a driver; known by their names, since importing them takes seconds.
_WRAPPERS = ("MlflowException", "StorageInternalError")
# By default a connection to a machine that does not answer, or no longer does, is waited for by minutes.
_CONNECT = {
    "postgresql": {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000},
    "sqlite": {"timeout": 60},
}


def connect_arguments(address: str) -> Mapping[str, int]:
    """Return arguments of the driver's connection, which bound its waiting."""
    dialect, _, driver = address.partition(":")[0].partition("+")
    return _CONNECT.get(dialect, {}) if driver in ("", "psycopg", "psycopg2", "pysqlite") else {}


@contextmanager
def locked(address: str, name: str = "tables") -> Iterator[None]:
    """Let no other process into a block of this name and database meanwhile; one that comes second waits.

    The lock is a file beside an sqlite file, and one of the server's in PostgreSQL: the system frees it when the
    process ends. Libraries make their tables under "tables": two that do so at once break an sqlite file for good.
    """
    path = sqlite_path(address)
    if path is not None and path.absolute().parent.is_dir() and not path.is_dir():
        import filelock

        # Beside the database: /tmp is not shared between containers that share a folder.
        with filelock.FileLock(path.absolute().with_name(f".{path.name}.{name}.lock")):
            yield
    elif address.startswith(("postgresql:", "postgresql+")):
        from sqlalchemy import create_engine, text
        from sqlalchemy.pool import NullPool

        # PostgreSQL's advisory locks are 64-bit numbers.
        number = int.from_bytes(hashlib.sha256(f"idl {name}".encode()).digest()[:8], "big", signed=True)
        engine = create_engine(address, connect_args=dict(connect_arguments(address)), poolclass=NullPool)
        with engine.connect() as connection:
            # Of the session, so that no transaction stays open meanwhile; closing the connection frees it.
            connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": number})
            connection.commit()
            yield
    else:
        yield


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

    A password may hold characters that should stand there as %2F or %40: rather too much is hidden than too little.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        # A path may hold an @; a slip in an address has a colon, too.
        return re.sub(r"(?s)^.*:.*@", HIDDEN + "@", address)
    if _is_file(scheme):
        return address
    login, _, place = rest.rpartition("@")
    # Whether an @ behind a ? is a part of the query's password cannot be told.
    return f"{scheme}://" + (HIDDEN if "?" in login else _SECRET.sub(rf"\g<key>{HIDDEN}", place))


def is_unequivocal(address: str) -> bool:
    """Tell whether everybody finds user and password of a URL at the same place: /, ? and @ are quoted in them."""
    scheme, _, rest = address.partition("://")
    return _is_file(scheme) or not set("/?@") & set(rest.rpartition("@")[0])


def reason_of(error: BaseException, address: str) -> str:
    """Return in one line what a driver, or a library about it, said of `address`, without its password."""
    while type(error).__name__ in _WRAPPERS and error.__cause__ is not None:
        error = error.__cause__
    for name in ("orig", "reason"):
        inner = getattr(error, name, None)
        error = inner if isinstance(inner, BaseException) else error
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join((text.strip().splitlines() or [type(error).__name__])[0].split())
    # As they stand in the address and as drivers read them, the longest first.
    login = address.partition("://")[2].rpartition("@")[0]
    secrets = [login.partition(":")[2], *(each["value"] for each in _SECRET.finditer(address))]
    for secret in sorted({form(each) for each in secrets for form in (str, unquote, unquote_plus)}, key=len)[::-1]:
        line = line.replace(secret, HIDDEN) if secret else line
    return line[:MAX_REASON_CHARACTERS]


def _is_file(scheme: str) -> bool:
    return scheme.partition("+")[0] in ("sqlite", "file")
