"""Any folder of RGB-D pairs.

Layouts, which may stand below further folders:
  rgb/NAME.png|jpg  with  depth/NAME.png|npy   and, where there is one, mask/NAME.png|npy
  NAME.png|jpg      with  NAME_depth.png|npy   and, where there is one, NAME_mask.png|npy
Integer depth is divided by `depth_scale`; float .npy is metres.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from idl.data.images import MAP_SUFFIXES, read_depth, read_mask, read_rgb, require_size, rgb_size
from idl.data.reader import Group, Native, NativeReader, files_digest
from idl.errors import InputError
from idl.protocol import Protocol

RGB_SUFFIXES = (".png", ".jpg", ".jpeg")
_BLOCK = 10


@dataclass(frozen=True)
class Pair:
    """Files of one image. folder: the part of its path that names a scene, "" for none."""

    name: str
    folder: str
    rgb: Path
    depth: Path
    mask: Path | None


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
        """Settings, and name, size and time of every file."""
        files = (path for pair in self.pairs for path in (pair.rgb, pair.depth, pair.mask) if path is not None)
        return {
            "reader": "folder",
            "root": self.source,
            "depth_scale": self.depth_scale,
            "invalid_values": list(self.invalid_values),
            "scene": self._scene_rule,
            "files": files_digest((str(path.relative_to(self.root)), path) for path in files),
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
        rule, counts, groups = self._scene_rule, Counter[str](), []
        for pair in self.pairs:
            scene = pair.folder or "."
            if rule.startswith("block"):
                block = f"block_{counts[scene] // int(rule.split(':')[1]):05d}"
                counts[scene] += 1
                scene = block if scene == "." else f"{scene}/{block}"
            groups.append(Group(scene, (pair.name,)))
        return tuple(groups)

    def native_size(self, index: int) -> tuple[int, int]:
        """Look at the picture's head. Raises InputError naming the file."""
        return rgb_size(self.pairs[index].rgb)

    def rgb(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return one picture. Raises InputError naming the file."""
        return read_rgb(self.pairs[index].rgb)

    def native(self, index: int) -> Native:
        """Return one pair. Raises InputError naming the file."""
        pair = self.pairs[index]
        rgb = read_rgb(pair.rgb)
        depth_m, valid = read_depth(pair.depth, self.depth_scale, self.invalid_values)
        require_size(pair.depth, "depth", depth_m, rgb)
        if pair.mask is not None:
            mask = read_mask(pair.mask)
            require_size(pair.mask, "the mask", mask, rgb)
            valid &= mask
        return Native(rgb, depth_m, valid)

    @cached_property
    def pairs(self) -> Sequence[Pair]:
        """All pairs in order. Raises InputError where there are none, or an image in rgb/ has no depth."""
        files = sorted(path for path in self.root.rglob("*") if path.is_file())
        known = set(files)
        found = (_pair_of(path, self.root, known) for path in files if path.suffix.lower() in RGB_SUFFIXES)
        pairs = tuple(pair for pair in found if pair is not None)
        if not pairs:
            raise InputError(
                f"{self.root}: no RGB-D pairs. Expected rgb/NAME.png with depth/NAME.png, or NAME.png with "
                "NAME_depth.png (or .npy)."
            )
        return pairs

    @cached_property
    def _scene_rule(self) -> str:
        if self.scene != "auto":
            return self.scene
        return "folder" if len({pair.folder for pair in self.pairs}) >= 3 else f"block:{_BLOCK}"


def _pair_of(rgb: Path, root: Path, known: set[Path]) -> Pair | None:
    """Return the pair of an image; None where it has no depth, which raises InputError for one in a folder rgb/."""
    *folders, _ = rgb.relative_to(root).parts
    is_in_rgb = "rgb" in folders
    if is_in_rgb:
        position = len(folders) - 1 - folders[::-1].index("rgb")
        above, below = folders[:position], folders[position + 1 :]
        folders = above + below
        depth_stem, mask_stem = (root.joinpath(*above, kind, *below, rgb.stem) for kind in ("depth", "mask"))
    else:
        depth_stem, mask_stem = (rgb.with_name(f"{rgb.stem}_{kind}") for kind in ("depth", "mask"))
    depth, mask = (
        next((path for suffix in MAP_SUFFIXES if (path := stem.with_name(stem.name + suffix)) in known), None)
        for stem in (depth_stem, mask_stem)
    )
    if depth is not None:
        return Pair("/".join((*folders, rgb.stem)), "/".join(folders), rgb, depth, mask)
    if is_in_rgb:
        raise InputError(f"{rgb}: no depth beside it. Expected {depth_stem}.png or .npy.")
    return None
