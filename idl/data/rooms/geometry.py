"""A room as triangles in an embree scene, what a ray meets, and the cameras that look."""

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Float32, Int, UInt8

from idl.data.rooms.furniture import KINDS, Vector, surface_coordinates
from idl.data.rooms.layout import Room
from idl.data.rooms.surfaces import Palette, in_periods, palette

_BEYOND_M = 0.5
"""How far floor, walls and ceiling reach past their corners, so that no ray slips out between two of them."""


@dataclass(frozen=True)
class Hits:
    """What rays met. triangle: its index; u, v: barycentric coordinates of its second and third corner."""

    triangle: Int[np.ndarray, " rays"]
    u: Float32[np.ndarray, " rays"]
    v: Float32[np.ndarray, " rays"]


@dataclass(frozen=True)
class Geometry:
    """All triangles of a room.

    corners: metres, in float64 but rounded to float32, so that these planes are the ones embree intersects.
    normals: unit, outward for solids.
    texture: float32 x0, y0 in periods of the pattern, and their differences to the second and the third corner.
    objects, kinds, materials: values of the sample's layers.
    surface: index into the tables of `palette`.
    patches: a number for each triangle, equal where object, surface and (to about half a radian) normal are.
    boxes: (low, high) corners of the bounding box of every solid, metres.
    """

    scene: EmbreeScene
    corners: Float[np.ndarray, "triangles 3 3"]
    normals: Float[np.ndarray, "triangles 3"]
    texture: Float32[np.ndarray, "6 triangles"]
    objects: UInt8[np.ndarray, " triangles"]
    kinds: UInt8[np.ndarray, " triangles"]
    materials: UInt8[np.ndarray, " triangles"]
    surface: Int[np.ndarray, " triangles"]
    palette: Palette
    patches: Int[np.ndarray, " triangles"]
    boxes: Float[np.ndarray, "solids 2 3"]

    def cast(self, origin_m: Float[np.ndarray, "3"], directions: Float32[np.ndarray, "3 rays"]) -> Hits:
        """First triangle along each ray from one point inside the room."""
        # The same three numbers for every ray: strides of zero.
        origins = np.broadcast_to(origin_m.astype(np.float32), directions.T.shape)
        found = self.scene.run(origins, directions.T, output=True)
        if (found["primID"] < 0).any():
            raise RuntimeError(f"a ray from {origin_m} left the closed room: the shell has a hole")
        # intp: numpy would turn 32-bit indices into it anew at each of the thirty look-ups that follow.
        return Hits(found["primID"].astype(np.intp), found["u"], found["v"])

    def glance(
        self, origins_m: Float[np.ndarray, "rays 3"], directions: Float32[np.ndarray, "rays 3"]
    ) -> tuple[Float32[np.ndarray, " rays"], UInt8[np.ndarray, " rays"]]:
        """Ray parameter of the first hit, to float32, and its kind: good enough to choose a camera."""
        found = self.scene.run(origins_m.astype(np.float32), directions, output=True)
        return found["tfar"], self.kinds[found["primID"]]

    def is_lit(
        self, points_m: Float32[np.ndarray, "points 3"], to_light_m: Float32[np.ndarray, "points 3"]
    ) -> Bool[np.ndarray, " points"]:
        """Tell whether nothing stands between points and the light at `points_m + to_light_m`."""
        limit = np.full(len(points_m), 0.999, np.float32)
        return self.scene.run(points_m, to_light_m, dists=limit, query="OCCLUDED") < 0

    def inverse_depth_planes(
        self, origin_m: Float[np.ndarray, "3"], axes: Float[np.ndarray, "3 3"]
    ) -> Float[np.ndarray, "3 triangles"]:
        """Coefficients (a, b, c) of 1/z = a x + b y + c, which a triangle's plane is in a pinhole camera.

        With n the normal and p a corner, n . (z d) = n . (p - origin) along d = x right + y down + forward.
        float64 from end to end: embree's own float32 distances are off by up to some 1e-6 m.
        """
        offset = np.einsum("ti,ti->t", self.normals, self.corners[:, 0] - origin_m)
        # A plane through the camera is seen edge-on: no ray meets it, whatever stands here.
        offset = np.where(np.abs(offset) < 1e-12, 1e-12, offset)
        return np.einsum("ti,ji->jt", self.normals, axes) / offset

    def distance_to_boxes(self, points_m: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, " points"]:
        """Metres from each point to the nearest bounding box of a solid; 0 inside one, infinity where there is none."""
        squares = np.zeros((len(points_m), len(self.boxes)))
        for p, low, high in zip(points_m.T[:, :, None], *self.boxes.transpose(1, 2, 0), strict=True):
            outside = np.maximum(np.maximum(low - p, p - high), 0.0)
            squares += outside * outside
        return np.sqrt(squares.min(1, initial=np.inf))


