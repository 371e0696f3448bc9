"""Each kind of dataset on disk: its files, its layout and published counts, and what its images tell."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np

from idl.data.datasets import DatasetConfig, reader
from idl.data.diode import NEEDED, STORED_AXES, Axes, DiodeReader, axes_by_depth, read_frame
from idl.data.download import PUBLISHED, Remote, md5_of
from idl.data.folder import FolderReader
from idl.data.images import PICTURE_SUFFIXES, orientation, within_range
from idl.data.nyu import DEPTHS, FILE, SPLITS_FILE, NyuReader
from idl.data.reader import Native, walk
from idl.data.store import Store
from idl.doctor.checks import (
    Diagnosis,
    Expected,
    Finding,
    Measured,
    measure,
    of_images,
    repeated,
    sample_of,
    scenes_and_split,
    several,
)
from idl.doctor.registration import registration
from idl.errors import InputError
from idl.progress import Progress

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


@dataclass
class Examination:
    """What was asked for, and what is known so far. sample: images to measure; 0: all. measured: by index."""

    config: DatasetConfig
    sample: int
    checksums: bool
    progress: Progress
    told: Diagnosis
    measured: dict[int, Measured] = field(default_factory=dict)

    def measure(
        self,
        native: Callable[[int], Native],
        names: Sequence[str],
        truth: Callable[[int], tuple[float, float] | None] = lambda _: None,
    ) -> Iterator[Finding]:
        """Measure a sample of the images, and yield which of them cannot be read.

        native: reads an image as it was taken; truth: returns what `Measured.truth` is. Both raise InputError where an
        image cannot be read.
        """
        indices, refused = sample_of(len(names), self.sample), []
        with self.progress("measure", len(indices)) as advance:
            for index in indices:
                try:
                    read = native(index)
                    image = measure(names[index], read.image, read.depth_m, read.valid)
                    self.measured[index] = replace(image, truth=truth(index))
                except InputError as error:
                    refused.append(str(error))
                advance(1)
        if refused:
            count = f"{len(refused)} of {len(indices)} images cannot be read: " if len(indices) > 1 else ""
            yield Finding("reading", "bad", f"{count}{refused[0]}")

    def images(
        self, dataset: FolderReader | NyuReader | DiodeReader, expected: Expected, more: str = ""
    ) -> Iterator[Finding]:
        """Yield what the images of a dataset tell. more: words behind the number of scenes."""
        protocol, groups = dataset.protocol, dataset.groups
        names, image_scenes = [group.names[0] for group in groups], [group.scene for group in groups]

        def truth(index: int) -> tuple[float, float] | None:
            (prepared,) = dataset.read(index)
            cells = within_range(prepared.depth_m, prepared.valid, protocol)[1]
            return (float(cells.mean()), prepared.native_share or 0.0) if cells.any() else None

        sides = [dataset.side(index) for index in range(len(groups))]
        yield from scenes_and_split(image_scenes, dataset.is_sequential, sides, more)
        yield from self.measure(dataset.native, names, truth)
        yield from repeated(dataset.rgb, names, image_scenes, self.progress)
        # A folder's own reader knows more of its units.
        doubt = dataset.doubt_units if isinstance(dataset, FolderReader) else None
        yield from of_images(self.measured, protocol, expected, doubt)


def examine_folder(on: Examination) -> Iterator[Finding]:
    """Examine the pairs, and name images that are in none."""
    root = Path(on.told.source) if Path(on.told.source).is_dir() else Path(on.told.source).parent
    dataset = reader(on.config)
    assert isinstance(dataset, FolderReader)
    on.told.num_images = len(dataset.groups)
    yield Finding("pairs", "ok", f"{on.told.num_images} of RGB and depth, {dataset.layout_found}")
    if dataset.alone:
        alone = several(dataset.alone, "images")
        yield Finding("images alone", "doubt", f"without depth: {alone}", "They are not read.")
    used = {root / name for name in dataset.alone}
    used |= {path for pair in dataset.pairs for path in (pair.rgb, pair.depth, pair.mask) if path}
    others = [name for name in walk(root) if Path(name).suffix.lower() in PICTURE_SUFFIXES and root / name not in used]
    if others:
        yield Finding("other pictures", "note", f"in no pair: {several(others, 'pictures')}")
    more = ", consecutive frames" if dataset.is_sequential else ""
    expected = Expected(dataset.plausible_median_m, _FOLDER_RANGE_M)
    yield from on.images(dataset, expected, more)
    yield from _turned(dataset, on.measured)


def _turned(dataset: FolderReader, measured: Mapping[int, Measured]) -> Iterator[Finding]:
    """Yield which pictures their tag turns while depth of the same size fits both ways, unless the edges decide it."""
    turned: list[Measured] = []
    for index, image in measured.items():
        tag = orientation(dataset.picture(index))
        if 1 < tag <= 4 or (tag > 4 and image.size[0] == image.size[1]):
            turned.append(image)
    if turned and registration([image.fit for image in turned], max(turned[0].size))[0] != "ok":
        names = several([image.name for image in turned], "pictures")
        told = f"{names}: turned as the file's tag says; depth is read as stored, and has the same size either way"
        yield Finding("orientation", "doubt", told, "Look at a pair side by side: does the depth lie as the picture?")


def examine_nyu(on: Examination) -> Iterator[Finding]:
    """Examine the labelled set, its split, and some of its images."""
    data = Path(on.told.source)
    path = data / FILE if data.is_dir() else data
    yield from _leftovers(path.parent, "nyu")
    if not path.is_file():
        yield Finding("file", "bad", f"{data}: no {FILE} in it", "Pass --download true to `prepare`, to fetch it.")
        return
    on.told.source, splits = str(path), path.with_name(SPLITS_FILE)
    for each, name in ((path, "labeled"), (splits, "splits")):
        if each.is_file():
            yield from _file(each, PUBLISHED["nyu"][name], on)
    dataset = reader(on.config)
    assert isinstance(dataset, NyuReader)
    on.told.num_images = num = len(dataset.groups)
    yield Finding("layout", "ok", "MATLAB v7.3, axes reversed as they should be: images, columns, rows")
    is_sensor, is_whole = on.config.depths == "sensor", num == _NYU_IMAGES
    if is_whole:
        yield Finding("count", "ok", f"{num} images, as published")
    else:
        yield Finding("count", "doubt", f"{num} images, published {_NYU_IMAGES}", "A part of the published set?")
    yield _published_split(dataset.sides, splits)
    # The range is what a Kinect of the first kind measures.
    expected = Expected(
        dataset.plausible_median_m, (0.4, 10.0), (480, 640), dataset.protocol.crop, has_holes=is_sensor, has_frame=True
    )
    yield from on.images(dataset, expected, f" (published: {_NYU_SCENES} scenes)" if is_whole else "")
    if on.measured and is_sensor:
        yield _inpainted(path, [*on.measured][:_NUM_COMPARED])


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
    """Return whether the in-painted depth is there, another than the sensor's, and without holes."""
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


