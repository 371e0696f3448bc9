"""Procedural materials: patterns, a surface's parameters drawn without looking at where it will stand, its colour."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32, Int

from idl.data.rooms.furniture import draw_index

Array = np.ndarray

FAMILIES = {
    "plain": (4.0, 0.3, 1.0),
    "stripes": (1.3, 0.06, 0.5),
    "checker": (1.0, 0.06, 0.5),
    "bricks": (1.0, 0.06, 0.16),
    "tiles": (1.2, 0.1, 0.6),
    "dots": (1.0, 0.08, 0.4),
    "wood": (1.8, 0.2, 0.6),
    "noise": (1.5, 0.1, 1.2),
    "plaid": (0.8, 0.12, 0.5),
    "chevron": (0.8, 0.12, 0.5),
    "planks": (1.5, 0.08, 0.2),
    "terrazzo": (0.8, 0.15, 0.5),
    "marble": (1.0, 0.3, 1.2),
    "diamonds": (0.8, 0.15, 0.6),
}
"""How often a pattern is drawn, and the range of its period in metres."""

MATERIALS = ("nothing", *FAMILIES)
"""Names of the values of layer "materials"; 0 stands for no surface at all and never occurs in a room."""


@lru_cache(maxsize=1)
def _noise_tile() -> Float32[np.ndarray, "512 512"]:
    """A fractal noise tile that wraps around, its values spread evenly over [0, 1]."""
    size = 512
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]) * size
    # Below 6 cycles a tile nothing: a tile spans 8 periods, and larger blotches would look like lighting.
    amplitude = np.where(frequency < 6, 0.0, np.maximum(frequency, 1.0) ** -1.6)
    phases = np.exp(2j * np.pi * np.random.default_rng(20240501).random((size, size)))
    field = np.fft.ifft2(amplitude * phases).real
    ranks = field.ravel().argsort().argsort().reshape(size, size)
    tile = (ranks / (size * size - 1)).astype(np.float32)
    tile.setflags(write=False)
    return tile


def _noise(x: Array, y: Array) -> Array:
    """Noise in [0, 1] with blotches of about one unit."""
    i, j = (x * 64).astype(np.int32), (y * 64).astype(np.int32)
    # One index into the flat tile: numpy takes a third of the time of two.
    return _noise_tile().ravel().take((i & 511) << 9 | (j & 511))


def _cell_random(i: Array, j: Array) -> Array:
    """A number in [0, 1) for each whole-numbered cell."""
    a, b = i.astype(np.int32), j.astype(np.int32)
    mixed = (a * 73856093) ^ (b * 19349663)
    mixed ^= mixed >> 13
    return ((mixed * 1274126177) >> 8 & 0xFFFF).astype(np.float32) * (1 / 65536)


def _pulse(x: Array, duty: Array | float, width: Array) -> Array:
    """The share of [x - width/2, x + width/2] on which frac(x) < duty: an exactly box-filtered square wave."""
    low, high = x - width / 2, x + width / 2
    whole_low, whole_high = np.floor(low), np.floor(high)
    area = (whole_high - whole_low) * duty + np.minimum(high - whole_high, duty)
    return (area - np.minimum(low - whole_low, duty)) / width


def _courses(x: Array, y: Array, width: Array, aspect: float, joint: Array) -> tuple[Array, Array]:
    """Joint lines of bricks in courses, and a number a brick. joint: share of a brick's height."""
    row = np.floor(y)
    along = x / aspect + 0.37 * row
    covered = _pulse(along, 1 - joint / aspect, width / aspect) * _pulse(y, 1 - joint, width)
    return 1 - covered, _cell_random(np.floor(along), row)


