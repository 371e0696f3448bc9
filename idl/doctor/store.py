"""A prepared store, and rooms, which are made when they are asked for."""

from pathlib import Path

from PIL import Image

from idl.data.datasets import DatasetConfig, reader
from idl.data.reader import Archive, Native
from idl.data.store import Store
from idl.doctor import pixels
from idl.doctor.finding import Diagnosis, Finding, spread
from idl.doctor.looking import look, scenes, split
from idl.doctor.measures import Measured, measure
from idl.doctor.repeats import repeated
from idl.errors import InputError
from idl.progress import Progress

# What is told of a dataset whose sensor is not known.
_PLAUSIBLE_MEDIAN_M = (0.1, 200.0)
# A room takes a second.
_MOST_ROOMS = 2


def examine_store(config: DatasetConfig, sample: int, checksums: bool, progress: Progress) -> Diagnosis:
    """Look at a prepared dataset: what it says of itself, and some of its images."""
    path = Path(config.dataset).expanduser()
    try:
        store = Store.open(path)
    except InputError as error:
        return Diagnosis("store", str(path), 0, 0, (Finding("store", "bad", str(error)),))

    def native(index: int) -> Native:
        read = store.read(("rgb", "depth", "valid"), [index])
        return Native(Image.fromarray(read["rgb"][0]), read["depth"][0], read["valid"][0])

    images, refused = look(native, store.names, spread(store.num_images, sample), progress)
    protocol = store.protocol
    found = [
        Finding("store", "ok", f"{store.num_images} images of {store.name}, from {store.source}"),
        Finding(
            "protocol", "ok", f"{protocol.name}, {protocol.resolution} x {protocol.width} pixels, {protocol.mask} depth"
        ),
        Finding("layers", "ok", ", ".join(store.layers)),
        *(Finding("preparation", "note", note) for note in store.notes),
        scenes(store.scenes),
        split(store.scenes, store.is_sequential, store.sides),
        *refused,
        *repeated(store.rgb, store.names, store.scenes, progress),
        *_of_pixels(images, _PLAUSIBLE_MEDIAN_M, (protocol.min_depth_m, protocol.max_depth_m)),
    ]
    return Diagnosis(f"store of {store.name}", str(path), store.num_images, len(images), tuple(found))


def examine_rooms(config: DatasetConfig, sample: int, checksums: bool, progress: Progress) -> Diagnosis:
    """Render one or two rooms, and look at their images."""
    dataset = reader(config)
    assert not isinstance(dataset, Archive)
    groups = dataset.groups
    chosen = spread(len(groups), min(sample or _MOST_ROOMS, _MOST_ROOMS))
    images: list[Measured] = []
    with progress("render", len(chosen), unit="rooms") as advance:
        for index in chosen:
            images += [measure(each.name, each.rgb, each.depth_m, each.valid) for each in dataset.read(index)]
            advance(1)
    image_scenes = [group.scene for group in groups for _ in group.names]
    protocol = config.protocol
    found = [
        Finding("recipe", "ok", f"{dataset.source}; made when it is first used"),
        scenes(image_scenes),
        split(image_scenes, dataset.is_sequential),
        *_of_pixels(images, dataset.plausible_median_m, (protocol.min_depth_m, protocol.max_depth_m)),
    ]
    return Diagnosis("rooms", dataset.source, len(image_scenes), len(images), tuple(found))


def _of_pixels(images: list[Measured], plausible_m: tuple[float, float], range_m: tuple[float, float]) -> list[Finding]:
    if not images:
        return []
    return [
        pixels.blank(images),
        pixels.resolution(images),
        pixels.units(images, plausible_m),
        pixels.depth_range(images, range_m, range_m),
        pixels.holes(images, are_expected=False),
        pixels.white_frame(images, None),
        pixels.registration(images),
    ]
