"""A folder of RGB-D pairs."""

from collections.abc import Sequence
from pathlib import Path

from idl.data.datasets import DatasetConfig, reader
from idl.data.folder import MAP_SUFFIXES, RGB_SUFFIXES, FolderReader
from idl.doctor import pixels
from idl.doctor.finding import Diagnosis, Finding, several, spread
from idl.doctor.looking import look, scenes, split
from idl.doctor.repeats import repeated
from idl.errors import InputError
from idl.progress import Progress

# Metres; wider than any camera's.
_RANGE_M = (0.01, 655.0)


def examine(config: DatasetConfig, sample: int, checksums: bool, progress: Progress) -> Diagnosis:
    """Look at the pairs, and at images that are in none."""
    root = Path(config.data).expanduser()
    try:
        dataset = reader(config)
        assert isinstance(dataset, FolderReader)
        groups = dataset.groups
    except InputError as error:
        return Diagnosis("folder", str(root), 0, 0, (Finding("pairs", "bad", str(error)),))
    names = [group.names[0] for group in groups]
    image_scenes = [group.scene for group in groups]
    images, refused = look(dataset.native, names, spread(len(groups), sample), progress)
    found = [
        Finding("pairs", "ok", f"{len(groups)} of RGB and depth"),
        *_alone(root, len(groups)),
        scenes(image_scenes, ", consecutive frames" if dataset.is_sequential else ""),
        split(image_scenes, dataset.is_sequential),
        *refused,
        *repeated(dataset.rgb, names, image_scenes, progress),
    ]
    if images:
        protocol = config.protocol
        is_metres = not any(root.rglob("*depth*/*.png")) and not any(root.rglob("*_depth.png"))
        found += [
            pixels.blank(images),
            pixels.resolution(images),
            pixels.units(images, dataset.plausible_median_m, 0.0 if is_metres else config.depth_scale),
            pixels.depth_range(images, _RANGE_M, (protocol.min_depth_m, protocol.max_depth_m)),
            pixels.holes(images, are_expected=False),
            pixels.white_frame(images, protocol.crop),
            pixels.channel_order(images),
            pixels.registration(images),
        ]
    return Diagnosis("folder", str(root), len(groups), len(images), tuple(found))


def _alone(root: Path, num_pairs: int) -> Sequence[Finding]:
    """Images that are in no pair: they are passed over without a word."""
    pictures = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in RGB_SUFFIXES and path.is_file()]
    known = set(pictures)

    def is_rgb(path: Path) -> bool:
        is_map = {"depth", "mask"} & set(path.relative_to(root).parts[:-1])
        return not is_map and not path.stem.endswith(("_depth", "_mask"))

    def has_depth(path: Path) -> bool:
        beside = (path.with_name(f"{path.stem}_depth{suffix}") for suffix in MAP_SUFFIXES)
        return any(each in known or each.is_file() for each in beside)

    alone = [str(path.relative_to(root)) for path in pictures if is_rgb(path)]
    if len(alone) == num_pairs:
        return ()
    # Under rgb/ an image without depth is an error already.
    alone = [name for name in alone if "rgb" not in Path(name).parts[:-1] and not has_depth(root / name)]
    if not alone:
        return ()
    return (Finding("images alone", "doubt", f"without depth: {several(alone, 'images')}", "They are not read."),)
