"""DIODE's surface normals: into this project's axes, and a check of them against the depth map.

The data's own pages do not state the axes. What is done here is what published users of the data do: its axes are
taken as x right, y up, z backward, so y and z change their sign; then every normal is turned towards the camera, as a
surface that is seen must face it. `axes_by_depth` asks the data itself: which axes agree best with the normals that
the depth map has by finite differences. It has been held against made scenes, not against the published files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from jaxtyping import Bool, Float32

# Pixels, of a frame of 1024 x 768: fx, fy, cx, cy as published.
_FOCAL_X, _FOCAL_Y, _CENTRE_X, _CENTRE_Y, _WIDTH, _HEIGHT = 886.81, 927.06, 512.0, 384.0, 1024, 768
# Neighbouring depths that differ by more than this share are two surfaces.
JUMP = 0.1
# Of a mean cosine.
_NOISE = 0.01

Normals = Float32[np.ndarray, "H W 3"]
# Which stored axis, and with which sign, becomes x, y and z.
Axes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
STORED_AXES: Axes = ((0, 1), (1, -1), (2, -1))


def rays(height: int, width: int) -> Normals:
    """The direction, z = 1, in which each pixel's centre looks; x right, y down. Intrinsics go with the size."""
    x = ((np.arange(width) + 0.5) * _WIDTH / width - _CENTRE_X) / _FOCAL_X
    y = ((np.arange(height) + 0.5) * _HEIGHT / height - _CENTRE_Y) / _FOCAL_Y
    directions = np.ones((height, width, 3), np.float32)
    directions[..., 0], directions[..., 1] = x, y[:, None]
    return directions


def to_camera(stored: Normals) -> tuple[Normals, Bool[np.ndarray, "H W"]]:
    """Stored normals as unit vectors (x right, y down, z forward) that face the camera, and where there are any.

    stored: (0, 0, 0) where there is none; the length of the others does not matter.
    """
    # An axis at a time: numpy sums over the last axis, of three, ten times as slowly.
    x, y, z = np.moveaxis(_rearranged(np.asarray(stored, np.float32), STORED_AXES), -1, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        length = np.sqrt(x * x + y * y + z * z)
        defined = np.isfinite(length) & (length > 0)
        ray = rays(*length.shape)
        away = x * ray[..., 0] + y * ray[..., 1] + z > 0
        scale = np.where(away, np.float32(-1), np.float32(1)) / np.where(defined, length, np.float32(1))
        normals = np.stack([np.where(defined, values * scale, np.float32(0)) for values in (x, y, z)], axis=-1)
    return normals, defined


@dataclass(frozen=True)
class AxesCheck:
    """How well each reading of the stored axes agrees with the depth map.

    agreement: mean absolute cosine between the normals so read and those by finite differences, best first; a
      global sign does not count. num_pixels: compared.
    """

    agreement: Mapping[Axes, float]
    num_pixels: int

    @property
    def is_as_assumed(self) -> bool:
        """No reading agrees better than that of `to_camera`, but for noise; True where nothing could be compared.

        A camera that is held level among upright walls sees the same either way up: its readings tie.
        """
        return self.agreement[STORED_AXES] >= max(self.agreement.values()) - _NOISE


def axes_by_depth(stored: Normals, depth_m: Float32[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]) -> AxesCheck:
    """Compare all 24 readings of the stored axes with the depth map. Walls seen straight on decide little.

    depth_m: metres along the optical axis.
    """
    by_depth, known = normals_by_depth(depth_m, valid)
    length = np.linalg.norm(stored, axis=-1)
    used = known & (length > 0)
    truth = by_depth[used]
    units = stored[used] / length[used][:, None]
    found = {}
    # The first sign is +1: with all three turned it is the same line.
    for order in permutations(range(3)):
        for signs in product((1,), (1, -1), (1, -1)):
            axes: Axes = tuple(zip(order, signs, strict=True))  # pyright: ignore[reportAssignmentType]
            cosine = np.abs((_rearranged(units, axes) * truth).sum(axis=-1))
            found[axes] = float(cosine.mean()) if used.any() else 0.0
    best_first = dict(sorted(found.items(), key=lambda item: -item[1]))
    return AxesCheck(best_first, int(used.sum()))


def normals_by_depth(
    depth_m: Float32[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]
) -> tuple[Normals, Bool[np.ndarray, "H W"]]:
    """Unit normals of the depth map by central differences, facing the camera, and where all four neighbours count."""
    points = np.where(valid, depth_m, 0).astype(np.float64)[..., None] * rays(*depth_m.shape)
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    # Down x across points to the camera: y (down) cross x (right) is -z.
    inner = np.cross(down, across)
    length = np.linalg.norm(inner, axis=-1)
    sound = valid & ~jumps(depth_m, valid)
    known = sound[1:-1, 1:-1] & sound[1:-1, 2:] & sound[1:-1, :-2] & sound[2:, 1:-1] & sound[:-2, 1:-1] & (length > 0)
    normals = np.zeros((*depth_m.shape, 3), np.float32)
    normals[1:-1, 1:-1] = np.where(known[..., None], inner / np.where(length > 0, length, 1)[..., None], 0)
    return normals, np.pad(known, 1)


def jumps(depth_m: Float32[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels on either side of a jump in depth: a neighbour in x or y is farther or nearer by more than a tenth.

    There the laser's spot meets two surfaces, and a return between them belongs to neither (mixed pixels: Tang, Huber
    and Akinci, 3DIM 2007). Relative, as the depths run from 0.6 to 350 m. A tenth: a floor seen from 1.5 m above
    steps so much from row to row only beyond 139 m (0.1 x 1.5 m x fy).
    """
    marked = np.zeros(valid.shape, bool)
    known_m = np.where(valid, depth_m, np.float32(1))
    for axis in (0, 1):
        near, far = _pairs(known_m, axis)
        both = np.logical_and(*_pairs(valid, axis))
        jump = both & (np.maximum(near, far) > (1 + JUMP) * np.minimum(near, far))
        for side in _pairs(marked, axis):
            side |= jump
    return marked


def _pairs(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of all but the last and all but the first along `axis`: neighbours, one against one."""
    if axis == 0:
        return values[:-1], values[1:]
    return values[:, :-1], values[:, 1:]


def _rearranged(normals: np.ndarray, axes: Axes) -> np.ndarray:
    return np.stack([sign * normals[..., axis] for axis, sign in axes], axis=-1)
