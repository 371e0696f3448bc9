"""Checks that every dataset shares: one a function, from what was measured of some images to a finding."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from idl.doctor.edges import AS_IS, Fit
from idl.doctor.finding import Finding, several
from idl.doctor.measures import Measured

# Fewer images than these decide nothing about colours.
_LEAST_IMAGES = 6
# Of (red - blue) / (red + blue): nearer to 0 an image is neither warm nor cold.
_NEUTRAL = 0.02
# Units a metre that depth maps are known to come in.
_SCALES = (1000.0, 5000.0, 256.0, 100.0, 10.0)
_FLAT = 2.0
_MOST = 0.8
# Votes that decide: for depth where it is, which is one place, and for one of thousands of others; of the images; and
# how many times as many as for the other. By benchmarks/registration_calibration.py, samples of 24 images (of 6):
# registered depth is called ok in 100 % (100) of the samples of rooms and of NYU and in 97 (62) of a head-worn
# time-of-flight camera's, and doubted in none (0.1 %). Shifted by 2 to 10 % of the width, of a focal length 1.1 to 1.3
# times as long or short, or both, it is called ok in none (at most 0.4 %) and doubted in 99.6 to 100 % (95 to 100, of
# the time-of-flight camera's 19 to 43). Another frame's is called ok in none and doubted in at most 0.7 %. Of a focal
# length 1.05 times as long it is called ok in 0 to 12 % (0 to 32).
_LEAST_THERE, _LEAST_ELSEWHERE, _LEAST_SHARE, _LEAST_RATIO = 2, 3, 1 / 8, 2
# Of the longer side: fits within it are one. Registered to 6 of 540 pixels is within, a shift of 2 % is not.
_NEAR = 0.016
_REGISTERED = Fit(AS_IS, 1.0, 0.0, 0.0)


def resolution(images: Sequence[Measured], expected: tuple[int, int] | None = None) -> Finding:
    """One size, and that which is expected, (height, width)."""
    sizes = Counter(image.size for image in images)
    told = ", ".join(
        f"{height} x {width}" + (f" ({count})" if len(sizes) > 1 else "")
        for (height, width), count in sizes.most_common(4)
    )
    if len(sizes) > 1:
        return Finding(
            "resolution", "doubt", f"several sizes: {told}", "Each is resized to the protocol's; is this one camera?"
        )
    if expected is not None and expected not in sizes:
        return Finding("resolution", "doubt", f"{told}, published {expected[0]} x {expected[1]}", "Resized before?")
    return Finding("resolution", "ok", f"{told} pixels")


def blank(images: Sequence[Measured]) -> Finding:
    """Images of one colour."""
    names = [image.name for image in images if image.spread < _FLAT]
    if names:
        return Finding(
            "images", "doubt", f"of a single colour: {several(names, 'images')}", "Look at them; take them out."
        )
    return Finding("images", "ok", f"{len(images)} read, none of a single colour")


def units(images: Sequence[Measured], plausible_m: tuple[float, float], is_scaled: float = 0.0) -> Finding:
    """The median depth is where metres would be. is_scaled: the depth_scale in use, 0 where there is none."""
    medians = [image.depth_m[1] for image in images if image.valid_share > 0]
    if not medians:
        return Finding(
            "units",
            "bad",
            "no image that was looked at has a valid depth",
            "Check the mask, and which values mean missing.",
        )
    median = float(np.median(medians))
    low, high = plausible_m
    if low <= median <= high:
        return Finding("units", "ok", f"metres: median depth {median:.3g} m")
    likely = [
        scale for scale in _SCALES if is_scaled and low <= median * is_scaled / scale <= high and scale != is_scaled
    ]
    told = (
        f"Pass --depth-scale; {' or '.join(f'{scale:g}' for scale in likely)} would fit."
        if likely
        else "In other units?"
    )
    if not is_scaled and low <= median / 1000 <= high:
        told = "Divided by 1000 it would fit: are these millimetres?"
    return Finding("units", "doubt", f"median depth {median:.3g} m, expected {low:g} to {high:g} m", told)


def depth_range(images: Sequence[Measured], expected_m: tuple[float, float], kept_m: tuple[float, float]) -> Finding:
    """Nearest and farthest valid depth. expected_m: of the sensor. kept_m: what the protocol counts as valid."""
    known = [image.depth_m for image in images if image.valid_share > 0]
    if not known:
        return Finding("depth range", "note", "no valid depth")
    low, high = min(depth[0] for depth in known), max(depth[2] for depth in known)
    told = f"{low:.3g} to {high:.3g} m"
    # A twentieth more: published ranges are rounded.
    if low < expected_m[0] / 1.05 or high > expected_m[1] * 1.05:
        return Finding(
            "depth range",
            "doubt",
            f"{told}, expected {expected_m[0]:g} to {expected_m[1]:g} m",
            "Spurious values, or other units?",
        )
    if high > kept_m[1]:
        return Finding(
            "depth range",
            "note",
            f"{told}; beyond {kept_m[1]:g} m it is left out",
            "Pass --max-depth to probe, to keep more.",
        )
    return Finding("depth range", "ok", told)


def holes(images: Sequence[Measured], are_expected: bool) -> Finding:
    """The share without depth. are_expected: a sensor's map has some; without any it was filled in."""
    empty = [image.name for image in images if not image.valid_share]
    share = 1 - float(np.mean([image.valid_share for image in images]))
    if empty:
        return Finding("holes", "doubt", f"without any valid depth: {several(empty, 'images')}", "They are left out.")
    if share > 0.5:
        return Finding(
            "holes",
            "doubt",
            f"{share:.0%} of the pixels have no depth",
            "Check the mask, and which values mean missing.",
        )
    if are_expected and not share:
        return Finding(
            "holes",
            "doubt",
            "none, a sensor's depth has some: was it filled in, guided by the image?",
            "A probe would find again what the filling put there.",
        )
    return Finding("holes", "ok", f"{share:.1%} of the pixels have no depth" if share else "none")


