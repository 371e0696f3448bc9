"""Lights of a room, drawn without looking at any camera, and what they make of a surface."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from idl.data.rooms.geometry import Geometry
from idl.data.rooms.solids import Vector


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
