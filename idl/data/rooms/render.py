"""From a recipe and a scene's number to its samples: lights, shading, and the dataset's main path."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from idl.data.reader import Sample
from idl.data.rooms.furniture import Vector
from idl.data.rooms.geometry import Camera, Geometry, Hits, build_geometry, draw_camera
from idl.data.rooms.layout import draw_room
from idl.data.rooms.surfaces import albedo
from idl.errors import InputError

# Raised by one with every change that alters a pixel: it is part of the dataset's digest.
RENDERER_VERSION = 2

MAX_SCENES = 99_999
MIN_RESOLUTION = 16
MAX_RESOLUTION = 2048


@dataclass(frozen=True)
class RoomsRecipe:
    """What to render.

    num_scenes: rooms in the dataset, 1 to 99,999; scene k is the same whatever this number is.
    views: images of each room, at least 1; view j is the same whatever this number is.
    resolution: side of the square images, pixels.
    seed: rooms of different seeds are different rooms.

    Raises InputError where a number is out of its range.
    """

    num_scenes: int = 320
    views: int = 6
    resolution: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        _check("num_scenes", self.num_scenes, 1, MAX_SCENES)
        _check("views", self.views, 1, 999)
        _check("resolution", self.resolution, MIN_RESOLUTION, MAX_RESOLUTION)
        # 32 bits: a larger seed fills two words of the seed sequence, and could equal another (seed, scene) pair.
        _check("dataset_seed", self.seed, 0, 2**32 - 1)


def _check(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"rooms recipe: {name} is {value!r}, expected a whole number. Give {low} to {high}.")
    if not low <= value <= high:
        raise InputError(f"rooms recipe: {name} is {value}, out of range. Give {low} to {high}.")


@dataclass(frozen=True)
class Lights:
    """Ambient light, a little stronger from one side, and one to three lamps.

    There is no fall-off with distance: a far corner would be a dark corner, and brightness would tell depth.

    ambient: linear RGB. slant: ambient light on normal n is ambient * (1 + slant . n), |slant| < 1.
    positions_m, colours: of the lamps, which are points.
    """

    ambient: Float[np.ndarray, "3"]
    slant: Float[np.ndarray, "3"]
    positions_m: Float[np.ndarray, "lamps 3"]
    colours: Float[np.ndarray, "lamps 3"]

    def irradiance(
        self,
        geometry: Geometry,
        facing: Float[np.ndarray, "triangles 3"],
        triangle: Int[np.ndarray, " points"],
        points_m: Float32[np.ndarray, "3 points"],
        patch: Int[np.ndarray, "H W"] | None = None,
    ) -> Float32[np.ndarray, "3 points"]:
        """Light that reaches points, linear RGB, with cast shadows.

        facing: the triangles' unit normals on the side that is seen. triangle: which one a point lies on.
        points_m: a little above it, so that a surface does not shade itself.
        patch: where the points are an image's pixels, their patches; shadows are then traced sparsely.
        """
        slanted = (1 + np.einsum("ti,i->t", facing, self.slant)).astype(np.float32).take(triangle)
        total = self.ambient.astype(np.float32)[:, None] * slanted
        for position, colour in zip(self.positions_m, self.colours, strict=True):
            # n . (lamp - point) is the lamp's height above the plane: one number a triangle.
            above = np.einsum("ti,ti->t", facing, position - geometry.corners[:, 0])
            height = np.maximum(above, 0.0).astype(np.float32).take(triangle)
            rays = position.astype(np.float32)[:, None] - points_m
            length = np.sqrt(rays[0] * rays[0] + rays[1] * rays[1] + rays[2] * rays[2])
            # Every point may be asked, also those that face away: in a room they are one in twenty.
            seen = geometry.is_lit(points_m.T, rays.T) if patch is None else _sparsely(geometry, points_m, rays, patch)
            lit = seen * height / np.maximum(length, np.float32(1e-3))
            for channel in range(3):
                total[channel] += np.float32(colour[channel]) * lit
        return total


def _sparsely(
    geometry: Geometry,
    points_m: Float32[np.ndarray, "3 pixels"],
    rays: Float32[np.ndarray, "3 pixels"],
    patch: Int[np.ndarray, "H W"],
) -> Bool[np.ndarray, " pixels"]:
    """Which pixels of an image a lamp reaches: each block of 2 x 2 by one ray, and by further ones where needed.

    A pixel gets its own ray where it shows another patch than its block's first, or where the right, lower or
    diagonal block sees the lamp differently. What this can miss is a shadow narrower than two pixels.
    """
    height, width = patch.shape
    first = np.arange(height * width).reshape(height, width)[::2, ::2]
    asked = first.ravel()
    seen = geometry.is_lit(_chosen(points_m, asked), _chosen(rays, asked)).reshape(first.shape)
    around = np.pad(seen, ((0, 1), (0, 1)), mode="edge")
    doubtful = (seen != around[:-1, 1:]) | (seen != around[1:, :-1]) | (seen != around[1:, 1:])
    seen, doubtful, shown = (
        np.repeat(np.repeat(blocks, 2, 0), 2, 1)[:height, :width] for blocks in (seen, doubtful, patch[::2, ::2])
    )
    lit, doubt = seen.ravel(), doubtful | (patch != shown)
    doubt[::2, ::2] = False
    (rest,) = np.nonzero(doubt.ravel())
    lit[rest] = geometry.is_lit(_chosen(points_m, rest), _chosen(rays, rest))
    return lit


def _chosen(vectors: Float32[np.ndarray, "3 pixels"], index: Int[np.ndarray, " rays"]) -> Float32[np.ndarray, "rays 3"]:
    """Some of the vectors, as embree wants them."""
    chosen = np.empty((len(index), 3), np.float32)
    for axis, row in enumerate(vectors):
        chosen[:, axis] = row.take(index)
    return chosen


def draw_lights(rng: np.random.Generator, geometry: Geometry, size: Vector) -> Lights:
    """Draw lights anywhere in the room, low ones as often as high ones, outside all furniture."""
    count = int(rng.choice([1, 2, 3], p=[0.45, 0.45, 0.1]))
    margin = np.array([0.25, 0.25, 0.2])
    candidates = rng.uniform(margin, np.array(size) - margin, (200, 3))
    # Boxes of solids, not solids: a lamp between a table's legs is fine, one inside a cabinet lights nothing.
    free = candidates[geometry.distance_to_boxes(candidates) > 0.12]
    positions = free[:count] if len(free) >= count else candidates[:count]
    strength = rng.dirichlet(np.full(count, 4.0))
    colours = strength[:, None] * (1 + rng.uniform(-0.22, 0.22, (count, 3)))
    share = rng.uniform(0.4, 0.65)
    direction = rng.normal(size=3)
    return Lights(
        ambient=share * (1 + rng.uniform(-0.12, 0.12, 3)),
        slant=rng.uniform(0.1, 0.5) * direction / np.linalg.norm(direction),
        positions_m=positions,
        colours=(1 - share) * 2 * colours,
    )


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
    pixel = 2 * camera.tan_half_view / resolution
    view_of = _View(geometry, lights, camera, pixel)
    plane = camera.pixel_plane(resolution)
    directions = camera.directions(plane)
    hits = geometry.cast(camera.position_m, directions)
    depth = view_of.depth(hits, plane)
    patch = geometry.patches.take(hits.triangle).reshape(resolution, resolution)
    image = view_of.shade(hits, depth, directions, patch)

    edges = np.flatnonzero(_is_edge(patch))
    beside = (plane[:, edges, None] + np.array(_EXTRA_RAYS).T[:, None] * pixel).reshape(2, -1)
    along = camera.directions(beside)
    extra = geometry.cast(camera.position_m, along)
    # A ray that meets what a pixel here shows takes that pixel's colour: nine in ten need no shading of their own.
    shown = _pixels_beside(patch, edges, geometry.patches.take(extra.triangle).reshape(len(edges), -1)).ravel()
    (new,) = np.nonzero(shown < 0)
    extra, beside = Hits(extra.triangle[new], extra.u[new], extra.v[new]), beside[:, new]
    around = image.take(shown, axis=1)
    around[:, new] = view_of.shade(extra, view_of.depth(extra, beside), along[:, new])
    image[:, edges] = (image[:, edges] + around.reshape(3, len(edges), -1).sum(-1)) / (1 + len(_EXTRA_RAYS))

    square = (resolution, resolution)
    in_camera = np.einsum("ti,ji->tj", view_of.facing, camera.axes).astype(np.float16)
    labels = {"objects": geometry.objects, "kinds": geometry.kinds, "materials": geometry.materials}
    return Sample(
        name=image_name(scene, view),
        scene=scene_name(scene),
        rgb=_develop(image, brightness).reshape(*square, 3),
        depth_m=depth.astype(np.float32).reshape(square),
        valid=np.ones(square, bool),
        layers={
            # take: in_camera[triangle] takes numpy four times as long where rows are short.
            "normals": in_camera.take(hits.triangle, axis=0).reshape(*square, 3),
            **{layer: values.take(hits.triangle).reshape(square) for layer, values in labels.items()},
        },
    )


def _pixels_beside(
    patch: Int[np.ndarray, "H W"], edges: Int[np.ndarray, " edges"], met: Int[np.ndarray, "edges rays"]
) -> Int[np.ndarray, "edges rays"]:
    """Which pixel shows the patch that a ray in an edge's pixel met: this, the right, lower or diagonal one, or -1."""
    height, width = patch.shape
    right, below = (edges % width < width - 1).astype(np.intp), width * (edges < (height - 1) * width)
    pixels = np.full(met.shape, -1)
    for pixel in (edges + right + below, edges + below, edges + right, edges):
        np.copyto(pixels, pixel[:, None], where=patch.ravel().take(pixel)[:, None] == met)
    return pixels


