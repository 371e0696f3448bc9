"""Arrays of numbers in files that are no pictures: NumPy, PFM, HDF5 and, with the extra `exr`, OpenEXR."""

import re
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import h5py
import numpy as np

from idl.errors import InputError

_PFM_HEAD = re.compile(rb"(P[fF])\s+(\d+)\s+(\d+)\s+(\S+)(?:\r\n|\s)")
# The channel that is depth, of an image with several, in lower case and without its layer.
_EXR_DEPTH = ("z", "depth", "d", "y", "v")


def _chosen(names: list[str]) -> str:
    if "depth" in names or len(names) == 1:
        return "depth" if "depth" in names else names[0]
    raise ValueError(f"an archive of {', '.join(names) or 'nothing'}; expected one array, or one named depth")


def _numpy(path: Path) -> np.ndarray:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        return loaded[_chosen(loaded.files)]


def _hdf5(path: Path) -> np.ndarray:
    with h5py.File(path, "r") as file:
        found: dict[str, h5py.Dataset] = {}
        file.visititems(lambda name, each: found.update({name: each}) if isinstance(each, h5py.Dataset) else None)
        return found[_chosen(list(found))][()]


def _pfm(path: Path) -> np.ndarray:
    content = path.read_bytes()
    head = _PFM_HEAD.match(content)
    if head is None:
        raise ValueError("no head of a PFM")
    shape, scale = (int(head[3]), int(head[2]), 3 if head[1] == b"PF" else 1), float(head[4])
    values = np.frombuffer(content, "<f4" if scale < 0 else ">f4", prod(shape), head.end())
    # From the lowest row upwards.
    return values.reshape(shape)[::-1].astype(np.float32)


def _exr(path: Path) -> np.ndarray:
    try:
        import OpenEXR  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"{path}: OpenEXR needs a library. Install it: pip install '.[exr]'.") from error
    with OpenEXR.File(str(path), separate_channels=True) as file:
        channels = {name: np.array(channel.pixels) for name, channel in file.channels().items()}
    by_name = {name.rsplit(".", 1)[-1].lower(): values for name, values in channels.items()}
    for name in _EXR_DEPTH:
        if name in by_name:
            return by_name[name]
    # One, or grey, which is depth that was written three times.
    return np.stack([*channels.values()], axis=-1)


# By suffix: what reads the numbers of a file as they are stored; of an archive its only array, or that named "depth".
# What a damaged file leads to (OSError, ValueError, EOFError, KeyError, RuntimeError, BadZipFile) is raised.
ARRAY_FORMATS: Mapping[str, Callable[[Path], np.ndarray]] = {
    ".npy": _numpy,
    ".npz": _numpy,
    ".pfm": _pfm,
    ".exr": _exr,
    ".hdf5": _hdf5,
    ".h5": _hdf5,
}
