"""Any folder of RGB-D pairs.

Layouts, which may stand below further folders:
  rgb/NAME.png|jpg  with  depth/NAME.png|npy   and, where there is one, mask/NAME.png|npy
  NAME.png|jpg      with  NAME_depth.png|npy   and, where there is one, NAME_mask.png|npy
Integer depth is divided by `depth_scale`; float .npy is metres.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image

from idl.data.reader import Group, Native, NativeReader, Sample
from idl.data.resizing import resize_depth, resize_rgb
from idl.errors import InputError
from idl.protocol import Protocol

RGB_SUFFIXES = (".png", ".jpg", ".jpeg")
MAP_SUFFIXES = (".png", ".npy")
DEFAULT_BLOCK = 10


@dataclass(frozen=True)
class FolderReader(NativeReader):
    """Reads a folder of pairs in the order of their names.

    root: the folder.
    depth_scale: units per metre of integer depth maps (1000 by custom, 5000 TUM, 256 KITTI).
    invalid_values: integers that mean "missing".
    scene: "folder" (each folder is a scene), "block:N" (N consecutive frames are one), or "auto": folders where
      there are at least three, else blocks of ten.
    """

    root: Path
    protocol: Protocol
    depth_scale: float = 1000.0
    invalid_values: tuple[int, ...] = (0, 65535)
    scene: str = "auto"
    plausible_median_m: tuple[float, float] = (0.1, 100.0)
    is_deterministic: bool = False

    def __post_init__(self) -> None:
        """Raise InputError where a setting or the folder cannot be."""
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder. Pass data=FOLDER with rgb/ and depth/ in it.")
        if not 0 < self.depth_scale < float("inf"):
            raise InputError(f"depth_scale {self.depth_scale}: expected units per metre above 0, such as 1000.")
        if not re.fullmatch(r"auto|folder|block:[1-9]\d*", self.scene):
            raise InputError(f"scene {self.scene!r}: expected auto, folder or block:N.")

    @property
    def name(self) -> str:
        """The folder's own name, in the letters that an alias may have."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.root.resolve().name).strip("-").lower() or "folder"

    @property
    def source(self) -> str:
        """The folder's path."""
        return str(self.root.resolve())

    @property
    def recipe(self) -> Mapping[str, object]:
        """Settings, and name, size and time of every file: a changed file makes another store."""
        files = hashlib.sha256()
        for pair in self._pairs:
            for path in pair.files:
                status = path.stat()
                files.update(f"{path.relative_to(self.root)} {status.st_size} {status.st_mtime_ns}\n".encode())
        return {
            "reader": "folder",
            "root": self.source,
            "depth_scale": self.depth_scale,
            "invalid_values": list(self.invalid_values),
            "scene": self._scene_rule,
            "files": files.hexdigest(),
        }

    @property
    def is_sequential(self) -> bool:
        """Blocks of frames stay in order."""
        return self._scene_rule.startswith("block")

    @property
    def groups(self) -> Sequence[Group]:
        """One group a pair."""
        return self._groups

    @cached_property
    def _groups(self) -> Sequence[Group]:
        rule, counts, groups = self._scene_rule, dict[str, int](), []
        for pair in self._pairs:
            scene = pair.folder or "."
            if rule.startswith("block"):
                number = counts.get(scene, 0)
                counts[scene] = number + 1
                block = f"block_{number // int(rule.split(':')[1]):05d}"
                scene = block if scene == "." else f"{scene}/{block}"
            groups.append(Group(scene, (pair.name,)))
        return tuple(groups)

    def read(self, index: int) -> list[Sample]:
        """Read one pair and bring it to the protocol's square. Raises InputError naming the file."""
        native = self.native(index)
        resized_m, kept = resize_depth(native.depth_m, native.valid, self.protocol)
        rgb = resize_rgb(native.image, self.protocol)
        return [Sample(self._pairs[index].name, self.groups[index].scene, rgb, resized_m, kept)]

    def native_size(self, index: int) -> tuple[int, int]:
        """Look at the image's header. Raises InputError naming the file."""
        return rgb_size(self._pairs[index].rgb)

    def rgb(self, index: int) -> Image.Image:
        """Read one image. Raises InputError naming the file."""
        return read_rgb(self._pairs[index].rgb)

    def native(self, index: int) -> Native:
        """Read one pair. Raises InputError naming the file."""
        pair = self._pairs[index]
        image = read_rgb(pair.rgb)
        depth_m, valid = _read_depth(pair.depth, self.depth_scale, self.invalid_values)
        size = (image.height, image.width)
        if depth_m.shape != size:
            raise InputError(
                f"{pair.depth}: depth is {depth_m.shape[1]} x {depth_m.shape[0]}, its RGB image {image.width} x "
                f"{image.height}. Register them to one size."
            )
        if pair.mask is not None:
            mask = _read_map(pair.mask)
            if mask.shape != size:
                raise InputError(f"{pair.mask}: the mask has another size than {pair.rgb.name}. Make them equal.")
            valid &= mask != 0
        crop = self.protocol.crop
        if crop is not None and (crop[1] > size[0] or crop[3] > size[1]):
            raise InputError(f"{pair.rgb}: crop {crop} does not fit into {size[1]} x {size[0]} pixels.")
        return Native(image, depth_m, valid)

    @cached_property
    def _pairs(self) -> "Sequence[_Pair]":
        files = sorted(path for path in self.root.rglob("*") if path.is_file())
        known = set(files)
        pairs = []
        for path in files:
            pair = _pair_of(path, self.root, known)
            if pair is not None:
                pairs.append(pair)
        if not pairs:
            raise InputError(
                f"{self.root}: no RGB-D pairs. Expected rgb/NAME.png with depth/NAME.png, or NAME.png with "
                "NAME_depth.png (or .npy)."
            )
        return tuple(pairs)

    @cached_property
    def _scene_rule(self) -> str:
        if self.scene != "auto":
            return self.scene
        return "folder" if len({pair.folder for pair in self._pairs}) >= 3 else f"block:{DEFAULT_BLOCK}"


