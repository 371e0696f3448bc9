"""The store: one HDF5 file a prepared dataset, read image by image."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import h5py
import numpy as np

from idl.errors import InputError
from idl.protocol import Protocol

# Raised whenever what `preparation` writes changes its meaning; a store of another version is made anew. With 4 came
# the range before averaging: it changed nothing of what a recipe renders, whose digests hold.
STORE_VERSION, RENDERED_VERSION = 4, 3
# How a scene of consecutive frames is called: "block_00003", below the folder of its recording if there is one.
BLOCK = re.compile(r"(^|/)block_\d+$")
# What a store holds of each image besides layers.
TEXTS = ("name", "scene", "side")
_REMEDY = "Delete it and run `idl prepare` again."


@dataclass(frozen=True)
class Store:
    """A prepared dataset on disk. Opened for each read, so that it can be handed to threads and processes.

    name: the dataset's name. digest: of its content (or of the recipe that fixes the content).
    protocol: how the images were brought to `resolution` and which pixels count.
    source: where they came from. names, scenes: one an image.
    layers: names of all layers; "rgb", "depth" and "valid" are always there.
    is_sequential: the scenes are consecutive pieces of recordings, in order.
    shown_depth_m: far end of the depth range of pictures, metres: in 95 % of the images 99 % of the depths are nearer.
    notes: what people should know (images left out, a doubtful unit), a line each.
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
        """Return a store with everything but its images. Raises InputError where `path` is not a whole store."""
        if not path.is_file():
            raise InputError(f"{path}: no such store. Make one with `idl prepare`.")
        try:
            with h5py.File(path, "r") as file:
                version = file.attrs["version"]
                is_rendered = file.attrs["digest"] != file.attrs["content_digest"]
                expected = RENDERED_VERSION if is_rendered else STORE_VERSION
                if version != expected:
                    raise InputError(f"{path}: store version {version}, expected {expected}. {_REMEDY}")
                texts = {name: tuple(map(str, dataset_of(file, name).asstr()[:])) for name in TEXTS if name in file}
                for layer in file:
                    if len(dataset_of(file, str(layer))) != len(texts["name"]):
                        raise InputError(f"{path}: layer {layer} has another length than `name`. {_REMEDY}")
                return cls(
                    path=path,
                    name=str(file.attrs["dataset"]),
                    digest=str(file.attrs["digest"]),
                    protocol=Protocol.from_json(str(file.attrs["protocol"])),
                    source=str(file.attrs["source"]),
                    names=texts["name"],
                    scenes=texts["scene"],
                    layers=tuple(sorted(str(name) for name in file if name not in TEXTS)),
                    is_sequential=bool(file.attrs["is_sequential"]),
                    shown_depth_m=float(file.attrs["shown_depth_m"]),  # pyright: ignore[reportArgumentType]
                    notes=tuple(json.loads(str(file.attrs["notes"]))),
                    sides=texts.get("side", ()),
                    recipe=str(file.attrs.get("recipe", "")),
                )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not a whole store ({error}). {_REMEDY}") from error

    @property
    def num_images(self) -> int:
        """Images in the store."""
        return len(self.names)

    @property
    def recordings(self) -> tuple[str, ...]:
        """What each image was recorded in: its scene; of blocks of frames, what they were cut from."""
        if not self.is_sequential:
            return self.scenes
        return tuple(BLOCK.sub("", scene) or "." for scene in self.scenes)

    def read(
        self, layers: Sequence[str], indices: Sequence[int], tops: Sequence[int] = (), height: int | None = None
    ) -> Mapping[str, np.ndarray]:
        """Return some layers of some images, in the order of `indices`: name to (image, ...).

        tops, height: of a strip of each image, so many rows from its row of `tops` on; None: whole images.
        Raises InputError where a layer is not there or an image cannot be read, ValueError where a strip is not within
        its image.
        """
        self._require(layers)
        try:
            return {layer: self._read_layer(layer, indices, tops or [0] * len(indices), height) for layer in layers}
        except (OSError, KeyError) as error:
            raise InputError(f"{self.path}: damaged ({error}). {_REMEDY}") from error

    def rgb(self, index: int) -> np.ndarray:
        """Return one image, uint8 (H, W, 3). Raises InputError as `read`."""
        return self.read(("rgb",), [index])["rgb"][0]

    def lacking(self, layer: str, indices: Sequence[int]) -> tuple[int, ...]:
        """Return those of `indices` that have nothing of a layer that others have, and are read as zeros."""
        self._require((layer,))
        with h5py.File(self.path, "r") as file:
            there = _chunk_offsets(dataset_of(file, layer))
        return tuple(index for index in indices if self.origin(index) not in there)

    def origin(self, index: int) -> int:
        """Return the image in the file that image `index` is, or is a crop of."""
        return index

    def _require(self, layers: Sequence[str]) -> None:
        missing = [layer for layer in layers if layer not in self.layers]
        if missing:
            have = ", ".join(self.layers)
            raise InputError(f"{self.path}: no layer {missing[0]!r}. It has: {have}.")

    def _read_layer(self, layer: str, indices: Sequence[int], tops: Sequence[int], height: int | None) -> np.ndarray:
        plain = self._plain_layers.get(layer)
        with h5py.File(self.path, "r") if plain is None else self.path.open("rb", buffering=0) as file:
            dataset = plain or dataset_of(file, layer)  # pyright: ignore[reportArgumentType]
            height = dataset.shape[1] if height is None else height
            for top in tops:
                if not 0 <= top <= dataset.shape[1] - height:
                    raise ValueError(f"rows {top} to {top + height} of images of {dataset.shape[1]} rows")
            strips = np.empty((len(indices), height, *dataset.shape[2:]), dataset.dtype)
            for strip, index, top in zip(strips, indices, tops, strict=True):
                if isinstance(dataset, h5py.Dataset):
                    # Into a row of its own: into a part of all rows takes twice as long.
                    dataset.read_direct(strip, np.s_[index, top : top + height])
                    continue
                place = dataset.offsets[index] + top * strip.strides[0]
                if os.preadv(file.fileno(), [strip], place) != strip.nbytes:  # pyright: ignore[reportAttributeAccessIssue]
                    raise OSError(f"it ends before image {index} is complete")
        return strips

    @cached_property
    def _plain_layers(self) -> Mapping[str, "_PlainLayer"]:
        """Layers that are not compressed, and all of whose images are there in one piece."""
        found = {}
        with h5py.File(self.path, "r") as file:
            for layer in self.layers:
                dataset = dataset_of(file, layer)
                offsets = _chunk_offsets(dataset)
                is_packed = dataset.id.get_create_plist().get_nfilters()
                if dataset.chunks == (1, *dataset.shape[1:]) and not is_packed and len(offsets) == len(dataset):
                    found[layer] = _PlainLayer(dataset.shape, dataset.dtype, offsets)
        return found


class _PlainLayer(NamedTuple):
    """A layer whose images lie in the file as they are, each in one piece, and where they begin.

    The system's own read takes them: h5py needs four times as long and holds Python's lock meanwhile, so that the
    encoder could not start its next kernel.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offsets: Mapping[int, int]


def _chunk_offsets(dataset: h5py.Dataset) -> Mapping[int, int]:
    """Return where the first chunk of each image that has any begins in the file, bytes."""
    if dataset.chunks is None:
        return dict.fromkeys(range(len(dataset)), 0)
    offsets: dict[int, int] = {}
    dataset.id.chunk_iter(lambda chunk: offsets.update({chunk.chunk_offset[0]: chunk.byte_offset}))
    return offsets


def dataset_of(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset of an open file. Raises KeyError where `name` is none."""
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise KeyError(name)
    return found
