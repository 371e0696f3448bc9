"""From a reader to a store: in several processes, resumable, whole or not there.

The images are written in segments, each a small HDF5 file with a temporary name until it is whole. A run that was
killed finds its segments again and makes only those that are missing. The last step copies the compressed chunks
of all segments into one file and renames it; content and order depend neither on the number of processes nor on
how often the work was interrupted.
"""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
from filelock import FileLock

from idl.data.reader import Archive, Described, Noted, Reader, Sample
from idl.data.store import STORE_VERSION, TEXTS, Store, dataset_of, texts_of
from idl.data.streaming import arriving, release, tidied
from idl.errors import InputError, is_disk_full
from idl.progress import Progress, silent
from idl.protocol import NATIVE, Protocol

IMAGES_PER_SEGMENT = 48
# Measured on rooms of 256 x 256, one core of an AMD EPYC with AVX-512. lzf brings RGB to 56 % of its size, but takes
# 1.6 ms an image to write and 0.8 ms to read instead of 0.1 and 0.04 ms, and depth to 54 % (2.0 and 0.6 ms, with the
# shuffle): both are left as they are, and the mask, which is read as often. Normals come to 6 %, labels to 8 %; but
# what is trained on is read in every step, and labels took 0.21 ms to unpack, under Python's lock: 0.02 ms as they are.
_PLAIN = ("rgb", "depth", "valid", "kinds", "materials")
_PACKED: dict[str, object] = {"compression": "lzf", "shuffle": True}


@dataclass(frozen=True)
class _Segment:
    """A run of consecutive groups, [first, last), and its place in the order."""

    number: int
    first: int
    last: int
    num_images: int

    @property
    def groups(self) -> range:
        return range(self.first, self.last)

    def path(self, folder: Path) -> Path:
        return folder / f"segment_{self.number:06d}.h5"


def recipe_digest(reader: Described, protocol: Protocol) -> str:
    """First 16 hex digits of the SHA-256 of everything that is asked for; names the store's file."""
    asked = {"recipe": reader.recipe, "protocol": protocol.to_json(), "version": STORE_VERSION}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def store_path(reader: Described, protocol: Protocol, folder: Path) -> Path:
    """Where `prepare` puts the store of this reader under `folder`."""
    return folder / f"{reader.name}-{recipe_digest(reader, protocol)}.h5"


def prepare(
    reader: Reader | Archive, protocol: Protocol, folder: Path, *, workers: int = 1, progress: Progress = silent
) -> Store:
    """Return the store of `reader` under `folder`, made now where it is not there yet.

    Raises InputError where the reader finds bad input, no image has a valid pixel, or the disk is full; what was
    finished until then is kept, and the same call goes on from there.
    """
    path = store_path(reader, protocol, folder)
    if path.exists():
        return Store.open(path)
    partial = path.with_suffix(".partial")
    with _disk_full_said(path):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                if isinstance(reader, Archive):
                    reader = reader.indexed(folder / "archives", partial / "spool", progress)
                _make(reader, protocol, partial, path, workers, progress)
    return Store.open(path)


def _make(reader: Reader, protocol: Protocol, partial: Path, path: Path, workers: int, progress: Progress) -> None:
    partial.mkdir(parents=True, exist_ok=True)
    segments = _segments(reader)
    _write_segments(reader, protocol, segments, partial, workers, progress)
    _consolidate(reader, protocol, [segment.path(partial) for segment in segments], path)
    shutil.rmtree(partial)


def _segments(reader: Reader) -> list[_Segment]:
    segments: list[_Segment] = []
    first = count = 0
    groups = reader.groups
    for index, group in enumerate(groups):
        count += len(group.names)
        is_last = index == len(groups) - 1 or groups[index + 1].batch != group.batch
        if count >= IMAGES_PER_SEGMENT or is_last:
            segments.append(_Segment(len(segments), first, index + 1, count))
            first, count = index + 1, 0
    return segments


