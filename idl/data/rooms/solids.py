"""Solids in metres, as plain triangles: what furniture is put together from."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """One solid of a piece of furniture.

    triangles: metres, x right, y to the back, z up.
    slot: which of the piece's surfaces it wears.
    """

    triangles: Float[np.ndarray, "triangles 3 3"]
    slot: int = 0


@lru_cache(maxsize=64)
def _unit(shape: str, detail: int) -> Float[np.ndarray, "triangles 3 3"]:
    """Triangles of a solid that fills [-0.5, 0.5]^3, read-only; `detail` is its number of sections."""
    # Imported on first use: trimesh takes most of a second, and nobody who reads a store needs it.
    from trimesh import creation

    if shape == "box":
        mesh = creation.box((1.0, 1.0, 1.0))
    elif shape == "cylinder":
        mesh = creation.cylinder(radius=0.5, height=1.0, sections=detail)
    elif shape == "cone":
        mesh = creation.cone(radius=0.5, height=1.0, sections=detail)
        mesh.apply_translation((0.0, 0.0, -0.5))
    elif shape == "ball":
        mesh = creation.icosphere(subdivisions=detail, radius=0.5)
    elif shape == "shade":
        profile = [[0.5, -0.5], [0.3, 0.5], [0.28, 0.5], [0.48, -0.5], [0.5, -0.5]]
        mesh = creation.revolve(profile, sections=detail)
    elif shape == "vase":
        profile = [[0, -0.5], [0.28, -0.5], [0.45, -0.3], [0.5, -0.1], [0.4, 0.15], [0.22, 0.32], [0.34, 0.5]]
        mesh = creation.revolve([*profile, [0.0, 0.42]], sections=detail)
    elif shape == "ring":
        mesh = creation.torus(major_radius=0.38, minor_radius=0.12, major_sections=detail, minor_sections=8)
        mesh.apply_scale((1.0, 1.0, 1.0 / 0.24))
    else:
        raise ValueError(f"unknown solid {shape!r}")
    triangles = np.array(mesh.triangles, dtype=np.float64)
    triangles.setflags(write=False)
    return triangles


def solid(shape: str, size: Vector, base: Vector = (0.0, 0.0, 0.0), slot: int = 0, detail: int = 20) -> Part:
    """A unit solid stretched to `size` metres, the centre of its underside at `base`."""
    centre = np.array([base[0], base[1], base[2] + size[2] / 2])
    return Part(_unit(shape, detail) * np.array(size) + centre, slot)


def box(size: Vector, base: Vector = (0.0, 0.0, 0.0), slot: int = 0) -> Part:
    """A box of `size` metres that stands on `base`."""
    return solid("box", size, base, slot)


def ball(diameter_m: float, base: Vector = (0.0, 0.0, 0.0), slot: int = 0) -> Part:
    """A ball that rests on `base`: 1280 facets above 20 cm, 320 above 6 cm, 80 for a knob."""
    detail = 3 if diameter_m > 0.2 else 2 if diameter_m > 0.06 else 1
    return solid("ball", (diameter_m, diameter_m, diameter_m), base, slot, detail)


def leaf(length_m: float, width_m: float, slot: int = 0) -> Part:
    """A bent blade of four triangles along +y from the origin."""
    middle, bend = 0.55 * length_m, 0.18 * length_m
    root, tip = (0.0, 0.0, 0.0), (0.0, length_m, -bend)
    left, right, ridge = (-width_m / 2, middle, bend), (width_m / 2, middle, bend), (0.0, middle, 1.3 * bend)
    faces = [(root, ridge, left), (root, right, ridge), (ridge, tip, left), (ridge, right, tip)]
    return Part(np.array(faces, dtype=np.float64), slot)


def rotation(axis: int, angle: float) -> Float[np.ndarray, "3 3"]:
    """Matrix that turns by `angle` radians about coordinate axis 0, 1 or 2, right-handed."""
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[j, i] = np.sin(angle)
    matrix[i, j] = -matrix[j, i]
    return matrix


def turned(part: Part, axis: int, angle: float, pivot: Vector = (0.0, 0.0, 0.0)) -> Part:
    """`part` turned by `angle` radians about the line along `axis` through `pivot`."""
    return replace(part, triangles=(part.triangles - pivot) @ rotation(axis, angle).T + pivot)


def moved(part: Part, offset: Vector) -> Part:
    """`part` shifted by `offset` metres."""
    return replace(part, triangles=part.triangles + np.array(offset))


def surface_coordinates(
    triangles: Float[np.ndarray, "triangles 3 3"],
    normals: Float[np.ndarray, "triangles 3"],
    centres: Float[np.ndarray, "triangles 3"],
    radii: Float[np.ndarray, "triangles"],
) -> Float[np.ndarray, "triangles 3 2"]:
    """Texture coordinates in metres of every corner, without stretching or seams inside a face.

    Level faces (|n_z| > 0.9) are projected along z. On all others, u runs horizontally and v up the face;
    the arc length `radius` x (azimuth, elevation) of the facet's normal is added, so that neighbouring
    facets of a round body continue each other.

    centres, radii: of the part that a triangle belongs to, metres.
    """
    local = triangles - centres[:, None]
    level = np.abs(normals[:, 2]) > 0.9
    horizontal = np.hypot(normals[:, 0], normals[:, 1])
    safe = np.where(level, 1.0, horizontal)
    zeros = np.zeros_like(safe)
    along = np.stack([-normals[:, 1] / safe, normals[:, 0] / safe, zeros], -1)
    up = np.cross(normals, along)
    along[level], up[level] = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
    azimuth = np.where(level, 0.0, np.arctan2(normals[:, 1], normals[:, 0])) * radii
    elevation = np.where(level, 0.0, np.arctan2(normals[:, 2], horizontal)) * radii
    u = np.einsum("tci,ti->tc", local, along) + azimuth[:, None]
    v = np.einsum("tci,ti->tc", local, up) + elevation[:, None]
    return np.stack([u, v], -1)