@dataclass(frozen=True)
class _Pair:
    """Files of one image. folder: the part of its path that names a scene, "" for none."""

    name: str
    folder: str
    rgb: Path
    depth: Path
    mask: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.rgb, self.depth, *([self.mask] if self.mask else []))


def _pair_of(path: Path, root: Path, known: set[Path]) -> _Pair | None:
    """Return the pair that `path` is the RGB image of; None where it is no RGB image.

    Raises InputError where an image in a folder rgb/ has no depth.
    """
    if path.suffix.lower() not in RGB_SUFFIXES:
        return None
    parts = path.relative_to(root).parts
    if "rgb" in parts[:-1]:
        position = len(parts) - 2 - parts[-2::-1].index("rgb")

        def beside(kind: str) -> Path:
            return root.joinpath(*parts[:position], kind, *parts[position + 1 : -1], path.stem)

        folder = "/".join(parts[:position] + parts[position + 1 : -1])
        depth = _first_known(beside("depth"), "", known)
        if depth is None:
            raise InputError(f"{path}: no depth beside it. Expected {beside('depth')}.png or .npy.")
        mask = _first_known(beside("mask"), "", known)
    else:
        depth = _first_known(path.with_suffix(""), "_depth", known)
        if depth is None:
            return None
        folder = "/".join(parts[:-1])
        mask = _first_known(path.with_suffix(""), "_mask", known)
    return _Pair("/".join((*([folder] if folder else []), path.stem)), folder, path, depth, mask)


def _first_known(stem: Path, ending: str, known: set[Path]) -> Path | None:
    candidates = (stem.with_name(f"{stem.name}{ending}{suffix}") for suffix in MAP_SUFFIXES)
    return next((path for path in candidates if path in known), None)


def read_rgb(path: Path) -> Image.Image:
    """Read an image as RGB. Raises InputError naming the file."""
    with _image(path) as image:
        return image.convert("RGB")


def rgb_size(path: Path) -> tuple[int, int]:
    """Height and width of an image, from its header. Raises InputError naming the file."""
    with _image(path) as image:
        return image.height, image.width


@contextmanager
def _image(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({error}). Replace it or take it out.") from error


def _read_map(path: Path) -> np.ndarray:
    """Read one number a pixel, as stored."""
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as image:
                values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable map ({error}). Replace it or take it out.") from error
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2:
        raise InputError(f"{path}: has shape {values.shape}, expected one number a pixel (H, W).")
    return values


def _read_depth(
    path: Path, scale: float, invalid_values: Sequence[int]
) -> tuple[Float32[np.ndarray, "H W"], Bool[np.ndarray, "H W"]]:
    """Metres and the pixels that were measured."""
    values = _read_map(path)
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            return values.astype(np.float32), np.isfinite(values) & (values > 0)
    # Pillow gives 16-bit PNG as uint16 or int32; 8 bits hold a picture of depth, not depth.
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 2 or values.min() < 0:
        raise InputError(
            f"{path}: depth is {values.dtype}, expected a 16-bit PNG with depth_scale units per metre, or float "
            ".npy in metres."
        )
    return (values / scale).astype(np.float32), ~np.isin(values, invalid_values)
