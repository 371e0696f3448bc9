"""The store: one HDF5 file a prepared dataset, read image by image."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from idl.errors import InputError
from idl.protocol import Protocol

# Raised whenever what `preparation` writes changes its meaning; a store of another version is made anew.
STORE_VERSION = 3


@dataclass(frozen=True)
class Store:
    """A prepared dataset on disk. Opened for each read, so that it can be handed to threads and processes.

    name: the dataset's name. digest: of its content (or of the recipe that fixes the content).
    protocol: how the images were brought to `resolution` and which pixels count.
    source: where they came from. names, scenes: one an image.
    layers: names of all layers; "rgb", "depth" and "valid" are always there.
    is_sequential: the scenes are consecutive pieces of one recording, in order.
    shown_depth_m: far end of the depth range of pictures, metres: in 95 % of the images 99 % of the depths are nearer.
    notes: what preparation wants people to know (images left out, a doubtful unit), a line each.
    """

    path: Path
    name: str
    digest: str
    protocol: Protocol
    source: str
    names: tuple[str, ...]
    scenes: tuple[str, ...]
    layers: tuple[str, ...]
    is_sequential: bool
    shown_depth_m: float
    notes: tuple[str, ...]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read everything but the images. Raises InputError where `path` is not a whole store."""
        if not path.is_file():
            raise InputError(f"{path}: no such store. Make one with `idl prepare`.")
        remedy = "Delete it and run `idl prepare` again."
        try:
            with h5py.File(path, "r") as file:
                version = file.attrs["version"]
                if version != STORE_VERSION:
                    raise InputError(f"{path}: store version {version}, expected {STORE_VERSION}. {remedy}")
                layers = tuple(sorted(str(name) for name in file if name not in ("name", "scene")))
                names, scenes = tuple(texts_of(file, "name")), tuple(texts_of(file, "scene"))
                for layer in layers:
                    if len(dataset_of(file, layer)) != len(names):
                        raise InputError(f"{path}: layer {layer} has another length than `name`. {remedy}")
                text = {key: str(file.attrs[key]) for key in ("dataset", "digest", "source")}
                return cls(
                    path,
                    text["dataset"],
                    text["digest"],
                    Protocol.from_json(str(file.attrs["protocol"])),
                    text["source"],
                    names,
                    scenes,
                    layers,
                    bool(file.attrs["is_sequential"]),
                    float(file.attrs["shown_depth_m"]),  # pyright: ignore[reportArgumentType]
                    tuple(json.loads(str(file.attrs["notes"]))),
                )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not a whole store ({error}). {remedy}") from error

    @property
    def num_images(self) -> int:
        """Images in the store."""
        return len(self.names)

    def read(self, layers: Sequence[str], indices: Sequence[int]) -> Mapping[str, np.ndarray]:
        """Read some layers of some images, in the order of `indices`: name to (image, ...).

        Raises InputError where a layer is not there or an image cannot be read.
        """
        missing = [layer for layer in layers if layer not in self.layers]
        if missing:
            have = ", ".join(self.layers)
            raise InputError(f"{self.path}: no layer {missing[0]!r}. It has: {have}.")
        try:
            with h5py.File(self.path, "r") as file:
                return {layer: _rows(dataset_of(file, layer), indices) for layer in layers}
        except (OSError, KeyError) as error:
            raise InputError(f"{self.path}: damaged ({error}). Delete it and run `idl prepare` again.") from error


def dataset_of(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset of an open file. Raises KeyError where `name` is none."""
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise KeyError(name)
    return found


def texts_of(file: h5py.File, name: str) -> list[str]:
    """Read a dataset of strings."""
    return [str(text) for text in dataset_of(file, name).asstr()[:]]


def _rows(dataset: h5py.Dataset, indices: Sequence[int]) -> np.ndarray:
    rows = np.empty((len(indices), *dataset.shape[1:]), dtype=dataset.dtype)
    for row, index in enumerate(indices):
        dataset.read_direct(rows, np.s_[index], np.s_[row])
    return rows
