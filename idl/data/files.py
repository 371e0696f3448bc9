"""Which files a folder holds, and names that a file can have."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from idl.errors import InputError

# What macOS, and a disk station, leave beside files in folders of their own.
_NOT_DATA = ("__MACOSX", "@eaDir")


def shortened(name: str, most: int, told_apart_by: str = "") -> str:
    """Return a name of at most `most` characters: a longer one is cut, with a digest (of `told_apart_by`) behind."""
    if len(name) <= most:
        return name
    return f"{name[: most - 9]}-{hashlib.sha256(os.fsencode(told_apart_by or name)).hexdigest()[:8]}"


def walk(root: Path) -> Iterator[str]:
    """Yield the paths of all files below a folder, from it on, with `/` between, in order of their parts.

    Links are followed, but for one that leads back to a folder above itself. Names that begin with a dot are no data,
    nor is anything below such a folder. Raises InputError where a folder cannot be read.
    """
    yield from _walk(str(root), "", ())


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    try:
        status = os.stat(folder)  # noqa: PTH116
        identity = status.st_dev, status.st_ino
        if identity in above:
            return
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}). Make it readable.") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _NOT_DATA:
            continue
        if entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, identity))
        elif entry.is_file():
            yield prefix + entry.name
