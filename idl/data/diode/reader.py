"""DIODE from a tree on disk."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from idl.data.diode.frames import read_frame, read_native
from idl.data.diode.layout import SIDES, Found, Frame, catalogue, select
from idl.data.folder import read_rgb, rgb_size
from idl.data.reader import Group, Native, NativeReader, Noted, Sample
from idl.errors import InputError
from idl.protocol import Protocol

# Half a metre to half a kilometre: the data run from 0.6 to 350 m.
PLAUSIBLE_MEDIAN_M = (0.5, 200.0)
# data= may name any folder from the one above train/ down to a scan; links are followed, and may form a ring.
_DEEPEST = 8


@dataclass(frozen=True)
class DiodeReader(Noted, NativeReader):
    """Reads the frames that are under a folder, whichever of train, val, indoors and outdoor that is.

    root: the folder that holds train/ or val/, or one below them.
    subset: "all", "indoors", "outdoor", or scenes with commas between them.
    """

    root: Path
    protocol: Protocol
    subset: str = "all"
    is_deterministic: bool = False
    is_sequential: bool = False
    plausible_median_m: tuple[float, float] = PLAUSIBLE_MEDIAN_M

    @property
    def name(self) -> str:
        """The dataset's name, with its subset."""
        return dataset_name(self.subset)

    @property
    def source(self) -> str:
        """The folder's path."""
        return str(self.root.resolve())

    @property
    def recipe(self) -> Mapping[str, object]:
        """Settings, and name, size and time of every file: a changed file makes another store."""
        return {"reader": "diode", "root": self.source, "subset": self.subset, "files": self._files_digest}

    @property
    def groups(self) -> Sequence[Group]:
        """One group a frame."""
        return groups_of(self.frames)

    @property
    def notes(self) -> Sequence[str]:
        """What outdoor frames ask for."""
        return notes_of(self.frames, self.protocol)

    def read(self, index: int) -> list[Sample]:
        """Read one frame. Raises InputError naming the file."""
        frame = self.frames[index]
        with_native = is_native(frame, self.frames, self.protocol)
        return [read_frame(frame, self._files_of(index), self.protocol, with_native=with_native)]

    def native_size(self, index: int) -> tuple[int, int]:
        """Look at the image's header. Raises InputError naming the file."""
        return rgb_size(self._files_of(index)["rgb"])

    def rgb(self, index: int) -> Image.Image:
        """Read one frame's image. Raises InputError naming the file."""
        return read_rgb(self._files_of(index)["rgb"])

    def native(self, index: int) -> Native:
        """Read one frame. Raises InputError naming the file."""
        return read_native(self._files_of(index), self.protocol)

    def _files_of(self, index: int) -> Mapping[str, Path]:
        return {part: Path(path) for part, path in self.found[self.frames[index]].items()}

    @property
    def has_frames(self) -> bool:
        """Something under the folder is named as a file of DIODE's is."""
        return bool(self.found)

    @cached_property
    def found(self) -> Found:
        """Every file of DIODE's under the folder, by frame. Raises InputError where one is there twice."""
        # Not resolved: where train/ is a link, its name is that of the link.
        return catalogue((path, path) for path in _files(str(self.root.absolute())))

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """The frames of the subset, in order. Raises InputError where one is not whole, or there are none."""
        return select(self.found, self.subset, str(self.root))

    @cached_property
    def _files_digest(self) -> str:
        files = hashlib.sha256()
        for frame in self.frames:
            for part, path in sorted(self.found[frame].items()):
                status = Path(path).stat()
                files.update(f"{frame.file(part)} {status.st_size} {status.st_mtime_ns}\n".encode())
        return files.hexdigest()


def dataset_name(subset: str) -> str:
    """diode, diode-indoors or diode-outdoor; diode-scenes for a choice of scenes."""
    return {"all": "diode", "indoors": "diode-indoors", "outdoor": "diode-outdoor"}.get(subset.strip(), "diode-scenes")


def groups_of(frames: Sequence[Frame]) -> tuple[Group, ...]:
    """A group a frame, batched by scan: an archive that holds scans one after another is read with few set aside."""
    return tuple(Group(frame.scene, (frame.name,), frame.scan_path) for frame in frames)


def is_native(frame: Frame, frames: Sequence[Frame], protocol: Protocol) -> bool:
    """Native truth is kept of the frames that are measured: the published test side, or all where there is none."""
    if not protocol.is_native:
        return False
    # Sorted: the frames of val, if there are any, come last.
    return SIDES[frame.part] == "test" or SIDES[frames[-1].part] != "test"


def notes_of(frames: Sequence[Frame], protocol: Protocol) -> tuple[str, ...]:
    """A line where outdoor frames are among the others."""
    num_outdoor = sum(frame.place == "outdoor" for frame in frames)
    if not num_outdoor:
        return ()
    # The protocol's 10 m are for rooms.
    cut = ""
    if protocol.max_depth_m < 80:
        cut = f" Truth beyond max_depth={protocol.max_depth_m:g} m is left out here: pass max_depth=80 or 350."
    return (
        f"{num_outdoor} of {len(frames)} images of DIODE are outdoor, where depth runs to 350 m: pass "
        f"target=log-depth, so that the farthest pixels do not decide the fit alone.{cut}",
    )


def _files(root: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_cannot_read):
        folders.sort()
        if folder.count(os.sep) - root.count(os.sep) >= _DEEPEST:
            folders.clear()
        yield from (f"{folder}/{name}" for name in sorted(names))


def _cannot_read(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror}). Make it readable.")
