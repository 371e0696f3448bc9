"""DIODE straight from its .tar.gz, without unpacking 81 GB to disk.

What it costs: one pass over each archive for its index, kept for all later preparations, and one more for each
preparation, or for its continuation, which goes only as far as the last frame that is missing. Each pass unpacks the
whole stream, on one core. A frame's files are set aside until it has all of them, are resized with the frames of its
segment, and are dropped: where an archive holds one scan after another, as one packed from the tree does, that is a
scan at a time, some 1.5 GB, with normals 3 GB.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from idl.data.diode.frames import read_frame
from idl.data.diode.layout import Found, Frame, catalogue, parse, select
from idl.data.diode.reader import PLAUSIBLE_MEDIAN_M, dataset_name, groups_of, is_native, notes_of
from idl.data.reader import Archive, Group, Noted, Sample, StreamedReader
from idl.data.tarball import Member, members
from idl.errors import InputError
from idl.progress import Progress
from idl.protocol import Protocol

SUFFIX = ".tar.gz"
_NORMALS = f"_normals{SUFFIX}"
_MB = 1_000_000


def find_archives(path: Path) -> tuple[Path, ...]:
    """The archives that `path` stands for: itself with its normals beside it, or all in a folder."""
    if path.is_dir():
        return tuple(sorted(each for each in path.iterdir() if each.name.endswith(SUFFIX) and each.is_file()))
    if not path.name.endswith(SUFFIX) or path.name.endswith(_NORMALS):
        return (path,)
    normals = path.with_name(path.name.removesuffix(SUFFIX) + _NORMALS)
    return (path, normals) if normals.is_file() else (path,)


class _Archived:
    """What holds of archives whether it is known what is in them or not."""

    @property
    def is_deterministic(self) -> bool:
        """Files decide, not a recipe."""
        return False

    @property
    def is_sequential(self) -> bool:
        """Scenes are places, in no order."""
        return False

    @property
    def plausible_median_m(self) -> tuple[float, float]:
        """As of a tree."""
        return PLAUSIBLE_MEDIAN_M


@dataclass(frozen=True)
class DiodeArchives(_Archived, Archive):
    """The archives, before it is known what is in them.

    path: what was asked for. archives: the .tar.gz files. subset: as in DiodeReader.
    """

    path: Path
    archives: tuple[Path, ...]
    protocol: Protocol
    subset: str = "all"

    @property
    def name(self) -> str:
        """The dataset's name, with its subset."""
        return dataset_name(self.subset)

    @property
    def source(self) -> str:
        """The path of the archive, or of the folder that holds them."""
        return str(self.path.resolve())

    @property
    def recipe(self) -> Mapping[str, object]:
        """Settings, and name, size and time of every archive."""
        return {
            "reader": "diode archives",
            "root": self.source,
            "subset": self.subset,
            "files": {archive.name: _state(archive) for archive in self.archives},
        }

    def indexed(self, indices: Path, spool: Path, progress: Progress) -> "IndexedArchives":
        """Return the reader, after a pass over each archive whose index is not there. Raises InputError."""
        files = tuple(tuple(_index(archive, indices, progress)) for archive in self.archives)
        reader = IndexedArchives(self, files, spool)
        # Asked now: a frame without its mask is said before the second pass.
        _ = reader.groups
        return reader


