"""DIODE on disk: a tree, or its archives."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from idl.data.datasets import DatasetConfig, reader
from idl.data.diode import DiodeArchives, DiodeReader
from idl.data.diode.frames import read_native
from idl.data.diode.layout import NEEDED, SIDES, Frame, parse
from idl.data.diode.normals import STORED_AXES, axes_by_depth
from idl.data.published import PUBLISHED
from idl.data.tarball import members
from idl.doctor import pixels
from idl.doctor.files import file, leftovers
from idl.doctor.finding import Diagnosis, Finding, several, spread
from idl.doctor.looking import look, scenes, split
from idl.errors import InputError
from idl.progress import Progress

_SIZE = (768, 1024)
# Metres, from the shortest to the longest that the scanner measured.
_RANGE_M = (0.6, 350.0)
_PUBLISHED = {
    ("train", "indoors"): 8_574,
    ("train", "outdoor"): 16_884,
    ("val", "indoors"): 325,
    ("val", "outdoor"): 446,
}
_NUM_LISTED = 612
# Members of an archive that are passed over at most until enough frames are whole.
_MOST_MEMBERS = 2_000

# Frames whose normals are held against their depth: 24 readings of each.
_MOST_NORMALS = 8

# A frame's files by part, as paths that can be read.
Files = Mapping[str, Path]


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
        return _archives(dataset, config, sample, checksums, progress)
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
    told, num_read = _of_pixels(frames, files, indices, config, progress)
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


def _of_pixels(
    frames: Sequence[Frame], files: Sequence[Files], indices: Sequence[int], config: DatasetConfig, progress: Progress
) -> tuple[list[Finding], int]:
    images, refused = look(lambda index: read_native(files[index]), [f.name for f in frames], indices, progress)
    if not images:
        return refused, 0
    protocol = config.protocol
    read = {image.name for image in images}
    chosen = [files[index] for index in indices if frames[index].name in read]
    plausible_m = DiodeReader(Path(), protocol).plausible_median_m
    return [
        *refused,
        pixels.blank(images),
        pixels.resolution(images, _SIZE),
        pixels.units(images, plausible_m),
        pixels.depth_range(images, _RANGE_M, (protocol.min_depth_m, protocol.max_depth_m)),
        pixels.holes(images, are_expected=True),
        *_masks(chosen),
        *_normals(chosen[:: -(-len(chosen) // _MOST_NORMALS)]),
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


def _normals(files: Iterable[Files]) -> Iterator[Finding]:
    """Their axes, held against the depth, and their length."""
    agreement: Counter[object] = Counter()
    num_compared, lengths = 0, []
    for each in files:
        if "normals" not in each:
            continue
        stored = np.load(each["normals"], allow_pickle=False).astype(np.float32)
        _, depth_m, valid = read_native(each)
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


def _archives(
    dataset: DiodeArchives, config: DatasetConfig, sample: int, checksums: bool, progress: Progress
) -> Diagnosis:
    """The archives as files, and the first frames of those without normals: what is further in needs a whole pass."""
    remotes = {remote.name: remote for remote in PUBLISHED["diode"].values()}
    found = leftovers(dataset.archives[0].parent, list(remotes))
    for archive in dataset.archives:
        found += file(archive, remotes.get(archive.name), checksums, progress)
    absent = [name for name in remotes if name not in {archive.name for archive in dataset.archives}]
    if absent:
        found.append(Finding("archives", "missing", f"not beside: {', '.join(absent)}"))
    num_read = 0
    with tempfile.TemporaryDirectory(prefix="idl-doctor-") as folder:
        for archive in dataset.archives:
            if archive.name.endswith("_normals.tar.gz"):
                continue
            try:
                frames = _first_frames(archive, Path(folder) / archive.name, sample or 24)
            except InputError as error:
                found.append(Finding("archive", "bad", str(error)))
                continue
            if not frames:
                found.append(Finding("archive", "bad", f"{archive}: no frames of DIODE among its first files"))
                continue
            found.append(
                Finding("archive", "note", f"{archive.name}: its first {len(frames)} frames; all are seen in `prepare`")
            )
            told, count = _of_pixels(list(frames), list(frames.values()), range(len(frames)), config, progress)
            found += told
            num_read += count
    return Diagnosis("diode", dataset.source, 0, num_read, tuple(found))


def _first_frames(archive: Path, folder: Path, most: int) -> dict[Frame, Files]:
    """Save the first frames that are whole. Raises InputError where the archive is damaged there."""
    parts: dict[Frame, dict[str, Path]] = {}
    whole: dict[Frame, Files] = {}
    for number, member in enumerate(members(archive)):
        if len(whole) >= most or number >= _MOST_MEMBERS:
            break
        parsed = parse(member.name)
        if parsed is None:
            continue
        frame, part = parsed
        path = folder / frame.file(part)
        member.save(path)
        parts.setdefault(frame, {})[part] = path
        if set(NEEDED) <= set(parts[frame]):
            whole[frame] = parts[frame]
    return whole
