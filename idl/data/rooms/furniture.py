"""Furniture from solids: each function draws one variant. Origin: middle of the footprint, on the floor."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

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


KINDS = (
    "nothing", "floor", "wall", "ceiling", "window", "door", "picture", "rug", "table", "chair", "stool", "shelf",
    "cabinet", "sofa", "bed", "lamp", "box", "ball", "cylinder", "vase", "plant", "column",
)  # fmt: skip
"""Names of the values of layer "kinds"; 0 stands for no surface at all and never occurs in a room."""


@dataclass(frozen=True)
class Piece:
    """One piece of furniture, its back towards +y.

    vertices: of all parts, one part after the other, metres.
    parts: what it is put together from; their own vertices are those before it was centred.
    size_m: bounding box: width (x), depth (y), height (z), metres.
    top_m: height of a level top that small things may stand on, or None.
    """

    kind: str
    vertices: Float[np.ndarray, "vertices 3"]
    parts: tuple[Part, ...]
    size_m: tuple[float, float, float]
    top_m: float | None = None


def piece(kind: str, parts: list[Part], top_m: float | None = None) -> Piece:
    """Centre the footprint of `parts` on the origin and measure it."""
    vertices = np.concatenate([part.vertices for part in parts])
    low, high = vertices.min(0), vertices.max(0)
    vertices += (-(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2, -low[2])
    width, depth, height = (float(x) for x in high - low)
    return Piece(kind, vertices, tuple(parts), (width, depth, height), top_m)


def _legs(w: float, d: float, height: float, thick: float, round_: bool, slot: int) -> list[Part]:
    x, y = w / 2 - thick, d / 2 - thick
    shape = "cylinder" if round_ else "box"
    feet = [(-x, -y), (x, -y), (-x, y), (x, y)]
    return [solid(shape, (thick, thick, height), (a, b, 0.0), slot, detail=10) for a, b in feet]


def table(rng: np.random.Generator) -> Piece:
    """A table: rectangular on four legs or two panels, or round on a pillar."""
    low = rng.random() < 0.3
    w, d = rng.uniform(0.7, 1.7), rng.uniform(0.55, 0.95)
    height, thick = (rng.uniform(0.35, 0.5) if low else rng.uniform(0.68, 0.8)), rng.uniform(0.02, 0.07)
    style = rng.integers(3)
    if style == 0:
        top = solid("cylinder", (w * 0.75, w * 0.75, thick), (0, 0, height - thick), detail=32)
        pillar = solid("cylinder", (0.1, 0.1, height - thick), (0, 0, 0), 1)
        parts = [top, pillar, solid("cylinder", (w * 0.4, w * 0.4, 0.03), (0, 0, 0), 1)]
    else:
        parts = [box((w, d, thick), (0, 0, height - thick))]
        if style == 1:
            parts += _legs(w, d, height - thick, rng.uniform(0.04, 0.09), rng.random() < 0.5, 1)
        else:
            parts += [box((0.05, d * 0.85, height - thick), (s * w * 0.42, 0, 0), 1) for s in (-1, 1)]
            parts.append(box((w * 0.8, 0.03, 0.12), (0, 0, height * 0.5), 1))
    return piece("table", parts, height)


def chair(rng: np.random.Generator) -> Piece:
    """A chair with four legs, and a back of one panel, slats, or none but posts and a rail."""
    w, d, seat = rng.uniform(0.38, 0.5), rng.uniform(0.38, 0.5), rng.uniform(0.42, 0.5)
    back, style = rng.uniform(0.35, 0.6), rng.integers(3)
    parts = _legs(w, d, seat, rng.uniform(0.03, 0.05), rng.random() < 0.5, 1)
    parts.append(box((w, d, rng.uniform(0.03, 0.09)), (0, 0, seat)))
    y = d / 2 - 0.02
    if style == 0:
        rest = [box((w, 0.035, back), (0, y, seat + 0.03))]
    elif style == 1:
        rest = [box((w, 0.03, 0.07), (0, y, seat + 0.1 + k * back / 3), 0) for k in range(3)]
        rest += [box((0.035, 0.035, back + 0.1), (s * (w / 2 - 0.02), y, seat), 1) for s in (-1, 1)]
    else:
        rest = [box((0.025, 0.025, back), (x * w / 2 * 0.9, y, seat), 1) for x in (-1, -0.5, 0, 0.5, 1)]
        rest.append(box((w, 0.04, 0.08), (0, y, seat + back)))
    lean = -rng.uniform(0.0, 0.2)
    parts += [turned(part, 0, lean, (0, y, seat)) for part in rest]
    return piece("chair", parts)


def stool(rng: np.random.Generator) -> Piece:
    """A round stool or a pouf."""
    diameter, height = rng.uniform(0.3, 0.5), rng.uniform(0.35, 0.7)
    if rng.random() < 0.4:
        return piece("stool", [solid("cylinder", (diameter, diameter, 0.4), detail=28)], 0.4)
    parts = [solid("cylinder", (diameter, diameter, 0.05), (0, 0, height - 0.05), detail=28)]
    parts += _legs(diameter * 0.75, diameter * 0.75, height - 0.05, 0.03, True, 1)
    parts.append(solid("ring", (diameter * 0.8, diameter * 0.8, 0.03), (0, 0, height * 0.3), 1, detail=16))
    return piece("stool", parts, height)


def shelf(rng: np.random.Generator) -> Piece:
    """An open shelf with books and boxes on its boards."""
    w, d, height = rng.uniform(0.6, 1.5), rng.uniform(0.25, 0.4), rng.uniform(0.8, 2.1)
    count, thick = int(rng.integers(2, 6)), 0.03
    pitch = (height - thick) / count
    parts = [box((thick, d, height), (s * (w - thick) / 2, 0, 0)) for s in (-1, 1)]
    parts += [box((w - 2 * thick, d, thick), (0, 0, k * pitch)) for k in range(count + 1)]
    if rng.random() < 0.6:
        parts.append(box((w - 2 * thick, 0.01, height), (0, d / 2 - 0.005, 0), 1))
    for k in range(count):
        x, end = -w / 2 + thick, w / 2 - thick
        while len(parts) < 60:
            width, tall = rng.uniform(0.03, 0.16), rng.uniform(0.35, 0.9) * (pitch - thick)
            if x + width > end:
                break
            if rng.random() < 0.75:
                size = (width * 0.95, d * rng.uniform(0.5, 0.85), tall)
                parts.append(box(size, (x + width / 2, 0, k * pitch + thick), int(rng.integers(2, 5))))
            x += width
    return piece("shelf", parts, height)


def cabinet(rng: np.random.Generator) -> Piece:
    """A cabinet, chest of drawers or wardrobe: fronts with knobs, a plinth or feet."""
    w, d = rng.uniform(0.5, 1.6), rng.uniform(0.35, 0.6)
    height = rng.uniform(1.6, 2.1) if rng.random() < 0.3 else rng.uniform(0.5, 1.1)
    foot = rng.uniform(0.05, 0.18)
    columns, rows = int(rng.integers(1, 4)), 1 if height > 1.5 else int(rng.integers(1, 5))
    parts = [box((w, d, height - foot), (0, 0, foot)), *_legs(w, d, foot, 0.05, rng.random() < 0.5, 1)]
    fw, fh = w / columns, (height - foot) / rows
    for i in range(columns):
        for j in range(rows):
            x, z = -w / 2 + (i + 0.5) * fw, foot + j * fh
            parts.append(box((fw - 0.02, 0.02, fh - 0.02), (x, -d / 2 - 0.01, z + 0.01), 2))
            parts.append(ball(0.035, (x, -d / 2 - 0.03, z + fh / 2), 1))
    return piece("cabinet", parts, height)


def sofa(rng: np.random.Generator) -> Piece:
    """A sofa or an armchair with cushions."""
    seats = int(rng.integers(1, 4))
    seat_w, d, seat = rng.uniform(0.55, 0.75), rng.uniform(0.75, 0.95), rng.uniform(0.36, 0.46)
    arm, back = rng.uniform(0.1, 0.22), rng.uniform(0.32, 0.5)
    w = seats * seat_w + 2 * arm
    parts = [box((w, d, seat - 0.2), (0, 0, 0.08)), *_legs(w, d, 0.08, 0.05, True, 2)]
    parts += [box((arm, d, seat + 0.12), (s * (w - arm) / 2, 0, 0.08)) for s in (-1, 1)]
    parts.append(box((w - 2 * arm, 0.2, back + seat - 0.08), (0, d / 2 - 0.1, 0.08)))
    for k in range(seats):
        x = -w / 2 + arm + (k + 0.5) * seat_w
        parts.append(box((seat_w - 0.015, d - 0.22, 0.14), (x, -0.1, seat - 0.12), 1))
        if rng.random() < 0.6:
            cushion = box((0.42, 0.12, 0.38), (x, d / 2 - 0.3, seat + 0.03), 3)
            parts.append(turned(cushion, 0, -0.3, (x, d / 2 - 0.3, seat)))
    return piece("sofa", parts)


def bed(rng: np.random.Generator) -> Piece:
    """A bed: frame, mattress, blanket, pillows, headboard."""
    w, length, seat = rng.uniform(0.9, 1.8), rng.uniform(1.9, 2.1), rng.uniform(0.35, 0.55)
    parts = [box((w, length, seat - 0.22), (0, 0, 0.06)), *_legs(w, length, 0.06, 0.07, False, 0)]
    parts.append(box((w - 0.04, length - 0.06, 0.2), (0, 0, seat - 0.16), 1))
    cover = rng.uniform(0.5, 0.75) * length
    parts.append(box((w + 0.02, cover, 0.22), (0, -length / 2 + cover / 2, seat - 0.16), 2))
    parts.append(box((w, 0.06, rng.uniform(0.8, 1.2)), (0, length / 2 + 0.03, 0), 0))
    for x in (-0.25, 0.25) if w > 1.3 else (0.0,):
        pillow = solid("ball", (0.55, 0.36, 0.16), (x * w, length / 2 - 0.28, seat + 0.02), 3, detail=2)
        parts.append(pillow)
    return piece("bed", parts)


def floor_lamp(rng: np.random.Generator) -> Piece:
    """A lamp on a pole: a shade or a globe."""
    height, shade = rng.uniform(1.2, 1.8), rng.uniform(0.28, 0.5)
    parts = [solid("cylinder", (0.28, 0.28, 0.03), (0, 0, 0), 1), solid("cylinder", (0.03, 0.03, height), slot=1)]
    globe = rng.random() < 0.3
    top = ball(shade * 0.8, (0, 0, height - 0.1)) if globe else None
    parts.append(top or solid("shade", (shade, shade, shade * 0.7), (0, 0, height - 0.15), 0, detail=24))
    return piece("lamp", parts)


def desk_lamp(rng: np.random.Generator) -> Piece:
    """A small lamp on a turned foot."""
    tall = rng.uniform(0.2, 0.35)
    parts = [solid("vase", (0.16, 0.16, tall), (0, 0, 0), 1, detail=16)]
    parts.append(solid("shade", (0.28, 0.28, 0.2), (0, 0, tall), 0, detail=20))
    return piece("lamp", parts)


def crate(rng: np.random.Generator) -> Piece:
    """A box, or a few stacked ones, each a little turned."""
    w, d, z = rng.uniform(0.25, 0.7), rng.uniform(0.25, 0.7), 0.0
    parts = []
    for k in range(int(rng.integers(1, 4))):
        tall = rng.uniform(0.15, 0.5)
        parts.append(turned(box((w, d, tall), (0, 0, z), k), 2, rng.uniform(-0.25, 0.25) if k else 0.0))
        w, d, z = w * rng.uniform(0.6, 0.95), d * rng.uniform(0.6, 0.95), z + tall
        if z > 1.0 or rng.random() < 0.5:
            break
    return piece("box", parts, z)


def globe(rng: np.random.Generator) -> Piece:
    """A ball of 25 to 70 cm."""
    return piece("ball", [ball(rng.uniform(0.25, 0.7))])


def drum(rng: np.random.Generator) -> Piece:
    """A cylinder, sometimes a cone: a bin, a barrel, a pedestal, a tent."""
    diameter, height = rng.uniform(0.2, 0.55), rng.uniform(0.25, 1.0)
    if rng.random() < 0.25:
        return piece("cylinder", [solid("cone", (diameter, diameter, height), detail=28)])
    parts = [solid("cylinder", (diameter, diameter, height), detail=28)]
    parts += [
        solid("ring", (diameter * 1.1, diameter * 1.1, 0.04), (0, 0, z), 1, detail=24)
        for z in (0.0, height * 0.5 - 0.02, height - 0.04)[: int(rng.integers(4))]
    ]
    return piece("cylinder", parts, height)


def vase(rng: np.random.Generator) -> Piece:
    """A turned vase."""
    diameter = rng.uniform(0.12, 0.4)
    return piece("vase", [solid("vase", (diameter, diameter, diameter * rng.uniform(1.2, 2.4)), detail=24)])


def plant(rng: np.random.Generator) -> Piece:
    """A plant in a pot: blades in all directions, with or without a stem."""
    pot, tall = rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.4)
    stem = rng.uniform(0.2, 0.9) if rng.random() < 0.6 else 0.0
    shape = "cylinder" if rng.random() < 0.5 else "vase"
    parts = [solid(shape, (pot, pot, tall), (0, 0, 0), 1, detail=20)]
    parts.append(solid("cylinder", (0.035, 0.035, stem + 0.1), (0, 0, tall - 0.1), 2, detail=8))
    for k in range(int(rng.integers(14, 36))):
        blade = leaf(rng.uniform(0.2, 0.55), rng.uniform(0.05, 0.16), 0)
        blade = turned(turned(blade, 0, rng.uniform(-0.3, 1.3)), 2, 2.4 * k + rng.uniform(0, 0.5))
        # Not below the pot's rim: hanging blades of a low plant would reach through the floor.
        parts.append(moved(blade, (0, 0, tall + stem * rng.uniform(0.5, 1.0) + 0.08)))
    return piece("plant", parts)


Builder = Callable[[np.random.Generator], Piece]

AGAINST_WALL: Mapping[Builder, float] = {shelf: 2, cabinet: 2, sofa: 2, bed: 1.2, table: 0.6, floor_lamp: 0.7}
"""Pieces that stand with their backs to a wall, and how often."""

FREE_STANDING: Mapping[Builder, float] = {
    table: 1.5, chair: 1.2, stool: 1, crate: 1.5, globe: 1, drum: 1.2, vase: 0.4, plant: 1, floor_lamp: 0.5, sofa: 0.5,
}  # fmt: skip
"""Pieces that stand anywhere, and how often."""

ON_TOP: Mapping[Builder, float] = {crate: 1, globe: 0.8, drum: 0.8, vase: 1, plant: 0.6, desk_lamp: 1}
"""Small things that stand on others, and how often; they are scaled to fit."""


def draw_builder(rng: np.random.Generator, choices: Mapping[Builder, float]) -> Builder:
    """Draw one builder by its weight."""
    cumulative = list(accumulate(choices.values()))
    return list(choices)[bisect_right(cumulative, rng.random() * cumulative[-1])]
