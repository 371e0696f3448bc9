"""Whether depth lies where its image is: the move that fits each map's edges to its image best, and a vote.

The figures below are of benchmarks/registration_calibration.py, on rooms, NYU and a head-worn time-of-flight camera
that is registered to 6 of 540 pixels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image
from scipy.ndimage import gaussian_filter

# ok: as expected. note: good to know. missing: could be there, and is not. doubt: look at it. bad: probing would fail.
Level = Literal["ok", "note", "missing", "doubt", "bad"]
# Of a check: level, what was found, and what to do about it, "" for nothing.
Result = tuple[Level, str, str]
# How depth may be turned against its image, besides as it should be.
AS_IS, TURNS = "as it is", ("mirrored", "upside down", "turned by 180 degrees")
# What is tried: each of these sizes, shifted by up to 11 % of the longer side, and each turn, shifted by as much.
_SCALES = (1 / 1.3, 1 / 1.2, 1 / 1.1, 1.0, 1.1, 1.2, 1.3)
_MOST_SHIFT = 0.11
# Pixels of the longer side. Of the camera's frames 14 % fit best within 2 % of where they should at 96 pixels, 23 at
# 128, 34 at 160; of NYU's 68, 85 and 90 %. 256 pixels gain nothing more.
_SIDE = 160
# Of smaller images one pixel is more than the tolerance of registration.
_LEAST_SIDE = 96
# At the border lies NYU's white frame: with it, 42 % of NYU's frames fit best where they should be, without 85 %.
_BORDER = 1 / 16
# No pixel counts as steeper than this quantile, and no jump of log depth as higher: an edge is an edge.
_STEEPEST, _JUMP = 0.8, 0.1
# Of the energy of all edges: a shift that lets fewer overlap is compared as if so many did.
_LEAST_OVERLAP = 0.5
# Votes that decide: for depth where it is, which is one place, and for one of thousands of others; of the images; and
# how many times as many as for the other. In samples of 24 images registered depth is called ok in 97 to 100 %, and
# doubted in none; shifted by 2 to 10 % of the width, or of a focal length 1.1 to 1.3 times as long or short, it is
# called ok in none and doubted in 99.6 to 100 % (19 to 43 of the camera's in samples of 6); another frame's is called
# ok in none and doubted in at most 0.7 %. Of a focal length 1.05 times as long it is called ok in 0 to 12 %.
_LEAST_THERE, _LEAST_ELSEWHERE, _LEAST_SHARE, _LEAST_RATIO = 2, 3, 1 / 8, 2
# Of the longer side: fits within it are one. Registered to 6 of 540 pixels is within, a shift of 2 % is not.
_NEAR = 0.016

_Map = Float[np.ndarray, "H W"]
# One for each of two components.
_Pair = Float[np.ndarray, "2 H W"]


@dataclass(frozen=True)
class Fit:
    """How depth fits its image best: turned, enlarged about its centre, and moved by shares of the longer side."""

    turn: str
    scale: float
    down: float
    across: float


_REGISTERED = Fit(AS_IS, 1.0, 0.0, 0.0)


def best_fit(grey: _Map, depth_m: _Map, valid: Bool[np.ndarray, "H W"]) -> Fit | None:
    """Return the fit of the highest correlation; None where there are no edges, few pixels, or it lies further off.

    A highest correlation at the largest shift is none: it is there in 37 to 55 % of frames with another frame's depth.
    Edges are compared as vectors of twice their angle, equal for dark to bright and bright to dark: by strength alone,
    23 % instead of 34 % of the time-of-flight camera's frames fit best where they should be.
    """
    longer = max(grey.shape)
    height, width = (max(1, round(side * min(1, _SIDE / longer))) for side in grey.shape)
    if longer < _LEAST_SIDE or min(height, width) < 8:
        return None
    radius = round(_MOST_SHIFT * max(height, width))
    in_image, window = _of_image(grey, height, width)
    in_depth, known = _of_depth(depth_m, valid, height, width)
    # Shifts come out whole where they do not wrap around; sizes of small factors are transformed fast.
    padded = [-(-(side + radius) // 16) * 16 for side in (height, width)]
    reached = np.ix_(*(np.arange(-radius, radius + 1) % side for side in padded))

    def spectra(maps: np.ndarray) -> np.ndarray:
        return np.fft.rfft2(maps, padded)

    def over_shifts(product: np.ndarray) -> _Map:
        return np.fft.irfft2(product, padded)[reached]

    energy = (in_image**2).sum(0)
    image_spectra, energy_spectrum, window_spectrum = spectra(in_image), spectra(energy), spectra(window)
    best, found = 0.0, None
    for turn, scale, moved, mask in _hypotheses(in_depth, known):
        moved_energy = (moved**2).sum(0)
        if not energy.any() or not moved_energy.any():
            continue
        overlap = np.maximum(over_shifts(energy_spectrum * spectra(mask).conj()), _LEAST_OVERLAP * energy.sum())
        moved_overlap = over_shifts(window_spectrum * spectra(moved_energy).conj())
        moved_overlap = np.maximum(moved_overlap, _LEAST_OVERLAP * moved_energy.sum())
        correlation = over_shifts((image_spectra * spectra(moved).conj()).sum(0)) / np.sqrt(overlap * moved_overlap)
        down, across = np.unravel_index(correlation.argmax(), correlation.shape)
        if correlation[down, across] > best:
            best = float(correlation[down, across])
            is_peak = 0 < down < 2 * radius and 0 < across < 2 * radius
            shift = (np.array((down, across)) - radius) / max(height, width)
            found = Fit(turn, scale, *shift.tolist()) if is_peak else None
    return found


def _of_image(grey: _Map, height: int, width: int) -> tuple[_Pair, _Map]:
    """Return edges (2, height, width) without those at the border, and 1 where they count."""
    small = Image.fromarray(grey.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
    gradient = np.array(np.gradient(gaussian_filter(np.asarray(small), 0.7)))
    edges = _doubled(gradient, float(np.quantile(np.hypot(*gradient), _STEEPEST)))
    window = np.zeros((height, width), np.float32)
    y, x = round(height * _BORDER), round(width * _BORDER)
    window[y : height - y, x : width - x] = 1
    return np.stack([gaussian_filter(part, 1) for part in edges]) * window, window


def _of_depth(depth_m: _Map, valid: Bool[np.ndarray, "H W"], height: int, width: int) -> tuple[_Pair, _Map]:
    """Return edges (2, height, width) of log depth, 0 where they are not known, and 1 where they are."""
    sides = zip((height, width), depth_m.shape, strict=True)
    at = np.ix_(*(((np.arange(small) + 0.5) * side / small).astype(int) for small, side in sides))
    known = valid[at] & (depth_m[at] > 0)
    # Smoothed before and after, over what is known: a third of a time-of-flight camera's pixels are holes.
    gradient = np.array(np.gradient(_smoothed(np.log(np.where(known, depth_m[at], 1)), known)))
    known = np.isfinite(gradient[0] + gradient[1])
    smooth = np.stack([_smoothed(part, known) for part in _doubled(np.where(known, gradient, 0), _JUMP)])
    # The smoothed edges are unknown at known pixels too, where these are few among holes.
    return np.where(known, np.nan_to_num(smooth), 0).astype(np.float32), known.astype(np.float32)


def _doubled(gradient: _Pair, limit: float) -> _Pair:
    """Return vectors of a gradient's (down, across) strength, up to a limit, and of twice its angle."""
    down, across = gradient
    strength = np.hypot(down, across)
    factor = np.minimum(strength, limit) / np.maximum(strength, 1e-9) ** 2
    return np.stack([(across**2 - down**2) * factor, 2 * down * across * factor])


