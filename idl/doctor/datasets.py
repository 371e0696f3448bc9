"""Each kind of dataset on disk: its files, its layout and published counts, and what its images tell."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from idl.data.datasets import DatasetConfig, reader
from idl.data.diode import NEEDED, STORED_AXES, Axes, DiodeReader, axes_by_depth, read_frame
from idl.data.download import PUBLISHED, Remote, md5_of
from idl.data.files import walk
from idl.data.folder import FolderReader
from idl.data.images import PICTURE_SUFFIXES, within_range
from idl.data.nyu import DEPTHS, FILE, SPLITS_FILE, NyuReader
from idl.data.reader import Native
from idl.data.store import Store
from idl.data.units import UnitsDoubt
from idl.doctor.checks import (
    Expected,
    Measured,
    measure,
    measure_sample,
    of_images,
    repeated,
    sample_of,
    scenes_and_split,
)
from idl.doctor.findings import Diagnosis, Finding, several
from idl.errors import InputError
from idl.progress import Progress
from idl.protocol import Protocol

# Metres; wider than any camera's.
_FOLDER_RANGE_M, _ANY_M = (0.01, 655.0), (0.0, float("inf"))
_NYU_IMAGES, _NYU_SCENES, _NYU_SIDES = 1449, 464, {"train": 795, "test": 654}
# In-painting fills all that the sensor left open: so many images are compared.
_NUM_COMPARED = 3
_DIODE_FRAMES = {
    ("train", "indoors"): 8_574,
    ("train", "outdoor"): 16_884,
    ("val", "indoors"): 325,
    ("val", "outdoor"): 446,
}
_DIODE_LISTED = 612
# Frames whose normals are held against their depth: 24 readings of each.
_MOST_NORMALS = 8
# A room takes a second.
_MOST_ROOMS = 2


def _examine(
    dataset: FolderReader | NyuReader | DiodeReader,
    expected: Expected,
    sample: int,
    progress: Progress,
    *,
    more: str = "",
    doubt: Callable[[Sequence[int]], UnitsDoubt | None] | None = None,
) -> tuple[list[Finding], list[int]]:
    """Return what the images of a dataset tell, and which of them were measured.

    more: words behind the scenes. doubt: what the reader says of the units of some images.
    """
    protocol, groups = dataset.protocol, dataset.groups
    names, image_scenes = [group.names[0] for group in groups], [group.scene for group in groups]

    def truth(index: int) -> tuple[float, float] | None:
        (prepared,) = dataset.read(index)
        cells = within_range(prepared.depth_m, prepared.valid, protocol)[1]
        return (float(cells.mean()), prepared.native_share or 0.0) if cells.any() else None

    indices = sample_of(len(groups), sample)
    images, refused = measure_sample(dataset.native, truth, names, indices, progress)
    read = {image.name for image in images}
    measured = [index for index in indices if names[index] in read]
    sides = [dataset.side(index) for index in range(len(groups))]
    return [
        *scenes_and_split(image_scenes, dataset.is_sequential, sides, more),
        *refused,
        *repeated(dataset.rgb, names, image_scenes, progress),
        *of_images(images, protocol, expected, partial(doubt, measured) if doubt else None),
    ], measured


def examine_folder(config: DatasetConfig, sample: int, checksums: bool, progress: Progress) -> Diagnosis:
    """Examine the pairs, and name images that are in none."""
    root = Path(config.data or config.pairs).expanduser()
    try:
        dataset = reader(config)
        assert isinstance(dataset, FolderReader)
        num = len(dataset.groups)
    except InputError as error:
        return Diagnosis("folder", str(root), 0, 0, (Finding("pairs", "bad", str(error)),))
    expected = Expected(dataset.plausible_median_m, _FOLDER_RANGE_M)
    more = ", consecutive frames" if dataset.is_sequential else ""
    found, measured = _examine(dataset, expected, sample, progress, more=more, doubt=dataset.doubt_units)
    layout = "" if dataset.layout_name == "plain" else f", read as {dataset.layout_name}"
    pairs = [Finding("pairs", "ok", f"{num} of RGB and depth{layout}")]
    if dataset.alone:
        told = f"without depth: {several(dataset.alone, 'images')}"
        pairs.append(Finding("images alone", "doubt", told, "They are not read."))
    used = {root / name for name in dataset.alone}
    used |= {path for pair in dataset.pairs for path in (pair.rgb, pair.depth, pair.mask) if path}
    others = [name for name in walk(root) if Path(name).suffix.lower() in PICTURE_SUFFIXES and root / name not in used]
    if others:
        pairs.append(Finding("other pictures", "note", f"in no pair: {several(others, 'pictures')}"))
    return Diagnosis("folder", str(root), num, len(measured), (*pairs, *found))


def examine_nyu(config: DatasetConfig, sample: int, checksums: bool, progress: Progress) -> Diagnosis:
    """Examine the labelled set, its split, and some of its images."""
    data = Path(config.data).expanduser()
    path = data / FILE if data.is_dir() else data
    found = _leftovers(path.parent, "nyu")
    if not path.is_file():
        missing = Finding("file", "bad", f"{data}: no {FILE} in it", "Pass --download true to `prepare`, to fetch it.")
        return Diagnosis("nyu", str(data), 0, 0, (*found, missing))
    splits = path.with_name(SPLITS_FILE)
    for each, name in ((path, "labeled"), (splits, "splits")):
        found += _file(each, PUBLISHED["nyu"][name], checksums, progress) if each.is_file() else []
    try:
        dataset = reader(config)
        assert isinstance(dataset, NyuReader)
        num = len(dataset.groups)
    except InputError as error:
        return Diagnosis("nyu", str(path), 0, 0, (*found, Finding("layout", "bad", str(error))))
    is_sensor, is_whole = config.depths == "sensor", num == _NYU_IMAGES
    # The range is what a Kinect of the first kind measures.
    expected = Expected(
        dataset.plausible_median_m, (0.4, 10.0), (480, 640), dataset.protocol.crop, has_holes=is_sensor, has_frame=True
    )
    more = f" (published: {_NYU_SCENES} scenes)" if is_whole else ""
    of_pixels, measured = _examine(dataset, expected, sample, progress, more=more)
    count = f"{num} images, published {_NYU_IMAGES}"
    found += [
        Finding("layout", "ok", "MATLAB v7.3, axes reversed as they should be: images, columns, rows"),
        Finding("count", "ok", f"{num} images, as published")
        if is_whole
        else Finding("count", "doubt", count, "A part of the published set?"),
        _published_split(dataset.sides, splits),
        *of_pixels,
        *([_inpainted(path, measured[:_NUM_COMPARED])] if measured and is_sensor else []),
    ]
    return Diagnosis("nyu", str(path), num, len(measured), found)


def _published_split(sides: Sequence[str], path: Path) -> Finding:
    counts = Counter(side for side in sides if side)
    if not counts:
        told = f"no {path.name} beside it: the split is by scene"
        return Finding("published split", "missing", told, "Fetch it to compare with others.")
    told = f"{counts['train']} train, {counts['test']} test, counted from 1"
    if counts == _NYU_SIDES:
        return Finding("published split", "ok", f"{told}, as published")
    return Finding("published split", "doubt", f"{told}; published {_NYU_SIDES['train']} and {_NYU_SIDES['test']}")


def _inpainted(path: Path, indices: Sequence[int]) -> Finding:
    """Whether the in-painted depth is there, another than the sensor's, and without holes."""
    check = "in-painted depth"
    try:
        with h5py.File(path, "r") as opened:
            sensor, filled = (opened.get(DEPTHS[name]) for name in ("sensor", "inpainted"))
            if not isinstance(sensor, h5py.Dataset) or not isinstance(filled, h5py.Dataset):
                return Finding(check, "missing", "not in the file: depths=inpainted cannot be had")
            are_same = all(np.array_equal(sensor[index], filled[index]) for index in indices)
            holes = max(float((filled[index] <= 0).mean()) for index in indices)
    except OSError as error:
        reason = " ".join(str(error).split())
        return Finding(check, "doubt", f"cannot be read ({reason})", "The file is damaged: fetch it again.")
    if are_same:
        return Finding(check, "doubt", "equal to the sensor's: one is a copy of the other", "Fetch the file again.")
    if holes > 0:
        return Finding(check, "doubt", f"has holes, {holes:.1%} of an image", "Are the two swapped?")
    return Finding(check, "ok", "there, without holes; the sensor's is the truth by default")


