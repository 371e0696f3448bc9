"""DIODE: RGB, depth, masks and normals of indoor and outdoor scenes, from its unpacked tree.

    {train,val}/{indoors,outdoor}/scene_XXXXX/scan_XXXXX/XXXXX_XXXXX_{indoors|outdoor}_YYY_PPP

and behind that .png, _depth.npy, _depth_mask.npy and, where they were fetched, _normal.npy. What is there is found by
looking: the metadata file that circulates lists 612 of the 771 frames of val.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from idl.data.images import metres, read_map, read_mask, read_rgb, require_registered
from idl.data.reader import FileReader, Group, Native, files_digest, walk
from idl.errors import InputError
from idl.protocol import Protocol

SUFFIXES = {"rgb": ".png", "depth": "_depth.npy", "mask": "_depth_mask.npy", "normals": "_normal.npy"}
NEEDED = ("rgb", "depth", "mask")
# The published validation set is what others report on: it is our test side.
SIDES = {"train": "train", "val": "test"}
# Half a metre to half a kilometre: the data run from 0.6 to 350 m.
PLAUSIBLE_MEDIAN_M = (0.5, 200.0)
_PARTS = {suffix: part for part, suffix in SUFFIXES.items()}
_PATH = re.compile(
    r"(?:^|/)(train|val)(?:_normals)?/(indoors|outdoor)/(scene_\d+)/(scan_\d+)/"
    r"(\d+_\d+_(?:indoors|outdoor)_\d+_\d+)(\.png|_depth\.npy|_depth_mask\.npy|_normal\.npy)$"
)

# Pixels, of a frame of 1024 x 768: fx, fy, cx, cy as published.
_FOCAL_X, _FOCAL_Y, _CENTRE_X, _CENTRE_Y, _WIDTH, _HEIGHT = 886.81, 927.06, 512.0, 384.0, 1024, 768
# Neighbouring depths that differ by more than this share are two surfaces.
JUMP = 0.1

Normals = Float32[np.ndarray, "H W 3"]
# Which stored axis, and with which sign, becomes x, y and z.
Axes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
STORED_AXES: Axes = ((0, 1), (1, -1), (2, -1))


@dataclass(frozen=True, order=True)
class Frame:
    """One RGB-D frame. Sorted, frames are in the order of the store.

    part: "train" or "val", as published. place: "indoors" or "outdoor". scan: about 142 overlapping views of one
    panorama. name: in the store: scene, scan, place, and the view's two angles.
    """

    part: str
    place: str
    scene_folder: str
    scan: str
    name: str

    @property
    def scan_path(self) -> str:
        """The folder of its scan, from train/ or val/ on."""
        return f"{self.part}/{self.place}/{self.scene_folder}/{self.scan}"

    @property
    def path(self) -> str:
        """Its path from train/ or val/ on, without a suffix."""
        return f"{self.scan_path}/{self.name}"

    @property
    def scene(self) -> str:
        """The scene's name in the store."""
        return f"{self.place}/{self.scene_folder}"


