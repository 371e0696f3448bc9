"""What a reader gives: the contract between a dataset on disk (or a recipe) and the store; the files of a folder."""

import hashlib
import os
import typing
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from idl.data.images import native_share, read_rgb, resize_depth, resize_normals, resize_rgb, rgb_size, truth_mask
from idl.errors import InputError
from idl.protocol import NATIVE, Crop, Protocol

# What macOS, and a disk station, leave beside files in folders of their own.
_NOT_DATA = ("__MACOSX", "@eaDir")
# What is made of a native image.
LAYERS = ("rgb", "depth", "valid", "normals")


@dataclass(frozen=True)
class Sample:
    """One RGB-D pair at the protocol's size, resolution x width.

    depth_m: metres along the optical axis; 0 where not valid.
    valid: True where `depth_m` is a real measurement.
    layers: further maps by name: "normals" float16 (H, W, 3), unit length in camera coordinates
      (x right, y down, z forward; a surface that faces the camera has z < 0), 0 where there is none;
      "objects", "kinds", "materials" uint8 (H, W). Under a native protocol also "native_depth" float32: metres at
      the size of the sensor, the same for all images, 0 where not truth (`images.truth_mask`).
    side: of the dataset's published split that the image is on, "train" or "test"; "" where there is none.
    native_share: share of truth among the native pixels that it was made of; None where there were none.
    """

    name: str
    scene: str
    rgb: UInt8[np.ndarray, "H W 3"]
    depth_m: Float32[np.ndarray, "H W"]
    valid: Bool[np.ndarray, "H W"]
    layers: Mapping[str, np.ndarray] = field(default_factory=dict)
    side: str = ""
    native_share: float | None = None


@dataclass(frozen=True)
class Native:
    """An RGB-D pair as it was taken, before it is brought to the protocol's size.

    image: RGB. depth_m: metres along the optical axis; what stands where it is not valid does not matter.
    valid: True where `depth_m` is a real measurement, before the protocol's erosion.
    normals: as in `Sample`, float32; None where the dataset has none. defined: where there is a normal.
    """

    image: UInt8[np.ndarray, "H W 3"]
    depth_m: Float32[np.ndarray, "H W"]
    valid: Bool[np.ndarray, "H W"]
    normals: Float32[np.ndarray, "H W 3"] | None = None
    defined: Bool[np.ndarray, "H W"] | None = None

    def truth(self, protocol: Protocol) -> Self:
        """Return the same with what is truth under a protocol, `images.truth_mask`, in the place of `valid`."""
        return replace(self, valid=truth_mask(self.depth_m, self.valid, protocol))

    def part(self, box: Crop) -> Self:
        """Return the pixels within a box, (top, bottom, left, right)."""
        place = np.s_[box[0] : box[1], box[2] : box[3]]
        maps = (self.image, self.depth_m, self.valid, self.normals, self.defined)
        return type(self)(*(None if each is None else each[place] for each in maps))  # pyright: ignore[reportArgumentType]

    def resized(self, protocol: Protocol, layers: Collection[str] = LAYERS) -> dict[str, np.ndarray]:
        """Return layers at the protocol's size, as in a store; without normals where there are none.

        `valid` is the truth, as `truth` returns it.
        """
        made: dict[str, np.ndarray] = {}
        if "rgb" in layers:
            made["rgb"] = resize_rgb(self.image, protocol)
        if "depth" in layers or "valid" in layers:
            made["depth"], made["valid"] = resize_depth(self.depth_m, self.valid, protocol)
        if "normals" in layers and self.normals is not None and self.defined is not None:
            made["normals"] = resize_normals(self.normals, self.defined & self.valid, protocol)
        return made


@dataclass(frozen=True)
class Group:
    """Images that are read together: the views of one scene, or a single pair of files."""

    scene: str
    names: tuple[str, ...]


