"""What a camera sees of a room: depth and labels of each pixel, and its colour by lights and shadows."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from idl.data.rooms.furniture import Vector
from idl.data.rooms.geometry import Camera, Geometry, Hits, Rays

_EXTRA_RAYS = ((0.42, 0.1), (0.08, 0.42))
"""Offsets, in pixels, of the rays that a pixel on an edge gets besides its central one."""

Patches = Int[np.ndarray, "H W"]


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
        points_m: Rays,
        patch: Patches | None = None,
    ) -> Rays:
        """Light that reaches points, linear RGB, with cast shadows.

        facing: the triangles' unit normals on the side that is seen. triangle: which one a point lies on.
        points_m: a little above it, so that a surface does not shade itself.
        patch: where the points are an image's pixels, their patches; shadows are then traced sparsely.
        """
        slanted = (1 + np.einsum("ti,i->t", facing, self.slant)).astype(np.float32).take(triangle)
        total = self.ambient.astype(np.float32)[:, None] * slanted
        for position, colour in zip(self.positions_m, self.colours.astype(np.float32), strict=True):
            # n . (lamp - point) is the lamp's height above the plane: one number a triangle.
            above = np.einsum("ti,ti->t", facing, position - geometry.corners[:, 0])
            height = np.maximum(above, 0.0).astype(np.float32).take(triangle)
            rays = position.astype(np.float32)[:, None] - points_m
            length = np.sqrt(rays[0] * rays[0] + rays[1] * rays[1] + rays[2] * rays[2])
            # Every point may be asked, also those that face away: in a room they are one in twenty.
            seen = geometry.is_lit(points_m, rays) if patch is None else _sparsely(geometry, points_m, rays, patch)
            lit = seen * height / np.maximum(length, np.float32(1e-3))
            for channel in range(3):
                total[channel] += colour[channel] * lit
        return total


def _sparsely(geometry: Geometry, points_m: Rays, rays: Rays, patch: Patches) -> Bool[np.ndarray, " pixels"]:
    """Which pixels of an image a lamp reaches: each block of 2 x 2 by one ray, and by further ones where needed.

    A pixel gets its own ray where it shows another patch than its block's first, or where the right, lower or
    diagonal block sees the lamp differently. What this can miss is a shadow narrower than two pixels.
    """
    height, width = patch.shape

    def is_lit(pixels: Int[np.ndarray, " some"]) -> Bool[np.ndarray, " some"]:
        return geometry.is_lit(points_m.take(pixels, axis=1), rays.take(pixels, axis=1))

    first = np.arange(height * width).reshape(height, width)[::2, ::2]
    seen = is_lit(first.ravel()).reshape(first.shape)
    around = np.pad(seen, ((0, 1), (0, 1)), mode="edge")
    doubtful = (seen != around[:-1, 1:]) | (seen != around[1:, :-1]) | (seen != around[1:, 1:])
    seen, doubtful, shown = (
        np.repeat(np.repeat(blocks, 2, 0), 2, 1)[:height, :width] for blocks in (seen, doubtful, patch[::2, ::2])
    )
    lit, doubt = seen.ravel(), doubtful | (patch != shown)
    doubt[::2, ::2] = False
    (rest,) = np.nonzero(doubt.ravel())
    lit[rest] = is_lit(rest)
    return lit


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
    ambient = share * (1 + rng.uniform(-0.12, 0.12, 3))
    slant = rng.uniform(0.1, 0.5) * direction / np.linalg.norm(direction)
    return Lights(ambient, slant, positions, (1 - share) * 2 * colours)


class Seen(NamedTuple):
    """What rays met, its depth along the optical axis in metres, and the rays' directions."""

    hits: Hits
    depth_m: Float[np.ndarray, " rays"]
    directions: Rays


class _View:
    """A room as one camera sees it: what all its rays need of each triangle, worked out once."""

    def __init__(self, geometry: Geometry, lights: Lights, camera: Camera, pixel: float) -> None:
        """pixel: a pixel's width at z = 1."""
        self.geometry, self.lights, self.camera, self.pixel = geometry, lights, camera, np.float32(pixel)
        offset = np.einsum("ti,ti->t", geometry.normals, geometry.corners[:, 0] - camera.position_m)
        self.facing = np.where(offset[:, None] > 0, -geometry.normals, geometry.normals)
        self.height = np.abs(offset).astype(np.float32)
        # A plane through the camera is seen edge-on: no ray meets it, whatever stands here.
        offset = np.where(np.abs(offset) < 1e-12, 1e-12, offset)
        # With n the normal and p a corner, n . (z d) = n . (p - origin) along d = x right + y down + forward: a plane
        # is 1/z = a x + b y + c. float64 throughout: embree's own float32 distances are off by up to some 1e-6 m.
        self.planes = np.einsum("ti,ji->jt", geometry.normals, camera.axes) / offset

    def cast(self, plane: Float[np.ndarray, "2 rays"]) -> Seen:
        """Follow rays through points of the plane z = 1."""
        directions = self.camera.directions(plane)
        hits = self.geometry.cast(self.camera.position_m, directions)
        a, b, c = (row.take(hits.triangle) for row in self.planes)
        return Seen(hits, 1 / (a * plane[0] + b * plane[1] + c), directions)

    def shade(self, seen: Seen, patch: Patches | None = None) -> Rays:
        """Linear RGB of what rays met, by Lambert's law. patch: where they are an image's rays, its patches."""
        geometry, (triangle, u, v) = self.geometry, seen.hits
        z, d = seen.depth_m.astype(np.float32), seen.directions
        x0, y0, x1, y1, x2, y2 = (row.take(triangle) for row in geometry.texture)
        x, y = x0 + u * x1 + v * x2, y0 + u * y1 + v * y2
        # The camera's height above a triangle's plane, over the ray's length, is the cosine of incidence.
        cosine = self.height.take(triangle) / (z * np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]))
        # One width for both directions of a slanted footprint: the geometric mean of its sides.
        footprint = z * self.pixel / np.sqrt(np.maximum(cosine, np.float32(0.05)))
        # Shadow rays start a thousandth of the way back: float32 points lie up to some 1e-6 m below their surface.
        points = self.camera.position_m.astype(np.float32)[:, None] + np.float32(0.999) * z * d
        light = self.lights.irradiance(geometry, self.facing, triangle, points, patch)
        light *= geometry.palette.albedo(geometry.surface.take(triangle), x, y, footprint)
        return light


