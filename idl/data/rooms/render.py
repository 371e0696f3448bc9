"""From a recipe and a scene's number to its samples: the dataset's main path."""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from idl.data.reader import Sample
from idl.data.rooms.camera import Camera, draw_camera
from idl.data.rooms.geometry import Geometry, Hits, build_geometry
from idl.data.rooms.layout import draw_room
from idl.data.rooms.lighting import Lights, draw_lights
from idl.data.rooms.recipe import RoomsRecipe
from idl.data.rooms.textures import albedo

_EXTRA_RAYS = ((0.42, 0.1), (0.08, 0.42))
"""Offsets, in pixels, of the rays that a pixel on an edge gets besides its central one."""


def scene_name(scene: int) -> str:
    """A scene's name, room_00012."""
    return f"room_{scene:05d}"


def image_name(scene: int, view: int) -> str:
    """An image's name, room_00012_3."""
    return f"{scene_name(scene)}_{view}"


def render_scene(recipe: RoomsRecipe, scene: int) -> list[Sample]:
    """Render all views of one room; recipe.seed, recipe.resolution and `scene` alone decide a view."""
    room_seed, *view_seeds = np.random.SeedSequence([recipe.seed, scene]).spawn(1 + recipe.views)
    rng = np.random.default_rng(room_seed)
    room = draw_room(rng)
    geometry = build_geometry(room)
    lights = draw_lights(rng, geometry, room.size_m)
    tan_half_view = float(np.tan(np.radians(rng.uniform(55, 80)) / 2))
    samples, positions = [], np.empty((0, 3))
    for view, seed in enumerate(view_seeds):
        rng = np.random.default_rng(seed)
        camera = draw_camera(rng, geometry, room.size_m, tan_half_view, positions)
        positions = np.concatenate([positions, camera.position_m[None]])
        brightness = rng.uniform(0.22, 0.42)
        samples.append(render_view(geometry, lights, camera, recipe.resolution, brightness, scene, view))
    return samples


def render_view(
    geometry: Geometry,
    lights: Lights,
    camera: Camera,
    resolution: int,
    brightness: float,
    scene: int,
    view: int,
) -> Sample:
    """Cast each pixel's central ray for depth and labels; shade it, and further rays along edges."""
    plane = camera.pixel_plane(resolution)
    planes = geometry.inverse_depth_planes(camera.position_m, camera.axes)
    toward = np.einsum("ti,ti->t", geometry.normals, geometry.corners[:, 0] - camera.position_m)
    facing = np.where(toward[:, None] > 0, -geometry.normals, geometry.normals)

    def shade(hits: Hits, depth: np.ndarray, directions: np.ndarray, edges: np.ndarray | None) -> np.ndarray:
        pixel = 2 * camera.tan_half_view / resolution
        return _shade(geometry, lights, camera.position_m, facing, hits, depth, directions, pixel, edges)

    directions = camera.directions(plane)
    hits = geometry.cast(camera.position_m, directions)
    depth = _depth(planes, hits, plane)
    is_edge = _is_edge(_patches(geometry)[hits.triangle].reshape(resolution, resolution))
    image = shade(hits, depth, directions, is_edge)

    (edges,) = np.nonzero(is_edge.ravel())
    offsets = np.array(_EXTRA_RAYS).T * 2 * camera.tan_half_view / resolution
    beside = (plane[:, edges, None] + offsets[:, None]).reshape(2, -1)
    along = camera.directions(beside)
    extra = geometry.cast(camera.position_m, along)
    around = shade(extra, _depth(planes, extra, beside), along, None).reshape(3, len(edges), -1)
    image[:, edges] = (image[:, edges] + around.sum(-1)) / (1 + len(_EXTRA_RAYS))

    square = (resolution, resolution)
    in_camera = np.einsum("ti,ji->tj", facing, camera.axes).astype(np.float16)
    materials = np.array([s.material for s in geometry.surfaces], np.uint8)[geometry.surface]
    return Sample(
        name=image_name(scene, view),
        scene=scene_name(scene),
        rgb=_develop(image, brightness).reshape(*square, 3),
        depth_m=depth.astype(np.float32).reshape(square),
        valid=np.ones(square, bool),
        layers={
            "normals": in_camera[hits.triangle].reshape(*square, 3),
            "objects": geometry.objects[hits.triangle].reshape(square),
            "kinds": geometry.kinds[hits.triangle].reshape(square),
            "materials": materials[hits.triangle].reshape(square),
        },
    )


