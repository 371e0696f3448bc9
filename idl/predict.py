"""A registered model on photographs: found, predicted at their own size, written.

The picture is written last and holds, in its head, what it was made from, by which model and how: it marks the image
as done.
"""

import glob
import hashlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8, UInt16
from PIL import Image, PngImagePlugin

from idl.cache import replace_file
from idl.data.images import PICTURE_SUFFIXES, rgb_size
from idl.data.reader import shortened, walk
from idl.errors import InputError
from idl.evaluate import Model, predict_whole
from idl.report.canvas import DEPTH_MAP, FIELD_MAP, colourise
from idl.settings import setting

RECORD_KEY = "idl"
# 0 and 65535 mean "no depth" in the usual 16-bit maps, and in this project's own `folder` dataset.
NEAREST, FARTHEST, BEYOND = 1, 65534, 65535
# File systems take 255; an output's name ends with its target's.
MOST_NAME_BYTES = 160


@dataclass(frozen=True)
class PredictionConfig:
    """How predictions are written; raises InputError for a scale that is none.

    Whatever is no depth is .npy: (H, W), or (H, W, outputs); normals have no range.
    """

    format: Literal["png", "npy"] = setting("png", "Depth as 16-bit PNG, or as metres in .npy.")
    depth_scale: float = setting(1000.0, "Units per metre in a PNG; 1000: millimetres, up to 65.534 m.")
    near: float | None = setting(
        None,
        "Depth at the bright end of the colours (or least value of a field); auto: as in its run's pictures.",
    )
    far: float | None = setting(None, "Depth at their dark end (or greatest value of a field), likewise.")

    def __post_init__(self) -> None:
        if not 0 < self.depth_scale < math.inf:
            raise InputError(f"depth_scale={self.depth_scale:g}: expected units a metre, more than 0.")


@dataclass(frozen=True)
class Photograph:
    """An image file, and the path without a suffix that its outputs have under the output folder."""

    path: Path
    key: str


def find(places: Sequence[str], out: Path) -> tuple[Photograph, ...]:
    """Return the images of files, folders (with all that is below) and patterns ("walk/**/*.png"), each once.

    What lies in `out`, the output folder, is no input, unless it is named itself. An image's key is its path below the
    folder that was named, a file's or a match's its name; where two would be the same, both get the path below the
    folder that holds all images, and the suffix if need be.

    Raises InputError: a place that is not there, nothing found, a file that is no image, `out` was named as a folder.
    """
    # What was found, as it was named, by where it really lies.
    found: dict[Path, tuple[Path, Path]] = {}
    for place in places:
        path = Path(place).expanduser()
        if path.is_dir():
            if path.resolve() == out.resolve():
                raise InputError(f"{path}: is the output folder too. Pass another out.")
            matches = [(path / each, path) for each in walk(path) if _is_input(path / each, path, out)]
        elif path.is_file():
            matches = [(path, path.parent)]
        else:
            hits = sorted(Path(hit) for hit in glob.glob(str(path), recursive=True))  # noqa: PTH207  (it may be absolute)
            matches = [(hit, hit.parent) for hit in hits if _is_input(hit, hit.parent, out)]
            if not matches and not glob.has_magic(str(path)):
                raise InputError(f"{path}: no such image or folder.")
        for each, folder in matches:
            found.setdefault(each.resolve(), (Path(os.path.abspath(each)), each.relative_to(folder)))  # noqa: PTH100  (keeps links)
    if not found:
        named = ", ".join(places) or "no place was named"
        raise InputError(f"images: none found ({named}). Pass images, folders or a pattern such as 'walk/*.png'.")
    for path, _ in found.values():
        rgb_size(path)  # raises InputError where it is no image
    return tuple(Photograph(path, key) for (path, _), key in zip(found.values(), _keys([*found.values()]), strict=True))


def _is_input(path: Path, folder: Path, out: Path) -> bool:
    """Tell images from other files, from what is hidden below `folder` and from outputs."""
    is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    if is_hidden or path.suffix.lower() not in PICTURE_SUFFIXES or not path.is_file():
        return False
    # An output folder around the named one does not make its images outputs.
    return folder.resolve().is_relative_to(out.resolve()) or not path.resolve().is_relative_to(out.resolve())


