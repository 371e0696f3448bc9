"""Furniture from solids: each function draws one variant, its back towards +y."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Vector = tuple[float, float, float]
ORIGIN: Vector = (0.0, 0.0, 0.0)

KINDS = (
    "nothing", "floor", "wall", "ceiling", "window", "door", "picture", "rug", "table", "chair", "stool", "shelf",
    "cabinet", "sofa", "bed", "lamp", "box", "ball", "cylinder", "vase", "plant", "column",
)  # fmt: skip
"""Names of the values of layer "kinds"; 0 stands for no surface at all and never occurs in a room."""

# (radius, height) of bodies that are turned on a lathe.
_PROFILES = {
    "cylinder": [(0, -0.5), (0.5, -0.5), (0.5, 0.5), (0, 0.5)],
    "cone": [(0, -0.5), (0.5, -0.5), (0, 0.5)],
    "shade": [(0.5, -0.5), (0.3, 0.5), (0.28, 0.5), (0.48, -0.5), (0.5, -0.5)],
    "vase": [(0, -0.5), (0.28, -0.5), (0.45, -0.3), (0.5, -0.1), (0.4, 0.15), (0.22, 0.32), (0.34, 0.5), (0, 0.42)],
}


class Part(NamedTuple):
    """One solid of a piece of furniture: metres, x right, y to the back, z up.

    faces: counter-clockwise from outside. slot: which of the piece's surfaces it wears.
    """

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "triangles 3"]
    slot: int = 0

    def turned(self, axis: int, angle: float, pivot: Vector = ORIGIN) -> "Part":
        """Return it turned by `angle` radians about the line along `axis` through `pivot`."""
        return self._replace(vertices=(self.vertices - pivot) @ rotation(axis, angle).T + pivot)


@lru_cache(maxsize=64)
def _unit(shape: str, detail: int) -> tuple[Float[np.ndarray, "vertices 3"], Int[np.ndarray, "triangles 3"]]:
    """Vertices and faces of a solid that fills [-0.5, 0.5]^3; `detail` is its number of sections."""
    # Imported on first use: trimesh takes most of a second, and nobody who reads a store needs it.
    from trimesh import creation

    if shape == "box":
        mesh = creation.box((1.0, 1.0, 1.0))
    elif shape == "ball":
        mesh = creation.icosphere(subdivisions=detail, radius=0.5)
    elif shape == "ring":
        mesh = creation.torus(major_radius=0.38, minor_radius=0.12, major_sections=detail, minor_sections=8)
        mesh.apply_scale((1.0, 1.0, 1.0 / 0.24))
    else:
        mesh = creation.revolve(_PROFILES[shape], sections=detail)
    # Profiles that begin on the axis leave triangles without an area there.
    mesh.update_faces(mesh.area_faces > 1e-9)
    mesh.remove_unreferenced_vertices()
    return np.array(mesh.vertices), np.array(mesh.faces)


def solid(shape: str, size: Vector, base: Vector = ORIGIN, slot: int = 0, detail: int = 20) -> Part:
    """A unit solid stretched to `size` metres, the centre of its underside at `base`."""
    vertices, faces = _unit(shape, detail)
    return Part(vertices * size + (base[0], base[1], base[2] + size[2] / 2), faces, slot)


def box(size: Vector, base: Vector = ORIGIN, slot: int = 0) -> Part:
    """A box of `size` metres that stands on `base`."""
    return solid("box", size, base, slot)


def ball(diameter_m: float, base: Vector = ORIGIN, slot: int = 0) -> Part:
    """A ball that rests on `base`: 1280 facets above 20 cm, 320 above 6 cm, 80 for a knob."""
    detail = 3 if diameter_m > 0.2 else 2 if diameter_m > 0.06 else 1
    return solid("ball", (diameter_m, diameter_m, diameter_m), base, slot, detail)


def rotation(axis: int, angle: float) -> Float[np.ndarray, "3 3"]:
    """Matrix that turns by `angle` radians about x (axis 0) or z (2), right-handed."""
    c, s = np.cos(angle), np.sin(angle)
    if axis == 0:
        return np.array([(1.0, 0.0, 0.0), (0.0, c, -s), (0.0, s, c)])
    return np.array([(c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0)])


@dataclass(frozen=True)
class Piece:
    """One piece of furniture, the middle of its footprint at the origin, on the floor.

    vertices: of all parts, one part after the other, metres; their own ones are those before it was centred.
    size_m: bounding box. top_m: height of a level top that small things may stand on, or None.
    """

    kind: str
    vertices: Float[np.ndarray, "vertices 3"]
    parts: tuple[Part, ...]
    size_m: Vector
    top_m: float | None = None


def piece(kind: str, parts: list[Part], top_m: float | None = None) -> Piece:
    """Centre the footprint of `parts` on the origin and measure it."""
    vertices = np.concatenate([part.vertices for part in parts])
    low, high = vertices.min(0), vertices.max(0)
    vertices += (-(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2, -low[2])
    width, depth, height = (float(x) for x in high - low)
    return Piece(kind, vertices, tuple(parts), (width, depth, height), top_m)


def _legs(w: float, d: float, height: float, thick: float, is_round: bool, slot: int) -> list[Part]:
    x, y = w / 2 - thick, d / 2 - thick
    shape = "cylinder" if is_round else "box"
    feet = [(-x, -y), (x, -y), (-x, y), (x, y)]
    return [solid(shape, (thick, thick, height), (a, b, 0.0), slot, detail=10) for a, b in feet]


def _table(rng: np.random.Generator) -> Piece:
    low = rng.random() < 0.3
    w, d = rng.uniform(0.7, 1.7), rng.uniform(0.55, 0.95)
    height, thick = (rng.uniform(0.35, 0.5) if low else rng.uniform(0.68, 0.8)), rng.uniform(0.02, 0.07)
    style, under = rng.integers(3), height - thick
    if style == 0:
        top = solid("cylinder", (w * 0.75, w * 0.75, thick), (0, 0, under), detail=32)
        legs = [solid("cylinder", (x, x, z), ORIGIN, 1) for x, z in ((0.1, under), (w * 0.4, 0.03))]
        return piece("table", [top, *legs], height)
    if style == 1:
        legs = _legs(w, d, under, rng.uniform(0.04, 0.09), rng.random() < 0.5, 1)
    else:
        legs = [box((0.05, d * 0.85, under), (s * w * 0.42, 0, 0), 1) for s in (-1, 1)]
        legs.append(box((w * 0.8, 0.03, 0.12), (0, 0, height * 0.5), 1))
    return piece("table", [box((w, d, thick), (0, 0, under)), *legs], height)


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
        rest = [box((w, 0.03, 0.07), (0, y, seat + 0.1 + k * back / 3)) for k in range(3)]
        rest += [box((0.035, 0.035, back + 0.1), (s * (w / 2 - 0.02), y, seat), 1) for s in (-1, 1)]
    else:
        rest = [box((0.025, 0.025, back), (x * w / 2 * 0.9, y, seat), 1) for x in (-1, -0.5, 0, 0.5, 1)]
        rest.append(box((w, 0.04, 0.08), (0, y, seat + back)))
    lean = -rng.uniform(0.0, 0.2)
    return piece("chair", [*parts, *(part.turned(0, lean, (0, y, seat)) for part in rest)])


def _stool(rng: np.random.Generator) -> Piece:
    diameter, height = rng.uniform(0.3, 0.5), rng.uniform(0.35, 0.7)
    if rng.random() < 0.4:
        return piece("stool", [solid("cylinder", (diameter, diameter, 0.4), detail=28)], 0.4)
    top = solid("cylinder", (diameter, diameter, 0.05), (0, 0, height - 0.05), detail=28)
    legs = _legs(diameter * 0.75, diameter * 0.75, height - 0.05, 0.03, True, 1)
    ring = solid("ring", (diameter * 0.8, diameter * 0.8, 0.03), (0, 0, height * 0.3), 1, detail=16)
    return piece("stool", [top, *legs, ring], height)


def _shelf(rng: np.random.Generator) -> Piece:
    w, d, height = rng.uniform(0.6, 1.5), rng.uniform(0.25, 0.4), rng.uniform(0.8, 2.1)
    count, thick = int(rng.integers(2, 6)), 0.03
    pitch = (height - thick) / count
    parts = [box((thick, d, height), (s * (w - thick) / 2, 0, 0)) for s in (-1, 1)]
    parts += [box((w - 2 * thick, d, thick), (0, 0, k * pitch)) for k in range(count + 1)]
    if rng.random() < 0.6:
        parts.append(box((w - 2 * thick, 0.01, height), (0, d / 2 - 0.005, 0), 1))
    for k in range(count):
        # Books and boxes.
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


def _cabinet(rng: np.random.Generator) -> Piece:
    w, d = rng.uniform(0.5, 1.6), rng.uniform(0.35, 0.6)
    height = rng.uniform(1.6, 2.1) if rng.random() < 0.3 else rng.uniform(0.5, 1.1)
    foot = rng.uniform(0.05, 0.18)
    columns, rows = int(rng.integers(1, 4)), 1 if height > 1.5 else int(rng.integers(1, 5))
    parts = [box((w, d, height - foot), (0, 0, foot)), *_legs(w, d, foot, 0.05, rng.random() < 0.5, 1)]
    fw, fh = w / columns, (height - foot) / rows
    for x in (-w / 2 + (i + 0.5) * fw for i in range(columns)):
        for z in (foot + j * fh for j in range(rows)):
            front = box((fw - 0.02, 0.02, fh - 0.02), (x, -d / 2 - 0.01, z + 0.01), 2)
            parts += [front, ball(0.035, (x, -d / 2 - 0.03, z + fh / 2), 1)]
    return piece("cabinet", parts, height)


def _sofa(rng: np.random.Generator) -> Piece:
    seats = int(rng.integers(1, 4))
    seat_w, d, seat = rng.uniform(0.55, 0.75), rng.uniform(0.75, 0.95), rng.uniform(0.36, 0.46)
    arm, back = rng.uniform(0.1, 0.22), rng.uniform(0.32, 0.5)
    w = seats * seat_w + 2 * arm
    parts = [box((w, d, seat - 0.2), (0, 0, 0.08)), *_legs(w, d, 0.08, 0.05, True, 2)]
    parts += [box((arm, d, seat + 0.12), (s * (w - arm) / 2, 0, 0.08)) for s in (-1, 1)]
    parts.append(box((w - 2 * arm, 0.2, back + seat - 0.08), (0, d / 2 - 0.1, 0.08)))
    for x in (-w / 2 + arm + (k + 0.5) * seat_w for k in range(seats)):
        parts.append(box((seat_w - 0.015, d - 0.22, 0.14), (x, -0.1, seat - 0.12), 1))
        if rng.random() < 0.6:
            cushion = box((0.42, 0.12, 0.38), (x, d / 2 - 0.3, seat + 0.03), 3)
            parts.append(cushion.turned(0, -0.3, (x, d / 2 - 0.3, seat)))
    return piece("sofa", parts)


def _bed(rng: np.random.Generator) -> Piece:
    w, length, seat = rng.uniform(0.9, 1.8), rng.uniform(1.9, 2.1), rng.uniform(0.35, 0.55)
    cover = rng.uniform(0.5, 0.75) * length
    return piece(
        "bed",
        [
            box((w, length, seat - 0.22), (0, 0, 0.06)),
            *_legs(w, length, 0.06, 0.07, False, 0),
            box((w - 0.04, length - 0.06, 0.2), (0, 0, seat - 0.16), 1),
            box((w + 0.02, cover, 0.22), (0, -length / 2 + cover / 2, seat - 0.16), 2),
            box((w, 0.06, rng.uniform(0.8, 1.2)), (0, length / 2 + 0.03, 0)),
            *(
                solid("ball", (0.55, 0.36, 0.16), (x * w, length / 2 - 0.28, seat + 0.02), 3, detail=2)
                for x in ((-0.25, 0.25) if w > 1.3 else (0.0,))
            ),
        ],
    )


def _floor_lamp(rng: np.random.Generator) -> Piece:
    height, shade = rng.uniform(1.2, 1.8), rng.uniform(0.28, 0.5)
    pole = [solid("cylinder", (x, x, z), slot=1) for x, z in ((0.28, 0.03), (0.03, height))]
    if rng.random() < 0.3:
        return piece("lamp", [*pole, ball(shade * 0.8, (0, 0, height - 0.1))])
    return piece("lamp", [*pole, solid("shade", (shade, shade, shade * 0.7), (0, 0, height - 0.15), detail=24)])


def _desk_lamp(rng: np.random.Generator) -> Piece:
    tall = rng.uniform(0.2, 0.35)
    foot = solid("vase", (0.16, 0.16, tall), slot=1, detail=16)
    return piece("lamp", [foot, solid("shade", (0.28, 0.28, 0.2), (0, 0, tall), detail=20)])


def _crate(rng: np.random.Generator) -> Piece:
    w, d, z, parts = rng.uniform(0.25, 0.7), rng.uniform(0.25, 0.7), 0.0, []
    for k in range(int(rng.integers(1, 4))):
        tall = rng.uniform(0.15, 0.5)
        parts.append(box((w, d, tall), (0, 0, z), k).turned(2, rng.uniform(-0.25, 0.25) if k else 0.0))
        w, d, z = w * rng.uniform(0.6, 0.95), d * rng.uniform(0.6, 0.95), z + tall
        if z > 1.0 or rng.random() < 0.5:
            break
    return piece("box", parts, z)


def _globe(rng: np.random.Generator) -> Piece:
    return piece("ball", [ball(rng.uniform(0.25, 0.7))])


def _drum(rng: np.random.Generator) -> Piece:
    diameter, height = rng.uniform(0.2, 0.55), rng.uniform(0.25, 1.0)
    if rng.random() < 0.25:
        return piece("cylinder", [solid("cone", (diameter, diameter, height), detail=28)])
    body = solid("cylinder", (diameter, diameter, height), detail=28)
    hoops = (0.0, height * 0.5 - 0.02, height - 0.04)[: int(rng.integers(4))]
    size = (diameter * 1.1, diameter * 1.1, 0.04)
    return piece("cylinder", [body, *(solid("ring", size, (0, 0, z), 1, detail=24) for z in hoops)], height)


def _vase(rng: np.random.Generator) -> Piece:
    diameter = rng.uniform(0.12, 0.4)
    return piece("vase", [solid("vase", (diameter, diameter, diameter * rng.uniform(1.2, 2.4)), detail=24)])


def _plant(rng: np.random.Generator) -> Piece:
    pot, tall = rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.4)
    stem = rng.uniform(0.2, 0.9) if rng.random() < 0.6 else 0.0
    parts = [solid("cylinder" if rng.random() < 0.5 else "vase", (pot, pot, tall), slot=1)]
    parts.append(solid("cylinder", (0.035, 0.035, stem + 0.1), (0, 0, tall - 0.1), 2, detail=8))
    for k in range(int(rng.integers(14, 36))):
        # A bent blade of four triangles along +y.
        length, width = rng.uniform(0.2, 0.55), rng.uniform(0.05, 0.16)
        middle, bend = 0.55 * length, 0.18 * length
        sides = [(-width / 2, middle, bend), (width / 2, middle, bend), (0.0, middle, 1.3 * bend)]
        blade = Part(np.array([ORIGIN, (0.0, length, -bend), *sides]), _BLADE)
        blade = blade.turned(0, rng.uniform(-0.3, 1.3)).turned(2, 2.4 * k + rng.uniform(0, 0.5))
        # Not below the pot's rim: hanging blades of a low plant would reach through the floor.
        offset = (0, 0, tall + stem * rng.uniform(0.5, 1.0) + 0.08)
        parts.append(blade._replace(vertices=blade.vertices + offset))
    return piece("plant", parts)


_BLADE = np.array([(0, 4, 2), (0, 3, 4), (4, 1, 2), (4, 3, 1)])

_PIECES = {
    "against a wall": {_shelf: 2, _cabinet: 2, _sofa: 2, _bed: 1.2, _table: 0.6, _floor_lamp: 0.7},
    "anywhere": {
        _table: 1.5, chair: 1.2, _stool: 1, _crate: 1.5, _globe: 1, _drum: 1.2, _vase: 0.4, _plant: 1,
        _floor_lamp: 0.5, _sofa: 0.5,
    },
    "on top": {_crate: 1, _globe: 0.8, _drum: 0.8, _vase: 1, _plant: 0.6, _desk_lamp: 1},
}  # fmt: skip
"""Which pieces stand where, and how often. Small ones stand on others, and are scaled to fit."""


def draw_piece(rng: np.random.Generator, where: str) -> Piece:
    """Draw a piece of those that stand "against a wall", "anywhere" or "on top"."""
    return list(_PIECES[where])[draw_index(rng, _PIECES[where].values())](rng)


def draw_index(rng: np.random.Generator, weights: Iterable[float]) -> int:
    """Draw a place among weights."""
    cumulative = list(accumulate(weights))
    return bisect_right(cumulative, rng.random() * cumulative[-1])
