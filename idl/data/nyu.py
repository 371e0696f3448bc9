"""NYU Depth V2, the labelled set: 1449 indoor images of 480 x 640 with a Kinect's depth.

nyu_depth_v2_labeled.mat is MATLAB v7.3, which is HDF5 with the axes of every array reversed: through h5py `images` is
(image, channel, column, row), the depth maps (image, column, row), and a cell array of strings is a row of object
references into `#refs#`, each to a column of character codes. splits.mat, MATLAB v5, counts the images from 1.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from idl.data.reader import Group, Native, NativeReader
from idl.errors import InputError
from idl.protocol import Protocol

FILE, SPLITS_FILE = "nyu_depth_v2_labeled.mat", "splits.mat"
# Which array is the truth. In-painted depth has no holes: they were filled by colourisation guided by the RGB image, so
# that what an encoder sees of that image is in the target.
DEPTHS = {"sensor": "rawDepths", "inpainted": "depths"}
# (top, bottom, left, right), the rectangle that the dataset's own toolbox keeps (get_projection_mask.m, rows 45 to 471
# and columns 41 to 601 counted from 1): outside it the Kinect's depth does not reach once it is projected to the RGB
# camera, and the RGB's white frame, which undistortion left and a network would take for an object, lies there too.
CROP = (44, 471, 40, 601)
# All that have one map an image; a file that was put together wrongly shows in any of them.
_ARRAYS = {
    "images": np.uint8,
    "depths": np.floating,
    "rawDepths": np.floating,
    "labels": np.unsignedinteger,
    "instances": np.unsignedinteger,
}
_SIDES = {"train": "trainNdxs", "test": "testNdxs"}
# The chunks that one image touches must fit, or each is unpacked once for every image in it. HDF5's default is 1 MiB.
_LEAST_CACHE_BYTES, _MOST_CACHE_BYTES = 2**20, 2**26
_REMEDY = f"Pass {FILE} as it was published."


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
    is_sequential: bool = False
    plausible_median_m: tuple[float, float] = (0.5, 6.0)

    def __post_init__(self) -> None:
        """Raise InputError where a setting cannot be, or the file or the split beside it is not what it should be."""
        if self.protocol.is_native:
            self.protocol.require_frame(*self.size, where=str(self.data))
        _ = self.sides

    @property
    def source(self) -> str:
        """The file's path."""
        return str(self._path.resolve())

    @property
    def recipe(self) -> Mapping[str, object]:
        """Name, size and time of the file, which depth, and the sides: a changed file makes another store."""
        status, sides = self._path.stat(), hashlib.sha256(" ".join(self.sides).encode()).hexdigest()
        known = {"file": self.source, "bytes": status.st_size, "time_ns": status.st_mtime_ns}
        return {"reader": "nyu", **known, "depths": self.depths, "sides": sides}

    @cached_property
    def _groups(self) -> Sequence[Group]:
        return [Group(scene, (f"{index + 1:04d}",)) for index, scene in enumerate(self._layout[0])]

    @cached_property
    def sides(self) -> tuple[str, ...]:
        """Side of the published split of each image, "" where there is no split beside the file."""
        splits, count = self._path.with_name(SPLITS_FILE), len(self._layout[0])
        return read_sides(splits, count) if splits.is_file() else ("",) * count

    def side(self, index: int) -> str:
        """Return the side of one image."""
        return self.sides[index]

    def native_size(self, index: int) -> tuple[int, int]:
        """All images have one size."""
        return self.size

    def rgb(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return one image without its depth."""
        planes = self._read(0, index)
        # Pillow turns the axes in 0.4 ms; numpy's copy of a turned array takes 1.3 ms.
        merged = Image.merge("RGB", [Image.fromarray(plane) for plane in planes])
        return np.asarray(merged.transpose(Image.Transpose.TRANSPOSE))

    def native(self, index: int) -> Native:
        """Return one image; depth is missing where it is 0."""
        depth_m = self._read(1, index).astype(np.float32, copy=False).T
        with np.errstate(invalid="ignore"):
            return Native(self.rgb(index), depth_m, np.isfinite(depth_m) & (depth_m > 0))

    @cached_property
    def _path(self) -> Path:
        path = self.data / FILE if self.data.is_dir() else self.data
        if not path.is_file():
            problem = f"no {FILE} in it" if self.data.is_dir() else "no such file"
            raise InputError(f"{self.data}: {problem}. Pass data= {FILE}, or the folder that holds it.")
        return path

    @cached_property
    def _layout(self) -> tuple[tuple[str, ...], int]:
        return _layout(self._path, DEPTHS[self.depths], self.size)

    @cached_property
    def _arrays(self) -> tuple[h5py.Dataset, h5py.Dataset]:
        # Kept open, and what HDF5 has unpacked with it: a chunk that several images share is unpacked once.
        file = h5py.File(self._path, "r", rdcc_nbytes=self._layout[1], rdcc_nslots=10_007)
        return _array(file, self._path, "images"), _array(file, self._path, DEPTHS[self.depths])

    def _read(self, array: int, index: int) -> np.ndarray:
        try:
            return self._arrays[array][index]
        except (OSError, RuntimeError) as error:
            line = " ".join(str(error).split())
            raise InputError(
                f"{self._path}: image {index + 1} cannot be read ({line}). The file is damaged: fetch it again."
            ) from error

    def __getstate__(self) -> dict[str, object]:
        """Leave the open file behind: another process opens its own."""
        return {key: value for key, value in self.__dict__.items() if key != "_arrays"}


def _layout(path: Path, depth_key: str, size: tuple[int, int]) -> tuple[tuple[str, ...], int]:
    """Return the scene of each image, and the bytes of unpacked chunks that HDF5 has to keep for each array.

    size: height and width of the images. Raises InputError where the file is none, is not whole, or has other arrays.
    """
    try:
        if not h5py.is_hdf5(path):
            raise InputError(
                f"{path}: not a whole MATLAB v7.3 file. Fetch it again; one of an older version, convert in MATLAB: "
                f"s = load('{path.name}'); save('{path.name}', '-struct', 's', '-v7.3')."
            )
        with h5py.File(path, "r") as file:
            images, depth = (_array(file, path, key) for key in ("images", depth_key))
            count = len(images) if images.ndim else 0
            if not count:
                raise InputError(f"{path}: `images` is empty. Fetch the file again.")
            for key, kind in _ARRAYS.items():
                if key not in file:
                    continue
                array, expected = _array(file, path, key), (count, *([3] if key == "images" else []), size[1], size[0])
                if array.shape != expected:
                    raise InputError(
                        f"{path}: `{key}` has shape {array.shape}, expected {expected}: the axes of a MATLAB file "
                        "through HDF5, reversed. Fetch the file again, or save it from MATLAB with -v7.3."
                    )
                if not np.issubdtype(array.dtype, kind):
                    raise InputError(f"{path}: `{key}` is {array.dtype}, expected {kind.__name__}. {_REMEDY}")
            cache_bytes = max(_bytes_touched(images), _bytes_touched(depth), _LEAST_CACHE_BYTES)
            return _scenes(file, path, count), min(cache_bytes, _MOST_CACHE_BYTES)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        line = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read ({line}). It is cut short or damaged: fetch it again.") from error


def _array(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        have = ", ".join(name for name in map(str, file) if name[0] != "#") or "nothing"
        raise InputError(f"{path}: no array `{key}` (it has {have}). {_REMEDY}")
    return found


def _bytes_touched(array: h5py.Dataset) -> int:
    """Return the size of all chunks that one image has a part in, unpacked."""
    if array.chunks is None:
        return 0
    across = zip(array.shape[1:], array.chunks[1:], strict=True)
    return prod(array.chunks) * prod(ceil(length / chunk) for length, chunk in across) * array.dtype.itemsize


def _scenes(file: h5py.File, path: Path, num_images: int) -> tuple[str, ...]:
    """Follow the row of object references to the scene of each image."""
    array = _array(file, path, "scenes")
    if h5py.check_ref_dtype(array.dtype) is not h5py.Reference or array.size != num_images:
        raise InputError(
            f"{path}: `scenes` has {array.size} entries of {array.dtype}, expected references to {num_images} strings. "
            "Fetch the file again."
        )
    scenes = tuple(_text(file, reference) for reference in array[:].flatten())
    if not all(scenes):
        raise InputError(f"{path}: `scenes` has no text for image {scenes.index('') + 1}. Fetch the file again.")
    return scenes


def _text(file: h5py.File, reference: h5py.Reference) -> str:
    # Without h5py's own objects, which take several times as long: there are 1449.
    found = h5py.h5r.dereference(reference, file.id)
    # Of an empty array MATLAB writes the sizes in its place.
    if not isinstance(found, h5py.h5d.DatasetID) or h5py.h5a.exists(found, b"MATLAB_empty"):
        return ""
    codes = np.empty(found.shape, np.uint16)
    found.read(h5py.h5s.ALL, h5py.h5s.ALL, codes)
    return "".join(map(chr, codes.flatten().tolist()))


def read_sides(path: Path, num_images: int) -> tuple[str, ...]:
    """Return "train" or "test" for each image, from splits.mat with `trainNdxs` and `testNdxs`.

    Raises InputError where the two lists are not there, count from 0, or do not divide `num_images` images.
    """
    # Here, because it takes a quarter of a second, as much as the rest of the command line's modules.
    import scipy.io

    try:
        content = scipy.io.loadmat(path, variable_names=list(_SIDES.values()))
    except NotImplementedError as error:
        raise InputError(f"{path}: is MATLAB v7.3. Save it in MATLAB with -v7, or take the published file.") from error
    except Exception as error:
        # scipy raises whatever a damaged byte leads to: struct.error, zlib.error, TypeError, IndexError and others.
        raise InputError(f"{path}: not a readable MATLAB file ({error}). Take the published file.") from error
    numbers = {side: np.asarray(content.get(key, [])).flatten() for side, key in _SIDES.items()}
    for side, key in _SIDES.items():
        if not len(numbers[side]) or numbers[side].dtype.kind not in "iuf":
            raise InputError(f"{path}: no numbers in a list `{key}`. Take the published file.")
    together = np.sort(np.concatenate(list(numbers.values())))
    if not np.array_equal(together, np.arange(1, num_images + 1)):
        raise InputError(
            f"{path}: lists {len(together)} images, {together[0]:g} to {together[-1]:g}; expected each of 1 to "
            f"{num_images} once. Take the split of this file, or remove it: the split is by scene then."
        )
    return tuple(np.where(np.isin(np.arange(1, num_images + 1), numbers["train"]), "train", "test").tolist())
