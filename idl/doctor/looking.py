"""Looking at some images, and the two checks of how images are grouped."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from idl.data.reader import Native
from idl.data.splits import AUTO, SPLITS, split_by_scene, uses_published
from idl.doctor.finding import Finding
from idl.doctor.measures import Measured, measure
from idl.errors import InputError
from idl.progress import Progress


def look(
    native: Callable[[int], Native], names: Sequence[str], indices: Sequence[int], progress: Progress
) -> tuple[list[Measured], list[Finding]]:
    """Measure images, and say which of them cannot be read. native: raises InputError for these."""
    measured: list[Measured] = []
    refused: list[str] = []
    with progress("look", len(indices)) as advance:
        for index in indices:
            try:
                read = native(index)
                measured.append(measure(names[index], np.asarray(read.image), read.depth_m, read.valid))
            except InputError as error:
                refused.append(str(error))
            advance(1)
    if not refused:
        return measured, []
    count = f"{len(refused)} of {len(indices)} images cannot be read: " if len(indices) > 1 else ""
    return measured, [Finding("reading", "bad", f"{count}{refused[0]}")]


def scenes(image_scenes: Sequence[str], expected: str = "") -> Finding:
    """How many scenes there are, and of how many images. expected: more words for people."""
    counts = Counter(image_scenes).values()
    sizes = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    noun = "image" if max(counts) == 1 else "images"
    return Finding("scenes", "ok", f"{len(counts)}, of {sizes} {noun} each{expected}")


def split(image_scenes: Sequence[str], is_sequential: bool, sides: Sequence[str] = ()) -> Finding:
    """Training, validation and test images can be had, no scene in two of them."""
    try:
        found = split_by_scene(image_scenes, is_sequential=is_sequential, sides=sides)
    except InputError as error:
        return Finding("split", "bad", str(error))
    counts = ", ".join(f"{len(found.indices[name])} {name}" for name in SPLITS)
    return Finding("split", "ok", f"{counts}; {'as published' if uses_published(AUTO, sides) else 'by scene, 11:2:3'}")
