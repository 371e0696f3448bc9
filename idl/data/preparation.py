"""From a reader to a store: read in several processes, written by one, resumable, whole or not there.

The store is written under a temporary name and renamed in the end. Beside it grows a log, a line a group of images that
is in the file; a run that was killed leaves both, and the next one goes on from there. Content and order depend neither
on the number of processes nor on interruptions.
"""

import hashlib
import json
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from filelock import FileLock

from idl.data.images import within_range
from idl.data.reader import Reader, shortened
from idl.data.store import RENDERED_VERSION, STORE_VERSION, TEXTS, Store, dataset_of
from idl.data.units import doubt_units
from idl.errors import InputError, disk_full_reported
from idl.progress import Progress, silent
from idl.protocol import NATIVE, Protocol

# Layers that are not compressed. On rooms of 256 x 256 lzf brings RGB and depth to 55 % of their size, but takes 1.6
# and 2 ms an image to write and 0.7 ms to read instead of 0.1 and 0.04. Normals come to 6 %; labels to 8 %, but what
# is trained on is read in every step, and they took 0.21 ms to unpack, under Python's lock: 0.02 ms as they are.
PLAIN = ("rgb", "depth", "valid", "kinds", "materials")
# A file's name has 255 bytes, as an alias of mlflow's registry; digests, suffixes and "champion-" take some.
MOST_NAME_CHARACTERS = 100
# Dense depth with holes keeps its share up to a few percent of it. KITTI's annotated lidar keeps 0.6, its raw one 0.2.
MOST_LOST = 0.8


def store_path(reader: Reader, protocol: Protocol, folder: Path) -> Path:
    """Return where `prepare` puts the store of this reader under `folder`."""
    return folder / f"{shortened(reader.name, MOST_NAME_CHARACTERS)}-{_recipe_digest(reader, protocol)}.h5"


def _recipe_digest(reader: Reader, protocol: Protocol) -> str:
    deciding = {"recipe": reader.recipe, "protocol": protocol.to_json(), "version": _version(reader)}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


def _version(reader: Reader) -> int:
    return RENDERED_VERSION if reader.is_deterministic else STORE_VERSION


def prepare(
    reader: Reader, protocol: Protocol, folder: Path, *, workers: int = 1, progress: Progress = silent
) -> Store:
    """Return the store of `reader` under `folder`, made now where it is not there yet.

    workers: processes that read.
    Raises InputError where the reader finds bad input, no image has a valid pixel, or the disk is full; what was
    finished until then is kept, and the same call goes on from there.
    """
    path = store_path(reader, protocol, folder)
    if path.exists():
        return Store.open(path)
    with disk_full_reported(folder, "prepared dataset"):
        folder.mkdir(parents=True, exist_ok=True)
        # One process prepares; another that needs the same dataset waits, and finds it.
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                _make(reader, protocol, path, workers, progress)
    return Store.open(path)


class _Image(NamedTuple):
    """What the log says of an image.

    hash: of its layers. median_m, far_m: of its depth, of which 99 % is nearer. cell_share: of the cells that keep a
    depth. native_share: of the native pixels that are truth; None where it has none.
    """

    name: str
    scene: str
    side: str
    layers: Sequence[str]
    hash: str
    median_m: float
    far_m: float
    cell_share: float
    native_share: float | None


# An image and its layers, as they are stored.
_Read = tuple[_Image, Mapping[str, np.ndarray]]


def _make(reader: Reader, protocol: Protocol, path: Path, workers: int, progress: Progress) -> None:
    unfinished, log_path = path.with_suffix(".unfinished"), path.with_suffix(".log")
    done = _finished(unfinished, log_path)
    images = [image for group in done for image in group]
    # Without a last line that was cut off, or the lines of a file that is gone.
    log_path.write_text("".join(f"{json.dumps(group)}\n" for group in done))
    sizes = [len(group.names) for group in reader.groups]
    num, todo = sum(sizes), range(len(done), len(sizes))
    with (
        # No cache of chunks: each image is written at once, and a full disk is noticed there, not while closing.
        h5py.File(unfinished, "r+" if done else "w", rdcc_nbytes=0) as file,
        log_path.open("a") as log,
        closing(_read_all(reader, protocol, todo, workers)) as read,
    ):
        with progress(f"prepare {reader.name}", num, sum(sizes[: todo.start])) as advance:
            for index, group in zip(todo, read, strict=True):
                for image, maps in group:
                    _write(file, reader, len(images), num, maps)
                    images.append(image)
                # In the file before it is in the log.
                file.flush()
                log.write(f"{json.dumps([image for image, _ in group])}\n")
                log.flush()
                advance(sizes[index])
        if not images:
            notes = " ".join(getattr(reader, "notes", ())) or "Check the depth scale and the range."
            raise InputError(
                f"{reader.source}: none of {num} images has a pixel with a depth between "
                f"{protocol.min_depth_m:g} and {protocol.max_depth_m:g} m. {notes}"
            )
        _conclude(file, reader, protocol, images, num - len(images))
    unfinished.replace(path)
    log_path.unlink()


