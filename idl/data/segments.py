"""Segments of a store in the making: some groups of images, each a small HDF5 file, whole or not there."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from idl.data.reader import Reader, Sample
from idl.data.resizing import within_range
from idl.data.store import TEXTS, dataset_of
from idl.errors import InputError
from idl.protocol import NATIVE, Protocol

# Measured on rooms of 256 x 256, one core of an AMD EPYC with AVX-512. lzf brings RGB to 56 % of its size, but takes
# 1.6 ms an image to write and 0.8 ms to read instead of 0.1 and 0.04 ms, and depth to 54 % (2.0 and 0.6 ms, with the
# shuffle): both are left as they are, and the mask, which is read as often. Normals come to 6 %, labels to 8 %; but
# what is trained on is read in every step, and labels took 0.21 ms to unpack, under Python's lock: 0.02 ms as they are.
PLAIN = ("rgb", "depth", "valid", "kinds", "materials")
_PACKED: dict[str, object] = {"compression": "lzf", "shuffle": True}


@dataclass(frozen=True)
class Segment:
    """A run of consecutive groups, [first, last), and its place in the order."""

    number: int
    first: int
    last: int
    num_images: int

    @property
    def groups(self) -> range:
        """Groups of the reader that it holds."""
        return range(self.first, self.last)

    def path(self, folder: Path) -> Path:
        """Where it is written, under `folder`."""
        # The groups are named, so that a run with segments of another length does not go on from these.
        return folder / f"segment_{self.number:06d}_{self.first}-{self.last}.h5"


def write_segment(reader: Reader, protocol: Protocol, segment: Segment, folder: Path) -> None:
    """Read a segment's images and write them to a file of their own, renamed when it is whole."""
    path = segment.path(folder)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        # No cache of chunks: each image is written at once, and a full disk is said there, not while closing.
        with h5py.File(temporary, "w", rdcc_nbytes=0) as file:
            _write_samples(file, reader, protocol, segment)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_samples(file: h5py.File, reader: Reader, protocol: Protocol, segment: Segment) -> None:
    layers: dict[str, h5py.Dataset] = {}
    names, scenes, sides, hashes, quantiles = [], [], [], [], []
    for index in segment.groups:
        # Written image by image: a segment held in memory, and stacked, took 250 MB in all on rooms; this takes 160.
        for sample in reader.read(index):
            depth, valid = within_range(sample.depth_m, sample.valid, protocol)
            if not valid.any():
                continue
            maps = {"rgb": sample.rgb, "depth": depth, "valid": valid, **sample.layers}
            # Nothing is measured on the published training side: its images may go without.
            if protocol.is_native and (NATIVE in maps or sample.side != "train"):
                maps |= {NATIVE: _native_in_range(reader, sample, protocol)}
            for layer, values in maps.items():
                if layer not in layers:
                    # An image that lacks a layer has no chunk in it, takes no room, and is read as zeros.
                    layers[layer] = _create(file, layer, segment.num_images, values)
                _require_same_size(reader, layer, layers[layer].shape[1:], values.shape)
                _put(layers[layer], len(names), values)
            names.append(sample.name)
            scenes.append(sample.scene)
            sides.append(sample.side)
            hashes.append(_content_hash(maps))
            quantiles.append(np.quantile(sample.depth_m[valid], (0.5, 0.99)))
    file.attrs["num_skipped"] = segment.num_images - len(names)
    if names:
        for dataset in layers.values():
            dataset.resize(len(names), axis=0)
        file.create_dataset("name", data=names, dtype=h5py.string_dtype())
        file.create_dataset("scene", data=scenes, dtype=h5py.string_dtype())
        file.create_dataset("side", data=sides, dtype=h5py.string_dtype())
        file.create_dataset("hash", data=hashes, dtype=h5py.string_dtype())
        file.create_dataset("depth_m_quantiles", data=np.array(quantiles, np.float64))
    file.flush()


def _native_in_range(reader: Reader, sample: Sample, protocol: Protocol) -> np.ndarray:
    """Return the sample's native truth, 0 outside the range. Raises InputError where it is missing or does not fit."""
    native_m = sample.layers.get(NATIVE)
    if native_m is None:
        raise InputError(f"{reader.source}: {sample.name} has no native depth, which {protocol.name} is measured on.")
    protocol.require_frame(*native_m.shape, where=f"{reader.source}: {sample.name}")
    with np.errstate(invalid="ignore"):
        is_inside = (native_m >= protocol.min_depth_m) & (native_m <= protocol.max_depth_m)
    return np.where(is_inside, native_m, np.float32(0))


def _require_same_size(reader: Reader, layer: str, first: tuple[int, ...], other: tuple[int, ...]) -> None:
    if first != other:
        raise InputError(
            f"{reader.source}: {layer} has {first[0]} x {first[1]} pixels in one image, {other[0]} x {other[1]} in "
            "another. A store holds one size; prepare them apart."
        )


def _create(file: h5py.File, layer: str, num_images: int, like: np.ndarray | h5py.Dataset) -> h5py.Dataset:
    """An empty layer of a chunk an image, which can be cut to the images there are in the end.

    like: an image, or a layer of images, of the same type and size.
    """
    image = like.shape[1:] if isinstance(like, h5py.Dataset) else like.shape
    shape = (num_images, *image)
    return file.create_dataset(layer, shape, like.dtype, chunks=(1, *image), maxshape=shape, **_filters(layer))


def _put(dataset: h5py.Dataset, row: int, image: np.ndarray) -> None:
    """Write one image, of the layer's size."""
    if _num_filters(dataset):
        dataset[row] = image
    else:
        # The chunk itself: by h5py's selection the layers of an image took 0.56 ms, so 0.19 ms.
        chunk = np.ascontiguousarray(image, dataset.dtype)
        dataset.id.write_direct_chunk((row, *(0,) * image.ndim), chunk)


def _filters(layer: str) -> dict[str, object]:
    return {} if layer in PLAIN else _PACKED


def _content_hash(maps: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for layer in sorted(maps):
        digest.update(f"{layer} {maps[layer].dtype} {maps[layer].shape}".encode())
        digest.update(np.ascontiguousarray(maps[layer]).data)
    return digest.hexdigest()


def copy_chunks(reader: Reader, source: h5py.File, target: h5py.File, start: int, most_images: int) -> None:
    """Copy a segment's chunks as they are, without unpacking them, to `start` and after."""
    for layer in map(str, source):
        if layer in (*TEXTS, "hash", "depth_m_quantiles"):
            continue
        dataset = dataset_of(source, layer)
        if layer not in target:
            _create(target, layer, most_images, dataset)
        copied = dataset_of(target, layer)
        _require_same_size(reader, layer, copied.shape[1:], dataset.shape[1:])
        rest = (0,) * (len(dataset.shape) - 1)
        written = _written(dataset)
        if _num_filters(dataset) != _num_filters(copied):
            # A segment of an earlier version, which packed other layers.
            for index in written:
                copied[start + index] = dataset[index]
            continue
        for index in written:
            mask, chunk = dataset.id.read_direct_chunk((index, *rest))
            copied.id.write_direct_chunk((start + index, *rest), chunk, mask)


def _num_filters(dataset: h5py.Dataset) -> int:
    return dataset.id.get_create_plist().get_nfilters()


def _written(dataset: h5py.Dataset) -> list[int]:
    """The images that have this layer, in order."""
    written: list[int] = []

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        if chunk.chunk_offset[0] < len(dataset):
            written.append(chunk.chunk_offset[0])

    dataset.id.chunk_iter(note)
    return sorted(written)