class Reader(typing.Protocol):
    """A dataset, read group by group.

    Everything but `read` is cheap and is used before work starts. `read` may be called in another process: a reader is
    picklable. A reader may also have `notes`: what people should know of this choice of data, a line each.
    """

    @property
    def name(self) -> str:
        """The dataset's name in runs and aliases: letters, digits, `_` and `-`."""
        ...

    @property
    def source(self) -> str:
        """Where the data comes from, for people: a path or a recipe in words."""
        ...

    @property
    def recipe(self) -> Mapping[str, object]:
        """All that decides the content, as JSON values; a store resumes only under an equal recipe."""
        ...

    @property
    def is_deterministic(self) -> bool:
        """True where the recipe alone fixes the content, so that its digest is the dataset's digest."""
        ...

    @property
    def is_sequential(self) -> bool:
        """True where the scenes are consecutive pieces of one recording: they are split in order, not at random."""
        ...

    @property
    def plausible_median_m(self) -> tuple[float, float]:
        """Range that the median depth in metres is expected in; outside it the unit is doubted."""
        ...

    @property
    def groups(self) -> Sequence[Group]:
        """All groups in order; names are unique over the dataset."""
        ...

    def read(self, index: int) -> list[Sample]:
        """Return the images of group `index`. Raises InputError, naming the file, where it cannot be read.

        A group may come back shorter than it was announced: images without a valid pixel are left out.
        """
        ...


class NativeReader(ABC):
    """A reader of one image a group that also gives any of them at the size that it was taken at.

    Its methods are called from several threads, and raise InputError naming the file that cannot be read.
    """

    protocol: Protocol
    is_deterministic = False

    @property
    def groups(self) -> Sequence[Group]:
        """One group an image, in order."""
        return self._groups

    @cached_property
    def _groups(self) -> Sequence[Group]:
        raise NotImplementedError

    @abstractmethod
    def native_size(self, index: int) -> tuple[int, int]:
        """Return height and width of image `index`, pixels, without decoding it."""

    @abstractmethod
    def rgb(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return the RGB of image `index`."""

    @abstractmethod
    def native(self, index: int) -> Native:
        """Return image `index`."""

    def as_stored(self, index: int) -> Native:
        """Return image `index` with depth and mask at their own size, which may be another than the picture's."""
        return self.native(index)

    def side(self, index: int) -> str:
        """Return the side of the published split that image `index` is on, "" where there is none."""
        return ""

    def keeps_native(self, index: int) -> bool:
        """Return whether image `index` has the layer of native truth."""
        return self.protocol.is_native

    def read(self, index: int) -> list[Sample]:
        """Return one image at the protocol's size."""
        native, group, protocol = self.as_stored(index), self.groups[index], self.protocol
        height, width = native.valid.shape
        if protocol.crop is not None and (protocol.crop[1] > height or protocol.crop[3] > width):
            raise InputError(
                f"protocol {protocol.name}: crop {protocol.crop} does not fit into {width} x {height} pixels, those of "
                f"image {group.names[0]}."
            )
        native = native.truth(protocol)
        layers = native.resized(protocol)
        if self.keeps_native(index):
            layers[NATIVE] = np.where(native.valid, native.depth_m, np.float32(0))
        rgb, depth_m, valid = (layers.pop(layer) for layer in ("rgb", "depth", "valid"))
        share = native_share(native.valid, protocol)
        return [Sample(group.names[0], group.scene, rgb, depth_m, valid, layers, self.side(index), share)]


class FileReader(NativeReader):
    """A reader of the picture files under a folder, `root`."""

    root: Path

    @property
    def source(self) -> str:
        """The folder's path."""
        return str(self.root.resolve())

    @abstractmethod
    def picture(self, index: int) -> Path:
        """Return the file of picture `index`."""

    def native_size(self, index: int) -> tuple[int, int]:
        """Look at the picture's head."""
        return rgb_size(self.picture(index))

    def rgb(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return one picture."""
        return read_rgb(self.picture(index))


def shortened(name: str, most: int, told_apart_by: str = "") -> str:
    """Return a name of at most `most` characters: a longer one is cut, with a digest (of `told_apart_by`) behind."""
    if len(name) <= most:
        return name
    return f"{name[: most - 9]}-{hashlib.sha256(os.fsencode(told_apart_by or name)).hexdigest()[:8]}"


def walk(root: Path) -> Iterator[str]:
    """Yield the paths of all files below a folder, from it on, with `/` between, in order of their parts.

    Links are followed, but for one that leads back to a folder above itself. Names that begin with a dot are no data,
    nor is anything below such a folder. Raises InputError where a folder cannot be read.
    """
    yield from _walk(str(root), "", ())


def _walk(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    try:
        status = os.stat(folder)  # noqa: PTH116
        identity = status.st_dev, status.st_ino
        if identity in above:
            return
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}). Make it readable.") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _NOT_DATA:
            continue
        if entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, identity))
        elif entry.is_file():
            yield prefix + entry.name


def files_digest(files: Iterable[tuple[str, Path]]) -> str:
    """Return the SHA-256 of the names, sizes and times of files: a changed file makes another store."""
    digest = hashlib.sha256()
    for name, path in files:
        status = path.stat()
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