def build_geometry(room: Room) -> Geometry:
    """Turn a room into triangles and hand them to embree.

    A part is one of the six sides of the shell, or one solid. Patterns are laid on it as it is before its piece of
    furniture is turned, so that they turn with the piece.
    """
    surfaces, quads = list(room.shell), _shell(room.size_m)
    local, world = list(quads), list(quads)
    faces, counts = [_QUAD] * 6, [4] * 6
    kinds = [KINDS.index(kind) for kind in ("floor", *("wall",) * 4, "ceiling")]
    objects, surface = list(range(1, 7)), list(range(6))
    for number, (placed, dressed) in enumerate(zip(room.furniture, room.surfaces, strict=True), start=7):
        local.append(placed.scale * placed.piece.vertices)
        world.append(placed.vertices)
        kind = KINDS.index(placed.piece.kind)
        for part in placed.piece.parts:
            faces.append(part.faces)
            counts.append(len(part.vertices))
            objects.append(number)
            kinds.append(kind)
            surface.append(len(surfaces) + part.slot)
        surfaces.extend(dressed)

    starts = np.cumsum([0, *counts[:-1]])
    parts = np.repeat(np.arange(len(faces)), [len(face) for face in faces])
    triangles = np.concatenate(faces) + starts[parts, None]
    unturned, vertices = np.concatenate(local), np.concatenate(world).astype(np.float32)
    low, high = np.minimum.reduceat(unturned, starts), np.maximum.reduceat(unturned, starts)
    boxes = np.stack([np.minimum.reduceat(vertices, starts), np.maximum.reduceat(vertices, starts)], 1)
    # Surfaces of one material side by side, so that a sort by surface is one by material, too.
    by_material = sorted(range(len(surfaces)), key=lambda index: surfaces[index].material)
    surfaces = [surfaces[index] for index in by_material]
    worn = np.argsort(by_material)[surface][parts]
    flat = _components(unturned, triangles)
    centres, radii = ((low + high) / 2).T[:, parts], ((high - low)[:, :2].mean(1) / 2)[parts]
    x, y = in_periods(surfaces, worn, surface_coordinates(flat, _normals(flat), centres, radii))
    normals = _normals(_components(vertices.astype(np.float64), triangles))
    numbers = np.array(objects)[parts]
    scene = EmbreeScene(robust=True)
    TriangleMesh(scene, vertices, triangles.astype(np.int32))
    return Geometry(
        scene=scene,
        corners=vertices.astype(np.float64)[triangles],
        normals=np.ascontiguousarray(normals.T),
        texture=np.stack([x[0], y[0], x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]]).astype(np.float32),
        objects=numbers.astype(np.uint8),
        kinds=np.array(kinds, np.uint8)[parts],
        materials=np.array([s.material for s in surfaces], np.uint8)[worn],
        # In 8 bits numpy sorts in half the time that 16 take it.
        surface=worn.astype(np.min_scalar_type(len(surfaces) - 1)),
        palette=palette(surfaces),
        patches=_patches(numbers, worn, normals),
        boxes=boxes[6:].astype(np.float64),
    )


def _patches(
    objects: Int[np.ndarray, " triangles"],
    surface: Int[np.ndarray, " triangles"],
    normals: Float[np.ndarray, "3 triangles"],
) -> Int[np.ndarray, " triangles"]:
    x, y, z = np.rint(2 * normals).astype(np.int64) + 2
    return ((objects * 65536 + surface) * 125 + x * 25 + y * 5 + z).astype(np.int32)


def _components(
    vertices: Float[np.ndarray, "vertices 3"], triangles: Int[np.ndarray, "triangles 3"]
) -> Float[np.ndarray, "3 3 triangles"]:
    """x, y and z of the first, second and third corners: numpy works on long rows, not on rows of three."""
    return vertices.T[:, triangles.T]


def _normals(corners: Float[np.ndarray, "3 3 triangles"]) -> Float[np.ndarray, "3 triangles"]:
    """Unit normals. corners: component, corner."""
    ax, ay, az = corners[:, 1] - corners[:, 0]
    bx, by, bz = corners[:, 2] - corners[:, 0]
    x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    return np.stack([x, y, z]) / np.maximum(np.sqrt(x * x + y * y + z * z), 1e-30)


_QUAD = np.array([(0, 1, 2), (0, 2, 3)])


def _shell(size: tuple[float, float, float]) -> list[Float[np.ndarray, "4 3"]]:
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
    for corner, first, second in faces:
        a, b = np.array(first, float), np.array(second, float)
        more_a, more_b = a * _BEYOND_M / np.linalg.norm(a), b * _BEYOND_M / np.linalg.norm(b)
        origin = np.array(corner, float) - more_a - more_b
        a, b = a + 2 * more_a, b + 2 * more_b
        quads.append(np.array([origin, origin + a, origin + a + b, origin + b]))
    return quads


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
