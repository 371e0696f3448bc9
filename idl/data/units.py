"""The numbers of a depth map: how files that are no pictures hold them, and whether they can be metres.

Such files are NumPy's, PFM, HDF5 and, with the extra `exr`, OpenEXR.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float32, Shaped, UInt16

from idl.errors import InputError

_PFM_HEAD = re.compile(rb"(P[fF])\s+(\d+)\s+(\d+)\s+(\S+)(?:\r\n|\s)")
# The channel that is depth, of an image with several, in lower case and without its layer.
_EXR_DEPTH = ("z", "depth", "d", "y", "v")
# Units a metre that depth maps are known to come in.
SCALES = (1000.0, 5000.0, 256.0, 100.0, 10.0)
# Of a frame of 1024 x 768, pixels: half its width over the tangent of half of 60 degrees. Some scenes of Hypersim have
# a shifted lens besides, which is not known here.
_HYPERSIM_FOCAL, _HYPERSIM_WIDTH = 886.81, 1024


def _chosen(names: list[str]) -> str:
    if "depth" in names or len(names) == 1:
        return "depth" if "depth" in names else names[0]
    raise ValueError(f"an archive of {', '.join(names) or 'nothing'}; expected one array, or one named depth")


def _numpy(path: Path) -> np.ndarray:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        return loaded[_chosen(loaded.files)]


def _hdf5(path: Path) -> np.ndarray:
    with h5py.File(path, "r") as file:
        found: dict[str, h5py.Dataset] = {}
        file.visititems(lambda name, each: found.update({name: each}) if isinstance(each, h5py.Dataset) else None)
        return found[_chosen(list(found))][()]


def _pfm(path: Path) -> np.ndarray:
    content = path.read_bytes()
    head = _PFM_HEAD.match(content)
    if head is None:
        raise ValueError("no head of a PFM")
    shape, scale = (int(head[3]), int(head[2]), 3 if head[1] == b"PF" else 1), float(head[4])
    values = np.frombuffer(content, "<f4" if scale < 0 else ">f4", prod(shape), head.end())
    # From the lowest row upwards.
    return values.reshape(shape)[::-1].astype(np.float32)


def _exr(path: Path) -> np.ndarray:
    try:
        import OpenEXR  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"{path}: OpenEXR needs a library. Install it: pip install '.[exr]'.") from error
    with OpenEXR.File(str(path), separate_channels=True) as file:
        channels = {name: np.array(channel.pixels) for name, channel in file.channels().items()}
    by_name = {name.rsplit(".", 1)[-1].lower(): values for name, values in channels.items()}
    for name in _EXR_DEPTH:
        if name in by_name:
            return by_name[name]
    # One, or grey, which is depth that was written three times.
    return np.stack([*channels.values()], axis=-1)


# By suffix: what reads the numbers of a file as they are stored; of an archive its only array, or that named "depth".
# What a damaged file leads to (OSError, ValueError, EOFError, KeyError, RuntimeError, BadZipFile) is raised.
ARRAY_FORMATS: Mapping[str, Callable[[Path], np.ndarray]] = {
    ".npy": _numpy,
    ".npz": _numpy,
    ".pfm": _pfm,
    ".exr": _exr,
    ".hdf5": _hdf5,
    ".h5": _hdf5,
}


@dataclass(frozen=True)
class UnitsDoubt:
    """Why depth is hardly metres, and what to do. is_fatal: nothing can be fitted on it as it is."""

    problem: str
    remedy: str
    is_fatal: bool = False

    def __str__(self) -> str:
        """Both, in one line."""
        return f"{self.problem}. {self.remedy}"


def doubt_units(
    depths_m: Sequence[tuple[float, float, float]],
    plausible_m: tuple[float, float],
    range_m: tuple[float, float] = (0.0, float("inf")),
    *,
    depth_scale: float | None = None,
    is_rotated: bool = False,
) -> UnitsDoubt | None:
    """Return why the depth of a sample of images is hardly metres; None where it may be.

    depths_m: least, median and greatest valid depth of each image that has any, as read. plausible_m: between which
    the median image's median lies. range_m: of valid truth. depth_scale: units per metre that integers were read with;
    0: the maps are floats; None: the dataset is read without one. is_rotated: `is_rotated` holds of the integers.
    """
    if not depths_m:
        remedy = "Check the mask, and which values mean missing."
        return UnitsDoubt("no measured image has a valid depth", remedy, is_fatal=True)
    median_m, (low, high) = float(np.median([median for _, median, _ in depths_m])), plausible_m
    if is_rotated:
        problem = f"median depth {median_m:.3g} m; nearly all integers are multiples of 8 and go beyond 8191"
        return UnitsDoubt(problem, "Millimetres rotated by 3 bits, as in SUN RGB-D: pass depth_format=sunrgbd.")
    is_outside = all(far < range_m[0] or near > range_m[1] for near, _, far in depths_m)
    if low <= median_m <= high and not is_outside:
        return None
    expected = (
        f"none of it between {range_m[0]:g} and {range_m[1]:g}" if is_outside else f"expected {low:g} to {high:g}"
    )
    # Floats come in metres, millimetres or centimetres.
    now, scales = depth_scale or 1.0, SCALES if depth_scale else (1000.0, 100.0)
    ways = []
    if range_m[1] < median_m <= high:
        ways.append(f"max_depth={ceil(max(far for *_, far in depths_m))} where it is in metres")
    low, high = max(low, range_m[0]), min(high, range_m[1])
    fits = [f"{scale:g}" for scale in scales if scale != now and low <= median_m * now / scale <= high]
    if fits and depth_scale is not None:
        ways.append(f"depth_scale={' or '.join(fits)}")
    if ways:
        remedy = f"Pass {', else '.join(ways)}."
    elif fits:
        remedy = f"Divided by {' or '.join(fits)} it would fit: write it in metres."
    else:
        remedy = "Look at it: which unit is it in?"
    return UnitsDoubt(f"median depth {median_m:.3g} m, {expected} m", remedy, is_outside)


def is_rotated(values: Shaped[np.ndarray, "H W"]) -> bool:
    """Return whether integers are millimetres rotated left by 3 bits, in 16: SUN RGB-D's.

    Those below 8.192 m are then multiples of 8; of other integers an eighth is.
    """
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 2:
        return False
    known = values[(values > 0) & (values < 65535)]
    if not known.size or known.max() <= 8191:
        return False
    # Multiples of 256 are pictures of 8 bits.
    return bool(np.mean(known % 8 == 0) >= 0.85 and np.mean(known % 256 == 0) < 0.95)


def unrotated(values: Shaped[np.ndarray, "H W"]) -> UInt16[np.ndarray, "H W"]:
    """Return the millimetres of SUN RGB-D's integers, exactly."""
    rotated = values.astype(np.uint16)
    return (rotated >> 3) | (rotated << 13)


def axial_depth(distance_m: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
    """Return depth along the optical axis, metres, of Hypersim's distances to the camera's centre."""
    height, width = distance_m.shape
    focal = _HYPERSIM_FOCAL * width / _HYPERSIM_WIDTH
    x, y = np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2
    return distance_m * (focal / np.sqrt(x**2 + y[:, None] ** 2 + focal**2)).astype(np.float32)
