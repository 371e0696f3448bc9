"""One frame of DIODE, from its files to a sample of the protocol's size."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from idl.data.diode.layout import SIDES, Frame
from idl.data.diode.normals import jumps, to_camera
from idl.data.folder import read_rgb
from idl.data.reader import Native, Sample
from idl.data.resizing import eroded, native_truth, resize_depth, resize_normals, resize_rgb
from idl.errors import InputError
from idl.protocol import NATIVE, Protocol


def read_frame(frame: Frame, files: Mapping[str, Path], protocol: Protocol, *, with_native: bool) -> Sample:
    """Read a frame and bring it to the protocol's size.

    with_native: the sample has the layer of native truth. The rest is as in `read_native`.
    """
    native = read_native(files, protocol)
    resized_m, kept = resize_depth(native.depth_m, native.valid, protocol)
    layers: dict[str, np.ndarray] = {}
    if native.normals is not None and native.defined is not None:
        defined = native.defined & eroded(native.valid, protocol.erosion)
        layers["normals"] = resize_normals(native.normals, defined, protocol)
    if with_native:
        layers[NATIVE] = native_truth(native.depth_m, native.valid, protocol)
    rgb = resize_rgb(native.image, protocol)
    return Sample(frame.name, frame.scene, rgb, resized_m, kept, layers, SIDES[frame.part])


def read_native(files: Mapping[str, Path], protocol: Protocol) -> Native:
    """Read a frame's files: paths of "rgb", "depth", "mask" and, where there are any, "normals".

    A pixel is valid where the mask says so and its depth is finite and above 0. With an erosion, also pixels at a jump
    in depth count as missing before the mask is eroded: the mask marks holes, the spurious returns sit beside jumps.
    Raises InputError, naming the file, where one cannot be read or is of another size than the image.
    """
    image = read_rgb(files["rgb"])
    depth_m = _read_depth(files["depth"], image)
    with np.errstate(invalid="ignore"):
        valid = _read_mask(files["mask"], image) & np.isfinite(depth_m) & (depth_m > 0)
    if protocol.erosion:
        valid &= ~jumps(depth_m, valid)
    if "normals" not in files:
        return Native(image, depth_m, valid)
    return Native(image, depth_m, valid, *to_camera(_read_normals(files["normals"], image)))


def _read_depth(path: Path, image: Image.Image) -> np.ndarray:
    values = _load(path, image, channels=1)
    if values.dtype.kind != "f":
        raise InputError(f"{path}: depth is {values.dtype}, expected float32 metres. Unpack it again.")
    return values.astype(np.float32, copy=False)


def _read_mask(path: Path, image: Image.Image) -> np.ndarray:
    values = _load(path, image, channels=1)
    if values.dtype.kind not in "biuf":
        raise InputError(f"{path}: the mask is {values.dtype}, expected numbers, 1 where valid. Unpack it again.")
    # Its type differs between files: compared, never taken as it is. Not a number is not above 0.
    return values > 0


def _read_normals(path: Path, image: Image.Image) -> np.ndarray:
    values = _load(path, image, channels=3)
    if values.dtype.kind != "f":
        raise InputError(f"{path}: normals are {values.dtype}, expected float32. Unpack it again.")
    return values


def _load(path: Path, image: Image.Image, channels: int) -> np.ndarray:
    """Read an array of the image's size: (H, W) or (H, W, 1) for one channel, which comes back as (H, W)."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a readable .npy ({_one_line(error)}). Unpack it again.") from error
    if not isinstance(values, np.ndarray):
        raise InputError(f"{path}: an archive of arrays, expected one array. Unpack it again.")
    shape = values.shape[:2] if channels == 1 and values.shape[2:] == (1,) else values.shape
    expected = (image.height, image.width) if channels == 1 else (image.height, image.width, channels)
    if shape != expected:
        raise InputError(f"{path}: has shape {values.shape}, its RGB image needs {expected}. Unpack it again.")
    return values.reshape(expected)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
