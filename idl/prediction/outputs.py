"""The folder of predictions: what is written for an image, and whether it is there already.

The picture comes last and says in its head what it was made from, by which model and how: it is the sign that the
image is done.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8, UInt16
from PIL import Image, PngImagePlugin

from idl.errors import InputError
from idl.figures.colour import DEPTH_MAP, FIELD_MAP, colourise, normals_to_rgb
from idl.prediction.photographs import Photograph

Format = Literal["png", "npy"]
RECORD_KEY = "idl"
# 0 and 65535 mean "no depth" in the usual 16-bit maps, and in this project's own `folder` dataset.
NEAREST, FARTHEST, BEYOND = 1, 65534, 65535


@dataclass(frozen=True)
class PredictionConfig:
    """How predictions are written.

    format: of depth: "png" (16 bits, `depth_scale` units a metre) or "npy" (float32, metres). Anything else is .npy:
      (H, W), or (H, W, outputs).
    depth_scale: units a metre of a PNG: 1000 for millimetres.
    near, far: depths (or least and greatest value of a field) at the two ends of the picture's colours; None: as in the
      pictures of the run that the model comes from. Normals have no range.
    """

    format: Format = "png"
    depth_scale: float = 1000.0
    near: float | None = None
    far: float | None = None

    def require(self) -> None:
        """Raise InputError where the scale is none."""
        if not 0 < self.depth_scale < float("inf"):
            raise InputError(f"depth_scale={self.depth_scale:g}: expected units a metre, more than 0.")


@dataclass(frozen=True)
class Source:
    """What predictions come from.

    model: `models:/NAME/VERSION`. logged_model: the one behind it, which no other registry has.
    kind: of the target, "depth", "normals" or "field". unit: of a field, "1" for none.
    shown_range: of the pictures of its run, metres or a field's unit.
    """

    model: str
    logged_model: str
    target: str
    kind: str
    unit: str
    shown_range: tuple[float, float]

    @property
    def is_normals(self) -> bool:
        """Tell directions from distances."""
        return self.kind == "normals"


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
        """Make sure that the folder is there or can be made, and files in it. Raises InputError; writes nothing."""
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
        near, far = self.source.shown_range
        asked = self.config
        return near if asked.near is None else asked.near, far if asked.far is None else asked.far

    @property
    def farthest_m(self) -> float:
        """The largest depth that a PNG holds, metres."""
        return FARTHEST / self.config.depth_scale

    @property
    def legend(self) -> str:
        """Say in one line what the values and the colours mean."""
        if self.source.is_normals:
            return "values: x right, y down, z forward; colours: red facing right, green up, blue the camera"
        near, far = self.limits
        if self.source.kind != "depth":
            unit = "" if self.source.unit == "1" else f" {self.source.unit}"
            return (
                f"values: {self.source.target}{unit and f' in{unit}'}; colours: dark {near:g} to bright {far:g}{unit}"
            )
        values = "metres" if self.config.format == "npy" else f"{self.config.depth_scale:g} units a metre"
        return f"values: {values}; colours: bright {near:g} m to dark {far:g} m"

    def is_done(self, photograph: Photograph) -> bool:
        """Tell whether the outputs of an image are there.

        Raises InputError where files of these names are there that come from another image, model or configuration.
        """
        picture, values = self._picture(photograph), self._values(photograph)
        if not picture.exists():
            return False
        there = _record_of(picture)
        wanted = self._record(photograph)
        differing = [name for name in wanted if there.get(name) != wanted[name]]
        if differing:
            raise InputError(
                f"{picture}: is there already, from another {' and '.join(differing)}. "
                "Pass --overwrite, or another out."
            )
        return values.exists()

    def write(self, photograph: Photograph, map_: Float32[np.ndarray, "out H W"]) -> int:
        """Write one image's prediction, and return how many of its pixels were too far for the format."""
        num_beyond = 0
        values, picture = self._values(photograph), self._picture(photograph)
        values.parent.mkdir(parents=True, exist_ok=True)
        everywhere = np.ones(map_.shape[1:], dtype=bool)
        content = io.BytesIO()
        if values.suffix == ".png":
            units, num_beyond = to_units(map_[0], self.config.depth_scale)
            Image.fromarray(units).save(content, "PNG")
        else:
            np.save(content, map_[0] if len(map_) == 1 else np.ascontiguousarray(np.moveaxis(map_, 0, -1)))
        if self.source.is_normals:
            colours = normals_to_rgb(np.moveaxis(map_, 0, -1), everywhere)
        else:
            # As in the pictures of runs: a field is not to be taken for a depth.
            colours = colourise(
                map_[0], everywhere, self.limits, DEPTH_MAP if self.source.kind == "depth" else FIELD_MAP
            )
        # The sign that the values are those of its record: no other's may lie beside them, whenever this is broken off.
        picture.unlink(missing_ok=True)
        _replace(values, content.getvalue())
        _replace(picture, _png(colours, self._record(photograph)))
        return num_beyond

    def _record(self, photograph: Photograph) -> dict[str, object]:
        """What decides an image's outputs, by name."""
        record: dict[str, object] = {
            "image": hashlib.sha256(photograph.path.read_bytes()).hexdigest()[:16],
            "model": f"{self.source.model} ({self.source.logged_model})",
            "target": self.source.target,
        }
        if self.source.is_normals:
            return record
        record |= {"near": self.limits[0], "far": self.limits[1]}
        if self.source.kind == "depth":
            record["format"] = self.config.format
            if self.config.format == "png":
                record["depth_scale"] = self.config.depth_scale
        return record

    def _values(self, photograph: Photograph) -> Path:
        if self.source.kind == "depth":
            return self.path / f"{photograph.key}_depth.{self.config.format}"
        return self.path / f"{photograph.key}_{self.source.target}.npy"

    def _picture(self, photograph: Photograph) -> Path:
        return self.path / f"{photograph.key}_colour.png"


def to_units(depth_m: Float32[np.ndarray, "H W"], scale: float) -> tuple[UInt16[np.ndarray, "H W"], int]:
    """Return depth in units of 1/scale metres, and the number of pixels that are too far to be told.

    Those are 65535; 0 is not used, so that both numbers stay what they are elsewhere: no depth.
    """
    units = np.rint(depth_m.astype(np.float64) * scale)
    is_beyond = ~(units <= FARTHEST)
    return np.where(is_beyond, BEYOND, np.clip(units, NEAREST, FARTHEST)).astype(np.uint16), int(is_beyond.sum())


def _png(pixels: UInt8[np.ndarray, "H W 3"], record: Mapping[str, object]) -> bytes:
    head = PngImagePlugin.PngInfo()
    head.add_text(RECORD_KEY, json.dumps(record, sort_keys=True))
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", pnginfo=head)
    return content.getvalue()


def _record_of(picture: Path) -> Mapping[str, object]:
    """Read what a picture says of itself; nothing where it is not one of ours."""
    try:
        with Image.open(picture) as image:
            return json.loads(image.info.get(RECORD_KEY, "{}"))
    except (OSError, SyntaxError, ValueError):
        return {}


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
