"""NYU Depth V2 as a reader: one image a group."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from idl.data.nyu.labeled import LabeledFile
from idl.data.nyu.sides import read_sides
from idl.data.reader import Group, Native, NativeReader, Sample
from idl.data.resizing import native_truth, resize_depth, resize_rgb
from idl.errors import InputError
from idl.protocol import NATIVE, Protocol

FILE, SPLITS_FILE = "nyu_depth_v2_labeled.mat", "splits.mat"
# Which array is the truth. In-painted depth has no holes: they were filled by colourisation guided by the RGB image, so
# that what an encoder sees of that image is in the target.
DEPTHS = {"sensor": "rawDepths", "inpainted": "depths"}
# (top, bottom, left, right): 427 x 561 pixels. It takes away 44 rows above, 9 below, 40 columns on the left and 39 on
# the right. That is the rectangle which the dataset's own toolbox keeps (get_projection_mask.m, rows 45 to 471 and
# columns 41 to 601 counted from 1): outside it the Kinect's depth does not reach once it is projected to the RGB
# camera, and the RGB's white frame, which undistortion left and a network would take for an object, lies there too.
CROP = (44, 471, 40, 601)


@dataclass(frozen=True)
class NyuReader(NativeReader):
    """Reads the labelled set in the order of the file; the names are "0001" and so on, as the splits count.

    data: nyu_depth_v2_labeled.mat, or a folder that holds it. Where splits.mat lies beside it, its sides are used.
    depths: "sensor" (raw depth more than 0) or "inpainted".
    size: height and width of the images; the published file has one size.
    """

    data: Path
    protocol: Protocol
    depths: str = "sensor"
    size: tuple[int, int] = (480, 640)
    name: str = "nyu"
    is_deterministic: bool = False
    is_sequential: bool = False
    plausible_median_m: tuple[float, float] = (0.5, 6.0)

    def __post_init__(self) -> None:
        """Raise InputError where a setting cannot be, or the file or the split beside it is not what it should be."""
        if self.depths not in DEPTHS:
            raise InputError(f"depths={self.depths}: expected {' or '.join(DEPTHS)}.")
        crop = self.protocol.crop
        if crop is not None and (crop[1] > self.size[0] or crop[3] > self.size[1]):
            raise InputError(f"{self.data}: crop {crop} does not fit into {self.size[1]} x {self.size[0]} pixels.")
        if self.protocol.is_native:
            self.protocol.require_frame(*self.size, where=str(self.data))
        _ = self._sides

    @property
    def source(self) -> str:
        """The file's path."""
        return str(self._path.resolve())

    @property
    def recipe(self) -> Mapping[str, object]:
        """Name, size and time of the file, which depth, and the sides: a changed file makes another store."""
        status = self._path.stat()
        return {
            "reader": "nyu",
            "file": self.source,
            "bytes": status.st_size,
            "time_ns": status.st_mtime_ns,
            "depths": self.depths,
            "sides": hashlib.sha256(" ".join(self._sides).encode()).hexdigest(),
        }

    @property
    def groups(self) -> Sequence[Group]:
        """One group an image."""
        return self._groups

    @cached_property
    def _groups(self) -> Sequence[Group]:
        return tuple(Group(scene, (f"{index + 1:04d}",)) for index, scene in enumerate(self._labeled.scenes))

    def read(self, index: int) -> list[Sample]:
        """Read one image and bring it to the protocol's size. Raises InputError naming the file and the image."""
        native = self.native(index)
        resized_m, kept = resize_depth(native.depth_m, native.valid, self.protocol)
        # Of all images, not of the published test side only: another split may test on any of them.
        layers = {NATIVE: native_truth(native.depth_m, native.valid, self.protocol)} if self.protocol.is_native else {}
        group = self.groups[index]
        rgb = resize_rgb(native.image, self.protocol)
        return [Sample(group.names[0], group.scene, rgb, resized_m, kept, layers, self._sides[index])]

    def native_size(self, index: int) -> tuple[int, int]:
        """All images have one size."""
        return self.size

    def rgb(self, index: int) -> Image.Image:
        """Read one image without its depth. Raises InputError naming the file and the image."""
        return self._labeled.rgb(index)

    def native(self, index: int) -> Native:
        """Read one image. Raises InputError naming the file and the image."""
        return Native(*self._labeled.read(index))

    @property
    def sides(self) -> Sequence[str]:
        """Side of the published split of each image, "" where there is no split beside the file."""
        return self._sides

    @cached_property
    def _path(self) -> Path:
        if self.data.is_dir():
            if (self.data / FILE).is_file():
                return self.data / FILE
            raise InputError(f"{self.data}: no {FILE} in it. Pass data= the file, or the folder that holds it.")
        if not self.data.is_file():
            raise InputError(f"{self.data}: no such file. Pass data= {FILE}, or the folder that holds it.")
        return self.data

    @cached_property
    def _labeled(self) -> LabeledFile:
        return LabeledFile.open(self._path, DEPTHS[self.depths], self.size)

    @cached_property
    def _sides(self) -> tuple[str, ...]:
        splits, count = self._path.with_name(SPLITS_FILE), self._labeled.num_images
        return read_sides(splits, count) if splits.is_file() else ("",) * count