def _write_segments(
    reader: Reader,
    protocol: Protocol,
    segments: list[_Segment],
    partial: Path,
    workers: int,
    progress: Progress,
) -> None:
    todo = [segment for segment in segments if not segment.path(partial).exists()]
    total = sum(segment.num_images for segment in segments)
    done = total - sum(segment.num_images for segment in todo)
    with (
        progress(f"prepare {reader.name}", total, done) as advance,
        tidied(reader),
        closing(arriving(reader, [segment.groups for segment in todo])) as ready,
    ):
        if workers == 1 or len(todo) <= 1:
            for position in ready:
                _write_segment(reader, protocol, todo[position], partial)
                release(reader, todo[position].groups)
                advance(todo[position].num_images)
            return
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_leave_interrupts_to_parent) as pool:
            running: dict[Future[None], _Segment] = {}
            try:
                while True:
                    # Two a process: none waits for work, and of what comes by little is set aside.
                    for position in islice(ready, 2 * workers - len(running)):
                        running[pool.submit(_write_segment, reader, protocol, todo[position], partial)] = todo[position]
                    if not running:
                        return
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        future.result()
                        segment = running.pop(future)
                        release(reader, segment.groups)
                        advance(segment.num_images)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _leave_interrupts_to_parent() -> None:
    """Ctrl-C reaches the whole process group; the parent alone decides, and the current segments end whole."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_segment(reader: Reader, protocol: Protocol, segment: _Segment, folder: Path) -> None:
    path = segment.path(folder)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        # No cache of chunks: each image is written at once, and a full disk is said there, not while closing.
        with h5py.File(temporary, "w", rdcc_nbytes=0) as file:
            _write_samples(file, reader, protocol, segment)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_samples(file: h5py.File, reader: Reader, protocol: Protocol, segment: _Segment) -> None:
    layers: dict[str, h5py.Dataset] = {}
    names, scenes, sides, hashes, quantiles = [], [], [], [], []
    for index in segment.groups:
        # Written image by image: a segment held in memory, and stacked, took 250 MB in all on rooms; this takes 160.
        for sample in reader.read(index):
            valid = sample.valid & (sample.depth_m >= protocol.min_depth_m) & (sample.depth_m <= protocol.max_depth_m)
            if not valid.any():
                continue
            depth = np.where(valid, sample.depth_m, np.float32(0))
            maps = {"rgb": sample.rgb, "depth": depth, "valid": valid, **sample.layers}
            # Nothing is measured on the published training side: its images may go without.
            if protocol.is_native and (NATIVE in maps or sample.side != "train"):
                maps |= {NATIVE: _native_in_range(reader, sample, protocol)}
            for layer, values in maps.items():
                if layer not in layers:
                    # An image that lacks a layer has no chunk in it, takes no room, and is read as zeros.
                    layers[layer] = _create(file, layer, segment.num_images, values)
                _require_same_size(reader, layer, layers[layer].shape[1:], values.shape)
                layers[layer][len(names)] = values
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


def _create(file: h5py.File, layer: str, num_images: int, image: np.ndarray) -> h5py.Dataset:
    """An empty layer of a chunk an image, which can be cut to the images there are in the end."""
    shape = (num_images, *image.shape)
    return file.create_dataset(layer, shape, image.dtype, chunks=(1, *image.shape), maxshape=shape, **_filters(layer))


def _filters(layer: str) -> dict[str, object]:
    return {} if layer in _PLAIN else _PACKED


def _content_hash(maps: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for layer in sorted(maps):
        digest.update(f"{layer} {maps[layer].dtype} {maps[layer].shape}".encode())
        digest.update(np.ascontiguousarray(maps[layer]).data)
    return digest.hexdigest()


def _consolidate(reader: Reader, protocol: Protocol, segments: list[Path], path: Path) -> None:
    names, scenes, sides, hashes, quantiles = [], [], [], [], []
    num_skipped = 0
    for segment in segments:
        with h5py.File(segment, "r") as file:
            num_skipped += int(np.asarray(file.attrs["num_skipped"]))
            if "name" in file:
                names += texts_of(file, "name")
                scenes += texts_of(file, "scene")
                # A segment that an earlier version left behind has none.
                sides += texts_of(file, "side") if "side" in file else [""] * len(texts_of(file, "scene"))
                hashes += texts_of(file, "hash")
                quantiles += list(dataset_of(file, "depth_m_quantiles")[:])
    if not names:
        raise InputError(
            f"{reader.source}: none of {num_skipped} images has a pixel with a depth between "
            f"{protocol.min_depth_m:g} and {protocol.max_depth_m:g} m. Check the depth scale and the range."
        )
    medians, far = np.array(quantiles).T
    # Only where some image has a side: the digests of stores without stay what they were.
    published = [sides] if any(sides) else []
    content = json.dumps([protocol.to_json(), names, scenes, hashes, *published])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    temporary = path.with_suffix(".tmp")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs.update(
                {
                    "version": STORE_VERSION,
                    "dataset": reader.name,
                    "digest": recipe_digest(reader, protocol) if reader.is_deterministic else digest,
                    "content_digest": digest,
                    "protocol": protocol.to_json(),
                    "source": reader.source,
                    "recipe": json.dumps(reader.recipe, sort_keys=True),
                    "is_sequential": reader.is_sequential,
                    # Rounded up to half a metre, for a scale with plain numbers.
                    "shown_depth_m": float(np.ceil(2 * np.quantile(far, 0.95)) / 2),
                    "notes": json.dumps(_notes(reader, num_skipped, medians)),
                }
            )
            file.create_dataset("name", data=names, dtype=h5py.string_dtype())
            file.create_dataset("scene", data=scenes, dtype=h5py.string_dtype())
            if published:
                file.create_dataset("side", data=sides, dtype=h5py.string_dtype())
            start = 0
            for segment in segments:
                start = _copy_chunks(reader, segment, file, start, len(names))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_chunks(reader: Reader, segment: Path, target: h5py.File, start: int, num_images: int) -> int:
    """Copy a segment's chunks as they are, without unpacking them; return where the next segment starts."""
    with h5py.File(segment, "r") as source:
        if "name" not in source:
            return start
        count = len(source["rgb"])  # pyright: ignore[reportArgumentType]
        for layer, dataset in source.items():
            if layer in (*TEXTS, "hash", "depth_m_quantiles"):
                continue
            if layer not in target:
                target.create_dataset(
                    layer,
                    shape=(num_images, *dataset.shape[1:]),
                    dtype=dataset.dtype,
                    chunks=dataset.chunks,
                    **_filters(layer),
                )
            copied = target[layer]
            assert isinstance(copied, h5py.Dataset)
            _require_same_size(reader, layer, copied.shape[1:], dataset.shape[1:])
            rest = (0,) * (len(dataset.shape) - 1)
            written = sorted(_written(dataset))
            if _num_filters(dataset) != _num_filters(copied):
                # A segment of an earlier version, which packed other layers.
                for index in written:
                    copied[start + index] = dataset[index]
                continue
            for index in written:
                mask, chunk = dataset.id.read_direct_chunk((index, *rest))
                copied.id.write_direct_chunk((start + index, *rest), chunk, mask)
    return start + count