def examine_diode(config: DatasetConfig, sample: int, checksums: bool, progress: Progress) -> Diagnosis:
    """Examine the frames of a tree."""
    path = Path(config.data).expanduser()
    found = _leftovers(path if path.is_dir() else path.parent, "diode")
    try:
        dataset = DiodeReader(path, config.build_protocol(), config.subset)
        # Before the frames are asked for, which ends with the first thing that is wrong.
        found += _layout(dataset) if dataset.found else []
        frames = dataset.frames
    except InputError as error:
        return Diagnosis("diode", str(path), 0, 0, (*found, Finding("layout", "bad", str(error))))
    # From the shortest to the longest that the scanner measured.
    expected = Expected(dataset.plausible_median_m, (0.6, 350.0), (768, 1024), has_holes=True)
    more = f", in {len({frame.scan_path for frame in frames})} scans"
    of_pixels, measured = _examine(dataset, expected, sample, progress, more=more)
    files = [dataset.found[frames[index]] for index in measured]
    compared = files[:: max(1, -(-len(files) // _MOST_NORMALS))]
    found += [*of_pixels, *_masks(files), *_normals(compared, dataset.protocol)]
    return Diagnosis("diode", str(dataset.root), len(frames), len(measured), found)


def _layout(tree: DiodeReader) -> list[Finding]:
    """What names and sizes of files tell."""
    whole = [frame for frame, parts in tree.found.items() if set(NEEDED) <= set(parts)]
    counts = Counter((frame.part, frame.place) for frame in whole)
    found = [_num_frames(part, place, counts) for part, place in _DIODE_FRAMES if counts[part, place]]
    broken = [frame for frame, parts in tree.found.items() if 0 < len(set(parts) & set(NEEDED)) < len(NEEDED)]
    if broken:
        lacks = ", ".join(part for part in NEEDED if part not in tree.found[broken[0]])
        told = f"not whole: {several([frame.path for frame in broken], 'frames')} (no {lacks})"
        found.append(Finding("whole frames", "bad", told, "Unpack it again."))
    absent = [f"{part}/{place}" for part, place in _DIODE_FRAMES if not counts[part, place]]
    if absent:
        found.append(Finding("parts", "missing", f"no {', '.join(absent)}"))
    with_normals = sum("normals" in tree.found[frame] for frame in whole)
    if with_normals < len(whole):
        told = f"of {len(whole) - with_normals} of {len(whole)} frames"
        found.append(Finding("normals", "missing", told, "Only target=normals needs them."))
    return [*found, *_odd_sizes(tree)]


def _num_frames(part: str, place: str, counts: Mapping[tuple[str, str], int]) -> Finding:
    count, published = counts[part, place], _DIODE_FRAMES[part, place]
    told = f"{count} of {published} frames"
    if count == published:
        return Finding(f"{part}/{place}", "ok", f"{count} frames, as published")
    if part == "val" and counts["val", "indoors"] + counts["val", "outdoor"] == _DIODE_LISTED:
        told = f"{told}; {_DIODE_LISTED} in val, as the metadata file lists, of the 771 there are"
        advice = "Unpack all of val.tar.gz, not what the metadata file lists."
        return Finding(f"{part}/{place}", "doubt", told, advice)
    return Finding(f"{part}/{place}", "missing" if count < published else "doubt", told)


def _odd_sizes(tree: DiodeReader) -> Iterator[Finding]:
    """Arrays whose files have another length than the others: most often cut short while they were unpacked."""
    for part in ("depth", "normals"):
        sizes = {parts[part]: parts[part].stat().st_size for parts in tree.found.values() if part in parts}
        if not sizes:
            continue
        usual = Counter(sizes.values()).most_common(1)[0][0]
        odd = [str(path) for path, size in sizes.items() if size != usual]
        short = [path for path in odd if not _is_whole(Path(path))]
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


def _masks(files: Sequence[Mapping[str, Path]]) -> Iterator[Finding]:
    """Types of the masks, which may differ, and their values, which may not."""
    masks = {each["mask"].name: np.load(each["mask"], allow_pickle=False) for each in files}
    if masks:
        types = Counter(str(mask.dtype) for mask in masks.values()).most_common()
        told = ", ".join(f"{name} in {count}" for name, count in types)
        yield Finding("mask types", "ok", f"{told}: all are compared with 0")
    if odd := [name for name, mask in masks.items() if not np.isin(mask, (0, 1)).all()]:
        yield Finding("mask values", "doubt", f"other than 0 and 1: {several(odd, 'masks')}", "What is above 0 counts.")


def _normals(files: Sequence[Mapping[str, Path]], protocol: Protocol) -> Iterator[Finding]:
    """The axes of normals, held against the depth, and their length. files: that the reader has read."""
    checks: list[Mapping[Axes, float]] = []
    lengths: list[float] = []
    for each in files:
        if "normals" not in each:
            continue
        native = read_frame({part: each[part] for part in NEEDED}, protocol)
        stored = np.nan_to_num(np.load(each["normals"], allow_pickle=False).astype(np.float32))
        length = np.linalg.norm(stored, axis=-1)
        lengths += [float(np.median(length[length > 0]))] if (length > 0).any() else []
        check = axes_by_depth(stored, native.depth_m, native.valid)
        checks += [check] if check else []
    if not checks:
        return
    mean = {axes: float(np.mean([check[axes] for check in checks])) for axes in checks[0]}
    best = max(mean.values())
    told = f"mean |cosine| with the depth's own {mean[STORED_AXES]:.2f} over {len(checks)} frames"
    if mean[STORED_AXES] < best - 0.01:
        yield Finding("normals' axes", "doubt", f"{told}, {best:.2f} in other axes", "Not x right, y up, z backward?")
    else:
        yield Finding("normals' axes", "ok", f"x right, y up, z backward: {told}")
    if lengths and not 0.98 < float(np.median(lengths)) < 1.02:
        told = f"median {np.median(lengths):.3g}, expected 1"
        yield Finding("normals' length", "doubt", told, "They are normalised.")


def examine_store(config: DatasetConfig, sample: int, checksums: bool, progress: Progress) -> Diagnosis:
    """Examine a prepared dataset: what it says of itself, and some of its images."""
    path = Path(config.dataset).expanduser()
    try:
        store = Store.open(path)
    except InputError as error:
        return Diagnosis("store", str(path), 0, 0, (Finding("store", "bad", str(error)),))

    def native(index: int) -> Native:
        read = store.read(("rgb", "depth", "valid"), [index])
        return Native(read["rgb"][0], read["depth"][0], read["valid"][0])

    indices = sample_of(store.num_images, sample)
    images, refused = measure_sample(native, lambda _: None, store.names, indices, progress)
    protocol = store.protocol
    of_pixels = of_images(images, protocol, Expected(_ANY_M, has_colours=False))
    size = f"{protocol.resolution} x {protocol.width} pixels"
    found = [
        Finding("store", "ok", f"{store.num_images} images of {store.name}, from {store.source}"),
        Finding("protocol", "ok", f"{protocol.name}, {size}, {protocol.mask} depth"),
        Finding("layers", "ok", ", ".join(store.layers)),
        # Of doubtful units too.
        *(Finding("preparation", "note", note) for note in store.notes),
        *scenes_and_split(store.scenes, store.is_sequential, store.sides),
        *refused,
        *repeated(store.rgb, store.names, store.scenes, progress),
        *(each for each in of_pixels if each.check != "units"),
    ]
    return Diagnosis(f"store of {store.name}", str(path), store.num_images, len(images), found)


def examine_rooms(config: DatasetConfig, sample: int, checksums: bool, progress: Progress) -> Diagnosis:
    """Render one or two rooms, and examine their images."""
    dataset = reader(config)
    groups = dataset.groups
    chosen = sample_of(len(groups), min(sample or _MOST_ROOMS, _MOST_ROOMS))
    images: list[Measured] = []
    with progress("render", len(chosen), unit="rooms") as advance:
        for index in chosen:
            images += [measure(each.name, each.rgb, each.depth_m, each.valid) for each in dataset.read(index)]
            advance(1)
    image_scenes = [group.scene for group in groups for _ in group.names]
    found = [
        Finding("recipe", "ok", f"{dataset.source}; made when it is first used"),
        *scenes_and_split(image_scenes, dataset.is_sequential),
        *of_images(images, config.build_protocol(), Expected(dataset.plausible_median_m, has_colours=False)),
    ]
    return Diagnosis("rooms", dataset.source, len(image_scenes), len(images), found)


Examine = Callable[[DatasetConfig, int, bool, Progress], Diagnosis]
EXAMINERS: Mapping[str, Examine] = {
    "rooms": examine_rooms,
    "folder": examine_folder,
    "nyu": examine_nyu,
    "diode": examine_diode,
}


def _file(path: Path, remote: Remote, checksums: bool, progress: Progress) -> list[Finding]:
    """Size and, where it is asked for, checksum of a file against those published, where they are known."""
    size = path.stat().st_size
    told = f"{path.name}, {size:,} bytes"
    if remote.size not in (None, size):
        advice = "Cut short, or another file. Fetch it again."
        found = [Finding("file", "doubt", f"{told}, published {remote.size:,}", advice)]
    else:
        found = [Finding("file", "ok", told if remote.size is None else f"{told}, as published")]
    if remote.md5 is None:
        return found
    if not checksums:
        advice = "Pass --checksums; it reads all of the file."
        return [*found, Finding("checksum", "note", f"{path.name}: not taken", advice)]
    md5 = md5_of(path, progress)
    if md5 == remote.md5:
        return [*found, Finding("checksum", "ok", f"{path.name}: MD5 {md5}, as published")]
    told = f"{path.name}: MD5 {md5}, published {remote.md5}"
    return [*found, Finding("checksum", "doubt", told, "Damaged, or another version. Fetch it again.")]


def _leftovers(folder: Path, dataset: str) -> list[Finding]:
    """Downloads that are not whole, or were not what was published."""
    found = []
    for name in (remote.name for remote in PUBLISHED[dataset].values()):
        part, damaged = folder / f"{name}.part", folder / f"{name}.damaged"
        if part.exists():
            told = f"{part.name}, {part.stat().st_size:,} bytes so far"
            found.append(Finding("download", "note", told, "Pass --download to `prepare`, to go on with it."))
        if damaged.exists():
            told = f"{damaged.name}: its checksum differed"
            found.append(Finding("download", "note", told, "It may be deleted."))
    return found