def _pattern(family: str, x: Array, y: Array, width: Array, t: Array) -> tuple[Array, Array | float]:
    """Return how much of a surface's second and third colour a point shows.

    x, y: coordinates in periods of the pattern. width: of the pixel's footprint, in periods. t: three traits in [0, 1].
    Regular patterns are box-filtered over the footprint, so that far ones fade to their mean instead of to moire.
    """
    match family:
        case "plain":
            return 0.12 * _noise(x, y), 0.0
        case "stripes":
            wide = _pulse(x, 0.25 + 0.5 * t[0], width)
            return wide, (t[1] < 0.4) * _pulse(x - 0.1, 0.05 + 0.1 * t[2], width)
        case "checker":
            a, b = 2 * _pulse(x / 2, 0.5, width / 2) - 1, 2 * _pulse(y / 2, 0.5, width / 2) - 1
            return 0.5 + 0.5 * a * b, 0.1 * _noise(x, y)
        case "bricks":
            joint, each = _courses(x, y, width, 2.3, 0.08 + 0.1 * t[0])
            return np.maximum(joint, 0.25 * _noise(3 * x, 3 * y)), each * 0.6 * (1 - joint) * t[1]
        case "tiles":
            joint = 1 - _pulse(x, 0.95, width) * _pulse(y, 0.95, width)
            each = _cell_random(np.floor(x), np.floor(y))
            return joint, np.where(each < 0.5 * t[0], 1 - joint, 0.25 * each * t[1])
        case "dots":
            row = np.floor(y)
            half = 0.5 * row
            a = x + (half - np.floor(half))
            column = np.floor(a)
            across, along = a - column - 0.5, y - row - 0.5
            distance = np.sqrt(across * across + along * along)
            soft = np.maximum(width, 0.02)
            inside = np.clip((0.16 + 0.22 * t[0] - distance) / soft + 0.5, 0, 1) / np.maximum(1, 2 * width)
            return inside, inside * ((t[1] < 0.5) & (_cell_random(column, row) < 0.4))
        case "wood":
            rings = y * 4 + (1 + 3 * t[0]) * _noise(0.15 * x, 0.6 * y)
            wave = rings - np.floor(rings)
            return wave * wave, 0.35 * _noise(0.4 * x, 8 * y)
        case "noise":
            blotch, fine = _noise(x, y), _noise(y, x)
            return np.clip((blotch - 0.5) * (1 + 6 * t[0]) + 0.5, 0, 1), (t[1] < 0.5) * fine * fine * fine
        case "plaid":
            a, b = _pulse(x, 0.2 + 0.4 * t[0], width), _pulse(y, 0.2 + 0.4 * t[0], width)
            lines = np.maximum(_pulse(x + 0.3, 0.08, width), _pulse(y + 0.3, 0.08, width))
            return 0.5 * (a + b), lines * (t[1] < 0.7)
        case "chevron":
            bend = np.abs(x - np.floor(x) - 0.5) * (1 + t[0])
            return _pulse(y + bend, 0.3 + 0.4 * t[1], 1.5 * width), 0.0
        case "planks":
            joint, each = _courses(x, y, width, 7.0, 0.04 + 0.03 * t[0])
            grain = _noise(0.25 * x + 7 * each, 2.5 * y)
            return np.maximum(joint, 0.5 * grain), each * 0.7 * (1 - joint)
        case "terrazzo":
            return _noise(4 * x, 4 * y) > 0.72, _noise(4 * y + 1.3, 4 * x) > 0.8
        case "marble":
            vein = np.abs(np.sin(3 * x + (3 + 4 * t[0]) * _noise(0.6 * x, 0.6 * y)))
            return (1 - vein) ** (1 + 3 * t[1]), 0.3 * _noise(2 * x, 2 * y)
        case _:  # diamonds
            a, b = x + y, x - y
            lines = 1 - _pulse(a, 0.9, 1.4 * width) * _pulse(b, 0.9, 1.4 * width)
            return lines, (_cell_random(np.floor(a), np.floor(b)) < 0.5 * t[0]) * (1 - lines)


@dataclass(frozen=True)
class Surface:
    """One surface's material.

    material: index into MATERIALS. colours: three linear RGB albedos in [0, 1]. period_m: size of the pattern.
    angle: turn of the pattern, radians. phase: its shift, periods. traits: three in [0, 1], of the family's meaning.
    """

    material: int
    colours: Float[np.ndarray, "3 3"]
    period_m: float
    angle: float
    phase: tuple[float, float]
    traits: tuple[float, float, float]


