"""A room: its shell, what hangs on its walls, and furniture that stands without running into itself."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from idl.data.rooms.furniture import Piece, Vector, box, chair, draw_piece, piece, rotation, solid
from idl.data.rooms.surfaces import Surface, draw_surface

GAP_M = 0.03
"""Free space kept between the bounding boxes of pieces that stand on the floor."""

EXCESS_LIGHT = {
    "floor": 1.13, "rug": 1.13, "ceiling": 1.15, "wall": 1.33, "window": 1.33, "door": 1.33, "picture": 1.33,
}  # fmt: skip
"""Light on these kinds over light on furniture, the mean of 250 rooms.

Lamps hang inside the room, so that walls always face them, while furniture shows its dark sides as often as its
bright ones; and walls are what is far. Paint that is darker by as much, and a strong ambient light, take the
correlation of luminance with log depth from +0.115 to +0.042 (300 rooms, standard error 0.014).
"""


@dataclass(frozen=True)
class Placed:
    """A piece where it stands. position_m: of the middle of its underside; yaw: radians about z."""

    piece: Piece
    position_m: Vector
    yaw: float
    scale: float = 1.0

    @property
    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Lowest and highest corner in the room, metres."""
        w, d, h = (self.scale * s for s in self.piece.size_m)
        c, s = abs(np.cos(self.yaw)), abs(np.sin(self.yaw))
        across, along, (x, y, z) = (c * w + s * d) / 2, (s * w + c * d) / 2, self.position_m
        return np.array([(x - across, y - along, z), (x + across, y + along, z + h)])


@dataclass(frozen=True)
class Room:
    """A furnished room: x in 0..size[0], y in 0..size[1], z in 0..size[2], metres.

    furniture: all pieces, the panels on the walls among them. surfaces: by slot, of each of them.
    shell: surfaces of the floor, the walls y = 0, x = size[0], y = size[1], x = 0, and the ceiling.
    """

    size_m: Vector
    furniture: tuple[Placed, ...]
    shell: tuple[Surface, ...]
    surfaces: tuple[tuple[Surface, ...], ...]


def draw_room(rng: np.random.Generator) -> Room:
    """Draw a room of 3 to 6.5 m a side and 2.3 to 3.2 m height, with all that is in it."""
    size = (float(rng.uniform(3.0, 6.5)), float(rng.uniform(3.0, 6.5)), float(rng.uniform(2.3, 3.2)))
    standing: list[Placed] = []
    taken = np.empty((0, 2, 3))

    def put(placed: Placed) -> bool:
        nonlocal taken
        (low, high), ground = placed.bounds, np.s_[:, :2]
        is_inside = (low[:2] >= GAP_M).all() and (high <= np.array(size) - GAP_M).all()
        apart = (taken[:, 0] > high + GAP_M)[ground].any(1) | (taken[:, 1] < low - GAP_M)[ground].any(1)
        is_free = bool(is_inside and apart.all())
        if is_free:
            standing.append(placed)
            taken = np.concatenate([taken, placed.bounds[None]])
        return is_free

    def put_some(count: int, where: str) -> None:
        # Each is drawn until it fits, eight times at most.
        place = _anywhere if where == "anywhere" else _against_wall
        for _ in range(count):
            any(put(place(rng, draw_piece(rng, where), size)) for _ in range(8))

    if rng.random() < 0.25:
        thick, shape = rng.uniform(0.2, 0.45), "box" if rng.random() < 0.5 else "cylinder"
        shaft = piece("column", [solid(shape, (thick, thick, size[2] - 2 * GAP_M), detail=32)])
        put(_anywhere(rng, shaft, size, yaw=0.0))
    area = size[0] * size[1]
    put_some(int(rng.integers(2, 4 + int(area / 8))), "against a wall")
    put_some(int(rng.integers(3, 5 + int(area / 5))), "anywhere")
    for table in [p for p in standing if p.piece.kind == "table" and p.piece.size_m[2] > 0.6]:
        for seat in _around(rng, table):
            put(seat)
    small = [top for placed in standing for top in _on_top(rng, placed, size[2])]
    furniture = (*_fixtures(rng, size), *standing, *small)
    wall = _paint(rng, "wall")
    same = rng.random() < 0.6
    walls = [wall if same else _paint(rng, "wall") for _ in range(4)]
    shell = (_paint(rng, "floor"), *walls, _paint(rng, "ceiling"))
    slots = ((each.piece.kind, 1 + max(part.slot for part in each.piece.parts)) for each in furniture)
    return Room(size, furniture, shell, tuple(tuple(_paint(rng, kind) for _ in range(num)) for kind, num in slots))


def _paint(rng: np.random.Generator, kind: str) -> Surface:
    """Draw a surface, toned down where its kind of thing gets more light than furniture does."""
    surface = draw_surface(rng)
    return replace(surface, colours=surface.colours / EXCESS_LIGHT[kind]) if kind in EXCESS_LIGHT else surface


def _beside_wall(standing: Piece, side: int, along_m: float, low_m: float, size: Vector, gap_m: float = 0.0) -> Placed:
    """Put a piece with its back to a wall, its underside at `low_m`, its middle `along_m` from the corner.

    side: 0 to 3, the walls y = size[1], x = 0, y = 0, x = size[0].
    """
    back = standing.size_m[1] / 2 + gap_m
    x, y = [(along_m, size[1] - back), (back, along_m), (along_m, back), (size[0] - back, along_m)][side]
    return Placed(standing, (float(x), float(y), low_m), side * np.pi / 2)


