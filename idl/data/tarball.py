"""A .tar.gz, gone through from beginning to end.

gzip cannot seek: to reach a member, all before it has to be unpacked. What is here opens an archive once and hands its
files out one by one; what is not taken is passed over.
"""

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from idl.errors import InputError

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file in an archive. name: without a leading "./". consumed: bytes of the archive read until here."""

    name: str
    size: int
    consumed: int
    _archive: Path = field(repr=False)
    _content: IO[bytes] = field(repr=False)

    def save(self, path: Path) -> None:
        """Write the file to `path`; only before the next member is asked for. Raises InputError as `members` does."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file, _damage_said(self._archive):
            shutil.copyfileobj(self._content, file, _BLOCK)


def members(path: Path) -> Generator[Member]:
    """Yield the files of an archive, in its order, and read it to its very end, where its checksum is.

    Raises InputError where it cannot be opened, is damaged or cut off, or has a member that could reach outside the
    folder it is unpacked to: an absolute path, "..", a link or a device.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    with raw, _damage_said(path), gzip.GzipFile(fileobj=raw) as plain, closing(_opened(plain)) as tar:
        # next() instead of a loop over `tar`: that would remember every member.
        while (info := tar.next()) is not None:
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            _require_harmless(path, info)
            if info.isfile():
                content = tar.extractfile(info)
                assert content is not None
                yield Member(str(PurePosixPath(info.name)), info.size, raw.tell(), path, content)
        while plain.read(_BLOCK):
            pass


def _opened(plain: gzip.GzipFile) -> tarfile.TarFile:
    return tarfile.open(fileobj=plain, mode="r|", bufsize=_BLOCK)


def _require_harmless(path: Path, info: tarfile.TarInfo) -> None:
    name = PurePosixPath(info.name)
    if name.is_absolute() or ".." in name.parts:
        raise InputError(f"{path}: member {info.name!r} points outside the archive. It is not used; fetch it again.")
    if not (info.isfile() or info.isdir()):
        raise InputError(f"{path}: member {info.name!r} is a link or a device. It is not used; fetch it again.")


@contextmanager
def _damage_said(path: Path) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise InputError(f"{path}: is cut off, its end is missing. Fetch it again, or the rest of it.") from error
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: not a whole .tar.gz ({' '.join(str(error).split())}). Fetch it again.") from error