def render_view(
    geometry: Geometry, lights: Lights, camera: Camera, resolution: int, brightness: float
) -> dict[str, Any]:
    """Return a sample's maps: each pixel's central ray gives depth, labels and colour, further ones smooth edges."""
    pixel, square = 2 * camera.tan_half_view / resolution, (resolution, resolution)
    view = _View(geometry, lights, camera, pixel)
    plane = camera.pixel_plane(resolution)
    seen = view.cast(plane)
    triangle = seen.hits.triangle
    patch = geometry.patches.take(triangle).reshape(square)
    image = view.shade(seen, patch)

    # Pixels with another patch to the right or below: one side of each edge, for half the rays of both.
    is_edge = np.zeros(square, bool)
    is_edge[:, :-1] |= patch[:, 1:] != patch[:, :-1]
    is_edge[:-1] |= patch[1:] != patch[:-1]
    edges = np.flatnonzero(is_edge)
    beside = (plane[:, edges, None] + np.array(_EXTRA_RAYS).T[:, None] * pixel).reshape(2, -1)
    (hits, depth_m, directions) = view.cast(beside)
    # A ray that meets what a pixel here shows takes that pixel's colour: nine in ten need no shading of their own.
    shown = _pixels_beside(patch, edges, geometry.patches.take(hits.triangle).reshape(len(edges), -1)).ravel()
    (new,) = np.nonzero(shown < 0)
    around = image.take(shown, axis=1)
    around[:, new] = view.shade(Seen(Hits(*(each[new] for each in hits)), depth_m[new], directions[:, new]))
    image[:, edges] = (image[:, edges] + around.reshape(3, len(edges), -1).sum(-1)) / (1 + len(_EXTRA_RAYS))

    in_camera = np.einsum("ti,ji->tj", view.facing, camera.axes).astype(np.float16)
    labels = {layer: values.take(triangle).reshape(square) for layer, values in geometry.labels.items()}
    return {
        "rgb": _develop(image, brightness).reshape(*square, 3),
        "depth_m": seen.depth_m.astype(np.float32).reshape(square),
        "valid": np.ones(square, bool),
        # take: in_camera[triangle] takes numpy four times as long where rows are short.
        "layers": {"normals": in_camera.take(triangle, axis=0).reshape(*square, 3), **labels},
    }


def _pixels_beside(
    patch: Patches, edges: Int[np.ndarray, " edges"], met: Int[np.ndarray, "edges rays"]
) -> Int[np.ndarray, "edges rays"]:
    """Which pixel shows the patch that a ray in an edge's pixel met: this, the right, lower or diagonal one, or -1."""
    height, width = patch.shape
    right, below = (edges % width < width - 1).astype(np.intp), width * (edges < (height - 1) * width)
    pixels = np.full(met.shape, -1)
    for pixel in (edges + right + below, edges + below, edges + right, edges):
        np.copyto(pixels, pixel[:, None], where=patch.ravel().take(pixel)[:, None] == met)
    return pixels


_GAMMA_OF_ROOT = (255 * np.linspace(0, 1, 4096) ** (2 / 2.2) + 0.5).astype(np.uint8)
"""8-bit values of x^(1/2.2), in equal steps of sqrt(x): a fifth of the time of a power a pixel."""


def _develop(image: Rays, brightness: float) -> UInt8[np.ndarray, "pixels 3"]:
    """Expose for a mean of `brightness` (linear), roll off the highlights, apply gamma 2.2; 8 bits."""
    exposed = image * np.float32(brightness / max(float(image.mean()), 1e-6))
    # x / (1 + x^4)^(1/4): straight up to a half, then bending towards 1.
    square = exposed * exposed
    rolled = exposed / np.sqrt(np.sqrt(1 + square * square))
    return _GAMMA_OF_ROOT.take((np.sqrt(rolled) * 4095).astype(np.intp).T)
