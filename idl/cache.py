"""Files of the cache: written to a temporary name and renamed, checked when read, dropped when damaged."""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float16
from safetensors.torch import load, save
from torch import Tensor

from idl.errors import InputError, disk_full_reported

_DIGEST_BYTES = 32


def default_folder() -> Path:
    """`$IDL_CACHE`, else `idl` in `$XDG_CACHE_HOME` or `~/.cache`."""
    others = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("IDL_CACHE") or others / "idl")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever finds a part of it: to a temporary name, which is renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Write `content` with its SHA-256 before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_reported(path.parent):
        replace_file(path, hashlib.sha256(content).digest() + content)


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


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **values: object) -> None:
    """Write tensors as safetensors, and beside them `values` as json, which keeps every digit of a float."""
    text = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)
    write(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()} | {"json": text}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and values that `write_tensors` wrote; None as `read`."""
    content = read(path)
    if content is None:
        return None
    tensors = load(content)
    return tensors, json.loads(bytes(tensors.pop("json").tolist()))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder`; one that comes second waits, then finds the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


@dataclass(frozen=True)
class MapFile:
    """Projected maps of a split, one record an image, which begins with its CRC-32, in the split's order.

    shape: (h, w, columns) of an image's map, half precision.
    """

    path: Path
    shape: tuple[int, int, int]

    @property
    def _record(self) -> np.dtype:
        return np.dtype([("crc", "<u4"), ("map", "<f2", self.shape)])

    @property
    def num_images(self) -> int:
        """Whole records in the file, damaged or not."""
        return self.path.stat().st_size // self._record.itemsize if self.path.exists() else 0

    def read(self, first: int, count: int) -> Float16[np.ndarray, "count h w columns"] | None:
        """Read records; None where one of them is not what was written."""
        # Plain reads, no memory map: mapped pages would count as this process's memory.
        records = np.fromfile(self.path, self._record, count, offset=first * self._record.itemsize)
        maps = records["map"]
        if len(maps) < count or any(zlib.crc32(each) != crc for each, crc in zip(maps, records["crc"], strict=True)):
            return None
        return maps

    def write(self, first: int, maps: Float16[np.ndarray, "count h w columns"]) -> None:
        """Write records to their places, from `first` on. Raises InputError where the disk is full.

        A place that nobody wrote to reads as zeros, whose CRC-32 is not zero.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        records = np.empty(len(maps), self._record)
        records["map"] = maps
        records["crc"] = [zlib.crc32(each) for each in records["map"]]
        with disk_full_reported(self.path.parent):
            # Made where it is missing, but never emptied: another rank may have been faster.
            self.path.touch()
            with self.path.open("r+b") as file:
                file.seek(first * self._record.itemsize)
                file.write(records.view(np.uint8).data)


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise InputError where `folder`'s disk has less than `num_bytes` left: before an hour of work, not after."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise InputError(
            f"{folder}: the feature maps need {num_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free. "
            "Free some, or pass another cache=."
        )