@dataclass(frozen=True)
class DiodeReader(FileReader):
    """Reads the frames that are under a folder, whichever of train, val, indoors and outdoor that is.

    root: the folder that holds train/ or val/, or one below them.
    subset: "all", or "indoors", "outdoor", scenes (scene_00019, indoors/scene_00019), with commas between them.
    """

    root: Path
    protocol: Protocol
    subset: str = "all"
    is_sequential: bool = False
    plausible_median_m: tuple[float, float] = PLAUSIBLE_MEDIAN_M

    def __post_init__(self) -> None:
        """Raise InputError where there is no such folder, or an archive in its place."""
        if not self.root.is_dir():
            is_archive = self.root.name.endswith(".tar.gz")
            problem = "an archive. Unpack it, and pass" if is_archive else "no such folder. Pass"
            raise InputError(f"{self.root}: {problem} data=FOLDER with train/ or val/ in it.")

    @property
    def name(self) -> str:
        """The dataset's name, with its subset: diode-scenes for a choice of scenes."""
        names = {"all": "diode", "indoors": "diode-indoors", "outdoor": "diode-outdoor"}
        return names.get(self.subset.strip(), "diode-scenes")

    @property
    def recipe(self) -> Mapping[str, object]:
        """Settings, and name, size and time of every file."""
        parts = ((frame, part) for frame in self.frames for part in sorted(self.found[frame]))
        files = ((frame.path + SUFFIXES[part], self.found[frame][part]) for frame, part in parts)
        return {"reader": "diode", "root": self.source, "subset": self.subset, "files": files_digest(files)}

    @cached_property
    def _groups(self) -> Sequence[Group]:
        return [Group(frame.scene, (frame.name,)) for frame in self.frames]

    @property
    def notes(self) -> Sequence[str]:
        """A line where outdoor frames are among the others."""
        num_outdoor, most_m = sum(frame.place == "outdoor" for frame in self.frames), self.protocol.max_depth_m
        # The protocol's 10 m are for rooms.
        cut = f" Truth beyond max_depth={most_m:g} m is left out here: pass max_depth=80 or 350." if most_m < 80 else ""
        note = (
            f"{num_outdoor} of {len(self.frames)} images of DIODE are outdoor, where depth runs to 350 m: pass "
            f"target=log-depth, so that the farthest pixels do not decide the fit alone.{cut}"
        )
        return (note,) if num_outdoor else ()

    def side(self, index: int) -> str:
        """Return the side of one frame."""
        return SIDES[self.frames[index].part]

    def keeps_native(self, index: int) -> bool:
        """Native truth is kept of the frames that are measured: the published test side, or all where there is none."""
        # Sorted: the frames of val, if there are any, come last.
        return self.protocol.is_native and (self.side(index) == "test" or self.side(-1) != "test")

    def picture(self, index: int) -> Path:
        """Return the picture of one frame."""
        return self.found[self.frames[index]]["rgb"]

    def native(self, index: int) -> Native:
        """Return one frame."""
        return read_frame(self.found[self.frames[index]], self.protocol)

    @cached_property
    def found(self) -> Mapping[Frame, Mapping[str, Path]]:
        """Every file of DIODE's under the folder, by frame and part. Raises InputError where one is there twice."""
        found: dict[Frame, dict[str, Path]] = {}
        # Not resolved: where train/ is a link, its name is that of the link.
        for path in (f"{self.root.absolute()}/{below}" for below in walk(self.root)):
            match = _PATH.search(path)
            if match is not None:
                *frame, suffix = match.groups()
                parts, part = found.setdefault(Frame(*frame), {}), _PARTS[suffix]
                if part in parts:
                    raise InputError(f"{path}: is there twice, also as {parts[part]}. Keep one of them.")
                parts[part] = Path(path)
        return found

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """The frames of the subset, in order.

        Raises InputError where a name of the subset has no frames, a frame lacks its RGB image, depth or mask, or two
        have one name.
        """
        # Normals alone are no frame: their archive may hold more scenes than were unpacked of the other.
        frames = sorted(frame for frame, parts in self.found.items() if set(parts) & set(NEEDED))
        archives = sorted(path.name for path in self.root.glob("*.tar.gz"))
        if not frames and archives:
            raise InputError(f"{self.root}: holds archives only. Unpack them there: tar -xzf {archives[0]}")
        if not frames:
            raise InputError(
                f"{self.root}: no frames of DIODE. Expected {{train,val}}/{{indoors,outdoor}}/scene_*/scan_*/*.png "
                "with *_depth.npy and *_depth_mask.npy."
            )
        requested = {name.strip() for name in self.subset.split(",") if name.strip()}
        known = {name for frame in frames for name in (frame.place, frame.scene_folder, frame.scene)} | {"all"}
        for name in sorted(requested - known) or ([] if requested else [self.subset]):
            have = sorted({frame.place for frame in frames}) + sorted({frame.scene_folder for frame in frames})
            raise InputError(f"subset={name}: no such part of {self.root}. It has: all, {', '.join(have)}.")
        if "all" not in requested:
            frames = [frame for frame in frames if requested & {frame.place, frame.scene_folder, frame.scene}]
        named: dict[str, Frame] = {}
        for frame in frames:
            parts, other = self.found[frame], named.setdefault(frame.name, frame)
            lacking = [SUFFIXES[part] for part in NEEDED if part not in parts]
            if lacking:
                there = next(iter(parts.values()))
                raise InputError(f"{there}: no {frame.name}{lacking[0]} beside it. Unpack it again.")
            if other != frame:
                raise InputError(f"{self.root}: {frame.path} has the name of {other.path}. Keep one of them.")
        return tuple(frames)


def read_frame(files: Mapping[str, Path], protocol: Protocol) -> Native:
    """Return a frame from its files: paths of "rgb", "depth", "mask" and, where there are any, "normals".

    A pixel is valid where the mask says so and its depth is finite and above 0. With an erosion, also pixels at a jump
    in depth count as missing before the mask is eroded: the mask marks holes, the spurious returns sit beside jumps.
    Raises InputError, naming the file, where one cannot be read or is of another size than the picture.
    """
    rgb, mask = read_rgb(files["rgb"]), read_mask(files["mask"])
    depth_m, valid = metres(files["depth"], read_map(files["depth"]))
    normals = read_map(files["normals"], channels=3) if "normals" in files else None
    for part, what, each in (("depth", "depth", depth_m), ("mask", "the mask", mask), ("normals", "normals", normals)):
        if each is not None:
            require_registered(files[part], what, each.shape, rgb.shape)
    valid &= mask
    if protocol.erosion:
        valid &= ~jumps(depth_m, valid)
    if normals is None:
        return Native(rgb, depth_m, valid)
    if normals.dtype.kind != "f":
        raise InputError(f"{files['normals']}: normals are {normals.dtype}, expected float32. Unpack it again.")
    return Native(rgb, depth_m, valid, *to_camera(normals))