class _View:
    """A room as one camera sees it: what all its rays need of each triangle, worked out once."""

    def __init__(self, geometry: Geometry, lights: Lights, camera: Camera, pixel: float) -> None:
        """pixel: a pixel's width at z = 1."""
        self.geometry, self.lights, self.origin_m = geometry, lights, camera.position_m
        self.pixel = np.float32(pixel)
        self.planes = geometry.inverse_depth_planes(camera.position_m, camera.axes)
        toward = np.einsum("ti,ti->t", geometry.normals, geometry.corners[:, 0] - camera.position_m)
        self.facing = np.where(toward[:, None] > 0, -geometry.normals, geometry.normals)
        self.height = np.abs(toward).astype(np.float32)

    def depth(self, hits: Hits, plane: Float[np.ndarray, "2 rays"]) -> Float[np.ndarray, " rays"]:
        """Depth in metres along the optical axis, from the plane of the triangle that a ray met."""
        a, b, c = (row.take(hits.triangle) for row in self.planes)
        return 1 / (a * plane[0] + b * plane[1] + c)

    def shade(
        self,
        hits: Hits,
        depth: Float[np.ndarray, " rays"],
        directions: Float32[np.ndarray, "3 rays"],
        patch: Int[np.ndarray, "H W"] | None = None,
    ) -> Float32[np.ndarray, "3 rays"]:
        """Linear RGB of what rays met, by Lambert's law. patch: where they are an image's rays, its patches."""
        geometry, triangle = self.geometry, hits.triangle
        z, d = depth.astype(np.float32), directions
        x0, y0, x1, y1, x2, y2 = (row.take(triangle) for row in geometry.texture)
        x, y = x0 + hits.u * x1 + hits.v * x2, y0 + hits.u * y1 + hits.v * y2
        # The camera's height above a triangle's plane, over the ray's length, is the cosine of incidence.
        cosine = self.height.take(triangle) / (z * np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]))
        # One width for both directions of a slanted footprint: the geometric mean of its sides.
        footprint = z * self.pixel / np.sqrt(np.maximum(cosine, np.float32(0.05)))
        # Shadow rays start a thousandth of the way back: float32 points lie up to some 1e-6 m below their surface.
        points = self.origin_m.astype(np.float32)[:, None] + np.float32(0.999) * z * d
        light = self.lights.irradiance(geometry, self.facing, triangle, points, patch)
        light *= albedo(geometry.palette, geometry.surface.take(triangle), x, y, footprint)
        return light


