"""Published datasets from the network: gone on with after an interruption, checked, and whole or not there.

While a file arrives it is NAME.part. After its last byte its checksum is taken, which also tells whether the server's
file changed in between, and only then it is renamed.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, build_opener

from filelock import FileLock

from idl import __version__
from idl.errors import InputError, is_disk_full
from idl.progress import Progress, silent

# What `download` says besides names of files.
NOTHING, USUAL = "false", "true"

_BLOCK = 1 << 20
_MB = 1_000_000
_NYU, _MAT = "https://horatio.cs.nyu.edu/mit/silberman", "nyu_depth_v2_labeled.mat"
_DIODE = "http://diode-dataset.s3.amazonaws.com"


@dataclass(frozen=True)
class Remote:
    """A file that somebody publishes. size: bytes; None where it is not known. md5: 32 hex digits."""

    name: str
    url: str
    size: int | None
    md5: str


# By the name that `download` may have. The checksums are those that the users of the files pin.
PUBLISHED = {
    "nyu": {
        "labeled": Remote(_MAT, f"{_NYU}/nyu_depth_v2/{_MAT}", 2_972_037_809, "520609c519fba3ba5ac58c8fefcc3530"),
        "splits": Remote("splits.mat", f"{_NYU}/indoor_seg_sup/splits.mat", 2_626, "08e3c3aea27130ac7c01ffd739a4535f"),
    },
    "diode": {
        name: Remote(f"{name}.tar.gz", f"{_DIODE}/{name}.tar.gz", None, md5)
        for name, md5 in {
            "train": "3a94632398fe1d002d89f11743f748b1",
            "val": "5c895d09201b88973c8fe4552a67dd85",
            "train_normals": "9c0617ebe1eaf1928fdf3344e1c42aef",
            "val_normals": "323ccaf60abebdb59705dcd8b529d709",
        }.items()
    },
}
# What "true" stands for. The normals are 131 GB that only the target normals needs.
_USUAL = {"nyu": ("labeled", "splits"), "diode": ("val", "train")}


def requested(dataset: str, download: str, data: str) -> tuple[Path, tuple[Remote, ...]]:
    """Return the folder to fetch to, and what. `data` may also name one of the published files, in its folder.

    Raises InputError where the dataset is not published, or a name or the folder cannot be.
    """
    files, path = PUBLISHED.get(dataset), Path(data).expanduser()
    if files is None:
        raise InputError(
            f"download={download}: dataset={dataset} is not fetched from anywhere. Pass download={NOTHING}, or "
            f"dataset= {' or '.join(PUBLISHED)}."
        )
    if not data:
        raise InputError(f"download={download}: no folder to fetch to. Pass data=FOLDER.")
    named = {remote.name: name for name, remote in files.items()}
    names = _USUAL[dataset] if download == USUAL else tuple(part.strip() for part in download.split(",") if part)
    for name in names or (download,):
        if name not in files:
            have = ", ".join((NOTHING, USUAL, *files))
            raise InputError(f"download={name}: no such file of {dataset}. It has: {have}; names with commas between.")
    if path.name in named and not path.is_dir():
        # nyu_depth_v2_labeled.mat goes with its small split; an archive is fetched by itself.
        names = names if dataset == "nyu" or download != USUAL else (named[path.name],)
        path = path.parent
    elif path.is_file() or path.name.endswith((".mat", ".tar.gz")):
        raise InputError(f"data={data}: is no folder. Pass a folder to fetch to, or one of: {', '.join(named)} in it.")
    if dataset == "diode" and any((path / part).is_dir() for part in ("train", "val")):
        raise InputError(
            f"{path}: holds an unpacked tree already. Pass download={NOTHING} to use it, or another folder."
        )
    return path, tuple(files[name] for name in names)


def fetch(
    remote: Remote,
    folder: Path,
    progress: Progress = silent,
    *,
    timeout_s: float = 60.0,
    attempts: int = 6,
    wait_s: float = 1.0,
) -> Path:
    """Return the file under `folder`, fetched now where it is not there yet. A whole file is not looked at again.

    The system's proxies are used (http_proxy, https_proxy, no_proxy).
    timeout_s: without a single byte. attempts: in a row that bring nothing. wait_s: before the second; it doubles.
    Raises InputError where it cannot be had, does not fit on the disk, or is not what was published; what has arrived
    until then is kept, and the same call goes on from there. A file whose checksum differs becomes NAME.damaged.
    """
    path, part = folder / remote.name, folder / f"{remote.name}.part"
    if path.exists():
        if remote.size not in (None, path.stat().st_size):
            raise InputError(
                f"{path}: has {path.stat().st_size} bytes, the published file {remote.size}. Move it away, and the "
                "same command fetches it; or leave download out, to use it as it is."
            )
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # One process fetches; another that needs the same waits, and finds it.
        with FileLock(folder / ".idl-fetch.lock"):
            if not path.exists():
                _arrive(remote, part, progress, timeout_s, attempts, wait_s)
                _check(remote, part, progress)
                part.replace(path)
    except OSError as error:
        if is_disk_full(error):
            raise _no_space(remote, folder) from error
        raise InputError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}). Pass a folder that can."
        ) from error
    return path


def md5_of(path: Path, progress: Progress = silent) -> str:
    """Return the MD5 of a file, as 32 hex digits. Raises OSError."""
    digest, label = hashlib.md5(usedforsecurity=False), f"check {path.name.removesuffix('.part')}"
    with path.open("rb") as file, _megabytes(progress, label, _size(path), 0) as at:
        while block := file.read(_BLOCK):
            digest.update(block)
            at(file.tell())
    return digest.hexdigest()


class _RetryError(Exception):
    """What may be over in a moment."""


def _arrive(remote: Remote, part: Path, progress: Progress, timeout_s: float, attempts: int, wait_s: float) -> None:
    """Bring `part` to its last byte."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _attempt(remote, part, progress, timeout_s)
        except _RetryError as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= attempts:
                raise InputError(
                    f"{remote.url}: {error}, {failures} attempts in a row. Check the network and the proxy "
                    f"(https_proxy); the same command goes on from {_size(part) / _MB:.1f} MB."
                ) from error
            time.sleep(wait_s * 2 ** (failures - 1))


