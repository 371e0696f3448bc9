"""A published file from the network: gone on with after an interruption, checked, and whole or not there.

While it arrives it is NAME.part, and NAME.part.json says which version of the server's file that is the beginning of,
so that two versions are never glued together. With its last byte it is checked, and only then renamed.
"""

import hashlib
import json
import re
import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.request import Request, build_opener

from filelock import FileLock

from idl import __version__
from idl.errors import InputError, is_disk_full
from idl.progress import Advance, Progress, silent

_BLOCK = 1 << 20
_MB = 1_000_000
_LONGEST_WAIT_S = 60.0
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416


@dataclass(frozen=True)
class Remote:
    """A file that somebody publishes. size: bytes; md5: 32 hex digits; None where they are not known."""

    name: str
    url: str
    size: int | None = None
    md5: str | None = None


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    timeout_s: without a single byte. attempts: in a row that bring nothing. wait_s: before the second; it doubles.
    """

    timeout_s: float = 60.0
    attempts: int = 6
    wait_s: float = 1.0


def fetch(remote: Remote, folder: Path, progress: Progress = silent, patience: Patience | None = None) -> Path:
    """Return the file under `folder`, fetched now where it is not there yet. A whole file is not looked at again.

    The system's proxies are used (http_proxy, https_proxy, no_proxy).
    Raises InputError where it cannot be had, does not fit on the disk, or is not what was published; what has arrived
    until then is kept, and the same call goes on from there. A file whose checksum differs becomes NAME.damaged.
    """
    path = folder / remote.name
    if path.exists():
        _require_published(path, remote)
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # One process fetches; another that wants the same waits, and finds it.
        with FileLock(folder / ".idl-fetch.lock"):
            if not path.exists():
                part = folder / f"{remote.name}.part"
                _arrive(remote, part, progress, patience or Patience())
                _check(remote, part, progress)
                part.replace(path)
                _state(part).unlink(missing_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise InputError(
                f"{folder}: no space left for {remote.name}. Free some; the same command goes on from here."
            ) from error
        raise InputError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}). Pass a folder that can."
        ) from error
    return path


def md5_of(path: Path, progress: Progress = silent) -> str:
    """MD5 of a file, as 32 hex digits. Raises OSError."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file, _Shown(progress, f"check {path.name.removesuffix('.part')}") as shown:
        shown.begin(path.stat().st_size, 0)
        while block := file.read(_BLOCK):
            digest.update(block)
            shown.at(file.tell())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Version:
    """Which version of a server's file a part is the beginning of.

    validator: its ETag, or when it was last changed; "" where the server says neither. total: its bytes.
    """

    url: str
    validator: str = ""
    total: int | None = None

    @classmethod
    def of(cls, part: Path) -> Self | None:
        """None where nothing is known."""
        try:
            return cls(**json.loads(_state(part).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, part: Path) -> None:
        temporary = part.with_name(f"{part.name}.json.tmp")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(_state(part))


class _RetryError(Exception):
    """What may be over in a moment. wait_s: that the server asks for."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def _arrive(remote: Remote, part: Path, progress: Progress, patience: Patience) -> None:
    """Bring `part` to its last byte."""
    failures = 0
    with _Shown(progress, f"fetch {remote.name}") as shown:
        while True:
            before = _size(part)
            version = _Version.of(part)
            if version is not None and version.url == remote.url and version.total == before:
                return
            try:
                if _attempt(remote, part, version, shown, patience.timeout_s):
                    return
            except _RetryError as error:
                failures = 1 if _size(part) > before else failures + 1
                if failures >= patience.attempts:
                    raise InputError(
                        f"{remote.url}: {error}, {failures} attempts in a row. Check the network and the proxy "
                        f"(https_proxy); the same command goes on from {_size(part) / _MB:.1f} MB."
                    ) from error
                time.sleep(min(max(patience.wait_s * 2 ** (failures - 1), error.wait_s), _LONGEST_WAIT_S))


def _attempt(remote: Remote, part: Path, version: _Version | None, shown: "_Shown", timeout_s: float) -> bool:
    """Ask once, for what is missing, and write what comes. True where that was all of it."""
    start = _size(part)
    if version is None or version.url != remote.url or not (version.validator or remote.md5):
        # Whether it is the beginning of what the server has now cannot be told.
        start = 0
    headers = {"User-Agent": f"idl/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if version is not None and version.validator:
            headers["If-Range"] = version.validator
    with _network_said(remote.url):
        try:
            # Not urlopen: it keeps the proxies of its first call.
            response = build_opener().open(Request(remote.url, headers=headers), timeout=timeout_s)
        except HTTPError as error:
            with error:
                if error.code == _NOT_SATISFIABLE:
                    _drop(part)
                    raise _RetryError("the server's file has changed") from error
                raise _refusal(remote, error) from error
    with response:
        start, total = _place(response, start, version, part)
        _require_length(remote, total, start, part.parent)
        shown.begin(total or remote.size or 0, start)
        _Version(remote.url, _validator(response.headers), total).keep(part)
        with part.open("r+b" if part.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            while True:
                with _network_said(remote.url):
                    # What is there, at once: a slow server's bytes are not held back.
                    block = response.read1(_BLOCK)
                if not block:
                    break
                file.write(block)
                start += len(block)
                shown.at(start)
    if total is None:
        # The end of the connection is the end of the file; the checks say whether it is.
        return True
    if start != total:
        raise _RetryError(f"the server broke off {(total - start) / _MB:.1f} MB before the end")
    return True


def _place(response: Any, start: int, version: _Version | None, part: Path) -> tuple[int, int | None]:
    """Where in the file the answer begins, and how long that is."""
    if response.status == _PARTIAL and start:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        total = int(found[2]) if found and found[2] != "*" else None
        is_same = version is None or version.total is None or total == version.total
        if found and int(found[1]) == start and is_same:
            return start, total
        _drop(part)
        raise _RetryError("the server answered with another part than was asked for")
    if response.status != _OK:
        raise InputError(f"{response.url}: the server answered {response.status}. Try again later.")
    # All of it: it ignores ranges, or its file is not that which the part is of.
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _require_length(remote: Remote, total: int | None, start: int, folder: Path) -> None:
    if None not in (total, remote.size) and total != remote.size:
        raise InputError(
            f"{remote.url}: the server's file has {total} bytes, the published one {remote.size}. "
            f"Fetch it by other means, and put it into {folder}."
        )
    missing = (total or remote.size or 0) - start
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise InputError(
            f"{folder}: no space left for {remote.name}: {missing / _MB:,.0f} MB are missing, {free / _MB:,.0f} MB "
            "are free. Free some; the same command goes on from here."
        )


def _check(remote: Remote, part: Path, progress: Progress) -> None:
    size = _size(part)
    if remote.size is not None and size != remote.size:
        told = f"has {size} bytes, the published file {remote.size}"
    elif remote.md5 is not None and (found := md5_of(part, progress)) != remote.md5:
        told = f"has the MD5 {found}, the published file {remote.md5}"
    else:
        return
    aside = part.with_name(f"{remote.name}.damaged")
    part.replace(aside)
    _state(part).unlink(missing_ok=True)
    raise InputError(f"{remote.url}: what arrived {told}. It is kept as {aside}; the same command fetches it again.")


def _require_published(path: Path, remote: Remote) -> None:
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        raise InputError(
            f"{path}: has {size} bytes, the published file {remote.size}. Move it away, and the same command fetches "
            "it; or leave download out, to use it as it is."
        )


def _refusal(remote: Remote, error: HTTPError) -> Exception:
    if error.code in (408, 425, 429) or error.code >= 500:
        asked = error.headers.get("Retry-After", "")
        return _RetryError(f"the server answers {error.code} {error.reason}", float(asked) if asked.isdigit() else 0.0)
    return InputError(
        f"{remote.url}: the server answers {error.code} {error.reason}. The file may have moved: fetch it by other "
        "means, and leave download out."
    )


@contextmanager
def _network_said(url: str) -> Iterator[None]:
    """Turn what a connection may raise into _RetryError; a certificate that is not trusted is InputError."""
    try:
        yield
    except HTTPError:
        raise
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        line = " ".join(str(reason).split()) or type(reason).__name__
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise InputError(
                f"{url}: the server's certificate is not trusted ({line}). Check the proxy and the date."
            ) from error
        raise _RetryError(f"cannot be reached ({line})") from error


class _Shown(AbstractContextManager["_Shown"]):
    """A progress in MB that begins when the length is known; what is short shows none."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress, self._label = progress, label
        self._stack = ExitStack()
        self._advance: Advance | None = None
        self._done = 0

    def begin(self, total: int, done: int) -> None:
        if self._advance is None and total >= 10 * _MB:
            self._done = done // _MB
            shown = self._progress(self._label, total // _MB, self._done, "MB")
            self._advance = self._stack.enter_context(shown)

    def at(self, num_bytes: int) -> None:
        if self._advance is not None and num_bytes // _MB != self._done:
            self._advance(num_bytes // _MB - self._done)
            self._done = num_bytes // _MB

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)


def _validator(headers: Message) -> str:
    """What names this version of the file. A weak ETag does not promise the same bytes."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)
