"""How DIODE lies on disk: what a path means, which frames there are, and which of them are wanted.

    {train,val}/{indoors,outdoor}/scene_XXXXX/scan_XXXXX/XXXXX_XXXXX_{indoors|outdoor}_YYY_PPP

and behind that .png, _depth.npy, _depth_mask.npy and, where they were fetched, _normal.npy. What is there is found by
looking: the metadata file that circulates lists 612 of the 771 frames of val.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from idl.errors import InputError

SUFFIXES = {"rgb": ".png", "depth": "_depth.npy", "mask": "_depth_mask.npy", "normals": "_normal.npy"}
NEEDED = ("rgb", "depth", "mask")
# The published validation set is what others report on: it is our test side.
SIDES = {"train": "train", "val": "test"}
_PARTS = {suffix: part for part, suffix in SUFFIXES.items()}
_PATH = re.compile(
    r"(?:^|/)(train|val)(?:_normals)?/(indoors|outdoor)/(scene_\d+)/(scan_\d+)/"
    r"(\d+_\d+_(?:indoors|outdoor)_\d+_\d+)(\.png|_depth\.npy|_depth_mask\.npy|_normal\.npy)$"
)

# Where each part of each frame is, in words or as a path.
Found = Mapping["Frame", Mapping[str, str]]


@dataclass(frozen=True, order=True)
class Frame:
    """One RGB-D frame. Sorted, frames are in the order of the store.

    part: "train" or "val", as published. place: "indoors" or "outdoor".
    """

    part: str
    place: str
    scene_folder: str
    scan: str
    stem: str

    @property
    def scan_path(self) -> str:
        """The folder of its scan, about 142 overlapping views of one panorama, from train/ or val/ on."""
        return f"{self.part}/{self.place}/{self.scene_folder}/{self.scan}"

    @property
    def path(self) -> str:
        """Its path from train/ or val/ on, without a suffix."""
        return f"{self.scan_path}/{self.stem}"

    @property
    def name(self) -> str:
        """Its name in the store: scene, scan, indoors or outdoor, and the view's two angles."""
        return self.stem

    @property
    def scene(self) -> str:
        """The scene's name in the store."""
        return f"{self.place}/{self.scene_folder}"

    def file(self, part: str) -> str:
        """Path of its file `part` (a key of SUFFIXES), from train/ or val/ on."""
        return self.path + SUFFIXES[part]


def parse(path: str) -> tuple[Frame, str] | None:
    """The frame that `path` belongs to, and which part of it it is; None where it is no file of DIODE's."""
    match = _PATH.search(path)
    if match is None:
        return None
    *frame, suffix = match.groups()
    return Frame(*frame), _PARTS[suffix]


def catalogue(paths: Iterable[tuple[str, str]]) -> Found:
    """Sort paths by the frame that they belong to.

    paths: each with how to speak of it. Raises InputError where two are the same file of the same frame.
    """
    found: dict[Frame, dict[str, str]] = {}
    for path, shown in paths:
        parsed = parse(path)
        if parsed is None:
            continue
        frame, part = parsed
        parts = found.setdefault(frame, {})
        if part in parts:
            raise InputError(f"{shown}: is there twice, also as {parts[part]}. Keep one of them.")
        parts[part] = shown
    return found


def select(found: Found, subset: str, source: str) -> tuple[Frame, ...]:
    """The frames of `subset`, in order, each with all that it needs.

    subset: "all", or "indoors", "outdoor", scenes (scene_00019, indoors/scene_00019), with commas between them.
    Raises InputError where a name of `subset` has no frames, a frame lacks its RGB image, depth or mask, or two have
    one name.
    """
    # Normals alone are no frame: their archive may hold more scenes than were unpacked of the other.
    frames = sorted(frame for frame, parts in found.items() if set(parts) & set(NEEDED))
    if not frames:
        raise InputError(
            f"{source}: no frames of DIODE. Expected {{train,val}}/{{indoors,outdoor}}/scene_*/scan_*/*.png with "
            "*_depth.npy and *_depth_mask.npy, or .tar.gz files that hold them."
        )
    wanted = {name.strip() for name in subset.split(",") if name.strip()}
    known = {name for frame in frames for name in (frame.place, frame.scene_folder, frame.scene)} | {"all"}
    for name in sorted(wanted - known) or ([] if wanted else [subset]):
        have = sorted({frame.place for frame in frames}) + sorted({frame.scene_folder for frame in frames})
        raise InputError(f"subset={name}: no such part of {source}. It has: all, {', '.join(have)}.")
    if "all" not in wanted:
        frames = [frame for frame in frames if wanted & {frame.place, frame.scene_folder, frame.scene}]
    named: dict[str, Frame] = {}
    for frame in frames:
        _require_whole(frame, found[frame])
        other = named.setdefault(frame.name, frame)
        if other != frame:
            raise InputError(f"{source}: {frame.path} has the name of {other.path}. Keep one of them.")
    return tuple(frames)


def _require_whole(frame: Frame, parts: Mapping[str, str]) -> None:
    words = {"rgb": "RGB image", "depth": "depth", "mask": "depth mask"}
    for part in NEEDED:
        if part not in parts:
            there = next(parts[other] for other in NEEDED if other in parts)
            raise InputError(
                f"{there}: no {words[part]} beside it. Expected {frame.stem}{SUFFIXES[part]}; unpack it again."
            )