def _num_filters(dataset: h5py.Dataset) -> int:
    return dataset.id.get_create_plist().get_nfilters()


def _written(dataset: h5py.Dataset) -> set[int]:
    """The images that have this layer."""
    written: set[int] = set()

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        written.add(chunk.chunk_offset[0])

    dataset.id.chunk_iter(note)
    return written


def _notes(reader: Reader, num_skipped: int, medians: np.ndarray) -> list[str]:
    notes = list(reader.notes) if isinstance(reader, Noted) else []
    if num_skipped:
        notes.append(f"{num_skipped} of {num_skipped + len(medians)} images have no valid pixel and were left out.")
    median = float(np.median(medians))
    low, high = reader.plausible_median_m
    if not low <= median <= high:
        notes.append(
            f"{reader.source}: the median depth is {median:.3g} m, expected {low:g} to {high:g} m. "
            "Is the depth scale right? Pass depth_scale= in units per metre."
        )
    return notes


@contextmanager
def _disk_full_said(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        # A file that could not be written fails once more, and in other words, when HDF5 closes it.
        if not is_disk_full(error) and not (error.__context__ and is_disk_full(error.__context__)):
            raise
        raise InputError(
            f"{path.parent}: no space left for the prepared dataset. Free some, or pass another cache=; "
            "the same command goes on from here."
        ) from error
