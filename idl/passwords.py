"""Addresses as they may be shown: no message, log or page of a run holds a password."""

import re

HIDDEN = "***"
_IN_QUERY = re.compile(r"(?<=password=)[^&\s]+", re.IGNORECASE)
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:(//)?")


def without_password(address: str) -> str:
    """Return `address` without user and password, and with a password of its query as ***.

    It may be what was meant as an address: a password may hold characters that should stand there as %2F or %40.
    Rather too much is hidden than a part of one shown.
    """
    scheme = _SCHEME.match(address)
    start = scheme.end() if scheme else 0
    login, at, rest = address[start:].rpartition("@")
    # A file has no user, but its path may hold an @; so may a query.
    if at and not login.startswith("/") and (":" in login or "/" not in login):
        address = address[:start] + rest
    return _IN_QUERY.sub(HIDDEN, address)