# The data's own pages do not state the axes of the normals. As published users of the data do, they are taken as x
# right, y up, z backward; then every normal is turned towards the camera, as a surface that is seen must face it.
# `axes_by_depth` asks the data itself. It has been held against made scenes, not the published files.


def rays(height: int, width: int) -> Normals:
    """Return the direction, z = 1, in which each pixel's centre looks; x right, y down. Intrinsics go with the size."""
    x = ((np.arange(width) + 0.5) * _WIDTH / width - _CENTRE_X) / _FOCAL_X
    y = ((np.arange(height) + 0.5) * _HEIGHT / height - _CENTRE_Y) / _FOCAL_Y
    directions = np.ones((height, width, 3), np.float32)
    directions[..., 0], directions[..., 1] = x, y[:, None]
    return directions


def to_camera(stored: Normals) -> tuple[Normals, Bool[np.ndarray, "H W"]]:
    """Return stored normals as unit vectors (x right, y down, z forward) that face the camera, and where there are any.

    stored: (0, 0, 0) where there is none; the length of the others does not matter.
    """
    # An axis at a time: numpy sums over the last, of three, ten times as slowly.
    x, y, z = np.moveaxis(_rearranged(np.asarray(stored, np.float32), STORED_AXES), -1, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        length = np.sqrt(x * x + y * y + z * z)
        defined = np.isfinite(length) & (length > 0)
        ray = rays(*length.shape)
        away = x * ray[..., 0] + y * ray[..., 1] + z > 0
        scale = np.where(away, np.float32(-1), np.float32(1)) / np.where(defined, length, np.float32(1))
        normals = np.stack([np.where(defined, values * scale, np.float32(0)) for values in (x, y, z)], axis=-1)
    return normals, defined


def axes_by_depth(
    stored: Normals, depth_m: Float32[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]
) -> Mapping[Axes, float]:
    """Return how well each of the 24 readings of the stored axes agrees with the depth map, best first.

    That is the mean absolute cosine between the normals so read and those by finite differences; a global sign does
    not count. Empty where no pixel can be compared. Walls seen straight on decide little, and a camera that is held
    level among upright walls sees the same either way up. depth_m: metres along the optical axis.
    """
    by_depth, known = normals_by_depth(depth_m, valid)
    length = np.linalg.norm(stored, axis=-1)
    used = known & (length > 0)
    units = stored[used] / length[used][:, None]
    found: dict[Axes, float] = {}
    # The first sign is +1: with all three turned it is the same line.
    for order, signs in product(permutations(range(3)), product((1,), (1, -1), (1, -1))):
        axes: Axes = tuple(zip(order, signs, strict=True))  # pyright: ignore[reportAssignmentType]
        if used.any():
            found[axes] = float(np.abs((_rearranged(units, axes) * by_depth[used]).sum(axis=-1)).mean())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def normals_by_depth(
    depth_m: Float32[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]
) -> tuple[Normals, Bool[np.ndarray, "H W"]]:
    """Return unit normals of the depth map by central differences, facing the camera, and where there are any."""
    points = np.where(valid, depth_m, 0).astype(np.float64)[..., None] * rays(*depth_m.shape)
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    # Down x across points to the camera: y (down) cross x (right) is -z.
    inner = np.cross(down, across)
    length = np.linalg.norm(inner, axis=-1)
    sound = valid & ~jumps(depth_m, valid)
    known = sound[1:-1, 1:-1] & sound[1:-1, 2:] & sound[1:-1, :-2] & sound[2:, 1:-1] & sound[:-2, 1:-1] & (length > 0)
    normals = np.zeros((*depth_m.shape, 3), np.float32)
    normals[1:-1, 1:-1] = np.where(known[..., None], inner / np.where(length > 0, length, 1)[..., None], 0)
    return normals, np.pad(known, 1)


def jumps(depth_m: Float32[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Return pixels on either side of a jump in depth: a neighbour in x or y is farther or nearer by more than a tenth.

    There the laser's spot meets two surfaces, and a return between them belongs to neither (mixed pixels: Tang, Huber
    and Akinci, 3DIM 2007). A floor seen from 1.5 m above steps so much only beyond 139 m (0.1 x 1.5 m x fy).
    """
    marked = np.zeros(valid.shape, bool)
    known_m = np.where(valid, depth_m, np.float32(1))
    # Views of all but the last and all but the first row, or column: neighbours, one against one.
    for one, other in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        near, far = known_m[one], known_m[other]
        jump = valid[one] & valid[other] & (np.maximum(near, far) > (1 + JUMP) * np.minimum(near, far))
        marked[one] |= jump
        marked[other] |= jump
    return marked


def _rearranged(normals: np.ndarray, axes: Axes) -> np.ndarray:
    return np.stack([sign * normals[..., axis] for axis, sign in axes], axis=-1)
