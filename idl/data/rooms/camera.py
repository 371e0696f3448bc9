"""Cameras: where they stand, where they look, and the rays of their pixels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from idl.data.rooms.geometry import Geometry
from idl.data.rooms.solids import Vector

CLEARANCE_M = 0.3
"""Least distance of a camera from any solid's bounding box, and from floor, walls and ceiling."""

_CANDIDATES = 24
_CAST = 8
"""Of the candidates outside all furniture, so many are looked through."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with square pixels and the principal point in the middle.

    position_m: in the room.
    axes: rows right, down, forward, orthonormal.
    tan_half_view: tangent of half the field of view.
    """

    position_m: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]
    tan_half_view: float

    def pixel_plane(self, resolution: int) -> Float[np.ndarray, "2 pixels"]:
        """(x, y) at z = 1 of every pixel's middle, row by row."""
        steps = ((np.arange(resolution) + 0.5) * 2 / resolution - 1) * self.tan_half_view
        x, y = np.meshgrid(steps, steps)
        return np.stack([x.ravel(), y.ravel()])

    def directions(self, plane: Float[np.ndarray, "2 rays"]) -> Float32[np.ndarray, "3 rays"]:
        """World directions of rays through points of the plane z = 1; the ray parameter is the depth."""
        # Sums of rows instead of a matrix product, which would wake BLAS's threads.
        x, y = plane.astype(np.float32)
        right, down, forward = self.axes.astype(np.float32)[:, :, None]
        return x * right + y * down + forward


def look_at(position_m: np.ndarray, target_m: np.ndarray, roll: float, tan_half_view: float) -> Camera:
    """A camera that looks from one point to another, turned by `roll` radians about its axis."""
    x, y, z = (target_m - position_m) / np.linalg.norm(target_m - position_m)
    level = np.hypot(x, y)
    forward = np.array([x, y, z])
    right, down = np.array([y, -x, 0.0]) / level, np.array([x * z, y * z, -level * level]) / level
    c, s = np.cos(roll), np.sin(roll)
    return Camera(position_m, np.stack([c * right + s * down, c * down - s * right, forward]), tan_half_view)


def draw_camera(
    rng: np.random.Generator, geometry: Geometry, size: Vector, tan_half_view: float, look_from: np.ndarray
) -> Camera:
    """Draw a camera inside the room and outside all furniture that sees more than one near thing.

    look_from: positions of the room's other cameras, (n, 3); the candidate is taken that sees most kinds of
    things and is far from them.
    """
    low, high = np.full(3, CLEARANCE_M), np.array(size) - CLEARANCE_M
    low[2], high[2] = 0.5, min(2.1, size[2] - CLEARANCE_M)
    aims_low, aims_high = np.array([0.3, 0.3, 0.1]), np.array([size[0] - 0.3, size[1] - 0.3, 1.7])
    while True:
        positions = rng.uniform(low, high, (_CANDIDATES, 3))
        aims = rng.uniform(aims_low, aims_high, (_CANDIDATES, 3))
        rolls = rng.normal(0, 0.03, _CANDIDATES)
        clear = geometry.distance_to_boxes(positions) >= CLEARANCE_M
        clear &= np.hypot(*(aims - positions)[:, :2].T) > 1.0
        if clear.any():
            chosen = np.flatnonzero(clear)[:_CAST]
            cameras = [look_at(positions[k], aims[k], float(rolls[k]), tan_half_view) for k in chosen]
            return cameras[int(np.argmax(_scores(cameras, geometry, look_from)))]


def _scores(
    cameras: list[Camera], geometry: Geometry, others: Float[np.ndarray, "others 3"]
) -> Float[np.ndarray, " cameras"]:
    """Kinds of solids in view plus metres to the other cameras; less a hundred where something near fills it."""
    plane = cameras[0].pixel_plane(8)
    positions = np.stack([camera.position_m for camera in cameras])
    directions = np.stack([camera.directions(plane).T for camera in cameras])
    origins = np.broadcast_to(positions[:, None], directions.shape).reshape(-1, 3)
    depth, kinds = (x.reshape(len(cameras), -1) for x in geometry.glance(origins, directions.reshape(-1, 3)))
    ordered = np.sort(depth, axis=1)
    low, middle = ordered[:, 12], ordered[:, 32]
    variety = np.array([np.count_nonzero(np.bincount(row)) for row in kinds], float)
    apart = np.zeros(len(cameras))
    if len(others):
        apart = np.linalg.norm(positions[:, None] - others[None], axis=-1).min(1)
    return variety + apart - 100.0 * ((low < 0.7) | (middle < 1.3))