def examine_diode(on: Examination) -> Iterator[Finding]:
    """Examine the frames of a tree."""
    path = Path(on.told.source)
    yield from _leftovers(path if path.is_dir() else path.parent, "diode")
    dataset = DiodeReader(path, on.config.build_protocol(), on.config.subset)
    # Before the frames are asked for, which ends with the first thing that is wrong.
    if dataset.found:
        yield from _layout(dataset)
    frames, on.told.source = dataset.frames, str(dataset.root)
    on.told.num_images = len(frames)
    # From the shortest to the longest that the scanner measured.
    expected = Expected(dataset.plausible_median_m, (0.6, 350.0), (768, 1024), has_holes=True)
    yield from on.images(dataset, expected, f", in {len({frame.scan_path for frame in frames})} scans")
    yield from _arrays([dataset.found[frames[index]] for index in on.measured], dataset)


def _layout(tree: DiodeReader) -> Iterator[Finding]:
    """Yield what names and sizes of files tell."""
    whole = [frame for frame, parts in tree.found.items() if set(NEEDED) <= set(parts)]
    counts = Counter((frame.part, frame.place) for frame in whole)
    absent = []
    for (part, place), published in _DIODE_FRAMES.items():
        check, count = f"{part}/{place}", counts[part, place]
        told = f"{count} of {published} frames"
        if not count:
            absent.append(check)
        elif count == published:
            yield Finding(check, "ok", f"{count} frames, as published")
        elif part == "val" and counts["val", "indoors"] + counts["val", "outdoor"] == _DIODE_LISTED:
            told = f"{told}; {_DIODE_LISTED} in val, as the metadata file lists, of the 771 there are"
            yield Finding(check, "doubt", told, "Unpack all of val.tar.gz, not what the metadata file lists.")
        else:
            yield Finding(check, "missing" if count < published else "doubt", told)
    broken = [frame for frame, parts in tree.found.items() if 0 < len(set(parts) & set(NEEDED)) < len(NEEDED)]
    if broken:
        lacks = ", ".join(part for part in NEEDED if part not in tree.found[broken[0]])
        told = f"not whole: {several([frame.path for frame in broken], 'frames')} (no {lacks})"
        yield Finding("whole frames", "bad", told, "Unpack it again.")
    if absent:
        yield Finding("parts", "missing", f"no {', '.join(absent)}")
    num_without = sum("normals" not in tree.found[frame] for frame in whole)
    if num_without:
        told = f"of {num_without} of {len(whole)} frames"
        yield Finding("normals", "missing", told, "Only target=normals needs them.")
    yield from _odd_sizes(tree)


