"""Procedural materials: a surface's parameters, drawn without looking at where it will stand, and its colour."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from jaxtyping import Float, Float32, Int

from idl.data.rooms.patterns import FAMILIES


@dataclass(frozen=True)
class Surface:
    """One surface's material.

    material: index into MATERIALS.
    colours: three linear RGB albedos in [0, 1].
    period_m: size of the pattern, metres.
    angle: turn of the pattern, radians.
    phase: shift of the pattern, in periods.
    traits: three numbers in [0, 1] whose meaning each family gives.
    """

    material: int
    colours: Float[np.ndarray, "3 3"]
    period_m: float
    angle: float
    phase: tuple[float, float]
    traits: tuple[float, float, float]


_CUMULATIVE = tuple(accumulate(weight for _, _, weight, _ in FAMILIES))

MATERIALS = ("nothing", *(name for name, _, _, _ in FAMILIES))
"""Names of the values of layer "materials"; 0 stands for no surface at all and never occurs in a room."""


def draw_colours(rng: np.random.Generator, count: int) -> Float[np.ndarray, "count 3"]:
    """Draw linear RGB albedos: any hue, from grey to vivid, from dark to bright."""
    hue, saturation, value = rng.random((count, 1)), rng.beta(1.3, 1.8, (count, 1)), rng.uniform(0.25, 0.97, (count, 1))
    channels = np.minimum(np.maximum(np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0), 1)
    return (value * (1 - saturation + saturation * channels)) ** 2.2


def draw_surface(rng: np.random.Generator) -> Surface:
    """Draw a surface. One distribution serves walls, floors and furniture alike: colour tells no place."""
    family = bisect_right(_CUMULATIVE, rng.random() * _CUMULATIVE[-1])
    low, high = FAMILIES[family][3]
    colours = draw_colours(rng, 3)
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


@dataclass(frozen=True)
class Palette:
    """Surfaces as float32 tables, components first: numpy works on rows of 65,536, not on 65,536 rows of three.

    ends: of each material's surfaces, which lie together.
    per_metre: periods a metre. traits: those of `Surface`.
    colours: for each channel, the first colour, the way from it to the second, and the third.
    """

    ends: Int[np.ndarray, " materials"]
    per_metre: Float32[np.ndarray, " surfaces"]
    traits: Float32[np.ndarray, "3 surfaces"]
    colours: Float32[np.ndarray, "3 3 surfaces"]


def palette(surfaces: list[Surface]) -> Palette:
    """Tabulate surfaces that are sorted by material."""
    colours = np.stack([s.colours for s in surfaces])
    colours[:, 1] -= colours[:, 0]
    return Palette(
        ends=np.cumsum(np.bincount([s.material for s in surfaces], minlength=len(MATERIALS))),
        per_metre=np.array([1 / s.period_m for s in surfaces], np.float32),
        traits=np.ascontiguousarray(np.array([s.traits for s in surfaces], np.float32).T),
        colours=np.ascontiguousarray(colours.T, np.float32),
    )


def in_periods(
    surfaces: list[Surface],
    surface: Int[np.ndarray, " triangles"],
    coordinates_m: Float[np.ndarray, "2 3 triangles"],
) -> Float[np.ndarray, "2 3 triangles"]:
    """Turn coordinates on the triangles' surfaces, in metres, into those of their patterns, in periods."""
    affine = [(np.cos(s.angle) / s.period_m, np.sin(s.angle) / s.period_m, *s.phase) for s in surfaces]
    cosine, sine, dx, dy = np.array(affine).T[:, surface]
    u, v = coordinates_m
    return np.stack([cosine * u + sine * v + dx, cosine * v - sine * u + dy])


def albedo(
    colouring: Palette,
    surface: Int[np.ndarray, " points"],
    x: Float32[np.ndarray, " points"],
    y: Float32[np.ndarray, " points"],
    footprint_m: Float32[np.ndarray, " points"],
) -> Float32[np.ndarray, "3 points"]:
    """Linear RGB of points. x, y: periods of the pattern there; footprint_m: width of the pixel there."""
    order = np.argsort(surface, kind="stable")
    ends = np.searchsorted(surface.take(order), np.arange(len(colouring.per_metre) + 1))
    # Runs of one surface take a table's values by `repeat`, in a third of the time that an index a point takes.
    counts = np.diff(ends)
    x, y = x.take(order), y.take(order)
    width = np.maximum(footprint_m.take(order) * np.repeat(colouring.per_metre, counts), np.float32(1e-3))
    traits = np.repeat(colouring.traits, counts, axis=1)
    second, third = np.empty_like(x), np.empty_like(x)
    for family, (_, pattern, _, _) in enumerate(FAMILIES):
        of = slice(ends[colouring.ends[family]], ends[colouring.ends[family + 1]])
        if of.start < of.stop:
            second[of], third[of] = pattern(x[of], y[of], width[of], list(traits[:, of]))
    result = np.empty((3, len(surface)), np.float32)
    for channel, colours in zip(result, colouring.colours, strict=True):
        first, to_second, last = np.repeat(colours, counts, axis=1)
        shade = first + second * to_second
        channel[order] = shade + third * (last - shade)
    return result
