"""What a check finds; and the checks that every dataset shares, of single images and of what follows from all."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from textwrap import wrap

import numpy as np
from jaxtyping import Bool, Float, UInt8

from idl.data.images import repeats
from idl.data.preparation import sparse_truth
from idl.data.splits import AUTO, SPLITS, split_by_scene, uses_published
from idl.data.units import UnitsDoubt, doubt_units
from idl.doctor.registration import Fit, Level, Result, best_fit, registration
from idl.errors import InputError
from idl.progress import Progress
from idl.protocol import Protocol

# A row or column belongs to a white frame where so many of its pixels have all channels at least so bright.
_WHITE, _WHITE_SHARE = 250, 0.95
# Of the images that have a frame, for it to be the dataset's.
_FRAMED_SHARE = 0.8
# Standard deviation of the grey values of an image of a single colour.
_FLAT = 2.0
_MOST_NAMED = 3


@dataclass(frozen=True)
class Finding:
    """What one check found. found: in words. advice: what to do about it, "" for nothing."""

    check: str
    level: Level
    found: str
    advice: str = ""


@dataclass
class Diagnosis:
    """What was examined, and all findings on it.

    source: in words. num_images: that are there, 0 where that is not known; num_looked_at: whose pixels were measured.
    """

    dataset: str
    source: str
    num_images: int = 0
    num_looked_at: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """Why probing cannot go ahead, in one line; "" where it can."""
        return next((finding.found for finding in self.findings if finding.level == "bad"), "")

    @property
    def conclusion(self) -> str:
        """Whether probing can go ahead, in one line."""
        if self.reason:
            return f"probing cannot go ahead: {self.reason}"
        doubts, missing = (sum(each.level == level for each in self.findings) for level in ("doubt", "missing"))
        parts = [f"{doubts} doubt{'s' if doubts > 1 else ''}"] if doubts else []
        parts += [f"{missing} missing"] if missing else []
        return "probing can go ahead" + (f" ({', '.join(parts)})" if parts else "")

    def to_dict(self) -> dict[str, object]:
        """Everything, as JSON values."""
        return {**asdict(self), "can_probe": not self.reason, "reason": self.reason}

    def lines(self, width: int) -> list[str]:
        """Lines of at most `width` characters, longer paths apart: a head, a row for each finding, the conclusion."""
        examined = f"{self.num_images} images, {self.num_looked_at} of them measured"
        rows = [("", f"{self.dataset}: {self.source}"), ("", examined if self.num_images else "no image measured")]
        rows.append(("", ""))
        for each in self.findings:
            start = f"{each.level:<7}  {each.check:<16}  "
            rows += [(start, each.found), *([(" " * len(start), each.advice)] if each.advice else [])]
        told: list[str] = []
        for start, text in [*rows, ("", ""), ("", self.conclusion)]:
            rest = " " * len(start)
            told += wrap(text, width, initial_indent=start, subsequent_indent=rest, break_on_hyphens=False) or [""]
        return told


def several(names: Sequence[str], noun: str) -> str:
    """Return "3 nouns, the first NAME", or the one name."""
    return names[0] if len(names) == 1 else f"{len(names)} {noun}, the first {names[0]}"


@dataclass(frozen=True)
class Expected:
    """What the images of a dataset should be like.

    median_m: between which the median depth of the images lies, metres. range_m: nearest and farthest depth of the
    sensor; None: the protocol's. size: (height, width) as published. crop: (top, bottom, left, right) that the reader
    keeps. has_holes: a sensor's map has some. has_frame: of white, as published.
    """

    median_m: tuple[float, float]
    range_m: tuple[float, float] | None = None
    size: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    has_holes: bool = False
    has_frame: bool = False


@dataclass(frozen=True)
class Measured:
    """One image and its depth at native size.

    size: (height, width), pixels. valid_share: of the pixels. depth_m: least, median and greatest valid depth, metres;
    nan where none is valid. frame: pixels of white at the top, bottom, left and right.
    spread: standard deviation of the grey values. fit: how the depth's edges fit the image's best; None where it cannot
    be told.
    truth: shares of the protocol's cells and of the native pixels that are truth; None where that is not known.
    """

    name: str
    size: tuple[int, int]
    valid_share: float
    depth_m: tuple[float, float, float]
    frame: tuple[int, int, int, int]
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
    rows, columns = white.mean(axis=1), white.mean(axis=0)
    # Rows before the first that is not white; 0 where all are.
    edges = (rows, rows[::-1], columns, columns[::-1])
    top, bottom, left, right = (int((shares < _WHITE_SHARE).argmax()) for shares in edges)
    return Measured(
        name=name,
        size=rgb.shape[:2],
        valid_share=float(valid.mean()),
        depth_m=(float(low), float(median), float(high)),
        frame=(top, bottom, left, right),
        spread=float(grey.std()),
        fit=best_fit(grey, depth_m, valid),
    )


def sample_of(num_images: int, sample: int) -> tuple[int, ...]:
    """Return indices of at most `sample` images, evenly spread from the first to the last; 0: all."""
    num = min(sample or num_images, num_images)
    return (num_images // 2,) if num == 1 else tuple(np.linspace(0, num_images - 1, num).round().astype(int).tolist())


def scenes_and_split(
    image_scenes: Sequence[str], is_sequential: bool, sides: Sequence[str] = (), more: str = ""
) -> Iterator[Finding]:
    """Yield how many scenes there are, and whether training, validation and test images can be had of them.

    more: words behind the scenes.
    """
    counts = Counter(image_scenes).values()
    sizes = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    yield Finding("scenes", "ok", f"{len(counts)}, of {sizes} image{'s' if max(counts) > 1 else ''} each{more}")
    try:
        split = split_by_scene(image_scenes, is_sequential=is_sequential, sides=sides)
    except InputError as error:
        yield Finding("split", "bad", str(error))
    else:
        counted = ", ".join(f"{len(split.indices[name])} {name}" for name in SPLITS)
        rule = "as published" if uses_published(AUTO, sides) else "by scene, 11:2:3"
        yield Finding("split", "ok", f"{counted}; {rule}")


def repeated(
    rgb: Callable[[int], UInt8[np.ndarray, "H W 3"]],
    names: Sequence[str],
    image_scenes: Sequence[str],
    progress: Progress,
) -> Iterator[Finding]:
    """Yield which images are, pixel for pixel, an earlier one, and whether another scene's.

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
    across = [pair for pair in pairs if image_scenes[pair[0]] != image_scenes[pair[1]]]
    # Those that matter are named.
    shown = [f"{names[index]} is {names[first]}" for index, first in across or pairs]
    examples = ", ".join([*shown[:_MOST_NAMED], *(["..."] if len(shown) > _MOST_NAMED else [])])
    counted = f"all {len(names) - len(refused)} images"
    number = f"{len(pairs)} of {counted} {'is' if len(pairs) == 1 else 'are'}, pixel for pixel, an earlier one"
    if across:
        # No "bad", which says that probing would fail: it runs, and whether a split puts the two into training and test
        # is known only of that split. Where it does, a verdict on it is refused (its gate "splits apart").
        told = f"{number}, {len(across)} of them of another scene: {examples}"
        yield Finding("repeats", "doubt", told, "Keep one of each: a split by scene can train on what it tests on.")
    elif pairs:
        told = f"{number} of the same scene: {examples}"
        yield Finding("repeats", "note", told, "What is shown twice counts twice.")
    else:
        yield Finding("repeats", "ok", f"none among {counted}: no two are equal pixel for pixel")
    if refused:
        unread = [refused[index] for index in sorted(refused)]
        yield Finding("all images", "bad", several(unread, "images cannot be read"))