def _attempt(remote: Remote, part: Path, progress: Progress, timeout_s: float) -> None:
    """Ask once, for what is missing, and write what comes. Raises _RetryError where that was not all of it."""
    start = _size(part)
    headers = {"User-Agent": f"idl/{__version__}", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={start}-"} if start else {}
    try:
        with _network_errors():
            # Not urlopen: it keeps the proxies of its first call.
            response = build_opener().open(Request(remote.url, headers=headers), timeout=timeout_s)
    except HTTPError as error:
        answer = f"the server answers {error.code} {error.reason}"
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            # Nothing is missing; or the part is of another file, which the check finds out.
            return
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _RetryError(answer) from error
        raise InputError(
            f"{remote.url}: {answer}. The file may have moved: fetch it by other means, and leave download out."
        ) from error
    with response:
        if response.status == HTTPStatus.PARTIAL_CONTENT and start:
            place = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "").strip())
            if place is None or int(place[1]) != start:
                part.unlink()
                raise _RetryError("the server answered with another part than was requested")
            total = int(place[2])
        else:
            # All of it: the server ignores ranges.
            start, length = 0, response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
        if None not in (total, remote.size) and total != remote.size:
            raise InputError(
                f"{remote.url}: the server's file has {total} bytes, the published one {remote.size}. "
                f"Fetch it by other means, and put it into {part.parent}."
            )
        expected = total or remote.size or 0
        if expected - start > shutil.disk_usage(part.parent).free:
            raise _no_space(remote, part.parent, expected - start)
        with (
            part.open("r+b" if part.exists() else "wb") as file,
            _megabytes(progress, f"fetch {remote.name}", expected, start) as at,
        ):
            file.truncate(start)
            file.seek(start)
            while True:
                with _network_errors():
                    # What is there, at once: a slow server's bytes are not held back.
                    block = response.read1(_BLOCK)
                if not block:
                    break
                file.write(block)
                at(file.tell())
    # Without a length the end of the connection is the end of the file; the checks say whether it is.
    if total is not None and _size(part) != total:
        raise _RetryError(f"the server broke off {(total - _size(part)) / _MB:.1f} MB before the end")


def _no_space(remote: Remote, folder: Path, missing: int | None = None) -> InputError:
    """Return what is said of a disk that is full, or has less space than the bytes that are missing."""
    free = shutil.disk_usage(folder).free
    lacking = "" if missing is None else f": {missing / _MB:,.0f} MB are missing, {free / _MB:,.0f} MB are free"
    return InputError(
        f"{folder}: no space left for {remote.name}{lacking}. Free some; the same command goes on from here."
    )


def _check(remote: Remote, part: Path, progress: Progress) -> None:
    if remote.size not in (None, _size(part)):
        problem = f"has {_size(part)} bytes, the published file {remote.size}"
    elif (found := md5_of(part, progress)) != remote.md5:
        problem = f"has the MD5 {found}, the published file {remote.md5}"
    else:
        return
    aside = part.with_name(f"{remote.name}.damaged")
    part.replace(aside)
    raise InputError(f"{remote.url}: what arrived {problem}. It is kept as {aside}; the same command fetches it again.")


@contextmanager
def _network_errors() -> Iterator[None]:
    """Turn what a connection may raise, but for a server's answer, into _RetryError."""
    try:
        yield
    except HTTPError:
        raise
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        line = " ".join(str(reason).split()) or type(reason).__name__
        raise _RetryError(f"cannot be reached ({line})") from error


@contextmanager
def _megabytes(progress: Progress, label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many bytes of `total` are done; of a short file nothing is shown."""
    shown = done // _MB
    with (progress if total >= 10 * _MB else silent)(label, total // _MB, shown, "MB") as advance:

        def at(num_bytes: int) -> None:
            nonlocal shown
            advance(num_bytes // _MB - shown)
            shown = num_bytes // _MB

        yield at


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
