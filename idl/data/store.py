"""The store: one HDF5 file a prepared dataset, read image by image."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from idl.errors import InputError
from idl.protocol import Protocol

# Raised whenever what `preparation` writes changes its meaning; a store of another version is made anew.
STORE_VERSION = 3
# What a store holds of each image besides layers.
TEXTS = ("name", "scene", "side")


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
    sides: side of the published split of each image, "train", "test" or ""; empty where none of them is on one.
    recipe: what the reader said that decides the content, as JSON; empty where it was not kept.
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
    sides: tuple[str, ...] = ()
    recipe: str = ""

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
                layers = tuple(sorted(str(name) for name in file if name not in TEXTS))
                names, scenes = tuple(texts_of(file, "name")), tuple(texts_of(file, "scene"))
                sides = tuple(texts_of(file, "side")) if "side" in file else ()
                for layer in (*layers, *(["side"] if sides else [])):
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
                    sides,
                    str(file.attrs.get("recipe", "")),
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
        self._require(layers)
        try:
            return {layer: self._read_layer(layer, indices) for layer in layers}
        except (OSError, KeyError) as error:
            raise InputError(f"{self.path}: damaged ({error}). Delete it and run `idl prepare` again.") from error

    def lacking(self, layer: str, indices: Sequence[int]) -> tuple[int, ...]:
        """Those of `indices` that have nothing of a layer that others have, and are read as zeros."""
        self._require((layer,))
        with h5py.File(self.path, "r") as file:
            dataset = dataset_of(file, layer)
            if dataset.chunks is None:
                return ()
            there: set[int] = set()
            dataset.id.chunk_iter(lambda chunk: there.add(chunk.chunk_offset[0]))
        return tuple(index for index in indices if self.origin(index) not in there)

    def origin(self, index: int) -> int:
        """The image in the file that image `index` is, or is a crop of."""
        return index

    def _require(self, layers: Sequence[str]) -> None:
        missing = [layer for layer in layers if layer not in self.layers]
        if missing:
            have = ", ".join(self.layers)
            raise InputError(f"{self.path}: no layer {missing[0]!r}. It has: {have}.")

    def _read_layer(self, layer: str, indices: Sequence[int]) -> np.ndarray:
        plain = self._plain_layers.get(layer)
        if plain is not None:
            return plain.read(self.path, indices)
        with h5py.File(self.path, "r") as file:
            dataset = dataset_of(file, layer)
            rows = np.empty((len(indices), *dataset.shape[1:]), dtype=dataset.dtype)
            for row, index in enumerate(indices):
                dataset.read_direct(rows, np.s_[index], np.s_[row])
            return rows

    @cached_property
    def _plain_layers(self) -> Mapping[str, "_PlainLayer"]:
        with h5py.File(self.path, "r") as file:
            found = {layer: _PlainLayer.of(dataset_of(file, layer)) for layer in self.layers}
        return {layer: plain for layer, plain in found.items() if plain is not None}


@dataclass(frozen=True)
class _PlainLayer:
    """A layer whose images lie in the file as they are, each in one piece, and where they begin.

    The system's own read takes them: h5py needs four times as long and holds Python's lock meanwhile, so that the
    encoder could not start its next kernel.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offsets: Mapping[int, int]

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> Self | None:
        """None where images are compressed, in several pieces or not all there."""
        if dataset.chunks != (1, *dataset.shape[1:]) or dataset.id.get_create_plist().get_nfilters():
            return None
        offsets: dict[int, int] = {}

        def note(chunk: h5py.h5d.StoreInfo) -> None:
            offsets[chunk.chunk_offset[0]] = chunk.byte_offset

        dataset.id.chunk_iter(note)
        return cls(dataset.shape[1:], dataset.dtype, offsets) if len(offsets) == len(dataset) else None

    def read(self, path: Path, indices: Sequence[int]) -> np.ndarray:
        """Read images in the order of `indices`. Raises OSError where the file ends before one."""
        rows = np.empty((len(indices), *self.shape), self.dtype)
        with path.open("rb", buffering=0) as file:
            for row, index in zip(rows, indices, strict=True):
                if os.preadv(file.fileno(), [row], self.offsets[index]) != row.nbytes:
                    raise OSError(f"it ends before image {index} is complete")
        return rows


def dataset_of(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset of an open file. Raises KeyError where `name` is none."""
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise KeyError(name)
    return found


def texts_of(file: h5py.File, name: str) -> list[str]:
    """Read a dataset of strings."""
    return [str(text) for text in dataset_of(file, name).asstr()[:]]