def _finished(unfinished: Path, log: Path) -> list[list[_Image]]:
    """Return the groups that an interrupted preparation has in its file; none where the file is not as its log says."""
    try:
        # What follows the last line's end was cut off.
        groups = [[_Image(*image) for image in json.loads(line)] for line in log.read_text().split("\n")[:-1]]
        with h5py.File(unfinished, "r") as file:
            for row, image in enumerate(image for group in groups for image in group):
                if _content_hash({layer: dataset_of(file, layer)[row] for layer in image.layers}) != image.hash:
                    return []
    except (OSError, RuntimeError, LookupError, ValueError, TypeError):
        return []
    return groups


def _read_all(reader: Reader, protocol: Protocol, groups: range, workers: int) -> Generator[list[_Read]]:
    """Yield the images of each group, in order; read in processes where each has more than one group to read."""
    if workers == 1 or len(groups) <= workers:
        yield from (_read_group(reader, protocol, index) for index in groups)
        return
    pending: deque[Future[list[_Read]]] = deque()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_process, initargs=(reader, protocol))
    try:
        for index in groups:
            pending.append(pool.submit(_read_in_process, index))
            # Two a process: none waits for work, and little is held in memory.
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# Of a process of the pool. The reader comes with its start, not with each group: it may know of many files.
_process: tuple[Reader, Protocol]


def _start_process(reader: Reader, protocol: Protocol) -> None:
    global _process
    _process = reader, protocol
    # Ctrl-C reaches the whole process group; the parent alone decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="idl-parent", daemon=True).start()


def _end_with_parent() -> None:
    # Else the processes of a parent that was killed wait for work for ever.
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _read_in_process(index: int) -> list[_Read]:
    return _read_group(*_process, index)


def _read_group(reader: Reader, protocol: Protocol, index: int) -> list[_Read]:
    """Return the images of a group that have a valid pixel within the protocol's range.

    Raises InputError where native truth is missing or does not fit.
    """
    read: list[_Read] = []
    for sample in reader.read(index):
        depth, valid = within_range(sample.depth_m, sample.valid, protocol)
        if not valid.any():
            continue
        maps = {"rgb": sample.rgb, "depth": depth, "valid": valid, **sample.layers}
        # Nothing is measured on the published training side: its images may go without.
        if protocol.is_native and (NATIVE in maps or sample.side != "train"):
            where = f"{reader.source}: {sample.name}"
            if NATIVE not in maps:
                raise InputError(f"{where} has no native depth, which {protocol.name} is measured on.")
            protocol.require_frame(*maps[NATIVE].shape, where=where)
            maps[NATIVE] = within_range(maps[NATIVE], maps[NATIVE] > 0, protocol)[0]
        median_m, far_m = np.quantile(sample.depth_m[valid], (0.5, 0.99)).tolist()
        shares = float(valid.mean()), sample.native_share
        noted = (sample.name, sample.scene, sample.side, tuple(maps), _content_hash(maps), median_m, far_m, *shares)
        read.append((_Image(*noted), maps))
    return read


