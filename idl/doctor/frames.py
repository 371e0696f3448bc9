"""What the pixels of DIODE's frames tell: shared by its tree and its archives."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from idl.data.diode.frames import read_native
from idl.data.diode.layout import NEEDED, Frame
from idl.data.diode.normals import STORED_AXES, axes_by_depth
from idl.data.diode.reader import PLAUSIBLE_MEDIAN_M
from idl.doctor import pixels
from idl.doctor.finding import Finding, several
from idl.doctor.looking import look
from idl.progress import Progress
from idl.protocol import Protocol

_SIZE = (768, 1024)
# Metres, from the shortest to the longest that the scanner measured.
_RANGE_M = (0.6, 350.0)
# Frames whose normals are held against their depth: 24 readings of each.
_MOST_NORMALS = 8

# A frame's files by part, as paths that can be read.
Files = Mapping[str, Path]


def of_pixels(
    frames: Sequence[Frame], files: Sequence[Files], indices: Sequence[int], protocol: Protocol, progress: Progress
) -> tuple[list[Finding], int]:
    """Look at the frames of `indices`; return what was found, and how many of them could be read."""
    images, refused = look(
        lambda index: read_native({part: files[index][part] for part in NEEDED}, protocol),
        [f.name for f in frames],
        indices,
        progress,
    )
    if not images:
        return refused, 0
    read = {image.name for image in images}
    chosen = [files[index] for index in indices if frames[index].name in read]
    return [
        *refused,
        pixels.blank(images),
        pixels.resolution(images, _SIZE),
        pixels.units(images, PLAUSIBLE_MEDIAN_M),
        pixels.depth_range(images, _RANGE_M, (protocol.min_depth_m, protocol.max_depth_m)),
        pixels.holes(images, are_expected=True),
        *_masks(chosen),
        *_normals(chosen[:: -(-len(chosen) // _MOST_NORMALS)], protocol),
        pixels.white_frame(images, None),
        pixels.channel_order(images),
        pixels.registration(images),
    ], len(images)


def _masks(files: Iterable[Files]) -> Iterator[Finding]:
    """Types of the masks, which may differ, and their values, which may not."""
    types: Counter[str] = Counter()
    odd: list[str] = []
    for each in files:
        mask = np.load(each["mask"], allow_pickle=False)
        types[str(mask.dtype)] += 1
        if not np.isin(mask, (0, 1)).all():
            odd.append(each["mask"].name)
    told = ", ".join(f"{name} in {count}" for name, count in types.most_common())
    yield Finding("mask types", "ok", f"{told}: all are compared with 0")
    if odd:
        yield Finding("mask values", "doubt", f"other than 0 and 1: {several(odd, 'masks')}", "What is above 0 counts.")


def _normals(files: Iterable[Files], protocol: Protocol) -> Iterator[Finding]:
    """Their axes, held against the depth, and their length."""
    agreement: Counter[object] = Counter()
    num_compared, lengths = 0, []
    for each in files:
        if "normals" not in each:
            continue
        try:
            stored = np.load(each["normals"], allow_pickle=False).astype(np.float32)
        except (OSError, ValueError, EOFError) as error:
            line = " ".join(str(error).split())
            yield Finding("normals", "bad", f"{each['normals']}: cannot be read ({line})", "Unpack it again.")
            return
        native = read_native({part: each[part] for part in NEEDED}, protocol)
        depth_m, valid = native.depth_m, native.valid
        if stored.shape != (*depth_m.shape, 3):
            yield Finding("normals", "bad", f"{each['normals']}: has shape {stored.shape}", "Unpack it again.")
            return
        stored = np.nan_to_num(stored)
        length = np.linalg.norm(stored, axis=-1)
        lengths += [float(np.median(length[length > 0]))] if (length > 0).any() else []
        check = axes_by_depth(stored, depth_m, valid)
        if check.num_pixels:
            num_compared += 1
            for axes, cosine in check.agreement.items():
                agreement[axes] += cosine  # pyright: ignore[reportArgumentType]
    if not num_compared:
        return
    mean = {axes: total / num_compared for axes, total in agreement.items()}
    best = max(mean.values())
    told = f"mean |cosine| with the depth's own {mean[STORED_AXES]:.2f} over {num_compared} frames"
    if mean[STORED_AXES] < best - 0.01:
        yield Finding("normals' axes", "doubt", f"{told}, {best:.2f} in other axes", "Not x right, y up, z backward?")
    else:
        yield Finding("normals' axes", "ok", f"x right, y up, z backward: {told}")
    if lengths and not 0.98 < float(np.median(lengths)) < 1.02:
        yield Finding(
            "normals' length", "doubt", f"median {np.median(lengths):.3g}, expected 1", "They are normalised."
        )