def of_images(
    measured: Mapping[int, Measured],
    protocol: Protocol,
    expected: Expected,
    doubt: Callable[[Sequence[int]], UnitsDoubt | None] | None = None,
) -> Iterator[Finding]:
    """Yield what images together tell: sizes, units, range and holes of depth, frame, colours, registration.

    measured: by index. doubt: what the reader itself says of the units of some indices.
    """
    images = [*measured.values()]
    if not images:
        return
    kept_m = (protocol.min_depth_m, protocol.max_depth_m)
    depths_m = [image.depth_m for image in images if image.valid_share > 0]
    doubtful = doubt([*measured]) if doubt else doubt_units(depths_m, expected.median_m, kept_m)
    if doubtful is not None:
        yield Finding("units", "bad" if doubtful.is_fatal else "doubt", doubtful.problem, doubtful.remedy)
    else:
        yield Finding("units", "ok", f"metres: median depth {np.median(depths_m, axis=0)[1]:.3g} m")
        low, high = float(np.min(depths_m)), float(np.max(depths_m))
        yield Finding("depth range", *_depth_range(low, high, expected.range_m or kept_m, kept_m))
    for check, result in _CHECKS.items():
        yield Finding(check, *result(images, expected, protocol))
    yield Finding("registration", *registration([image.fit for image in images], max(images[0].size)))