def _depth(
    planes: Float[np.ndarray, "3 triangles"], hits: Hits, plane: Float[np.ndarray, "2 rays"]
) -> Float[np.ndarray, "rays"]:
    """Depth in metres along the optical axis, from the plane of the triangle that a ray met."""
    a, b, c = (row[hits.triangle] for row in planes)
    return 1 / (a * plane[0] + b * plane[1] + c)


def _patches(geometry: Geometry) -> Int[np.ndarray, "triangles"]:
    """A number for each triangle, equal where object, surface and (to about half a radian) normal are."""
    turned = np.rint(2 * geometry.normals).astype(np.int64) + 2
    label = geometry.objects.astype(np.int64) * 65536 + geometry.surface
    return label * 125 + turned[:, 0] * 25 + turned[:, 1] * 5 + turned[:, 2]


def _is_edge(patch: Int[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels with another patch to the right or below: one side of each edge, for half the rays of both."""
    edge = np.zeros(patch.shape, bool)
    edge[:, :-1] |= patch[:, 1:] != patch[:, :-1]
    edge[:-1] |= patch[1:] != patch[:-1]
    return edge


def _shade(
    geometry: Geometry,
    lights: Lights,
    origin_m: Float[np.ndarray, "3"],
    facing: Float[np.ndarray, "triangles 3"],
    hits: Hits,
    depth: Float[np.ndarray, "rays"],
    directions: Float32[np.ndarray, "3 rays"],
    pixel: float,
    edges: Bool[np.ndarray, "H W"] | None,
) -> Float32[np.ndarray, "3 rays"]:
    """Linear RGB of what rays from `origin_m` met, by Lambert's law.

    pixel: a pixel's width at z = 1. edges: where the rays are an image's, the edges in it.
    """
    z, d, triangle = depth.astype(np.float32), directions, hits.triangle
    u0, v0, u1, v1, u2, v2 = (row[triangle] for row in geometry.texture)
    u, v = u0 + hits.u * u1 + hits.v * u2, v0 + hits.u * v1 + hits.v * v2
    # The camera's height above a triangle's plane, over the ray's length, is the cosine of incidence.
    height = np.einsum("ti,ti->t", facing, origin_m - geometry.corners[:, 0]).astype(np.float32)[triangle]
    cosine = height / (z * np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]))
    # One width for both directions of a slanted footprint: the geometric mean of its sides.
    footprint = z * np.float32(pixel) / np.sqrt(np.maximum(cosine, np.float32(0.05)))
    # Shadow rays start a thousandth of the way back: float32 points lie up to some 1e-6 m below their surface.
    points = origin_m.astype(np.float32)[:, None] + np.float32(0.999) * z * d
    light = lights.irradiance(geometry, facing, triangle, points, edges)
    return light * albedo(geometry.surfaces, geometry.surface[triangle], u, v, footprint)


def _develop(image: Float32[np.ndarray, "3 pixels"], brightness: float) -> UInt8[np.ndarray, "pixels 3"]:
    """Expose for a mean of `brightness` (linear), roll off the highlights, apply gamma 2.2; 8 bits."""
    exposed = image * np.float32(brightness / max(float(image.mean()), 1e-6))
    # x / (1 + x^4)^(1/4): straight up to a half, then bending towards 1.
    square = exposed * exposed
    rolled = exposed / np.sqrt(np.sqrt(1 + square * square))
    # A table of 4096 steps of the square root, instead of a power a pixel: a fifth of the time.
    step = (np.sqrt(rolled) * 4095).astype(np.int32)
    return np.ascontiguousarray(_gamma_of_root()[step].T)


@lru_cache(maxsize=1)
def _gamma_of_root() -> UInt8[np.ndarray, "4096"]:
    """8-bit values of x^(1/2.2), in equal steps of sqrt(x)."""
    return (255 * np.linspace(0, 1, 4096) ** (2 / 2.2) + 0.5).astype(np.uint8)
