"""A room as triangles in an embree scene, what a ray meets, and the cameras that look."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Float32, Int

from idl.data.rooms.furniture import KINDS, Vector, rotation
from idl.data.rooms.layout import Room
from idl.data.rooms.surfaces import Palette

# x, y and z of the first, second and third corners: numpy works on long rows, not on rows of three.
Corners = Float[np.ndarray, "3 3 triangles"]
Rows = Float[np.ndarray, "3 triangles"]
Rays = Float32[np.ndarray, "3 rays"]

_BEYOND_M = 0.5
"""How far floor, walls and ceiling reach past their corners, so that no ray slips out between two of them."""

_QUAD = np.array([(0, 1, 2), (0, 2, 3)])


class Hits(NamedTuple):
    """What rays met: a triangle's index, and barycentric coordinates of its second and third corner."""

    triangle: Int[np.ndarray, " rays"]
    u: Float32[np.ndarray, " rays"]
    v: Float32[np.ndarray, " rays"]


class Geometry:
    """All triangles of a room.

    corners (triangles, 3, 3): metres, in float64 but rounded to float32, so that these planes are the ones embree
      intersects. normals (triangles, 3): unit, outward for solids.
    texture (6, triangles): float32 x0, y0 in periods of the pattern, and their differences to the second and the third
      corner. surface: index into `palette`.
    labels: values of the sample's layers, uint8.
    patches: a number for each triangle, equal where object, surface and (to about half a radian) normal are.
    boxes (solids, 2, 3): (low, high) corners of the bounding box of every solid, metres.
    """

    def __init__(self, room: Room) -> None:
        # A part is one of the six sides of the shell, or one solid. Patterns are laid on it as it is before its piece
        # of furniture is turned, so that they turn with the piece.
        surfaces, local = list(room.shell), _shell(room.size_m)
        world = list(local)
        faces, counts = [_QUAD] * 6, [4] * 6
        kinds = [KINDS.index(kind) for kind in ("floor", *("wall",) * 4, "ceiling")]
        objects, surface = list(range(1, 7)), list(range(6))
        for number, (placed, dressed) in enumerate(zip(room.furniture, room.surfaces, strict=True), start=7):
            local.append(placed.scale * placed.piece.vertices)
            world.append(local[-1] @ rotation(2, placed.yaw).T + placed.position_m)
            for part in placed.piece.parts:
                faces.append(part.faces)
                counts.append(len(part.vertices))
                objects.append(number)
                kinds.append(KINDS.index(placed.piece.kind))
                surface.append(len(surfaces) + part.slot)
            surfaces.extend(dressed)

        starts = np.cumsum([0, *counts[:-1]])
        parts = np.repeat(np.arange(len(faces)), [len(face) for face in faces])
        triangles = np.concatenate(faces) + starts[parts, None]
        unturned, vertices = np.concatenate(local), np.concatenate(world).astype(np.float32)
        self._scene = EmbreeScene(robust=True)
        TriangleMesh(self._scene, vertices, triangles.astype(np.int32))
        self.boxes = np.stack([each.reduceat(vertices, starts)[6:] for each in (np.minimum, np.maximum)], 1)
        self.boxes = self.boxes.astype(np.float64)
        self.corners = vertices.astype(np.float64)[triangles]
        normals = _normals(self.corners.T)
        self.normals = np.ascontiguousarray(normals.T)

        # Surfaces of one material side by side, so that a sort by surface is one by material, too.
        by_material = sorted(range(len(surfaces)), key=lambda index: surfaces[index].material)
        surfaces = [surfaces[index] for index in by_material]
        worn = np.argsort(by_material)[surface][parts]
        self.palette = Palette(surfaces)
        low, high = np.minimum.reduceat(unturned, starts), np.maximum.reduceat(unturned, starts)
        centres, radii = ((low + high) / 2).T[:, parts], ((high - low)[:, :2].mean(1) / 2)[parts]
        x, y = self.palette.in_periods(worn, _surface_coordinates(unturned.T[:, triangles.T], centres, radii))
        rows = [x[0], y[0], x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]]
        self.texture = np.stack(rows).astype(np.float32)
        # In 8 bits numpy sorts in half the time that 16 take it.
        self.surface = worn.astype(np.min_scalar_type(len(surfaces) - 1))
        materials = np.array([each.material for each in surfaces])[worn]
        labels = {"objects": np.array(objects)[parts], "kinds": np.array(kinds)[parts], "materials": materials}
        self.labels = {layer: values.astype(np.uint8) for layer, values in labels.items()}
        nx, ny, nz = np.rint(2 * normals).astype(np.int64) + 2
        self.patches = (labels["objects"] * 65536 + worn) * 125 + nx * 25 + ny * 5 + nz

    def cast(self, origin_m: Float[np.ndarray, "3"], directions: Rays) -> Hits:
        """First triangle along each ray from one point inside the room."""
        # The same three numbers for every ray: strides of zero.
        origins = np.broadcast_to(origin_m.astype(np.float32), directions.T.shape)
        found = self._scene.run(origins, directions.T, output=True)
        if (found["primID"] < 0).any():
            raise RuntimeError(f"a ray from {origin_m} left the closed room: the shell has a hole")
        # intp: numpy would turn 32-bit indices into it anew at each of the thirty look-ups that follow.
        return Hits(found["primID"].astype(np.intp), found["u"], found["v"])

    def glance(self, origins_m: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ray parameter of the first hit of (rays, 3), to float32, and its kind: good enough to choose a camera."""
        found = self._scene.run(origins_m.astype(np.float32), directions, output=True)
        return found["tfar"], self.labels["kinds"][found["primID"]]

    def is_lit(self, points_m: Rays, to_light_m: Rays) -> Bool[np.ndarray, " rays"]:
        """Tell whether nothing stands between points and the light at `points_m + to_light_m`."""
        limit = np.full(points_m.shape[1], 0.999, np.float32)
        return self._scene.run(points_m.T, to_light_m.T, dists=limit, query="OCCLUDED") < 0

    def distance_to_boxes(self, points_m: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, " points"]:
        """Metres to the nearest bounding box of a solid; 0 inside one, infinity where there is none."""
        squares = np.zeros((len(points_m), len(self.boxes)))
        for p, low, high in zip(points_m.T[:, :, None], *self.boxes.transpose(1, 2, 0), strict=True):
            outside = np.maximum(np.maximum(low - p, p - high), 0.0)
            squares += outside * outside
        return np.sqrt(squares.min(1, initial=np.inf))


def _normals(corners: Corners) -> Rows:
    """Unit normals."""
    ax, ay, az = corners[:, 1] - corners[:, 0]
    bx, by, bz = corners[:, 2] - corners[:, 0]
    x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    return np.stack([x, y, z]) / np.maximum(np.sqrt(x * x + y * y + z * z), 1e-30)


def _surface_coordinates(corners: Corners, centres: Rows, radii: np.ndarray) -> Float[np.ndarray, "2 3 triangles"]:
    """Texture coordinates (u, v) in metres of every corner, without stretching or seams inside a face.

    Level faces (|n_z| > 0.9) are projected along z. On all others, u runs horizontally and v up the face;
    the arc length `radius` x (azimuth, elevation) of the facet's normal is added, so that neighbouring
    facets of a round body continue each other.

    centres, radii: of the part that a triangle belongs to, metres.
    """
    nx, ny, nz = _normals(corners)
    level = np.abs(nz) > 0.9
    horizontal = np.sqrt(nx * nx + ny * ny)
    safe = np.where(level, 1.0, horizontal)
    # The direction of u is (ax, ay, 0), that of v is normal x (ax, ay, 0); on level faces they are x and y.
    ax, ay = np.where(level, 1.0, -ny / safe), np.where(level, 0.0, nx / safe)
    up = np.where(level, np.array([[0.0], [1.0], [0.0]]), np.stack([-nz * ay, nz * ax, nx * ay - ny * ax]))
    azimuth = np.where(level, 0.0, np.arctan2(ny, nx)) * radii
    elevation = np.where(level, 0.0, np.arctan2(nz, horizontal)) * radii
    x, y, z = corners - centres[:, None]
    return np.stack([x * ax + y * ay + azimuth, x * up[0] + y * up[1] + z * up[2] + elevation])


def _shell(size: Vector) -> list[Float[np.ndarray, "4 3"]]:
    """Corners of floor, walls y = 0, x = size[0], y = size[1], x = 0, and ceiling: `_QUAD` makes them face inward."""
    w, d, h = size
    faces = [  # a corner, and two edges whose cross product points into the room
        ((0, 0, 0), (w, 0, 0), (0, d, 0)),
        ((0, 0, 0), (0, 0, h), (w, 0, 0)),
        ((w, 0, 0), (0, 0, h), (0, d, 0)),
        ((w, d, 0), (0, 0, h), (-w, 0, 0)),
        ((0, d, 0), (0, 0, h), (0, -d, 0)),
        ((0, 0, h), (0, d, 0), (w, 0, 0)),
    ]
    quads = []
    for corner, a, b in np.array(faces, float):
        more_a, more_b = a * _BEYOND_M / np.linalg.norm(a), b * _BEYOND_M / np.linalg.norm(b)
        origin, a, b = corner - more_a - more_b, a + 2 * more_a, b + 2 * more_b
        quads.append(np.array([origin, origin + a, origin + a + b, origin + b]))
    return quads


CLEARANCE_M = 0.3
"""Least distance of a camera from any solid's bounding box, and from floor, walls and ceiling."""

# Of so many candidates, so many that are outside all furniture are looked through.
_CANDIDATES, _CAST = 24, 8


@dataclass(frozen=True)
class Camera:
    """A pinhole camera in the room, with square pixels and the principal point in the middle.

    axes: rows right, down, forward, orthonormal. tan_half_view: tangent of half the field of view.
    """

    position_m: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]
    tan_half_view: float

    def pixel_plane(self, resolution: int) -> Float[np.ndarray, "2 pixels"]:
        """(x, y) at z = 1 of every pixel's middle, row by row."""
        steps = ((np.arange(resolution) + 0.5) * 2 / resolution - 1) * self.tan_half_view
        x, y = np.meshgrid(steps, steps)
        return np.stack([x.ravel(), y.ravel()])

    def directions(self, plane: Float[np.ndarray, "2 rays"]) -> Rays:
        """World directions of rays through points of the plane z = 1; the ray parameter is the depth."""
        # Sums of rows instead of a matrix product, which would wake BLAS's threads.
        x, y = plane.astype(np.float32)
        right, down, forward = self.axes.astype(np.float32)[:, :, None]
        return x * right + y * down + forward


