"""Addresses, and what drivers say, as they may be shown: no message, log or page of a run holds a password."""

import re
from dataclasses import dataclass
from urllib.parse import unquote_plus

HIDDEN = "***"
MAX_REASON_CHARACTERS = 200
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:(//)?")
_FILES = re.compile(r"((sqlite|file)\b.*)?")
_QUERY = re.compile(r"\?[^?@/=]*=")
_SECRET = re.compile(
    # A value goes on beyond an & that was meant as a part of it.
    r"(?<![^?&])(?P<name>[^?&=]*(?:pass|pwd|odbc_connect)[^?&=]*=)(?P<value>[^&]*(?:&[^&=]*(?![^&]))*)",
    re.IGNORECASE,
)
_SERVER = re.compile(r"([^@]*@)?([^:/@]*|\[[^\]]*\])(:\d*)?(/.*)?")
# What SQLAlchemy takes for user and password.
_LOGIN = re.compile(r"(?P<login>[^:/]*(?::[^@]*)?)@")
# What may stand around a part of a password that was taken for something else, such as a host.
_DELIMITERS = re.compile(r"[@:/?&=;#\s]")
# What libraries make of an error of a driver; known by their names, since importing them takes seconds.
_WRAPPERS = ("MlflowException", "StorageInternalError")


def without_password(address: str) -> str:
    """Return `address` without user and password, and with passwords of its query as ***.

    It may be what was meant as an address: a password may hold characters that should stand there as %2F or %40.
    Rather too much is hidden than a part of one shown.
    """
    return _parted(address).shown


def is_unequivocal(address: str) -> bool:
    """Tell whether a database's driver finds user and password of a URL where they were meant to be."""
    parted = _parted(address)
    found = _LOGIN.match(address, parted.start)
    return parted.login == (found and found["login"])


def reason_of(error: BaseException, address: str) -> str:
    """Say in one line what a driver or the system said of `address`, without its password or parts of one.

    error: the driver's, or one that sqlalchemy, mlflow, Optuna or urllib made of it.
    """
    while type(error).__name__ in _WRAPPERS and error.__cause__ is not None:
        error = error.__cause__
    for name in ("orig", "reason"):
        inner = getattr(error, name, None)
        error = inner if isinstance(inner, BaseException) else error
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    return _masked(" ".join(lines[0].split()), _parted(address).secrets)[:MAX_REASON_CHARACTERS]


@dataclass(frozen=True)
class _Parted:
    """An address: where its scheme ends, its login (None: it has none), what is hidden of it, and what is shown."""

    start: int
    login: str | None
    secrets: tuple[str, ...]
    shown: str


def _parted(address: str) -> _Parted:
    scheme = _SCHEME.match(address)
    start = scheme.end() if scheme else 0
    before, body = address[:start], address[start:]
    # Other question marks are the password's.
    query = _QUERY.search(body)
    split = query.start() if query else len(body)
    head, tail = body[:split], _hidden(body[split:])
    secrets = tuple(found["value"] for found in _SECRET.finditer(body))
    if "@" in tail or ("@" in body[split:] and not _SERVER.fullmatch(head)):
        # It cannot be told whether this one is.
        return _Parted(start, None, (body,), before + HIDDEN)
    login, at, rest = head.rpartition("@")
    # A file has no user, but its path may hold an @.
    is_path = login.startswith("/") and _FILES.fullmatch(before)
    if not at or is_path or ("/" in login and ":" not in login):
        return _Parted(start, None, secrets, before + _hidden(head) + tail)
    return _Parted(start, login, (login.partition(":")[2], *secrets), before + _hidden(rest) + tail)


def _hidden(query: str) -> str:
    return _SECRET.sub(rf"\g<name>{HIDDEN}", query)


def _masked(text: str, secrets: tuple[str, ...]) -> str:
    written = {form for secret in secrets for form in (secret, unquote_plus(secret))}
    pieces = {piece for form in written for piece in (form, *_DELIMITERS.split(form))} - {""}
    for piece in sorted(pieces, key=len, reverse=True):
        # A short one is a part of many a word.
        edges = ("", "") if len(piece) > 5 else (r"(?<!\w)", r"(?!\w)")
        text = re.sub(edges[0] + re.escape(piece) + edges[1], HIDDEN, text)
    return text