def _odd_sizes(tree: DiodeReader) -> Iterator[Finding]:
    """Yield arrays whose files have another length than the others: most often cut short while they were unpacked."""
    for part in ("depth", "normals"):
        sizes = {parts[part]: parts[part].stat().st_size for parts in tree.found.values() if part in parts}
        usual = Counter(sizes.values()).most_common(1)
        odd = [path for path, size in sizes.items() if size != usual[0][0]]
        short = [str(path) for path in odd if not _is_whole(path)]
        if short:
            yield Finding("file sizes", "bad", f"not whole: {several(short, f'{part} files')}", "Unpack it again.")
        elif odd:
            told = f"of another length than the rest: {several([*map(str, odd)], f'{part} files')}"
            yield Finding("file sizes", "doubt", told)


def _is_whole(path: Path) -> bool:
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return True


def _arrays(files: Sequence[Mapping[str, Path]], tree: DiodeReader) -> Iterator[Finding]:
    """Yield what masks hold, and the axes of normals, held against the depth. files: that the reader has read."""
    odd = [each["mask"].name for each in files if not np.isin(np.load(each["mask"], allow_pickle=False), (0, 1)).all()]
    if odd:
        yield Finding("mask values", "doubt", f"other than 0 and 1: {several(odd, 'masks')}", "What is above 0 counts.")
    agreements: list[Mapping[Axes, float]] = []
    for each in files[:: max(1, -(-len(files) // _MOST_NORMALS))]:
        if "normals" in each:
            native = read_frame({part: each[part] for part in NEEDED}, tree.protocol)
            stored = np.nan_to_num(np.load(each["normals"], allow_pickle=False).astype(np.float32))
            check = axes_by_depth(stored, native.depth_m, native.valid)
            agreements += [check] if check else []
    if not agreements:
        return
    mean = {axes: float(np.mean([each[axes] for each in agreements])) for axes in agreements[0]}
    best = max(mean.values())
    told = f"mean |cosine| with the depth's own {mean[STORED_AXES]:.2f} over {len(agreements)} frames"
    if mean[STORED_AXES] < best - 0.01:
        yield Finding("normals' axes", "doubt", f"{told}, {best:.2f} in other axes", "Not x right, y up, z backward?")
    else:
        yield Finding("normals' axes", "ok", f"x right, y up, z backward: {told}")


def examine_store(on: Examination) -> Iterator[Finding]:
    """Examine a prepared dataset: what it says of itself, and some of its images."""
    store = Store.open(Path(on.told.source))
    on.told.dataset, on.told.num_images, protocol = f"store of {store.name}", store.num_images, store.protocol

    def native(index: int) -> Native:
        read = store.read(("rgb", "depth", "valid"), [index])
        return Native(read["rgb"][0], read["depth"][0], read["valid"][0])

    yield Finding("store", "ok", f"{store.num_images} images of {store.name}, from {store.source}")
    size = f"{protocol.resolution} x {protocol.width} pixels"
    yield Finding("protocol", "ok", f"{protocol.name}, {size}, {protocol.mask} depth")
    yield Finding("layers", "ok", ", ".join(store.layers))
    # Of doubtful units too.
    yield from (Finding("preparation", "note", note) for note in store.notes)
    yield from scenes_and_split(store.scenes, store.is_sequential, store.sides)
    yield from on.measure(native, store.names)
    yield from repeated(store.rgb, store.names, store.scenes, on.progress)
    of_pixels = of_images(on.measured, protocol, Expected(_ANY_M))
    yield from (each for each in of_pixels if each.check != "units")


def examine_rooms(on: Examination) -> Iterator[Finding]:
    """Render one or two rooms, and examine their images."""
    dataset = reader(on.config)
    on.told.source, groups = dataset.source, dataset.groups
    chosen = sample_of(len(groups), min(on.sample or _MOST_ROOMS, _MOST_ROOMS))
    image_scenes = [group.scene for group in groups for _ in group.names]
    on.told.num_images = len(image_scenes)
    yield Finding("recipe", "ok", f"{dataset.source}; made when it is first used")
    yield from scenes_and_split(image_scenes, dataset.is_sequential)
    with on.progress("render", len(chosen), unit="rooms") as advance:
        for index in chosen:
            for each in dataset.read(index):
                on.measured[len(on.measured)] = measure(each.name, each.rgb, each.depth_m, each.valid)
            advance(1)
    expected = Expected(dataset.plausible_median_m)
    yield from of_images(on.measured, on.config.build_protocol(), expected)


EXAMINERS: Mapping[str, Callable[[Examination], Iterator[Finding]]] = {
    "rooms": examine_rooms,
    "folder": examine_folder,
    "nyu": examine_nyu,
    "diode": examine_diode,
    "store": examine_store,
}


def _file(path: Path, remote: Remote, on: Examination) -> Iterator[Finding]:
    """Yield size and, where it is asked for, checksum of a file against those published, where they are known."""
    size = path.stat().st_size
    told = f"{path.name}, {size:,} bytes"
    if remote.size not in (None, size):
        advice = "Cut short, or another file. Fetch it again."
        yield Finding("file", "doubt", f"{told}, published {remote.size:,}", advice)
    else:
        yield Finding("file", "ok", told if remote.size is None else f"{told}, as published")
    if remote.md5 and not on.checksums:
        advice = "Pass --checksums true; it reads all of the file."
        yield Finding("checksum", "note", f"{path.name}: not taken", advice)
    elif remote.md5 and (md5 := md5_of(path, on.progress)) != remote.md5:
        told = f"{path.name}: MD5 {md5}, published {remote.md5}"
        yield Finding("checksum", "doubt", told, "Damaged, or another version. Fetch it again.")
    elif remote.md5:
        yield Finding("checksum", "ok", f"{path.name}: MD5 {remote.md5}, as published")


def _leftovers(folder: Path, dataset: str) -> Iterator[Finding]:
    """Yield downloads that are not whole, or were not what was published."""
    for name in (remote.name for remote in PUBLISHED[dataset].values()):
        part, damaged = folder / f"{name}.part", folder / f"{name}.damaged"
        if part.exists():
            told = f"{part.name}, {part.stat().st_size:,} bytes so far"
            yield Finding("download", "note", told, "Pass --download true to `prepare`, to go on with it.")
        if damaged.exists():
            yield Finding("download", "note", f"{damaged.name}: its checksum differed", "It may be deleted.")
