"""nyu_depth_v2_labeled.mat: MATLAB v7.3, which is HDF5 with the axes of every array reversed.

Through h5py `images` is (image, channel, column, row), the depth maps (image, column, row), and a cell array of
strings is a row of object references into `#refs#`, each to a column of character codes.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from pathlib import Path
from typing import Self

import h5py
import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image

from idl.errors import InputError

# All that have one map an image; a file that was put together wrongly shows in any of them.
_MAPS = {
    "depths": np.floating,
    "rawDepths": np.floating,
    "labels": np.unsignedinteger,
    "instances": np.unsignedinteger,
}
# The chunks that one image touches must fit, or each is unpacked once for every image in it. HDF5's default is 1 MiB.
_LEAST_CACHE_BYTES, _MOST_CACHE_BYTES = 2**20, 2**26


@dataclass(frozen=True)
class LabeledFile:
    """The labelled set, whose layout was looked at; its images are read one by one.

    depth_key: "rawDepths" or "depths". num_images: images in the file. scenes: one an image.
    cache_bytes: of unpacked chunks that HDF5 keeps for each array.
    """

    path: Path
    depth_key: str
    num_images: int
    scenes: tuple[str, ...]
    cache_bytes: int

    @classmethod
    def open(cls, path: Path, depth_key: str, size: tuple[int, int]) -> Self:
        """Look at everything but the images.

        size: height and width of the images.
        Raises InputError where the file is none, is not whole, or has another layout.
        """
        _require_hdf5(path)
        try:
            with h5py.File(path, "r") as file:
                images = _array(file, path, "images")
                count = len(images) if images.ndim else 0
                _require_array(path, images, (count, 3, size[1], size[0]), np.uint8)
                if not count:
                    raise InputError(f"{path}: `images` is empty. Fetch the file again.")
                for key, kind in _MAPS.items():
                    if key == depth_key or key in file:
                        _require_array(path, _array(file, path, key), (count, size[1], size[0]), kind)
                depth = _array(file, path, depth_key)
                cache_bytes = max(_bytes_touched(images), _bytes_touched(depth), _LEAST_CACHE_BYTES)
                scenes = _strings(file, path, "scenes", count)
                return cls(path, depth_key, count, scenes, min(cache_bytes, _MOST_CACHE_BYTES))
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read ({_line(error)}). It is cut short or damaged: fetch it again."
            ) from error

    def read(self, index: int) -> tuple[Image.Image, Float32[np.ndarray, "H W"], Bool[np.ndarray, "H W"]]:
        """Read image `index`, from 0: RGB, metres, and where they are more than 0, which stands for missing.

        Raises InputError where it cannot be read.
        """
        depth_m = self._of_image(self._depth, index).astype(np.float32, copy=False).T
        with np.errstate(invalid="ignore"):
            return self.rgb(index), depth_m, np.isfinite(depth_m) & (depth_m > 0)

    def rgb(self, index: int) -> Image.Image:
        """Read image `index`, from 0, without its depth. Raises InputError where it cannot be read."""
        planes = self._of_image(self._images, index)
        # Pillow turns the axes in 0.4 ms; numpy's copy of a turned array takes 1.3 ms.
        return Image.merge("RGB", [Image.fromarray(plane) for plane in planes]).transpose(Image.Transpose.TRANSPOSE)

    def _of_image(self, array: h5py.Dataset, index: int) -> np.ndarray:
        try:
            return array[index]
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{self.path}: image {index + 1} cannot be read ({_line(error)}). The file is damaged: fetch it again."
            ) from error

    @cached_property
    def _file(self) -> h5py.File:
        # Kept open, and what HDF5 has unpacked with it: a chunk that several images share is unpacked once.
        return h5py.File(self.path, "r", rdcc_nbytes=self.cache_bytes, rdcc_nslots=10_007)

    @cached_property
    def _images(self) -> h5py.Dataset:
        return _array(self._file, self.path, "images")

    @cached_property
    def _depth(self) -> h5py.Dataset:
        return _array(self._file, self.path, self.depth_key)

    def __getstate__(self) -> dict[str, object]:
        """Leave the open file behind: another process opens its own."""
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}


def _require_hdf5(path: Path) -> None:
    try:
        if h5py.is_hdf5(path):
            return
        with path.open("rb") as file:
            header = file.read(128)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    if header.startswith(b"MATLAB 7.3"):
        raise InputError(f"{path}: cut short after {path.stat().st_size} bytes. Fetch it again.")
    # Versions 5, 6 and 7 all call themselves 5.0.
    if header.startswith(b"MATLAB"):
        raise InputError(
            f"{path}: a MATLAB file older than v7.3. Convert it in MATLAB: "
            f"s = load('{path.name}'); save('{path.name}', '-struct', 's', '-v7.3')."
        )
    raise InputError(f"{path}: not a MATLAB v7.3 file. Pass data= nyu_depth_v2_labeled.mat as it was published.")


def _array(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        have = ", ".join(name for name in map(str, file) if name[0] != "#") or "nothing"
        raise InputError(
            f"{path}: no array `{key}` (it has {have}). Pass nyu_depth_v2_labeled.mat as it was published."
        )
    return found


def _require_array(path: Path, array: h5py.Dataset, expected: tuple[int, ...], kind: type[np.generic]) -> None:
    name = str(array.name).removeprefix("/")
    if array.shape == expected and np.issubdtype(array.dtype, kind):
        return
    if array.shape == expected:
        raise InputError(
            f"{path}: `{name}` is {array.dtype}, expected {kind.__name__}. Pass nyu_depth_v2_labeled.mat as it was "
            "published."
        )
    if array.shape[1:] == expected[1:]:
        raise InputError(f"{path}: `{name}` has {len(array)} images, `images` has {expected[0]}. Fetch the file again.")
    columns, rows = expected[-2:]
    raise InputError(
        f"{path}: `{name}` has shape {array.shape}, expected (images, {'3, ' if len(expected) == 4 else ''}{columns}, "
        f"{rows}): the axes of a MATLAB file through HDF5, reversed. Save it from MATLAB with -v7.3."
    )


def _bytes_touched(array: h5py.Dataset) -> int:
    """Size of all chunks that one image has a part in, unpacked."""
    if array.chunks is None:
        return 0
    across = zip(array.shape[1:], array.chunks[1:], strict=True)
    return prod(array.chunks) * prod(ceil(length / chunk) for length, chunk in across) * array.dtype.itemsize


def _strings(file: h5py.File, path: Path, key: str, num_images: int) -> tuple[str, ...]:
    """Follow a row of object references to one string an image."""
    array = _array(file, path, key)
    if h5py.check_ref_dtype(array.dtype) is not h5py.Reference:
        raise InputError(f"{path}: `{key}` is {array.dtype}, expected references to strings. Fetch the file again.")
    if array.size != num_images:
        raise InputError(f"{path}: `{key}` has {array.size} entries, `images` has {num_images}. Fetch the file again.")
    texts = []
    for number, reference in enumerate(array[:].flatten(), start=1):
        text = _text(file, reference)
        if not text:
            raise InputError(f"{path}: `{key}` has no text for image {number}. Fetch the file again.")
        texts.append(text)
    return tuple(texts)


def _text(file: h5py.File, reference: h5py.Reference) -> str:
    # Without h5py's own objects, which take several times as long: there are 1449.
    found = h5py.h5r.dereference(reference, file.id)
    # Of an empty array MATLAB writes the sizes in its place.
    if not isinstance(found, h5py.h5d.DatasetID) or h5py.h5a.exists(found, b"MATLAB_empty"):
        return ""
    codes = np.empty(found.shape, np.uint16)
    found.read(h5py.h5s.ALL, h5py.h5s.ALL, codes)
    return "".join(map(chr, codes.flatten().tolist()))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