def _smoothed(values: _Map, known: Bool[np.ndarray, "H W"]) -> _Map:
    """Return the Gaussian average of the known values only; nan where hardly any is near."""
    weight = gaussian_filter(known.astype(np.float32), 1)
    total = gaussian_filter(np.where(known, values, 0).astype(np.float32), 1)
    return np.where(weight > 0.3, total / np.maximum(weight, 1e-9), np.nan)


def _hypotheses(edges: _Pair, known: _Map) -> Iterator[tuple[str, float, _Pair, _Map]]:
    """Yield (turn, scale, edges, known) of the depth, turned or enlarged."""
    height, width = known.shape
    for scale in _SCALES:
        rows, columns = (
            np.rint((np.arange(side) - (side - 1) / 2) / scale + (side - 1) / 2).astype(int) for side in (height, width)
        )
        inside = np.outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
        at = np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))
        yield AS_IS, scale, np.stack([part[at] for part in edges]) * inside, known[at] * inside
    # A mirror turns an angle into its negative.
    for turn, order, sign in zip(TURNS, (np.s_[:, ::-1], np.s_[::-1], np.s_[::-1, ::-1]), (-1, -1, 1), strict=True):
        yield turn, 1.0, np.stack([edges[0][order], sign * edges[1][order]]), known[order]


