"""Checks that every dataset shares: what is measured of single images, and what follows from all of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8

from idl.data.images import repeats
from idl.data.preparation import sparse_truth
from idl.data.reader import Native
from idl.data.splits import AUTO, SPLITS, split_by_scene, uses_published
from idl.data.units import UnitsDoubt, doubt_units
from idl.doctor.findings import Finding, several
from idl.doctor.registration import Fit, best_fit, registration
from idl.errors import InputError
from idl.progress import Progress
from idl.protocol import Protocol

# A row or column belongs to a white frame where so many of its pixels have all channels at least so bright.
_WHITE, _WHITE_SHARE = 250, 0.95
# Of the images that have a frame, for it to be the dataset's.
_FRAMED_SHARE = 0.8
# Standard deviation of the grey values of an image of a single colour.
_FLAT = 2.0
# Fewer images than these decide nothing about colours.
_LEAST_IMAGES = 6
# Of (red - blue) / (red + blue): nearer to 0 an image is neither warm nor cold.
_NEUTRAL = 0.02
_MOST_NAMED = 3


@dataclass(frozen=True)
class Expected:
    """What the images of a dataset should be like.

    median_m: between which the median depth of the images lies, metres. range_m: nearest and farthest depth of the
    sensor; None: the protocol's. size: (height, width) as published. crop: (top, bottom, left, right) that the reader
    keeps. has_holes: a sensor's map has some. has_frame: of white, as published. has_colours: channels are worth a
    guess at their order.
    """

    median_m: tuple[float, float]
    range_m: tuple[float, float] | None = None
    size: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    has_holes: bool = False
    has_frame: bool = False
    has_colours: bool = True


@dataclass(frozen=True)
class Measured:
    """One image and its depth at native size.

    size: (height, width), pixels. valid_share: of the pixels. depth_m: least, median and greatest valid depth, metres;
    nan where none is valid. frame: pixels of white at the top, bottom, left and right.
    warmth: (red - blue) / (red + blue) of the lower two thirds, where they are not white. spread: standard deviation
    of the grey values. fit: how the depth's edges fit the image's best; None where it cannot be told.
    truth: shares of the protocol's cells and of the native pixels that are truth; None where that is not known.
    """

    name: str
    size: tuple[int, int]
    valid_share: float
    depth_m: tuple[float, float, float]
    frame: tuple[int, int, int, int]
    warmth: float
    spread: float
    fit: Fit | None
    truth: tuple[float, float] | None = None


def measure(
    name: str, rgb: UInt8[np.ndarray, "H W 3"], depth_m: Float[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]
) -> Measured:
    """Measure one image. depth_m: metres along the optical axis, of any value where not valid."""
    known = depth_m[valid]
    low, median, high = (known.min(), np.median(known), known.max()) if known.size else (np.nan,) * 3
    white, grey = rgb.min(axis=-1) >= _WHITE, rgb.mean(axis=-1)
    lower = slice(rgb.shape[0] // 3, None)
    red, blue = (float(rgb[lower, :, channel][~white[lower]].sum(dtype=np.float64)) for channel in (0, 2))
    rows, columns = white.mean(axis=1), white.mean(axis=0)
    frame = (_leading(rows), _leading(rows[::-1]), _leading(columns), _leading(columns[::-1]))
    warmth = (red - blue) / (red + blue) if red + blue else 0.0
    depths = (float(low), float(median), float(high))
    fit = best_fit(grey, depth_m, valid)
    return Measured(name, rgb.shape[:2], float(valid.mean()), depths, frame, warmth, float(grey.std()), fit)


def _leading(white_shares: np.ndarray) -> int:
    """Return how many rows are white before the first that is not; 0 where all are."""
    others = np.flatnonzero(white_shares < _WHITE_SHARE)
    return int(others[0]) if len(others) else 0


def sample_of(num_images: int, sample: int) -> tuple[int, ...]:
    """Return indices of at most `sample` images, evenly spread from the first to the last; 0: all."""
    if not sample or sample >= num_images:
        return tuple(range(num_images))
    if sample == 1:
        return (num_images // 2,)
    return tuple(round(step * (num_images - 1) / (sample - 1)) for step in range(sample))


def measure_sample(
    native: Callable[[int], Native],
    truth: Callable[[int], tuple[float, float] | None],
    names: Sequence[str],
    indices: Sequence[int],
    progress: Progress,
) -> tuple[list[Measured], list[Finding]]:
    """Return the images measured, and which of them cannot be read.

    native: reads an image as it was taken; truth: returns what `Measured.truth` is. Both raise InputError where an
    image cannot be read.
    """
    measured: list[Measured] = []
    refused: list[str] = []
    with progress("measure", len(indices)) as advance:
        for index in indices:
            try:
                read = native(index)
                image = measure(names[index], read.image, read.depth_m, read.valid)
                measured.append(replace(image, truth=truth(index)))
            except InputError as error:
                refused.append(str(error))
            advance(1)
    if not refused:
        return measured, []
    count = f"{len(refused)} of {len(indices)} images cannot be read: " if len(indices) > 1 else ""
    return measured, [Finding("reading", "bad", f"{count}{refused[0]}")]


def scenes_and_split(
    image_scenes: Sequence[str], is_sequential: bool, sides: Sequence[str] = (), more: str = ""
) -> list[Finding]:
    """Return how many scenes there are, and whether training, validation and test images can be had of them.

    more: words behind the scenes.
    """
    counts = Counter(image_scenes).values()
    sizes = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    found = [Finding("scenes", "ok", f"{len(counts)}, of {sizes} image{'s' if max(counts) > 1 else ''} each{more}")]
    try:
        split = split_by_scene(image_scenes, is_sequential=is_sequential, sides=sides)
    except InputError as error:
        return [*found, Finding("split", "bad", str(error))]
    counted = ", ".join(f"{len(split.indices[name])} {name}" for name in SPLITS)
    rule = "as published" if uses_published(AUTO, sides) else "by scene, 11:2:3"
    return [*found, Finding("split", "ok", f"{counted}; {rule}")]


def repeated(
    rgb: Callable[[int], UInt8[np.ndarray, "H W 3"]],
    names: Sequence[str],
    image_scenes: Sequence[str],
    progress: Progress,
) -> list[Finding]:
    """Return which images are, pixel for pixel, an earlier one, and whether another scene's.

    All images are read for it: a sample holds no pairs.
    rgb: reads one image, and raises InputError where it cannot; it is called from several threads.
    """
    refused: dict[int, str] = {}

    def read(index: int) -> np.ndarray | None:
        try:
            return rgb(index)
        except InputError as error:
            refused[index] = str(error)
            return None

    pairs = list(repeats(read, range(len(names)), progress, "repeats"))
    unread = [refused[index] for index in sorted(refused)]
    bad = [Finding("all images", "bad", several(unread, "images cannot be read"))] if unread else []
    counted = f"all {len(names) - len(refused)} images"
    if not pairs:
        return [Finding("repeats", "ok", f"none among {counted}: no two are equal pixel for pixel"), *bad]
    across = [pair for pair in pairs if image_scenes[pair[0]] != image_scenes[pair[1]]]
    # Those that matter are named.
    shown = [f"{names[index]} is {names[first]}" for index, first in across or pairs]
    examples = ", ".join([*shown[:_MOST_NAMED], *(["..."] if len(shown) > _MOST_NAMED else [])])
    number = f"{len(pairs)} of {counted} {'is' if len(pairs) == 1 else 'are'}, pixel for pixel, an earlier one"
    if not across:
        told = f"{number} of the same scene: {examples}"
        return [Finding("repeats", "note", told, "What is shown twice counts twice."), *bad]
    # No "bad", which says that probing would fail: it runs, and whether a split puts the two into training and test is
    # known only of that split. Where it does, a verdict on it is refused (its gate "splits apart").
    told = f"{number}, {len(across)} of them of another scene: {examples}"
    advice = "Keep one of each: a split by scene can train on what it tests on."
    return [Finding("repeats", "doubt", told, advice), *bad]


def of_images(
    images: Sequence[Measured],
    protocol: Protocol,
    expected: Expected,
    doubt: Callable[[], UnitsDoubt | None] | None = None,
) -> list[Finding]:
    """Return what images together tell: sizes, units, range and holes of depth, frame, colours, registration.

    doubt: what the reader itself says of the units of these images.
    """
    if not images:
        return []
    kept_m = (protocol.min_depth_m, protocol.max_depth_m)
    depths_m = [image.depth_m for image in images if image.valid_share > 0]
    doubtful = doubt() if doubt else doubt_units(depths_m, expected.median_m, kept_m)
    return [
        _blank(images),
        _resolution(images, expected.size),
        *_depths(depths_m, doubtful, expected.range_m or kept_m, kept_m),
        _holes(images, expected.has_holes, protocol),
        _white_frame(images, expected.crop, expected.has_frame),
        *([_channel_order(images)] if expected.has_colours else []),
        registration([image.fit for image in images], max(images[0].size)),
    ]


def _blank(images: Sequence[Measured]) -> Finding:
    names = [image.name for image in images if image.spread < _FLAT]
    if not names:
        return Finding("images", "ok", f"{len(images)} read, none of a single colour")
    told = f"of a single colour: {several(names, 'images')}"
    return Finding("images", "doubt", told, "Look at them; take them out.")


def _resolution(images: Sequence[Measured], published: tuple[int, int] | None) -> Finding:
    sizes = Counter(image.size for image in images)
    (height, width), _ = sizes.most_common(1)[0]
    if len(sizes) > 1:
        told = ", ".join(f"{height} x {width} ({count})" for (height, width), count in sizes.most_common(4))
        advice = "Each is resized to the protocol's; is this one camera?"
        return Finding("resolution", "doubt", f"several sizes: {told}", advice)
    if published not in (None, (height, width)):
        told = f"{height} x {width}, published {published[0]} x {published[1]}"
        return Finding("resolution", "doubt", told, "Resized before?")
    return Finding("resolution", "ok", f"{height} x {width} pixels")


def _depths(
    depths_m: Sequence[tuple[float, float, float]],
    doubt: UnitsDoubt | None,
    sensor_m: tuple[float, float],
    kept_m: tuple[float, float],
) -> list[Finding]:
    """Return what is said of the units and, where these are not in doubt, of the range."""
    if doubt is not None:
        return [Finding("units", "bad" if doubt.is_fatal else "doubt", doubt.problem, doubt.remedy)]
    low, median, high = np.min(depths_m, axis=0)[0], np.median(depths_m, axis=0)[1], np.max(depths_m, axis=0)[2]
    units, told = Finding("units", "ok", f"metres: median depth {median:.3g} m"), f"{low:.3g} to {high:.3g} m"
    # A twentieth more: published ranges are rounded.
    if low < sensor_m[0] / 1.05 or high > sensor_m[1] * 1.05:
        told = f"{told}, expected {sensor_m[0]:g} to {sensor_m[1]:g} m"
        return [units, Finding("depth range", "doubt", told, "Spurious values?")]
    if high > kept_m[1]:
        told = f"{told}; beyond {kept_m[1]:g} m it is left out"
        return [units, Finding("depth range", "note", told, "Pass a larger --max-depth, to keep more.")]
    return [units, Finding("depth range", "ok", told)]


def _holes(images: Sequence[Measured], are_expected: bool, protocol: Protocol) -> Finding:
    empty = [image.name for image in images if not image.valid_share]
    if empty:
        return Finding("holes", "doubt", f"without any valid depth: {several(empty, 'images')}", "They are left out.")
    truth = [image.truth for image in images if image.truth]
    cell_share, native_share = np.mean(truth, axis=0).tolist() if truth else (1.0, 0.0)
    for sparse in sparse_truth(cell_share, native_share, protocol):
        return Finding("holes", "doubt", sparse)
    share = 1 - float(np.mean([image.valid_share for image in images]))
    told = f"{share:.1%} of the pixels have no depth" if share else "none"
    if share > 0.5:
        return Finding("holes", "doubt", told, "Check the mask, and which values mean missing.")
    if are_expected and not share:
        told = "none, a sensor's depth has some: was it filled in, guided by the image?"
        return Finding("holes", "doubt", told, "A probe would find again what the filling put there.")
    return Finding("holes", "ok", told)


def _white_frame(images: Sequence[Measured], crop: tuple[int, int, int, int] | None, is_expected: bool) -> Finding:
    """A white frame, which a network takes for an object."""
    framed = [image for image in images if sum(width > 0 for width in image.frame) >= 3]
    if len(framed) < _FRAMED_SHARE * len(images):
        if not is_expected:
            return Finding("white frame", "ok", "none")
        told = f"in {len(framed)} of {len(images)} images, published: in all"
        return Finding("white frame", "doubt", told, "Cropped before? The crop here then cuts too much.")
    top, bottom, left, right = (max(image.frame[side] for image in framed) for side in range(4))
    told = f"up to {top} pixels above, {bottom} below, {left} left, {right} right"
    height, width = framed[0].size
    if crop and crop[0] >= top and crop[1] <= height - bottom and crop[2] >= left and crop[3] <= width - right:
        told = f"{told}: cut away by the crop, rows {crop[0]}:{crop[1]}, columns {crop[2]}:{crop[3]}"
        return Finding("white frame", "ok", told)
    return Finding("white frame", "doubt", told, "Cut it away: a network takes it for an object.")


def _channel_order(images: Sequence[Measured]) -> Finding:
    """RGB or BGR: a guess. Wood, skin, ground and lamps are warm; the sky is left out by the lower part's measure."""
    cold = sum(image.warmth < -_NEUTRAL for image in images)
    warm = sum(image.warmth > _NEUTRAL for image in images)
    if len(images) < _LEAST_IMAGES or max(cold, warm) < 0.6 * len(images):
        told = f"not to be told from {warm} warm and {cold} cold images of {len(images)}"
        return Finding("channel order", "note", told)
    if cold > warm:
        told = f"blue outweighs red in {cold} of {len(images)} images: BGR? (a guess)"
        return Finding("channel order", "doubt", told, "Look at one: are the colours right?")
    return Finding("channel order", "ok", f"red outweighs blue in {warm} of {len(images)} images: RGB (a guess)")
