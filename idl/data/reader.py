"""What a reader gives: the contract between a dataset on disk (or a recipe) and the store."""

import hashlib
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from idl.data.images import native_share, resize_depth, resize_normals, resize_rgb, truth_mask
from idl.errors import InputError
from idl.protocol import NATIVE, Protocol


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
    """A reader of one image a group that also gives any of them at the size that it was taken at."""

    protocol: Protocol

    @property
    @abstractmethod
    def groups(self) -> Sequence[Group]:
        """As of a `Reader`."""

    @abstractmethod
    def native_size(self, index: int) -> tuple[int, int]:
        """Return height and width of image `index`, pixels, without decoding it. Raises InputError naming the file."""

    @abstractmethod
    def rgb(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return the RGB of image `index`; for several threads. Raises InputError naming the file."""

    @abstractmethod
    def native(self, index: int) -> Native:
        """Return image `index`; for several threads. Raises InputError naming the file."""

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
        """Return one image at the protocol's size. Raises InputError naming the file."""
        native, group, protocol = self.as_stored(index), self.groups[index], self.protocol
        height, width = native.valid.shape
        if protocol.crop is not None and (protocol.crop[1] > height or protocol.crop[3] > width):
            raise InputError(
                f"protocol {protocol.name}: crop {protocol.crop} does not fit into {width} x {height} pixels, those of "
                f"image {group.names[0]}."
            )
        is_truth = truth_mask(native.depth_m, native.valid, protocol)
        depth_m, valid = resize_depth(native.depth_m, is_truth, protocol)
        layers: dict[str, np.ndarray] = {}
        if native.normals is not None and native.defined is not None:
            layers["normals"] = resize_normals(native.normals, native.defined & is_truth, protocol)
        if self.keeps_native(index):
            layers[NATIVE] = np.where(is_truth, native.depth_m, np.float32(0))
        rgb, share = resize_rgb(native.image, protocol), native_share(is_truth, protocol)
        return [Sample(group.names[0], group.scene, rgb, depth_m, valid, layers, self.side(index), share)]


def files_digest(files: Iterable[tuple[str, Path]]) -> str:
    """Return the SHA-256 of the names, sizes and times of files: a changed file makes another store."""
    digest = hashlib.sha256()
    for name, path in files:
        status = path.stat()
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
