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
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path

import h5py
import numpy as np
from filelock import FileLock

from idl.data.reader import Archive, Described, Noted, Reader
from idl.data.segments import Segment, copy_chunks, write_segment
from idl.data.store import STORE_VERSION, Store, dataset_of, texts_of
from idl.data.streaming import arriving, release, tidied
from idl.errors import InputError, full_disk_said
from idl.progress import Progress, silent
from idl.protocol import Protocol

# Short, so that the processes end together: with 48, two of them had 4 and 3 segments to do of 320 images.
IMAGES_PER_SEGMENT = 16


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
    with full_disk_said(path.parent, "prepared dataset"):
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
    with closing(_whole_segments(reader, protocol, segments, partial, workers, progress)) as whole:
        _consolidate(reader, protocol, whole, sum(segment.num_images for segment in segments), path)
    shutil.rmtree(partial)


def _segments(reader: Reader) -> list[Segment]:
    segments: list[Segment] = []
    first = count = 0
    groups = reader.groups
    for index, group in enumerate(groups):
        count += len(group.names)
        is_last = index == len(groups) - 1 or groups[index + 1].batch != group.batch
        if count >= IMAGES_PER_SEGMENT or is_last:
            segments.append(Segment(len(segments), first, index + 1, count))
            first, count = index + 1, 0
    return segments


def _whole_segments(
    reader: Reader,
    protocol: Protocol,
    segments: list[Segment],
    partial: Path,
    workers: int,
    progress: Progress,
) -> Generator[Path]:
    """Yield the segments in order, each as soon as it is whole; the processes go on meanwhile."""
    todo = [segment for segment in segments if not segment.path(partial).exists()]
    total = sum(segment.num_images for segment in segments)
    done = total - sum(segment.num_images for segment in todo)
    with (
        progress(f"prepare {reader.name}", total, done) as advance,
        tidied(reader),
        closing(arriving(reader, [segment.groups for segment in todo])) as ready,
    ):
        if workers == 1 or len(todo) <= 1:
            missing = set(todo)
            for segment in segments:
                while segment in missing:
                    written = todo[next(ready)]
                    write_segment(reader, protocol, written, partial)
                    release(reader, written.groups)
                    missing.remove(written)
                    advance(written.num_images)
                yield segment.path(partial)
            return
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_process) as pool:
            running: dict[Future[None], Segment] = {}
            try:
                missing = set(todo)
                for segment in segments:
                    while segment in missing:
                        # Two a process: none waits for work, and of what comes by little is set aside.
                        for position in islice(ready, 2 * workers - len(running)):
                            future = pool.submit(write_segment, reader, protocol, todo[position], partial)
                            running[future] = todo[position]
                        finished, _ = wait(running, return_when=FIRST_COMPLETED)
                        for future in finished:
                            future.result()
                            written = running.pop(future)
                            release(reader, written.groups)
                            missing.remove(written)
                            advance(written.num_images)
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
                    copy_chunks(reader, source, file, len(names), most_images)
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


def _notes(reader: Reader, num_skipped: int, medians: np.ndarray) -> list[str]:
    notes = list(reader.notes) if isinstance(reader, Noted) else []
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
