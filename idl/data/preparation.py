"""From a reader to a store: in several processes, resumable, whole or not there.

The images are written in segments, each a small HDF5 file with a temporary name until it is whole. A run that was
killed finds its segments again and makes only those that are missing. Meanwhile the chunks of finished segments are
copied, in order and as they are, into one file, which is renamed in the end; content and order depend neither on the
number of processes nor on how often the work was interrupted.
"""

import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

import h5py
import numpy as np
from filelock import FileLock

from idl.data.reader import Reader, Sample
from idl.data.store import STORE_VERSION, TEXTS, Store, dataset_of, texts_of
from idl.errors import InputError, is_disk_full
from idl.progress import Progress, silent
from idl.protocol import NATIVE, Protocol

# Short, so that the processes end together: with 48, two of them had 4 and 3 segments to do of 320 images.
IMAGES_PER_SEGMENT = 16
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

    def path(self, folder: Path) -> Path:
        # The groups are named, so that a run with segments of another length does not go on from these.
        return folder / f"segment_{self.number:06d}_{self.first}-{self.last}.h5"


def recipe_digest(reader: Reader, protocol: Protocol) -> str:
    """First 16 hex digits of the SHA-256 of everything that is asked for; names the store's file."""
    asked = {"recipe": reader.recipe, "protocol": protocol.to_json(), "version": STORE_VERSION}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def store_path(reader: Reader, protocol: Protocol, folder: Path) -> Path:
    """Where `prepare` puts the store of this reader under `folder`."""
    return folder / f"{reader.name}-{recipe_digest(reader, protocol)}.h5"


def prepare(
    reader: Reader, protocol: Protocol, folder: Path, *, workers: int = 1, progress: Progress = silent
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
                _make(reader, protocol, partial, path, workers, progress)
    return Store.open(path)


def _make(reader: Reader, protocol: Protocol, partial: Path, path: Path, workers: int, progress: Progress) -> None:
    partial.mkdir(parents=True, exist_ok=True)
    segments = _segments(reader)
    with closing(_whole_segments(reader, protocol, segments, partial, workers, progress)) as whole:
        _consolidate(reader, protocol, whole, sum(segment.num_images for segment in segments), path)
    shutil.rmtree(partial)


def _segments(reader: Reader) -> list[_Segment]:
    segments: list[_Segment] = []
    first = count = 0
    for index, group in enumerate(reader.groups):
        count += len(group.names)
        if count >= IMAGES_PER_SEGMENT or index == len(reader.groups) - 1:
            segments.append(_Segment(len(segments), first, index + 1, count))
            first, count = index + 1, 0
    return segments


def _whole_segments(
    reader: Reader,
    protocol: Protocol,
    segments: list[_Segment],
    partial: Path,
    workers: int,
    progress: Progress,
) -> Generator[Path]:
    """Yield the segments in order, each as soon as it is whole; the processes go on meanwhile."""
    todo = [segment for segment in segments if not segment.path(partial).exists()]
    total = sum(segment.num_images for segment in segments)
    done = total - sum(segment.num_images for segment in todo)
    with progress(f"prepare {reader.name}", total, done) as advance:
        if workers == 1 or len(todo) <= 1:
            for segment in segments:
                if segment in todo:
                    _write_segment(reader, protocol, segment, partial)
                    advance(segment.num_images)
                yield segment.path(partial)
            return
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_process) as pool:
            futures: dict[Future[None], _Segment] = {
                pool.submit(_write_segment, reader, protocol, segment, partial): segment for segment in todo
            }
            try:
                waiting, missing = set(futures), set(todo)
                for segment in segments:
                    while segment in missing:
                        finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                        for future in finished:
                            future.result()
                            missing.remove(futures[future])
                            advance(futures[future].num_images)
                    yield segment.path(partial)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _start_process() -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides, and the current segments end whole.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="idl-parent", daemon=True).start()


