"""A room as triangles in an embree scene, and exact answers about what a ray meets."""

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Float32, Int, UInt8

from idl.data.rooms.furniture import KINDS
from idl.data.rooms.layout import Room
from idl.data.rooms.solids import surface_coordinates
from idl.data.rooms.textures import Surface

_BEYOND_M = 0.5
"""How far floor, walls and ceiling reach past their corners, so that no ray slips out between two of them."""


@dataclass(frozen=True)
class Hits:
    """What rays met. triangle: its index; u, v: barycentric coordinates of its second and third corner."""

    triangle: Int[np.ndarray, "rays"]
    u: Float32[np.ndarray, "rays"]
    v: Float32[np.ndarray, "rays"]


@dataclass(frozen=True)
class Geometry:
    """All triangles of a room.

    corners: metres, in float64 but rounded to float32, so that these planes are the ones embree intersects.
    normals: unit, outward for solids.
    texture: float32 u0, v0 and their differences to the second and the third corner, metres.
    objects, kinds: values of the sample's layers.
    surface: index into `surfaces`.
    boxes: (low, high) corners of the bounding box of every solid, metres.
    """

    scene: EmbreeScene
    corners: Float[np.ndarray, "triangles 3 3"]
    normals: Float[np.ndarray, "triangles 3"]
    texture: Float32[np.ndarray, "6 triangles"]
    objects: UInt8[np.ndarray, "triangles"]
    kinds: UInt8[np.ndarray, "triangles"]
    surface: Int[np.ndarray, "triangles"]
    surfaces: list[Surface]
    boxes: Float[np.ndarray, "solids 2 3"]

    def cast(self, origin_m: Float[np.ndarray, "3"], directions: Float32[np.ndarray, "3 rays"]) -> Hits:
        """First triangle along each ray from one point inside the room."""
        origins = np.empty((directions.shape[1], 3), np.float32)
        origins[:] = origin_m
        found = self.scene.run(origins, directions.T, output=True)
        if (found["primID"] < 0).any():
            raise RuntimeError(f"a ray from {origin_m} left the closed room: the shell has a hole")
        # intp: numpy would turn 32-bit indices into it anew at each of the thirty look-ups that follow.
        return Hits(found["primID"].astype(np.intp), found["u"], found["v"])

    def glance(
        self, origins_m: Float[np.ndarray, "rays 3"], directions: Float32[np.ndarray, "rays 3"]
    ) -> tuple[Float32[np.ndarray, "rays"], UInt8[np.ndarray, "rays"]]:
        """Ray parameter of the first hit, to float32, and its kind: good enough to choose a camera."""
        found = self.scene.run(origins_m.astype(np.float32), directions, output=True)
        return found["tfar"], self.kinds[found["primID"]]

    def is_lit(
        self, points_m: Float32[np.ndarray, "points 3"], to_light_m: Float32[np.ndarray, "points 3"]
    ) -> Bool[np.ndarray, "points"]:
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

    def distance_to_boxes(self, points_m: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points"]:
        """Metres from each point to the nearest bounding box of a solid; 0 inside one, infinity where there is none."""
        p = points_m[:, None]
        outside = np.maximum(np.maximum(self.boxes[None, :, 0] - p, p - self.boxes[None, :, 1]), 0.0)
        return np.sqrt((outside**2).sum(-1)).min(1, initial=np.inf)


def build_geometry(room: Room) -> Geometry:
    """Turn a room into triangles and commit them to embree."""
    chunks, local, objects, kinds, surface = [], [], [], [], []
    surfaces = list(room.shell)
    for index, quad in enumerate(_shell(room.size_m)):
        chunks.append(quad)
        local.append(quad)
        kind = ("floor", *("wall",) * 4, "ceiling")[index]
        objects.append(index + 1)
        kinds.append(KINDS.index(kind))
        surface.append(index)
    num_shell = len(chunks)
    for number, (placed, dressed) in enumerate(zip(room.furniture, room.surfaces, strict=True)):
        for part in placed.piece.parts:
            chunks.append(placed.triangles(part))
            local.append(placed.scale * part.triangles)
            objects.append(num_shell + 1 + number)
            kinds.append(KINDS.index(placed.piece.kind))
            surface.append(len(surfaces) + part.slot)
        surfaces.extend(dressed)

    counts = np.array([len(chunk) for chunk in chunks])
    parts = np.repeat(np.arange(len(chunks)), counts)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    unturned = np.concatenate(local)
    low, high = np.minimum.reduceat(unturned.min(1), starts), np.maximum.reduceat(unturned.max(1), starts)
    corners = np.concatenate(chunks).astype(np.float32)
    world_low, world_high = np.minimum.reduceat(corners.min(1), starts), np.maximum.reduceat(corners.max(1), starts)
    texture = surface_coordinates(
        unturned, _normals(unturned)[0], ((low + high) / 2)[parts], (high - low)[:, :2].mean(1)[parts] / 2
    )
    normals, sizes = _normals(corners.astype(np.float64))
    # Revolved profiles that begin on the axis leave triangles without an area there.
    kept = sizes > 1e-10
    corners, texture, parts = corners[kept], texture[kept], parts[kept]
    differences = [texture[:, 0], texture[:, 1] - texture[:, 0], texture[:, 2] - texture[:, 0]]
    scene = EmbreeScene(robust=True)
    TriangleMesh(scene, corners)
    return Geometry(
        scene=scene,
        corners=corners.astype(np.float64),
        normals=normals[kept],
        texture=np.concatenate(differences, -1).T.astype(np.float32),
        objects=np.array(objects, np.uint8)[parts],
        kinds=np.array(kinds, np.uint8)[parts],
        surface=np.array(surface, np.intp)[parts],
        surfaces=surfaces,
        boxes=np.stack([world_low, world_high], 1)[num_shell:].astype(np.float64),
    )


def _normals(
    triangles: Float[np.ndarray, "triangles 3 3"],
) -> tuple[Float[np.ndarray, "triangles 3"], Float[np.ndarray, "triangles"]]:
    """Unit normals, and twice the areas in square metres."""
    across = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    size = np.linalg.norm(across, axis=1)
    return across / np.maximum(size, 1e-30)[:, None], size


def _shell(size: tuple[float, float, float]) -> list[Float[np.ndarray, "2 3 3"]]:
    """Floor, walls y = 0, x = size[0], y = size[1], x = 0, and ceiling: two triangles each, facing inward."""
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
        quads.append(np.array([[origin, origin + a, origin + a + b], [origin, origin + a + b, origin + b]]))
    return quads
