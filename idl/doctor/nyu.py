"""NYU Depth V2 on disk."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from idl.data.datasets import DatasetConfig, reader
from idl.data.nyu import NyuReader
from idl.data.nyu.reader import DEPTHS, FILE, SPLITS_FILE
from idl.data.published import PUBLISHED
from idl.doctor import pixels
from idl.doctor.files import file, leftovers
from idl.doctor.finding import Diagnosis, Finding, spread
from idl.doctor.looking import look, scenes, split
from idl.doctor.repeats import repeated
from idl.errors import InputError
from idl.progress import Progress

_NUM_IMAGES, _SIZE = 1449, (480, 640)
_SIDES = {"train": 795, "test": 654}
_NUM_SCENES = 464
# Metres that a Kinect of the first kind measures, as the dataset's range.
_RANGE_M = (0.4, 10.0)
# In-painting fills all that the sensor left open.
_COMPARED = 3


def examine(config: DatasetConfig, sample: int, checksums: bool, progress: Progress) -> Diagnosis:
    """Look at the labelled set, its split, and some of its images."""
    data = Path(config.data).expanduser()
    path = data / FILE if data.is_dir() else data
    found = leftovers(path.parent, [remote.name for remote in PUBLISHED["nyu"].values()])
    if not path.is_file():
        told = Finding("file", "bad", f"{data}: no {FILE} in it", "Pass --download true to `prepare`, to fetch it.")
        return Diagnosis("nyu", str(data), 0, 0, (*found, told))
    found += file(path, PUBLISHED["nyu"]["labeled"], checksums, progress)
    splits = path.with_name(SPLITS_FILE)
    if splits.is_file():
        found += file(splits, PUBLISHED["nyu"]["splits"], checksums, progress)
    try:
        dataset = reader(config)
        assert isinstance(dataset, NyuReader)
        groups = dataset.groups
    except InputError as error:
        return Diagnosis("nyu", str(path), 0, 0, (*found, Finding("layout", "bad", str(error))))
    count = len(groups)
    image_scenes = [group.scene for group in groups]
    indices = spread(count, sample)
    names = [group.names[0] for group in groups]
    images, refused = look(dataset.native, names, indices, progress)
    found += [
        Finding("layout", "ok", "MATLAB v7.3, axes reversed as they should be: images, columns, rows"),
        _count(count),
        scenes(image_scenes, f" (published: {_NUM_SCENES} scenes)" if count == _NUM_IMAGES else ""),
        _sides(dataset.sides, splits),
        split(image_scenes, dataset.is_sequential, dataset.sides),
        *refused,
        *repeated(dataset.rgb, names, image_scenes, progress),
    ]
    if images:
        is_sensor = config.depths == "sensor"
        protocol = config.protocol
        found += [
            pixels.blank(images),
            pixels.resolution(images, _SIZE),
            pixels.units(images, dataset.plausible_median_m),
            pixels.depth_range(images, _RANGE_M, (protocol.min_depth_m, protocol.max_depth_m)),
            pixels.holes(images, are_expected=is_sensor),
            *(_filled(path, indices[:_COMPARED]) if is_sensor else ()),
            pixels.white_frame(images, protocol.crop, is_expected=True),
            pixels.channel_order(images),
            pixels.registration(images),
        ]
    return Diagnosis("nyu", str(path), count, len(images), tuple(found))


def _count(count: int) -> Finding:
    if count == _NUM_IMAGES:
        return Finding("count", "ok", f"{count} images, as published")
    return Finding("count", "doubt", f"{count} images, published {_NUM_IMAGES}", "A part of the published set?")


def _sides(sides: Sequence[str], path: Path) -> Finding:
    counts = Counter(side for side in sides if side)
    if not counts:
        return Finding(
            "published split",
            "missing",
            f"no {path.name} beside it: the split is by scene",
            "Fetch it to compare with others.",
        )
    told = f"{counts['train']} train, {counts['test']} test, counted from 1"
    if counts == _SIDES:
        return Finding("published split", "ok", f"{told}, as published")
    return Finding("published split", "doubt", f"{told}; published {_SIDES['train']} and {_SIDES['test']}")


def _filled(path: Path, indices: tuple[int, ...]) -> list[Finding]:
    """Whether the sensor's depth is just a copy of the in-painted one. Empty where only one of them is there."""
    try:
        with h5py.File(path, "r") as opened:
            sensor, filled = (opened.get(DEPTHS[name]) for name in ("sensor", "inpainted"))
            if not isinstance(sensor, h5py.Dataset) or not isinstance(filled, h5py.Dataset):
                return [Finding("in-painted depth", "missing", "not in the file: depths=inpainted cannot be had")]
            are_same = all(np.array_equal(sensor[index], filled[index]) for index in indices)
            open_shares = [float((filled[index] <= 0).mean()) for index in indices]
    except OSError as error:
        line = " ".join(str(error).split())
        return [
            Finding("in-painted depth", "doubt", f"cannot be read ({line})", "The file is damaged: fetch it again.")
        ]
    if are_same:
        return [
            Finding(
                "in-painted depth",
                "doubt",
                "equal to the sensor's: one is a copy of the other",
                "Fetch the file again.",
            )
        ]
    if max(open_shares) > 0:
        return [
            Finding(
                "in-painted depth", "doubt", f"has holes, {max(open_shares):.1%} of an image", "Are the two swapped?"
            )
        ]
    return [Finding("in-painted depth", "ok", "there, without holes; the sensor's is the truth by default")]
