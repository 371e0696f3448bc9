"""Images that repeat another of the dataset: all images are read for it, not a sample, which holds no pairs."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from idl.data.repeats import repeats
from idl.doctor.finding import Finding, several
from idl.errors import InputError
from idl.progress import Progress

_MOST_NAMED = 3


def repeated(
    rgb: Callable[[int], Image.Image | UInt8[np.ndarray, "H W 3"]],
    names: Sequence[str],
    scenes: Sequence[str],
    progress: Progress,
    among: str = "",
) -> list[Finding]:
    """Say which images are, pixel for pixel, another one, and whether another scene's.

    rgb: reads one image, and raises InputError where it cannot; it is called from several threads. among: which images
    these are, in words, where they are not all.
    """
    refused: dict[int, str] = {}

    def read(index: int) -> np.ndarray | None:
        try:
            return np.asarray(rgb(index))
        except InputError as error:
            refused[index] = str(error)
            return None

    pairs = list(repeats(read, range(len(names)), progress, "repeats"))
    found = [_finding(pairs, names, scenes, len(names) - len(refused), among)]
    if refused:
        told = several([refused[index] for index in sorted(refused)], "images cannot be read")
        found.append(Finding("all images", "bad", told))
    return found


def _finding(
    pairs: Sequence[tuple[int, int]], names: Sequence[str], scenes: Sequence[str], num_read: int, among: str
) -> Finding:
    counted = f"{num_read} {among}" if among else f"all {num_read} images"
    if not pairs:
        told = f"none among {counted}: no two are equal pixel for pixel"
        if among:
            return Finding("repeats", "note", told, "To compare all, run `idl doctor` on the prepared store.")
        return Finding("repeats", "ok", told)
    across = [pair for pair in pairs if scenes[pair[0]] != scenes[pair[1]]]
    # Those that matter are named.
    shown = (across or pairs)[:_MOST_NAMED]
    told = ", ".join(f"{names[index]} is {names[first]}" for index, first in shown)
    more = ", ..." if len(across or pairs) > len(shown) else ""
    number = f"{len(pairs)} of {counted} {'is' if len(pairs) == 1 else 'are'}, pixel for pixel, an earlier one"
    if not across:
        return Finding(
            "repeats", "note", f"{number} of the same scene: {told}{more}", "What is shown twice counts twice."
        )
    # No "bad", which says that probing would fail: it runs, and whether a split puts the two into training and test is
    # known only of that split. Where it does, a verdict on it is refused (its gate "splits apart").
    return Finding(
        "repeats",
        "doubt",
        f"{number}, {len(across)} of them of another scene: {told}{more}",
        "Keep one of each: a split by scene can train on what it tests on.",
    )
