"""Any folder of RGB-D pairs, in one of the layouts of `layouts.py`."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import relpath
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from idl.data.images import metres, read_map, read_mask, read_rgb, require_registered
from idl.data.layouts import LAYOUTS, Layout, Listing, Pair, recognise
from idl.data.reader import FileReader, Group, Native, files_digest
from idl.data.units import ARRAY_FORMATS, UnitsDoubt, doubt_units, is_rotated
from idl.errors import InputError
from idl.protocol import Protocol

DEPTH_FORMATS = ("auto", "sunrgbd")
_BLOCK = 10
# Depth maps that the run looks at for their unit.
_NUM_SAMPLED = 8
# By so much of its side, or by a pixel, the shape of a depth map may differ from its picture's: ScanNet's is 0.4 %.
_SHAPE = 0.006


@dataclass(frozen=True)
class FolderReader(FileReader):
    """Reads a folder of pairs in the order of their names.

    root: the folder.
    depth_scale: units per metre of integer depth maps, and of floats too; None: as the layout has it, and metres.
    invalid_values: integers that mean "missing".
    scene: "folder" (each folder is a scene), "block:N" (N consecutive frames are one), or "auto": folders where
      there are at least three, else blocks of ten.
    layout: of `LAYOUTS`, or "auto". pair_list: a file that lists the pairs instead; "" for none. patterns: of the
      pictures' and the depth maps' paths, instead; "" for none.
    depth_format: "sunrgbd" for integers that are millimetres rotated by 3 bits.
    """

    root: Path
    protocol: Protocol
    depth_scale: float | None = None
    invalid_values: tuple[int, ...] = (0, 65535)
    scene: str = "auto"
    plausible_median_m: tuple[float, float] = (0.1, 100.0)
    layout: str = "auto"
    pair_list: str = ""
    patterns: tuple[str, str] = ("", "")
    depth_format: str = "auto"

    def __post_init__(self) -> None:
        """Raise InputError where a setting or the folder cannot be."""
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder. Pass data=FOLDER with rgb/ and depth/ in it.")
        if self.depth_scale is not None and not 0 < self.depth_scale < float("inf"):
            raise InputError(f"depth_scale {self.depth_scale}: expected units per metre above 0, such as 1000.")
        if not re.fullmatch(r"auto|folder|block:[1-9]\d*", self.scene):
            raise InputError(f"scene {self.scene!r}: expected auto, folder or block:N.")

    @property
    def name(self) -> str:
        """The folder's own name, in the letters that an alias may have."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.root.resolve().name).strip("-").lower() or "folder"

    @property
    def recipe(self) -> Mapping[str, object]:
        """Settings, and name, size and time of every file."""
        files = (path for pair in self.pairs for path in (pair.rgb, pair.depth, pair.mask) if path is not None)
        recipe: dict[str, object] = {
            "reader": "folder",
            "root": self.source,
            "depth_scale": self.integer_scale,
            "invalid_values": list(self.invalid_values),
            "scene": self._scene_rule,
            "files": files_digest((relpath(path, self.root), path) for path in files),
        }
        # Only where they say something: the stores of plain folders keep their names.
        if self.depth_format != "auto":
            recipe["depth_format"] = self.depth_format
        # By its name a TIFF may be either; what is written of it is harmless.
        may_be_floats = any(pair.depth.suffix.lower() in (*ARRAY_FORMATS, ".tif", ".tiff") for pair in self.pairs)
        if self.depth_scale is not None and may_be_floats:
            recipe["float_scale"] = self.depth_scale
        if self.layout_name != "plain":
            listed = json.dumps([(pair.name, pair.folder, pair.side) for pair in self.pairs])
            recipe |= {"layout": self.layout_name, "pairs": hashlib.sha256(listed.encode()).hexdigest()}
        return recipe

    @property
    def is_sequential(self) -> bool:
        """Blocks of frames stay in order."""
        return self._scene_rule.startswith("block")

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

    def side(self, index: int) -> str:
        """Return the side of one pair, "" where the layout has none."""
        return self.pairs[index].side

    def picture(self, index: int) -> Path:
        """Return the picture of one pair."""
        return self.pairs[index].rgb

    def native(self, index: int) -> Native:
        """Return one pair, its depth at the size of its picture."""
        stored = self.as_stored(index)
        size = stored.image.shape[:2]
        depth_m, valid = _repeated(stored.depth_m, size), _repeated(stored.valid, size)
        return Native(stored.image, depth_m, valid)

    def as_stored(self, index: int) -> Native:
        """Return one pair, its depth at its own size."""
        pair = self.pairs[index]
        rgb = read_rgb(pair.rgb)
        return Native(rgb, *self._truth(pair, read_map(pair.depth), rgb.shape))

    def _truth(
        self, pair: Pair, values: Shaped[np.ndarray, "h w"], rgb_shape: tuple[int, ...]
    ) -> tuple[Float32[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
        """Return the metres, and the mask, of the numbers in a pair's depth map."""
        depth_m, valid = metres(
            pair.depth, values, self.integer_scale, self.invalid_values, self.depth_scale or 1.0, self._is_rotated
        )
        require_registered(pair.depth, "depth", depth_m.shape, rgb_shape, _SHAPE)
        if pair.mask is not None:
            mask = read_mask(pair.mask)
            require_registered(pair.mask, "the mask", mask.shape, rgb_shape, _SHAPE)
            valid &= _repeated(mask, valid.shape)
        return depth_m, valid

    @property
    def notes(self) -> Sequence[str]:
        """Lines on a layout that is not plain, on pictures without depth, and on a doubtful unit."""
        found, num, alone = [], len(self.pairs), self.alone
        if self.layout_name != "plain":
            found.append(f"{self.root}: {num} pairs, {self.layout_found}.")
        if alone:
            has = "has no depth beside it and was" if len(alone) == 1 else "have no depth beside them and were"
            found.append(f"{len(alone)} of {num + len(alone)} images {has} left out ({alone[0]}).")
        if self._found[2].others:
            found.append(f"{self.root}: {self._found[2].others}")
        doubt = self.doubt_units(sorted({round(step * (num - 1) / _NUM_SAMPLED) for step in range(_NUM_SAMPLED + 1)}))
        return [*found, f"{self.root}: {doubt}"] if doubt else found

    def doubt_units(self, indices: Sequence[int]) -> UnitsDoubt | None:
        """Return why the depth of some pairs is hardly metres; None where it may be, or none can be read."""
        depths_m, rotated = [], []
        for index in indices:
            try:
                values = read_map(self.pairs[index].depth)
                depth_m, valid = self._truth(self.pairs[index], values, self.native_size(index))
            except InputError:
                continue
            # Of floats, None.
            rotated.append(is_rotated(values) if values.dtype.kind in "iu" else None)
            if valid.any():
                least, median, most = np.quantile(depth_m[valid], (0, 0.5, 1)).tolist()
                depths_m.append((least, median, most))
        if not rotated:
            return None
        of_integers = [each for each in rotated if each is not None]
        may_be_rotated = not self._is_rotated and self.integer_scale != 8000 and 2 * sum(of_integers) > len(of_integers)
        scale = self.integer_scale if of_integers else self.depth_scale or 0.0
        range_m = (self.protocol.min_depth_m, self.protocol.max_depth_m)
        return doubt_units(depths_m, self.plausible_median_m, range_m, depth_scale=scale, is_rotated=may_be_rotated)

    @property
    def pairs(self) -> Sequence[Pair]:
        """All pairs in order. Raises InputError where there are none, or most pictures have no depth."""
        return self._found[2].pairs

    @property
    def alone(self) -> Sequence[str]:
        """Paths, below the folder, of pictures that have no depth."""
        return self._found[2].alone

    @property
    def layout_name(self) -> str:
        """The layout that was recognised, "pairs" or "patterns"."""
        return self._found[0]

    @property
    def layout_found(self) -> str:
        """Which layout was read and where from, and whether it was recognised or asked for, in words."""
        name, layout, _ = self._found
        if name not in LAYOUTS:
            return f"{'listed' if name == 'pairs' else 'by patterns'}: {layout.summary}"
        how = "recognised" if self.layout == "auto" else "asked for"
        return f"of the layout {name}, which was {how}: {layout.summary}"

    @property
    def integer_scale(self) -> float:
        """Units per metre of integer maps."""
        return self._found[1].depth_scale if self.depth_scale is None else self.depth_scale

    @cached_property
    def _found(self) -> tuple[str, Layout, Listing]:
        return recognise(self.root, self.layout, self.pair_list, self.patterns)

    @property
    def _is_rotated(self) -> bool:
        return self.depth_format == "sunrgbd"

    @cached_property
    def _scene_rule(self) -> str:
        if self.scene != "auto":
            return self.scene
        return "folder" if len({pair.folder for pair in self.pairs}) >= 3 else f"block:{_BLOCK}"


def _repeated(values: Shaped[np.ndarray, "h w"], size: tuple[int, ...]) -> np.ndarray:
    """Return a map at another size of the same shape: each pixel is the one whose place it covers."""
    if values.shape == size:
        return values
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]
