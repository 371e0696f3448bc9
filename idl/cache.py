"""Files of the cache: written to a temporary name and renamed, checked when read, dropped when damaged."""

import hashlib
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Float16

from idl.errors import InputError, full_disk_said

_DIGEST_BYTES = 32


def default_folder() -> Path:
    """`$IDL_CACHE`, else `idl` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if os.environ.get("IDL_CACHE"):
        return Path(os.environ["IDL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "idl"


def write(path: Path, content: bytes) -> None:
    """Write `content` with its SHA-256 before it, to a temporary name, and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with full_disk_said(path.parent):
        try:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def read(path: Path) -> bytes | None:
    """Return what `write` wrote; None where there is nothing, or where it was damaged and is now deleted."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
        path.unlink()
        return None
    return content[_DIGEST_BYTES:]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder`; one that comes second waits, then finds the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


@dataclass(frozen=True)
class MapFile:
    """Projected maps of a split, one fixed-size record an image, in the split's order.

    A CRC-32 an image stands in a second file, so that an interrupted or damaged file is known to its last good
    image and goes on from there.

    shape: (h, w, columns) of an image's map, half precision.
    """

    path: Path
    shape: tuple[int, int, int]

    @property
    def _bytes_per_image(self) -> int:
        return 2 * self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def _sums_path(self) -> Path:
        return self.path.with_suffix(".crc")

    @property
    def num_images(self) -> int:
        """Whole records in the file, damaged or not."""
        try:
            whole = self.path.stat().st_size // self._bytes_per_image
            return min(whole, self._sums_path.stat().st_size // 4)
        except FileNotFoundError:
            return 0

    def read(self, first: int, count: int) -> Float16[np.ndarray, "count h w columns"] | None:
        """Read records; None where one of them is not what was written."""
        # Plain reads, no memory map: mapped pages would count as this process's memory.
        maps = np.fromfile(
            self.path, np.float16, count * self._bytes_per_image // 2, offset=first * self._bytes_per_image
        )
        sums = np.fromfile(self._sums_path, np.uint32, count, offset=4 * first)
        if maps.size != count * self._bytes_per_image // 2 or sums.size != count:
            return None
        maps = maps.reshape(count, *self.shape)
        if any(zlib.crc32(image.data) != expected for image, expected in zip(maps, sums, strict=True)):
            return None
        return maps

    def write(self, first: int, maps: Float16[np.ndarray, "count h w columns"]) -> None:
        """Write records to their places, from `first` on. Raises InputError where the disk is full.

        Ranks write each its own share. A place that nobody wrote to reads as zeros, whose CRC-32 is not zero: it is
        known for what it is.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        sums = np.array([zlib.crc32(image.data) for image in maps], np.uint32)
        with full_disk_said(self.path.parent):
            # The sums come last: a record with another one does not count.
            for path, values, num_bytes in ((self.path, maps, self._bytes_per_image), (self._sums_path, sums, 4)):
                # Made where it is missing, but never emptied, as "wb" would: another rank may have been faster.
                with open(path, "r+b", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666)) as file:
                    file.seek(first * num_bytes)
                    file.write(np.ascontiguousarray(values).data)


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise InputError where `folder`'s disk has less than `num_bytes` left: before an hour of work, not after."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise InputError(
            f"{folder}: the feature maps need {num_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free. "
            "Free some, or pass another cache=."
        )