def draw_surface(rng: np.random.Generator) -> Surface:
    """Draw a surface. One distribution serves walls, floors and furniture alike: colour tells no place."""
    family = draw_index(rng, (weight for weight, _, _ in FAMILIES.values()))
    _, low, high = FAMILIES[MATERIALS[family + 1]]
    # Any hue, from grey to vivid, from dark to bright.
    hue, saturation, value = rng.random((3, 1)), rng.beta(1.3, 1.8, (3, 1)), rng.uniform(0.25, 0.97, (3, 1))
    channels = np.minimum(np.maximum(np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0), 1)
    colours = (value * (1 - saturation + saturation * channels)) ** 2.2
    if rng.random() < 0.5:
        # Half the patterns in shades of one colour: with three free colours everything is a carnival.
        colours = colours[:1] * rng.uniform(0.35, 1.5, (3, 1))
    turned = rng.random() < 0.3
    return Surface(
        material=family + 1,
        colours=np.minimum(np.maximum(colours, 0.01), 0.95),
        period_m=float(np.exp(rng.uniform(np.log(low), np.log(high)))),
        angle=float(np.pi / rng.integers(2, 5, endpoint=True) if turned else 0.0),
        phase=(float(rng.uniform(0, 8)), float(rng.uniform(0, 8))),
        traits=(float(rng.random()), float(rng.random()), float(rng.random())),
    )


class Palette:
    """Surfaces, sorted by material, as float32 tables with their components first.

    numpy works on rows of 65,536, not on 65,536 rows of three.
    """

    def __init__(self, surfaces: list[Surface]) -> None:
        affine = [(np.cos(s.angle) / s.period_m, np.sin(s.angle) / s.period_m, *s.phase) for s in surfaces]
        self._affine = np.array(affine).T
        self._ends = np.cumsum(np.bincount([s.material for s in surfaces], minlength=len(MATERIALS)))
        self._per_metre = np.array([1 / s.period_m for s in surfaces], np.float32)
        self._traits = np.array([s.traits for s in surfaces], np.float32).T
        # For each channel the first colour, the way from it to the second, and the third.
        colours = np.stack([s.colours for s in surfaces])
        colours[:, 1] -= colours[:, 0]
        self._colours = np.ascontiguousarray(colours.T, np.float32)

    def in_periods(
        self, surface: Int[np.ndarray, " triangles"], coordinates_m: Float[np.ndarray, "2 3 triangles"]
    ) -> Float[np.ndarray, "2 3 triangles"]:
        """Turn coordinates on the triangles' surfaces, in metres, into those of their patterns, in periods."""
        cosine, sine, dx, dy = self._affine[:, surface]
        u, v = coordinates_m
        return np.stack([cosine * u + sine * v + dx, cosine * v - sine * u + dy])

    def albedo(
        self, surface: Int[np.ndarray, " points"], x: Array, y: Array, footprint_m: Array
    ) -> Float32[np.ndarray, "3 points"]:
        """Linear RGB of points. x, y: periods of the pattern there; footprint_m: width of the pixel there."""
        order = np.argsort(surface, kind="stable")
        ends = np.searchsorted(surface.take(order), np.arange(len(self._per_metre) + 1))
        # Runs of one surface take a table's values by `repeat`, in a third of the time that an index a point takes.
        counts = np.diff(ends)
        x, y = x.take(order), y.take(order)
        width = np.maximum(footprint_m.take(order) * np.repeat(self._per_metre, counts), np.float32(1e-3))
        traits = np.repeat(self._traits, counts, axis=1)
        second, third = np.empty_like(x), np.empty_like(x)
        for number, family in enumerate(FAMILIES):
            of = slice(ends[self._ends[number]], ends[self._ends[number + 1]])
            if of.start < of.stop:
                second[of], third[of] = _pattern(family, x[of], y[of], width[of], traits[:, of])
        result = np.empty((3, len(surface)), np.float32)
        for channel, colours in zip(result, self._colours, strict=True):
            first, to_second, last = np.repeat(colours, counts, axis=1)
            shade = first + second * to_second
            channel[order] = shade + third * (last - shade)
        return result
