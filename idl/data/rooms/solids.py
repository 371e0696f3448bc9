"""Solids in metres, as triangles with shared corners: what furniture is put together from."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """One solid of a piece of furniture.

    vertices: metres, x right, y to the back, z up.
    faces: which three vertices a triangle has, counter-clockwise from outside.
    slot: which of the piece's surfaces it wears.
    """

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "triangles 3"]
    slot: int = 0


@lru_cache(maxsize=64)
def _unit(shape: str, detail: int) -> tuple[Float[np.ndarray, "vertices 3"], Int[np.ndarray, "triangles 3"]]:
    """Vertices and faces of a solid that fills [-0.5, 0.5]^3, read-only; `detail` is its number of sections."""
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
    vertices, faces = np.array(mesh.vertices, np.float64), np.array(mesh.faces, np.int64)
    # Revolved profiles that begin on the axis leave triangles without an area there.
    corners = vertices[faces]
    faces = faces[np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) > 1e-9]
    used, faces = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[used], faces.reshape(-1, 3)
    vertices.setflags(write=False)
    faces.setflags(write=False)
    return vertices, faces


def solid(shape: str, size: Vector, base: Vector = (0.0, 0.0, 0.0), slot: int = 0, detail: int = 20) -> Part:
    """A unit solid stretched to `size` metres, the centre of its underside at `base`."""
    vertices, faces = _unit(shape, detail)
    return Part(vertices * size + (base[0], base[1], base[2] + size[2] / 2), faces, slot)


def box(size: Vector, base: Vector = (0.0, 0.0, 0.0), slot: int = 0) -> Part:
    """A box of `size` metres that stands on `base`."""
    return solid("box", size, base, slot)


def ball(diameter_m: float, base: Vector = (0.0, 0.0, 0.0), slot: int = 0) -> Part:
    """A ball that rests on `base`: 1280 facets above 20 cm, 320 above 6 cm, 80 for a knob."""
    detail = 3 if diameter_m > 0.2 else 2 if diameter_m > 0.06 else 1
    return solid("ball", (diameter_m, diameter_m, diameter_m), base, slot, detail)


_LEAF = np.array([(0, 4, 2), (0, 3, 4), (4, 1, 2), (4, 3, 1)])


def leaf(length_m: float, width_m: float, slot: int = 0) -> Part:
    """A bent blade of four triangles along +y from the origin."""
    middle, bend = 0.55 * length_m, 0.18 * length_m
    root, tip = (0.0, 0.0, 0.0), (0.0, length_m, -bend)
    left, right, ridge = (-width_m / 2, middle, bend), (width_m / 2, middle, bend), (0.0, middle, 1.3 * bend)
    return Part(np.array([root, tip, left, right, ridge]), _LEAF, slot)


def rotation(axis: int, angle: float) -> Float[np.ndarray, "3 3"]:
    """Matrix that turns by `angle` radians about coordinate axis 0, 1 or 2, right-handed."""
    c, s = np.cos(angle), np.sin(angle)
    if axis == 0:
        return np.array([(1.0, 0.0, 0.0), (0.0, c, -s), (0.0, s, c)])
    if axis == 1:
        return np.array([(c, 0.0, s), (0.0, 1.0, 0.0), (-s, 0.0, c)])
    return np.array([(c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0)])


def turned(part: Part, axis: int, angle: float, pivot: Vector = (0.0, 0.0, 0.0)) -> Part:
    """`part` turned by `angle` radians about the line along `axis` through `pivot`."""
    return Part((part.vertices - pivot) @ rotation(axis, angle).T + pivot, part.faces, part.slot)


def moved(part: Part, offset: Vector) -> Part:
    """`part` shifted by `offset` metres."""
    return Part(part.vertices + offset, part.faces, part.slot)


def surface_coordinates(
    corners: Float[np.ndarray, "3 3 triangles"],
    normals: Float[np.ndarray, "3 triangles"],
    centres: Float[np.ndarray, "3 triangles"],
    radii: Float[np.ndarray, " triangles"],
) -> Float[np.ndarray, "2 3 triangles"]:
    """Texture coordinates (u, v) in metres of every corner, without stretching or seams inside a face.

    Level faces (|n_z| > 0.9) are projected along z. On all others, u runs horizontally and v up the face;
    the arc length `radius` x (azimuth, elevation) of the facet's normal is added, so that neighbouring
    facets of a round body continue each other.

    corners: component, corner. centres, radii: of the part that a triangle belongs to, metres.
    """
    nx, ny, nz = normals
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