def _is_edge(patch: Int[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels with another patch to the right or below: one side of each edge, for half the rays of both."""
    edge = np.zeros(patch.shape, bool)
    edge[:, :-1] |= patch[:, 1:] != patch[:, :-1]
    edge[:-1] |= patch[1:] != patch[:-1]
    return edge


def _develop(image: Float32[np.ndarray, "3 pixels"], brightness: float) -> UInt8[np.ndarray, "pixels 3"]:
    """Expose for a mean of `brightness` (linear), roll off the highlights, apply gamma 2.2; 8 bits."""
    exposed = image * np.float32(brightness / max(float(image.mean()), 1e-6))
    # x / (1 + x^4)^(1/4): straight up to a half, then bending towards 1.
    square = exposed * exposed
    rolled = exposed / np.sqrt(np.sqrt(1 + square * square))
    # A table of 4096 steps of the square root, instead of a power a pixel: a fifth of the time.
    step = (np.sqrt(rolled) * 4095).astype(np.intp)
    pixels = np.empty((image.shape[1], 3), np.uint8)
    for channel, values in enumerate(step):
        pixels[:, channel] = _gamma_of_root().take(values)
    return pixels


@lru_cache(maxsize=1)
def _gamma_of_root() -> UInt8[np.ndarray, "4096"]:
    """8-bit values of x^(1/2.2), in equal steps of sqrt(x)."""
    return (255 * np.linspace(0, 1, 4096) ** (2 / 2.2) + 0.5).astype(np.uint8)