def _against_wall(rng: np.random.Generator, standing: Piece, size: Vector) -> Placed:
    side, half = int(rng.integers(4)), standing.size_m[0] / 2 + 0.05
    along = rng.uniform(half, max(size[side % 2] - half, half + 1e-3))
    # Clear of the wall by more than any panel on it is thick.
    return _beside_wall(standing, side, float(along), 0.0, size, gap_m=0.06)


def _anywhere(rng: np.random.Generator, standing: Piece, size: Vector, yaw: float | None = None) -> Placed:
    turn = float(rng.uniform(0, 2 * np.pi)) if yaw is None else yaw
    return Placed(standing, (float(rng.uniform(0.1, size[0])), float(rng.uniform(0.1, size[1])), 0.0), turn)


def _around(rng: np.random.Generator, table: Placed) -> list[Placed]:
    """Chairs of one make at some sides of a table, facing it, some pulled out or turned a little."""
    w, d, _ = table.piece.size_m
    seat, chairs = chair(rng), []
    for side in range(4):
        reach = (d if side % 2 == 0 else w) / 2 + seat.size_m[1] / 2 + rng.uniform(0.08, 0.4)
        if rng.random() < 0.35:
            continue
        direction = table.yaw + side * np.pi / 2
        x = table.position_m[0] - reach * np.sin(direction)
        y = table.position_m[1] + reach * np.cos(direction)
        chairs.append(Placed(seat, (float(x), float(y), 0.0), float(direction + rng.normal(0, 0.15))))
    return chairs


def _on_top(rng: np.random.Generator, below: Placed, height: float) -> list[Placed]:
    """Up to three small things side by side on a level top."""
    top = below.piece.top_m
    if top is None or below.piece.kind == "stool" or rng.random() < 0.3:
        return []
    # A round top holds things within the square inside it; a stacked box's own top is smaller than its foot.
    shrink = 0.45 if below.piece.kind in ("box", "cylinder") else 0.7
    w, d = (shrink * s for s in below.piece.size_m[:2])
    count = int(rng.integers(1, 4)) if w > 0.5 else 1
    things = []
    for k in range(count):
        thing = draw_piece(rng, "on top")
        room = min(w / count, d, 0.45) * rng.uniform(0.6, 0.95)
        spread, tall = float(np.hypot(*thing.size_m[:2])), thing.size_m[2]
        scale = min(1.0, room / spread, 0.6 / tall, (height - top - 0.05) / tall)
        offset = rotation(2, below.yaw) @ np.array([(k + 0.5) / count * w - w / 2, 0.0, top])
        x, y, z = (np.array(below.position_m) + offset).tolist()
        things.append(Placed(thing, (x, y, z), float(rng.uniform(0, 2 * np.pi)), scale))
    return things


def _fixtures(rng: np.random.Generator, size: Vector) -> list[Placed]:
    """A few panels on each wall, side by side; a rug; a lamp that hangs from the ceiling."""
    found = []
    for side in range(4):
        length, start = size[side % 2], rng.uniform(0.15, 0.6)
        while start < length - 0.5:
            kind = str(rng.choice(["picture", "picture", "window", "door"]))
            w, h = {"picture": (0.3, 0.3), "window": (0.7, 0.8), "door": (0.75, 1.9)}[kind]
            wider, taller = (0.2, 0.2) if kind == "door" else (0.7, 0.5)
            w, h = w + rng.uniform(0, wider), h + rng.uniform(0, taller)
            if start + w > length - 0.1:
                break
            low = 0.0 if kind == "door" else float(rng.uniform(0.5, max(size[2] - h - 0.15, 0.51)))
            if low + h < size[2] - 0.05:
                found.append(_beside_wall(_panel(rng, kind, w, h), side, start + w / 2, low, size))
            start += w + rng.uniform(0.2, 1.8)
    if rng.random() < 0.6:
        w, d = rng.uniform(0.3, 0.7) * size[0], rng.uniform(0.3, 0.7) * size[1]
        shape = "cylinder" if rng.random() < 0.3 else "box"
        x, y = rng.uniform(w / 2, size[0] - w / 2), rng.uniform(d / 2, size[1] - d / 2)
        found.append(Placed(piece("rug", [solid(shape, (w, d, 0.012), detail=40)]), (float(x), float(y), 0.0), 0.0))
    if rng.random() < 0.5:
        drop, shade = rng.uniform(0.2, 0.6), rng.uniform(0.25, 0.5)
        body, detail = ("shade", 24) if rng.random() < 0.6 else ("ball", 3)
        cord = solid("cylinder", (0.02, 0.02, drop), (0, 0, shade * 0.5), 1, detail=8)
        pendant = piece("lamp", [cord, solid(body, (shade, shade, shade * 0.6), detail=detail)])
        x, y = (float(rng.uniform(0.3, 0.7) * s) for s in size[:2])
        found.append(Placed(pendant, (x, y, size[2] - pendant.size_m[2]), 0.0))
    return found


def _panel(rng: np.random.Generator, kind: str, w: float, h: float) -> Piece:
    """A framed panel, 2 to 4 cm thick, standing upright: a picture, a window or a door."""
    frame, thick = rng.uniform(0.02, 0.08), rng.uniform(0.02, 0.04)
    parts = [box((w - frame, thick * 0.6, h - frame), (0, 0, frame / 2))]
    parts += [box((frame, thick, h), (s * (w - frame) / 2, 0, 0), 1) for s in (-1, 1)]
    parts += [box((w - 2 * frame, thick, frame), (0, 0, z), 1) for z in (0.0, h - frame)]
    if kind == "window":
        parts += [box((0.04, thick, h), (0, 0, 0), 1), box((w, thick, 0.04), (0, 0, h / 2), 1)]
    if kind == "door":
        parts.append(box((0.12, 0.09, 0.02), (w * 0.36, 0, h * 0.48), 2))
    return piece(kind, parts)