def _depth_range(low: float, high: float, sensor_m: tuple[float, float], kept_m: tuple[float, float]) -> Result:
    told = f"{low:.3g} to {high:.3g} m"
    # A twentieth more: published ranges are rounded.
    if low < sensor_m[0] / 1.05 or high > sensor_m[1] * 1.05:
        return "doubt", f"{told}, expected {sensor_m[0]:g} to {sensor_m[1]:g} m", "Spurious values?"
    if high > kept_m[1]:
        return "note", f"{told}; beyond {kept_m[1]:g} m it is left out", "Pass a larger --max-depth, to keep more."
    return "ok", told, ""


def _blank(images: Sequence[Measured], expected: Expected, protocol: Protocol) -> Result:
    names = [image.name for image in images if image.spread < _FLAT]
    if names:
        return "doubt", f"of a single colour: {several(names, 'images')}", "Look at them; take them out."
    return "ok", f"{len(images)} read, none of a single colour", ""


def _resolution(images: Sequence[Measured], expected: Expected, protocol: Protocol) -> Result:
    sizes = [(f"{height} x {width}", num) for (height, width), num in Counter(i.size for i in images).most_common(4)]
    usual, published = sizes[0][0], expected.size
    if len(sizes) > 1:
        told = ", ".join(f"{size} ({count})" for size, count in sizes)
        return "doubt", f"several sizes: {told}", "Each is resized to the protocol's; is this one camera?"
    if published not in (None, images[0].size):
        return "doubt", f"{usual}, published {published[0]} x {published[1]}", "Resized before?"
    return "ok", f"{usual} pixels", ""


def _holes(images: Sequence[Measured], expected: Expected, protocol: Protocol) -> Result:
    empty = [image.name for image in images if not image.valid_share]
    if empty:
        return "doubt", f"without any valid depth: {several(empty, 'images')}", "They are left out."
    truth = [image.truth for image in images if image.truth]
    cell_share, native_share = np.mean(truth, axis=0).tolist() if truth else (1.0, 0.0)
    for sparse in sparse_truth(cell_share, native_share, protocol):
        return "doubt", sparse, ""
    share = 1 - float(np.mean([image.valid_share for image in images]))
    told = f"{share:.1%} of the pixels have no depth" if share else "none"
    if share > 0.5:
        return "doubt", told, "Check the mask, and which values mean missing."
    if expected.has_holes and not share:
        told = "none, a sensor's depth has some: was it filled in, guided by the image?"
        return "doubt", told, "A probe would find again what the filling put there."
    return "ok", told, ""


def _white_frame(images: Sequence[Measured], expected: Expected, protocol: Protocol) -> Result:
    """A white frame, which a network takes for an object."""
    framed = [image for image in images if sum(width > 0 for width in image.frame) >= 3]
    if len(framed) < _FRAMED_SHARE * len(images):
        if not expected.has_frame:
            return "ok", "none", ""
        told = f"in {len(framed)} of {len(images)} images, published: in all"
        return "doubt", told, "Cropped before? The crop here then cuts too much."
    top, bottom, left, right = (max(image.frame[side] for image in framed) for side in range(4))
    told = f"up to {top} pixels above, {bottom} below, {left} left, {right} right"
    (height, width), crop = framed[0].size, expected.crop
    if crop and crop[0] >= top and crop[1] <= height - bottom and crop[2] >= left and crop[3] <= width - right:
        return "ok", f"{told}: cut away by the crop, rows {crop[0]}:{crop[1]}, columns {crop[2]}:{crop[3]}", ""
    return "doubt", told, "Cut it away: a network takes it for an object."


_CHECKS: Mapping[str, Callable[[Sequence[Measured], Expected, Protocol], Result]] = {
    "images": _blank,
    "resolution": _resolution,
    "holes": _holes,
    "white frame": _white_frame,
}