def white_frame(
    images: Sequence[Measured], crop: tuple[int, int, int, int] | None, is_expected: bool = False
) -> Finding:
    """A white frame, which a network takes for an object. crop: (top, bottom, left, right) that the reader keeps."""
    framed = [image for image in images if sum(width > 0 for width in image.frame) >= 3]
    if len(framed) < _MOST * len(images):
        if is_expected:
            return Finding(
                "white frame",
                "doubt",
                f"in {len(framed)} of {len(images)} images, published: in all",
                "Cropped before? The crop here then cuts too much.",
            )
        return Finding("white frame", "ok", "none")
    top, bottom, left, right = (max(image.frame[side] for image in framed) for side in range(4))
    told = f"up to {top} pixels above, {bottom} below, {left} left, {right} right"
    height, width = framed[0].size
    if crop and crop[0] >= top and crop[1] <= height - bottom and crop[2] >= left and crop[3] <= width - right:
        return Finding(
            "white frame", "ok", f"{told}: cut away by the crop, rows {crop[0]}:{crop[1]}, columns {crop[2]}:{crop[3]}"
        )
    return Finding("white frame", "doubt", told, "Cut it away: a network takes it for an object.")


def channel_order(images: Sequence[Measured]) -> Finding:
    """RGB or BGR: a guess. Wood, skin, ground and lamps are warm; the sky is left out by looking at the lower part."""
    cold = sum(image.warmth < -_NEUTRAL for image in images)
    warm = sum(image.warmth > _NEUTRAL for image in images)
    if len(images) < _LEAST_IMAGES or max(cold, warm) < 0.6 * len(images):
        return Finding(
            "channel order", "note", f"not to be told from {warm} warm and {cold} cold images of {len(images)}"
        )
    if cold > warm:
        return Finding(
            "channel order",
            "doubt",
            f"blue outweighs red in {cold} of {len(images)} images: BGR? (a guess)",
            "Look at one: are the colours right?",
        )
    return Finding("channel order", "ok", f"red outweighs blue in {warm} of {len(images)} images: RGB (a guess)")


def registration(images: Sequence[Measured]) -> Finding:
    """Whether depth lies where its image is: each image votes for how its depth would fit it best.

    Depth that was taken at another time, or of something else, fits differently in each image: a note says that this
    cannot be told, as where images and depth share few edges. What is called ok may still be shifted by 1.6 % of the
    longer side or of a focal length 5 % off, or be the next frame's of a camera that hardly moves.
    """
    fits = [image.fit for image in images if image.fit is not None]
    there = [fit for fit in fits if _are_near(fit, _REGISTERED)]
    others = [fit for fit in fits if not _are_near(fit, _REGISTERED)]
    elsewhere = max(([one for one in others if _are_near(one, fit)] for fit in others), key=len, default=[])
    least = _LEAST_SHARE * len(images)
    if len(there) >= max(_LEAST_THERE, least, _LEAST_RATIO * len(elsewhere)):
        told = f"the depth's edges fit the image best where they are, in {len(there)} of {len(images)} images"
        return Finding("registration", "ok", told)
    if len(elsewhere) >= max(_LEAST_ELSEWHERE, least, _LEAST_RATIO * len(there)):
        told = f"the depth's edges fit the image better {_move(elsewhere, max(images[0].size))}"
        return Finding(
            "registration",
            "doubt",
            f"{told}, in {len(elsewhere)} of {len(images)} images",
            "Look at a pair side by side; register the depth to the RGB camera.",
        )
    return Finding(
        "registration",
        "note",
        f"not to be told: of {len(images)} images the edges fit the depth's in {len(there)} where they are, and "
        f"in {len(elsewhere)} by one other move",
        "If these come from two cameras, look at pairs side by side.",
    )


def _are_near(one: Fit, other: Fit) -> bool:
    distance = math.hypot(one.down - other.down, one.across - other.across)
    return (one.turn, one.scale) == (other.turn, other.scale) and distance <= _NEAR


def _move(fits: Sequence[Fit], longer: int) -> str:
    """Say the move that fits agree about. longer: pixels of an image's longer side."""
    turn, scale = fits[0].turn, fits[0].scale
    told = [turn] if turn != AS_IS else []
    if scale != 1:
        told.append(f"{'enlarged' if scale > 1 else 'shrunk'} {max(scale, 1 / scale):.1f} times")
    for shares, words in (([fit.across for fit in fits], "left right"), ([fit.down for fit in fits], "up down")):
        if abs(share := float(np.mean(shares))) > _NEAR / 2:
            told.append(f"moved about {abs(share) * longer:.0f} pixels {words.split()[share > 0]}")
    return "when " + " and ".join(told)
