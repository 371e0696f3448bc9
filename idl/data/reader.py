"""What a reader gives: the contract between a dataset on disk (or a recipe) and the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float32, UInt8


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
class Group:
    """Images that are read together: the views of one scene, or a single pair of files."""

    scene: str
    names: tuple[str, ...]


class Reader(Protocol):
    """A dataset, read group by group.

    Everything but `read` is cheap and is asked before work starts. `read` may be called in another process:
    a reader is picklable.
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
        """Read group `index`. Raises InputError, naming the file, where it cannot be read.

        A group may come back shorter than it was announced: images without a valid pixel are left out.
        """
        ...
