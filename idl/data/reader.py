"""What a reader gives: the contract between a dataset on disk (or a recipe) and the store."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from idl.progress import Progress


@dataclass(frozen=True)
class Sample:
    """One RGB-D pair at the protocol's size, resolution x width.

    depth_m: metres along the optical axis; 0 where not valid.
    valid: True where `depth_m` is a real measurement.
    layers: further maps by name: "normals" float16 (H, W, 3), unit length in camera coordinates
      (x right, y down, z forward; a surface that faces the camera has z < 0), 0 where there is none;
      "objects", "kinds", "materials" uint8 (H, W). Under a native protocol also "native_depth" float32: metres at
      the size of the sensor, the same for all images, 0 where not valid (`resizing.native_truth`).
    side: of the dataset's published split that the image is on, "train" or "test"; "" where there is none.
    """

    name: str
    scene: str
    rgb: UInt8[np.ndarray, "H W 3"]
    depth_m: Float32[np.ndarray, "H W"]
    valid: Bool[np.ndarray, "H W"]
    layers: Mapping[str, np.ndarray] = field(default_factory=dict)
    side: str = ""


@dataclass(frozen=True)
class Native:
    """An RGB-D pair as it was taken, before it is brought to the protocol's size.

    image: RGB. depth_m: metres along the optical axis; what stands where it is not valid does not matter.
    valid: True where `depth_m` is a real measurement, before the protocol's erosion.
    normals: as in `Sample`, float32; None where the dataset has none. defined: where there is a normal.
    """

    image: Image.Image
    depth_m: Float32[np.ndarray, "H W"]
    valid: Bool[np.ndarray, "H W"]
    normals: Float32[np.ndarray, "H W 3"] | None = None
    defined: Bool[np.ndarray, "H W"] | None = None


@dataclass(frozen=True)
class Group:
    """Images that are read together: the views of one scene, or a single pair of files.

    batch: groups of different batches are written to different segments; what lies together is wanted together.
    """

    scene: str
    names: tuple[str, ...]
    batch: str = ""


class Described(Protocol):
    """What is known of a dataset without reading it: cheap, and asked before work starts."""

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


class Reader(Described, Protocol):
    """A dataset, read group by group.

    Everything but `read` is cheap and is asked before work starts. `read` may be called in another process:
    a reader is picklable.
    """

    @property
    def groups(self) -> Sequence[Group]:
        """All groups in order; names are unique over the dataset."""
        ...

    def read(self, index: int) -> list[Sample]:
        """Read group `index`. Raises InputError, naming the file, where it cannot be read.

        A group may come back shorter than it was announced: images without a valid pixel are left out.
        """
        ...


class Noted(ABC):
    """What a reader may also have: words about its data."""

    @property
    @abstractmethod
    def notes(self) -> Sequence[str]:
        """What people should know of this choice of data, a line each; kept in the store."""


class NativeReader(ABC):
    """What a reader of one image a group may also have: any of them at the size that it was taken at."""

    @property
    @abstractmethod
    def groups(self) -> Sequence[Group]:
        """As of a `Reader`."""

    @abstractmethod
    def native_size(self, index: int) -> tuple[int, int]:
        """Height and width of image `index`, pixels, without decoding it. Raises InputError naming the file."""

    @abstractmethod
    def rgb(self, index: int) -> Image.Image:
        """Read the RGB of image `index`. May be called from several threads. Raises InputError naming the file."""

    @abstractmethod
    def native(self, index: int) -> Native:
        """Read image `index`. May be called from several threads. Raises InputError naming the file."""


class StreamedReader(Reader, ABC):
    """A dataset that can only be gone through from beginning to end: a group can be read when it has come by."""

    @abstractmethod
    def stream(self, wanted: Sequence[int]) -> Iterator[int]:
        """Go through the source once, and yield each group of `wanted` when `read` can have it.

        Nothing is read ahead of what is asked for. Raises InputError where the source ends before or is damaged.
        """

    @abstractmethod
    def release(self, index: int) -> None:
        """Drop what was set aside for a group that has been read."""

    @abstractmethod
    def clear(self) -> None:
        """Drop everything that was set aside."""


class Archive(Described, ABC):
    """A dataset in compressed archives: what is in them is known after one pass over them."""

    @abstractmethod
    def indexed(self, indices: Path, spool: Path, progress: Progress) -> StreamedReader:
        """Return the reader, after a pass over each archive that `indices` holds no index of.

        indices: folder of indices, which outlast the preparation. spool: folder to set files aside in.
        Raises InputError where an archive is damaged, ends too soon or has a member that must not be.
        """