def _keys(found: Sequence[tuple[Path, Path]]) -> list[str]:
    """Return a key for each (absolute path, path below what was named): the first of three names that is its alone."""
    above = Path(os.path.commonpath([path.parent for path, _ in found]))
    names = [
        [each.as_posix() for each in (relative.with_suffix(""), below.with_suffix(""), below)]
        for relative, below in ((relative, path.relative_to(above)) for path, relative in found)
    ]
    level = [0] * len(found)
    while True:
        keys = [each[at] for each, at in zip(names, level, strict=True)]
        counts = Counter(keys)
        if len(counts) == len(keys):
            return keys
        level = [min(at + (counts[key] > 1), 2) for key, at in zip(keys, level, strict=True)]


def predict_map(
    model: Model,
    rgb: UInt8[np.ndarray, "H W 3"],
    size: tuple[int, int],
    stride: int,
    is_direction: bool = False,
    window: tuple[int, int] | None = None,
) -> Float32[np.ndarray, "out H W"]:
    """Return what the model does for a whole photograph, at its own size: metres (1, H, W), normals (3, H, W), a field.

    size: (height, width) of the images that the model was fitted on, pixels: the photograph is brought to it as they
    were, its long side left whole. stride, window: as of `predict_whole`. is_direction: the map is to have unit length
    everywhere.
    """
    height, width = rgb.shape[:2]
    # A model of any size sees an upright photograph at the scale of one that lies.
    least = (min(size), min(size)) if window is None else window
    scale = max(least[0] / height, least[1] / width)
    tall, wide = max(least[0], round(height * scale)), max(least[1], round(width * scale))
    # The filter that the images of a dataset were brought to size with.
    resized = np.asarray(Image.fromarray(rgb).resize((wide, tall), Image.Resampling.BICUBIC))
    image = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        small = predict_whole(model, image, stride, window)
        # antialias: it is the plain bilinear upsampling for a large photograph, and an average for a small one.
        map_ = F.interpolate(small, size=(height, width), mode="bilinear", antialias=True)[0]
    return (F.normalize(map_, dim=0) if is_direction else map_).numpy()


@dataclass(frozen=True)
class Source:
    """What predictions come from.

    model: `models:/NAME/VERSION`. logged_model: the one behind it, which no other registry has. kind, unit: of the
    target. shown_range: of the pictures of its run, metres or a field's unit.
    """

    model: str
    logged_model: str
    target: str
    kind: str
    unit: str
    shown_range: tuple[float, float]