def look_at(position_m: np.ndarray, target_m: np.ndarray, roll: float, tan_half_view: float) -> Camera:
    """A camera that looks from one point to another, turned by `roll` radians about its axis."""
    forward = (target_m - position_m) / np.linalg.norm(target_m - position_m)
    x, y, z = forward
    level = np.hypot(x, y)
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


def _scores(cameras: list[Camera], geometry: Geometry, others: np.ndarray) -> Float[np.ndarray, " cameras"]:
    """Kinds of solids in view plus metres to the other cameras; less a hundred where something near fills it."""
    plane = cameras[0].pixel_plane(8)
    positions = np.stack([camera.position_m for camera in cameras])
    directions = np.stack([camera.directions(plane).T for camera in cameras])
    origins = np.broadcast_to(positions[:, None], directions.shape).reshape(-1, 3)
    depth, kinds = (x.reshape(len(cameras), -1) for x in geometry.glance(origins, directions.reshape(-1, 3)))
    ordered = np.sort(depth, axis=1)
    variety = np.array([len(np.unique(row)) for row in kinds], float)
    apart = np.linalg.norm(positions[:, None] - others[None], axis=-1).min(1) if len(others) else 0.0
    return variety + apart - 100.0 * ((ordered[:, 12] < 0.7) | (ordered[:, 32] < 1.3))
