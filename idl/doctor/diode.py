"""DIODE on disk: a tree, or its archives."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from idl.data.datasets import DatasetConfig, reader
from idl.data.diode import DiodeArchives, DiodeReader
from idl.data.diode.layout import NEEDED, SIDES
from idl.doctor.archives import examine_archives
from idl.doctor.finding import Diagnosis, Finding, several, spread
from idl.doctor.frames import of_pixels
from idl.doctor.looking import scenes, split
from idl.doctor.repeats import repeated
from idl.errors import InputError
from idl.progress import Progress

_PUBLISHED = {
    ("train", "indoors"): 8_574,
    ("train", "outdoor"): 16_884,
    ("val", "indoors"): 325,
    ("val", "outdoor"): 446,
}
_NUM_LISTED = 612


def examine(config: DatasetConfig, sample: int, checksums: bool, progress: Progress) -> Diagnosis:
    """Look at what is at the path: a tree goes before archives beside it, as in reading."""
    path = Path(config.data).expanduser()
    found: list[Finding] = []
    try:
        tree = DiodeReader(path, config.protocol, config.subset)
        if path.is_dir() and tree.has_frames:
            # Before the reader is asked, which ends with the first thing that is wrong.
            found += _of_tree(tree)
        dataset = reader(config)
    except InputError as error:
        return Diagnosis("diode", str(path), 0, 0, (*found, Finding("layout", "bad", str(error))))
    if isinstance(dataset, DiodeArchives):
        return examine_archives(dataset, sample, checksums, progress)
    return _tree(tree, found, config, sample, progress)


def _tree(tree: DiodeReader, found: list[Finding], config: DatasetConfig, sample: int, progress: Progress) -> Diagnosis:
    frames = tree.frames
    files = [{part: Path(name) for part, name in tree.found[frame].items()} for frame in frames]
    indices = spread(len(frames), sample)
    sides = [SIDES[frame.part] for frame in frames]
    found += [
        scenes([frame.scene for frame in frames], f", in {len({frame.scan_path for frame in frames})} scans"),
        split([frame.scene for frame in frames], tree.is_sequential, sides),
    ]
    told, num_read = of_pixels(frames, files, indices, config.protocol, progress)
    names, image_scenes = [frame.name for frame in frames], [frame.scene for frame in frames]
    told += repeated(tree.rgb, names, image_scenes, progress)
    return Diagnosis("diode", str(tree.root), len(frames), num_read, (*found, *told))


def _of_tree(tree: DiodeReader) -> list[Finding]:
    """What names and sizes of files tell."""
    whole = [frame for frame, parts in tree.found.items() if set(NEEDED) <= set(parts)]
    counts = Counter((frame.part, frame.place) for frame in whole)
    found = [_count(part, place, counts[part, place], counts) for part, place in _PUBLISHED if counts[part, place]]
    broken = [frame for frame, parts in tree.found.items() if 0 < len(set(parts) & set(NEEDED)) < len(NEEDED)]
    if broken:
        parts = tree.found[broken[0]]
        lacks = ", ".join(part for part in NEEDED if part not in parts)
        found.append(
            Finding(
                "whole frames",
                "bad",
                f"not whole: {several([f.path for f in broken], 'frames')} (no {lacks})",
                "Unpack it again.",
            )
        )
    absent = [f"{part}/{place}" for part, place in _PUBLISHED if not counts[part, place]]
    if absent:
        found.append(Finding("parts", "missing", f"no {', '.join(absent)}"))
    with_normals = sum("normals" in tree.found[frame] for frame in whole)
    if with_normals < len(whole):
        found.append(
            Finding(
                "normals",
                "missing",
                f"of {len(whole) - with_normals} of {len(whole)} frames",
                "Only target=normals needs them.",
            )
        )
    return [*found, *_odd_sizes(tree)]


def _count(part: str, place: str, count: int, counts: Mapping[tuple[str, str], int]) -> Finding:
    published = _PUBLISHED[part, place]
    if count == published:
        return Finding(f"{part}/{place}", "ok", f"{count} frames, as published")
    if part == "val" and counts["val", "indoors"] + counts["val", "outdoor"] == _NUM_LISTED:
        return Finding(
            f"{part}/{place}",
            "doubt",
            f"{count} of {published} frames; {_NUM_LISTED} in val, as the metadata file lists, of the 771 there are",
            "Unpack all of val.tar.gz, not what the metadata file lists.",
        )
    level = "missing" if count < published else "doubt"
    return Finding(f"{part}/{place}", level, f"{count} of {published} frames")


def _odd_sizes(tree: DiodeReader) -> Iterator[Finding]:
    """Arrays whose files have another length than the others: most often cut short while they were unpacked."""
    for part in ("depth", "normals"):
        sizes = {parts[part]: Path(parts[part]).stat().st_size for parts in tree.found.values() if part in parts}
        if not sizes:
            continue
        usual = Counter(sizes.values()).most_common(1)[0][0]
        odd = [name for name, size in sizes.items() if size != usual]
        short = [name for name in odd if not _is_whole(Path(name))]
        if short:
            yield Finding("file sizes", "bad", f"not whole: {several(short, f'{part} files')}", "Unpack it again.")
        elif odd:
            yield Finding("file sizes", "doubt", f"of another length than the rest: {several(odd, f'{part} files')}")


def _is_whole(path: Path) -> bool:
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return True