def _end_with_parent() -> None:
    """Without it, the processes of a parent that was killed wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
    for index in range(segment.first, segment.last):
        # Written image by image: a segment held in memory, and stacked, took 250 MB in all on rooms; this takes 160.
        for sample in reader.read(index):
            valid = sample.valid & (sample.depth_m >= protocol.min_depth_m) & (sample.depth_m <= protocol.max_depth_m)
            if not valid.any():
                continue
            depth = np.where(valid, sample.depth_m, np.float32(0))
            maps = {"rgb": sample.rgb, "depth": depth, "valid": valid, **sample.layers}
            if protocol.is_native:
                maps |= {NATIVE: _native_in_range(reader, sample, protocol)}
            if not layers:
                layers = {layer: _create(file, layer, segment.num_images, values) for layer, values in maps.items()}
            for layer, values in maps.items():
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
    return {} if layer in _PLAIN else _PACKED


def _content_hash(maps: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for layer in sorted(maps):
        digest.update(f"{layer} {maps[layer].dtype} {maps[layer].shape}".encode())
        digest.update(np.ascontiguousarray(maps[layer]).data)
    return digest.hexdigest()


def _consolidate(reader: Reader, protocol: Protocol, segments: Iterable[Path], most_images: int, path: Path) -> None:
    """Join segments, as they come, into the store. most_images: images that they hold if none is left out."""
    names, scenes, sides, hashes, quantiles = [], [], [], [], []
    num_skipped = 0
    temporary = path.with_suffix(".tmp")
    try:
        # No cache of chunks, as in a segment.
        with h5py.File(temporary, "w", rdcc_nbytes=0) as file:
            for segment in segments:
                with h5py.File(segment, "r") as source:
                    num_skipped += int(np.asarray(source.attrs["num_skipped"]))
                    if "name" not in source:
                        continue
                    _copy_chunks(reader, source, file, len(names), most_images)
                    names += texts_of(source, "name")
                    scenes += texts_of(source, "scene")
                    sides += texts_of(source, "side")
                    hashes += texts_of(source, "hash")
                    quantiles += list(dataset_of(source, "depth_m_quantiles")[:])
            if not names:
                raise InputError(
                    f"{reader.source}: none of {num_skipped} images has a pixel with a depth between "
                    f"{protocol.min_depth_m:g} and {protocol.max_depth_m:g} m. Check the depth scale and the range."
                )
            for layer in list(file):
                dataset_of(file, layer).resize(len(names), axis=0)
            medians, far = np.array(quantiles).T
            # Only where some image has a side: the digests of stores without stay what they were.
            published = [sides] if any(sides) else []
            content = json.dumps([protocol.to_json(), names, scenes, hashes, *published])
            digest = hashlib.sha256(content.encode()).hexdigest()[:16]
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
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_chunks(reader: Reader, source: h5py.File, target: h5py.File, start: int, most_images: int) -> None:
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
        if _num_filters(dataset) != _num_filters(copied):
            # A segment of an earlier version, which packed other layers.
            for index in range(len(dataset)):
                copied[start + index] = dataset[index]
            continue
        for index in range(len(dataset)):
            mask, chunk = dataset.id.read_direct_chunk((index, *rest))
            copied.id.write_direct_chunk((start + index, *rest), chunk, mask)


def _num_filters(dataset: h5py.Dataset) -> int:
    return dataset.id.get_create_plist().get_nfilters()


def _notes(reader: Reader, num_skipped: int, medians: np.ndarray) -> list[str]:
    notes = []
    if num_skipped:
        notes.append(f"{num_skipped} of {num_skipped + len(medians)} images have no valid pixel and were left out.")
    median = float(np.median(medians))
    low, high = reader.plausible_median_m
    if not low <= median <= high:
        notes.append(
            f"{reader.source}: the median depth is {median:.3g} m, expected {low:g} to {high:g} m. "
            "Is it in metres? Where it is integers, pass depth_scale= in units per metre."
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