@dataclass(frozen=True)
class Folder:
    """The output folder of one model under one configuration."""

    path: Path
    source: Source
    config: PredictionConfig

    def __post_init__(self) -> None:
        near, far = self.limits
        if not -math.inf < near < far < math.inf:
            raise InputError(f"near={near:g}, far={far:g}: expected near < far. Pass near=, far= or both.")

    @staticmethod
    def require(path: Path) -> None:
        """Raise InputError unless the folder is there or can be made, and files in it. Writes nothing."""
        above = path.absolute()
        while not above.exists():
            above = above.parent
        if not above.is_dir():
            raise InputError(f"out={path}: {above} is no folder. Pass another out.")
        if not os.access(above, os.W_OK | os.X_OK):
            raise InputError(f"out={path}: nothing can be written to {above}. Pass another out.")

    @property
    def limits(self) -> tuple[float, float]:
        """Values at the ends of the colours, metres or a field's unit."""
        (near, far), config = self.source.shown_range, self.config
        return near if config.near is None else config.near, far if config.far is None else config.far

    @property
    def legend(self) -> str:
        """Say in one line what the values and the colours mean."""
        source, (near, far) = self.source, self.limits
        if source.kind == "normals":
            return "values: x right, y down, z forward; colours: red facing right, green up, blue the camera"
        if source.kind == "depth":
            values = "metres" if self.config.format == "npy" else f"{self.config.depth_scale:g} units a metre"
            return f"values: {values}; colours: bright {near:g} m to dark {far:g} m"
        unit = "" if source.unit == "1" else f" {source.unit}"
        return f"values: {source.target}{unit and f' in{unit}'}; colours: dark {near:g} to bright {far:g}{unit}"

    def is_done(self, photograph: Photograph) -> bool:
        """Tell whether an image's outputs are there. Raises InputError where they come from something else."""
        values, picture = self._files(photograph)
        if not picture.exists():
            return False
        there, record = {}, self._record(photograph)
        # Not every picture is one of ours.
        with suppress(OSError, SyntaxError, ValueError), Image.open(picture) as image:
            there = json.loads(image.info.get(RECORD_KEY, "{}"))
        differing = [name for name in record if there.get(name) != record[name]]
        if differing:
            raise InputError(
                f"{picture}: is there already, from another {' and '.join(differing)}. "
                "Pass --overwrite true, or another out."
            )
        return values.exists()

    def write(self, photograph: Photograph, map_: Float32[np.ndarray, "out H W"]) -> int:
        """Write one image's prediction, and return how many of its pixels were too far for the format."""
        num_beyond, (values, picture) = 0, self._files(photograph)
        values.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        if values.suffix == ".png":
            units, num_beyond = to_units(map_[0], self.config.depth_scale)
            Image.fromarray(units).save(content, "PNG")
        else:
            np.save(content, map_[0] if len(map_) == 1 else np.ascontiguousarray(np.moveaxis(map_, 0, -1)))
        # As in the pictures of runs: a field is not to be taken for a depth.
        palette = DEPTH_MAP if self.source.kind == "depth" else FIELD_MAP
        shown = np.moveaxis(map_, 0, -1) if self.source.kind == "normals" else map_[0]
        colours = colourise(shown, np.ones(shown.shape[:2], bool), self.limits, palette)
        head = PngImagePlugin.PngInfo()
        head.add_text(RECORD_KEY, json.dumps(self._record(photograph), sort_keys=True))
        coloured = io.BytesIO()
        Image.fromarray(colours).save(coloured, "PNG", pnginfo=head)
        # No other image's values may ever lie beside a picture, whenever this is broken off.
        picture.unlink(missing_ok=True)
        for path, made in ((values, content), (picture, coloured)):
            replace_file(path, made.getvalue())
        return num_beyond

    def _record(self, photograph: Photograph) -> dict[str, object]:
        """Return what decides an image's outputs, by name."""
        source, config = self.source, self.config
        is_depth, (near, far) = source.kind == "depth", self.limits
        return {
            "image": hashlib.sha256(photograph.path.read_bytes()).hexdigest()[:16],
            "model": f"{source.model} ({source.logged_model})",
            "target": source.target,
            **({"near": near, "far": far} if source.kind != "normals" else {}),
            **({"format": config.format} if is_depth else {}),
            **({"depth_scale": config.depth_scale} if is_depth and config.format == "png" else {}),
        }

    def _files(self, photograph: Photograph) -> tuple[Path, Path]:
        """Return where an image's values are, and its picture."""
        is_depth = self.source.kind == "depth"
        name = f"depth.{self.config.format}" if is_depth else f"{self.source.target}.npy"
        folder, _, key = photograph.key.rpartition("/")
        # With what is put behind it, also while it is written, it must not become longer than a name may be.
        num_more = len(os.fsencode(key)) - len(key)
        start = self.path / folder / shortened(key, MOST_NAME_BYTES - num_more)
        return start.with_name(f"{start.name}_{name}"), start.with_name(f"{start.name}_colour.png")


def to_units(depth_m: Float32[np.ndarray, "H W"], scale: float) -> tuple[UInt16[np.ndarray, "H W"], int]:
    """Return depth in units of 1/scale metres, and how many pixels are too far for 16 bits: they are 65535."""
    units = np.rint(depth_m.astype(np.float64) * scale)
    is_beyond = ~(units <= FARTHEST)
    return np.where(is_beyond, BEYOND, np.clip(units, NEAREST, FARTHEST)).astype(np.uint16), int(is_beyond.sum())
