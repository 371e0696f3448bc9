"""Pieces in their places, and what is fixed to a room: panels on the walls, a rug, a hanging lamp."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from idl.data.rooms.furniture import Piece, piece
from idl.data.rooms.solids import box, rotation, solid


@dataclass(frozen=True)
class Placed:
    """A piece where it stands. position_m: of the middle of its underside; yaw: radians about z."""

    piece: Piece
    position_m: tuple[float, float, float]
    yaw: float
    scale: float = 1.0

    @property
    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Lowest and highest corner in the room, metres."""
        w, d, h = (self.scale * s for s in self.piece.size_m)
        c, s = abs(np.cos(self.yaw)), abs(np.sin(self.yaw))
        across, along, (x, y, z) = (c * w + s * d) / 2, (s * w + c * d) / 2, self.position_m
        return np.array([(x - across, y - along, z), (x + across, y + along, z + h)])

    @property
    def vertices(self) -> Float[np.ndarray, "vertices 3"]:
        """Those of the piece, in the room, metres."""
        return self.scale * self.piece.vertices @ rotation(2, self.yaw).T + self.position_m


def beside_wall(
    standing: Piece,
    side: int,
    along_m: float,
    low_m: float,
    size: tuple[float, float, float],
    clearance_m: float = 0.0,
) -> Placed:
    """Put a piece with its back to a wall, its underside at `low_m`, its middle `along_m` from the corner.

    side: 0 to 3, the walls y = size[1], x = 0, y = 0, x = size[0].
    """
    back = standing.size_m[1] / 2 + clearance_m
    x, y = [(along_m, size[1] - back), (back, along_m), (along_m, back), (size[0] - back, along_m)][side]
    return Placed(standing, (float(x), float(y), low_m), side * np.pi / 2)


def _panel(rng: np.random.Generator, kind: str, w: float, h: float) -> Piece:
    """A framed panel, 2 to 4 cm thick, standing upright: a picture, a window or a door."""
    frame, thick = rng.uniform(0.02, 0.08), rng.uniform(0.02, 0.04)
    parts = [box((w - frame, thick * 0.6, h - frame), (0, 0, frame / 2))]
    parts += [box((frame, thick, h), (s * (w - frame) / 2, 0, 0), 1) for s in (-1, 1)]
    parts += [box((w - 2 * frame, thick, frame), (0, 0, z), 1) for z in (0.0, h - frame)]
    if kind == "window":
        parts.append(box((0.04, thick, h), (0, 0, 0), 1))
        parts.append(box((w, thick, 0.04), (0, 0, h / 2), 1))
    if kind == "door":
        parts.append(box((0.12, 0.09, 0.02), (w * 0.36, 0, h * 0.48), 2))
    return piece(kind, parts)


def draw_fixtures(rng: np.random.Generator, size: tuple[float, float, float]) -> list[Placed]:
    """A few panels on each wall, side by side; a rug; a lamp that hangs from the ceiling."""
    found = []
    for side in range(4):
        length = size[side % 2]
        start = rng.uniform(0.15, 0.6)
        while start < length - 0.5:
            kind = str(rng.choice(["picture", "picture", "window", "door"]))
            w, h = {"picture": (0.3, 0.3), "window": (0.7, 0.8), "door": (0.75, 1.9)}[kind]
            w, h = (
                w + rng.uniform(0, 0.7 if kind != "door" else 0.2),
                h + rng.uniform(0, 0.5 if kind != "door" else 0.2),
            )
            if start + w > length - 0.1:
                break
            low = 0.0 if kind == "door" else rng.uniform(0.5, max(size[2] - h - 0.15, 0.51))
            if low + h < size[2] - 0.05:
                panel = _panel(rng, kind, w, h)
                found.append(beside_wall(panel, side, start + w / 2, float(low), size))
            start += w + rng.uniform(0.2, 1.8)
    if rng.random() < 0.6:
        w, d = rng.uniform(0.3, 0.7) * size[0], rng.uniform(0.3, 0.7) * size[1]
        shape = "cylinder" if rng.random() < 0.3 else "box"
        rug = piece("rug", [solid(shape, (w, d, 0.012), detail=40)])
        x, y = rng.uniform(w / 2, size[0] - w / 2), rng.uniform(d / 2, size[1] - d / 2)
        found.append(Placed(rug, (float(x), float(y), 0.0), 0.0))
    if rng.random() < 0.5:
        drop, shade = rng.uniform(0.2, 0.6), rng.uniform(0.25, 0.5)
        cord = solid("cylinder", (0.02, 0.02, drop), (0, 0, shade * 0.5), 1, detail=8)
        body = "shade" if rng.random() < 0.6 else "ball"
        lamp = solid(body, (shade, shade, shade * 0.6), (0, 0, 0), 0, detail=24 if body == "shade" else 3)
        pendant = piece("lamp", [cord, lamp])
        x, y = (rng.uniform(0.3, 0.7) * s for s in size[:2])
        found.append(Placed(pendant, (float(x), float(y), size[2] - pendant.size_m[2]), 0.0))
    return found