def _content_hash(maps: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for layer in sorted(maps):
        digest.update(f"{layer} {maps[layer].dtype} {maps[layer].shape}".encode())
        digest.update(np.ascontiguousarray(maps[layer]).data)
    return digest.hexdigest()


def _write(file: h5py.File, reader: Reader, row: int, most_images: int, maps: Mapping[str, np.ndarray]) -> None:
    """Write the layers of an image. most_images: that there are if none is left out."""
    for layer, values in maps.items():
        if layer not in file:
            # Of a chunk an image: one that lacks the layer has no chunk in it, takes no room, and is read as zeros.
            shape = (most_images, *values.shape)
            packing: dict[str, object] = {} if layer in PLAIN else {"compression": "lzf", "shuffle": True}
            file.create_dataset(layer, shape, values.dtype, chunks=(1, *values.shape), maxshape=shape, **packing)
        dataset = dataset_of(file, layer)
        if dataset.shape[1:] != values.shape:
            (height, width), (other_height, other_width) = dataset.shape[1:3], values.shape[:2]
            raise InputError(
                f"{reader.source}: {layer} has {height} x {width} pixels in one image, {other_height} x {other_width} "
                "in another. A store holds one size; prepare them apart."
            )
        if layer in PLAIN:
            # The chunk itself: by h5py's selection the layers of an image took 0.56 ms, so 0.19 ms.
            chunk = np.ascontiguousarray(values, dataset.dtype)
            dataset.id.write_direct_chunk((row, *(0,) * values.ndim), chunk)
        else:
            dataset[row] = values


def _conclude(file: h5py.File, reader: Reader, protocol: Protocol, images: Sequence[_Image], num_skipped: int) -> None:
    """Write what is known of the images and of the dataset, and cut the layers to the images that there are."""
    for name in list(file):
        if name in TEXTS:
            # An earlier process was killed here.
            del file[name]
        else:
            dataset_of(file, name).resize(len(images), axis=0)
    texts = {name: [getattr(image, name) for image in images] for name in TEXTS}
    # Only where some image has a side: the digests of stores without stay what they were.
    texts = {name: values for name, values in texts.items() if any(values)}
    for name, values in texts.items():
        file.create_dataset(name, data=values, dtype=h5py.string_dtype())
    names, scenes, *sides = texts.values()
    content = json.dumps([protocol.to_json(), names, scenes, [image.hash for image in images], *sides])
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    far_m = np.quantile([image.far_m for image in images], 0.95)
    file.attrs.update(
        {
            "version": _version(reader),
            "dataset": shortened(reader.name, MOST_NAME_CHARACTERS),
            "digest": _recipe_digest(reader, protocol) if reader.is_deterministic else digest,
            "content_digest": digest,
            "protocol": protocol.to_json(),
            "source": reader.source,
            "recipe": json.dumps(reader.recipe, sort_keys=True),
            "is_sequential": reader.is_sequential,
            # Rounded up to half a metre, for a scale with plain numbers.
            "shown_depth_m": float(np.ceil(2 * far_m) / 2),
            "notes": json.dumps(_notes(reader, protocol, images, num_skipped)),
        }
    )


def _notes(reader: Reader, protocol: Protocol, images: Sequence[_Image], num_skipped: int) -> list[str]:
    notes: list[str] = list(getattr(reader, "notes", ()))
    if num_skipped:
        notes.append(f"{num_skipped} of {num_skipped + len(images)} images have no valid pixel and were left out.")
    native_shares = [image.native_share for image in images if image.native_share is not None]
    if native_shares:
        cell_share = float(np.mean([image.cell_share for image in images]))
        notes += sparse_truth(cell_share, float(np.mean(native_shares)), protocol)
    # A folder has looked at its maps as they are stored, and says so in its own notes.
    if not hasattr(reader, "doubt_units"):
        doubt = doubt_units([(0, image.median_m, image.far_m) for image in images], reader.plausible_median_m)
        notes += [f"{reader.source}: {doubt}"] if doubt else []
    return notes


def sparse_truth(cell_share: float, native_share: float, protocol: Protocol) -> list[str]:
    """Return a note where much less truth is left than was measured, as of a lidar; none elsewhere.

    cell_share: of the cells that keep a depth. native_share: of the native pixels that are truth.
    """
    note = (
        f"{100 * cell_share:.2g} % of the cells keep a depth, of {100 * native_share:.2g} % of the pixels: sparse "
        f"depth? A cell counts where {protocol.min_valid_share:g} of it was measured; a smaller min_valid_share= "
        "keeps more."
    )
    return [note] if cell_share <= MOST_LOST * native_share else []