@dataclass(frozen=True)
class IndexedArchives(_Archived, Noted, StreamedReader):
    """The archives, when it is known what is in them.

    files: the names of the frames' files in each archive. spool: folder that files are set aside in.
    """

    origin: DiodeArchives
    files: tuple[tuple[str, ...], ...]
    spool: Path

    @property
    def name(self) -> str:
        """As before the index."""
        return self.origin.name

    @property
    def source(self) -> str:
        """As before the index."""
        return self.origin.source

    @property
    def recipe(self) -> Mapping[str, object]:
        """As before the index: the store is found without one."""
        return self.origin.recipe

    @property
    def groups(self) -> Sequence[Group]:
        """One group a frame."""
        return groups_of(self._frames)

    @property
    def notes(self) -> Sequence[str]:
        """What outdoor frames ask for."""
        return notes_of(self._frames, self.origin.protocol)

    def stream(self, wanted: Sequence[int]) -> Iterator[int]:
        """Go through the archives that hold something wanted, side by side, and set their files aside."""
        self.clear()
        frames = {self._frames[index]: index for index in wanted}
        missing = {frame: set(self._found[frame]) for frame in frames}
        under_way = [
            _Walk(archive)
            for archive, files in zip(self.origin.archives, self.files, strict=True)
            if any(frame in frames for frame, _ in map(_parsed, files))
        ]
        try:
            while missing:
                walk = _furthest_behind(under_way, self.source)
                member = walk.next()
                if member is None:
                    under_way.remove(walk)
                    continue
                parsed = parse(member.name)
                if parsed is None or parsed[0] not in missing:
                    continue
                frame, part = parsed
                member.save(self._set_aside(frame, part))
                missing[frame].discard(part)
                if not missing[frame]:
                    del missing[frame]
                    yield frames[frame]
        finally:
            for walk in under_way:
                walk.close()

    def read(self, index: int) -> list[Sample]:
        """Read a frame whose files are set aside. Raises InputError naming the archive's file."""
        frame = self._frames[index]
        parts = self._found[frame]
        files = {part: self._set_aside(frame, part) for part in parts}
        protocol = self.origin.protocol
        try:
            return [read_frame(frame, files, protocol, with_native=is_native(frame, self._frames, protocol))]
        except InputError as error:
            text = str(error)
            for part, path in files.items():
                text = text.replace(str(path), parts[part])
            raise InputError(text) from error

    def release(self, index: int) -> None:
        """Drop the files of a frame."""
        frame = self._frames[index]
        for part in self._found[frame]:
            self._set_aside(frame, part).unlink(missing_ok=True)

    def clear(self) -> None:
        """Drop the files of all frames."""
        shutil.rmtree(self.spool, ignore_errors=True)

    def _set_aside(self, frame: Frame, part: str) -> Path:
        # Its own name, never the member's.
        return self.spool / frame.file(part)

    @cached_property
    def _found(self) -> Found:
        pairs = zip(self.origin.archives, self.files, strict=True)
        return catalogue((name, f"{archive}: {name}") for archive, names in pairs for name in names)

    @cached_property
    def _frames(self) -> tuple[Frame, ...]:
        return select(self._found, self.origin.subset, self.source)


class _Walk:
    """An archive that is being gone through, and how far that is."""

    def __init__(self, archive: Path) -> None:
        self._members = members(archive)
        self._size = max(archive.stat().st_size, 1)
        self.share = 0.0

    def next(self) -> Member | None:
        member = next(self._members, None)
        if member is not None:
            self.share = member.consumed / self._size
        return member

    def close(self) -> None:
        self._members.close()


def _furthest_behind(walks: list[_Walk], source: str) -> _Walk:
    """Abreast, archives in the same order bring a frame's files at about the same time."""
    if not walks:
        raise InputError(f"{source}: changed since it was indexed, frames are missing. Start again.")
    return min(walks, key=lambda walk: walk.share)


def _parsed(name: str) -> tuple[Frame, str]:
    parsed = parse(name)
    assert parsed is not None, name
    return parsed


def _state(archive: Path) -> list[int]:
    status = archive.stat()
    return [status.st_size, status.st_mtime_ns]


def _index(archive: Path, folder: Path, progress: Progress) -> Sequence[str]:
    """The names of the frames' files in an archive, from `folder` or by going through all of it once."""
    state = [str(archive.resolve()), *_state(archive)]
    digest = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
    path = folder / f"{archive.name.removesuffix(SUFFIX)}-{digest}.json"
    if path.exists():
        return json.loads(path.read_text())
    names: list[str] = []
    total = archive.stat().st_size // _MB
    with progress(f"index {archive.name}", total, 0, "MB") as advance:
        done = 0
        for member in members(archive):
            advance(member.consumed // _MB - done)
            done = member.consumed // _MB
            if parse(member.name) is not None:
                names.append(member.name)
        advance(total - done)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(json.dumps(names))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return names