def registration(fits: Sequence[Fit | None], longer: int) -> Result:
    """Return whether depth lies where its image is: each image votes for how its depth would fit it best.

    Depth of another time or thing fits differently in each image, which is a note. What is called ok may still be
    shifted by 1.6 % of the longer side or of a focal length 5 % off, or be the next frame's of a camera that hardly
    moves. fits: one an image, None where it cannot be told. longer: pixels of an image's longer side.
    """
    known = [fit for fit in fits if fit is not None]
    there = [fit for fit in known if _are_near(fit, _REGISTERED)]
    others = [fit for fit in known if not _are_near(fit, _REGISTERED)]
    elsewhere = max(([one for one in others if _are_near(one, fit)] for fit in others), key=len, default=[])
    least = _LEAST_SHARE * len(fits)
    if len(there) >= max(_LEAST_THERE, least, _LEAST_RATIO * len(elsewhere)):
        told = f"the depth's edges fit the image best where they are, in {len(there)} of {len(fits)} images"
        return "ok", told, ""
    if len(elsewhere) >= max(_LEAST_ELSEWHERE, least, _LEAST_RATIO * len(there)):
        told = f"the depth's edges fit the image better {_move(elsewhere, longer)}, in {len(elsewhere)} of {len(fits)}"
        advice = "Look at a pair side by side; register the depth to the RGB camera."
        return "doubt", f"{told} images", advice
    told = f"not to be told: of {len(fits)} images the edges fit the depth's in {len(there)} where they are, and in"
    advice = "If these come from two cameras, look at pairs side by side."
    return "note", f"{told} {len(elsewhere)} by one other move", advice


def _are_near(one: Fit, other: Fit) -> bool:
    distance = math.hypot(one.down - other.down, one.across - other.across)
    return (one.turn, one.scale) == (other.turn, other.scale) and distance <= _NEAR


def _move(fits: Sequence[Fit], longer: int) -> str:
    """Return the move that fits agree about, in words."""
    turn, scale = fits[0].turn, fits[0].scale
    told = [turn] if turn != AS_IS else []
    if scale != 1:
        told.append(f"{'enlarged' if scale > 1 else 'shrunk'} {max(scale, 1 / scale):.1f} times")
    for shares, words in (([fit.across for fit in fits], "left right"), ([fit.down for fit in fits], "up down")):
        if abs(share := float(np.mean(shares))) > _NEAR / 2:
            told.append(f"moved about {abs(share) * longer:.0f} pixels {words.split()[share > 0]}")
    return "when " + " and ".join(told)
