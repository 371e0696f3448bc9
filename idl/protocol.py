"""A protocol: everything besides the probe that decides what a reported figure means."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

from idl.errors import InputError

Alignment = Literal["none", "median", "affine"]
Crop = tuple[int, int, int, int]
# The store's layer of native truth.
NATIVE = "native_depth"


@dataclass(frozen=True)
class Protocol:
    """How images become truth of one size, and how a prediction is held against it.

    resolution, width: height and width of the images, pixels; a width of 0 becomes the height. The image is resized to
      cover both, and its centre is kept.
    crop: (top, bottom, left, right) in native pixels, cut before resizing; None: the whole image.
    min_depth_m, max_depth_m: only truth in this range is valid; predictions are clamped to it before any ratio or log.
    min_valid_share: a resized cell counts only where at least this share of it was measured.
    mask: which native pixels are truth: measured by the sensor ("sensor"), or also filled in ("inpainted").
    alignment: what a prediction may borrow from the truth of its own image: nothing ("none"), one factor
      ("median"), or scale and shift by least squares ("affine").
    erosion: native pixels; a valid pixel is no truth where one that is not valid lies so near, or nearer, in x and y.
    is_native: depth metrics are taken on the truth at native size, to which the prediction is upsampled. Fitting and
      its losses stay at resolution x width.
    native_size: (height, width) of the truth at native size; None: any of the images' shape.
    native_crop: (top, bottom, left, right): the native pixels that are measured; None: all.
    """

    name: str = "idl"
    resolution: int = 256
    crop: Crop | None = None
    min_depth_m: float = 1e-3
    max_depth_m: float = 10.0
    min_valid_share: float = 0.5
    mask: str = "sensor"
    alignment: Alignment = "none"
    width: int = 0
    erosion: int = 0
    is_native: bool = False
    native_size: tuple[int, int] | None = None
    native_crop: Crop | None = None

    def __post_init__(self) -> None:
        """Make a width of 0 the square's; raise InputError for what contradicts itself."""
        if self.width == 0:
            object.__setattr__(self, "width", self.resolution)
        if self.is_native and self.crop is not None:
            raise InputError(f"protocol {self.name!r}: crop cuts before resizing; with native truth, use native_crop.")
        if not self.is_native and (self.native_size, self.native_crop) != (None, None):
            raise InputError(f"protocol {self.name!r}: native_size and native_crop need native truth.")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images, pixels."""
        return self.resolution, self.width

    def require_frame(self, height: int, width: int, where: str) -> None:
        """Raise InputError, which begins with `where`, unless images show all of a native frame, and are not larger."""
        problem = ""
        top, bottom, left, right = self.native_crop or (0, height, 0, width)
        if self.native_size not in (None, (height, width)):
            problem = f"is about frames of {self.native_size[0]} x {self.native_size[1]}"
        elif height * self.width != width * self.resolution or height < self.resolution:
            problem = f"needs at least {self.resolution} x {self.width}, and that shape"
        elif not (0 <= top < bottom <= height and 0 <= left < right <= width):
            problem = f"measures rows {top}:{bottom} and columns {left}:{right}"
        if problem:
            raise InputError(
                f"{where}: the frame has {height} x {width} pixels; protocol {self.name} {problem}. Pass protocol=idl, "
                "or that of this dataset."
            )

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces; fields that were added later only where they are not as before."""
        # Else the digests of all stores, caches and champions would change with every new field.
        added = {"width": self.resolution, "erosion": 0, "is_native": False, "native_size": None, "native_crop": None}
        kept = {name: value for name, value in asdict(self).items() if name not in added or value != added[name]}
        return json.dumps(kept, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Protocol":
        """Inverse of `to_json`."""
        values: dict[str, Any] = json.loads(text)
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values)

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def _published(name: str, frame: tuple[int, int], range_m: tuple[float, float], crop: Crop | None = None) -> Protocol:
    # 288 x 384 is exactly 3:4 as both datasets' frames are, and whole cells at strides up to 32.
    return Protocol(
        name=name,
        resolution=288,
        width=384,
        min_depth_m=range_m[0],
        max_depth_m=range_m[1],
        is_native=True,
        native_size=frame,
        native_crop=crop,
    )


# nyu-eigen: D. Eigen, C. Puhrsch, R. Fergus, 2014; the crop in the coordinates that most tables since are about.
# diode-devkit: the range of the sensor; the devkit's log_rmse is in decades, rmse_log / ln 10.
# diode-indoor, diode-outdoor: the ranges that DIODE's halves are compared under.
PRESETS = {
    each.name: each
    for each in (
        Protocol(),
        _published("nyu-eigen", (480, 640), (1e-3, 10.0), (45, 471, 41, 601)),
        _published("diode-devkit", (768, 1024), (0.6, 350.0)),
        _published("diode-indoor", (768, 1024), (1e-3, 10.0)),
        _published("diode-outdoor", (768, 1024), (1e-3, 80.0)),
    )
}


def preset(name: str, min_depth_m: float | None = None, max_depth_m: float | None = None) -> Protocol:
    """Return a named protocol, with another range where one is given. Raises InputError where there is none."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"protocol={name}: no such protocol.{hint} Pass one of {', '.join(PRESETS)}.")
    named = PRESETS[name]
    near_m = named.min_depth_m if min_depth_m is None else min_depth_m
    far_m = named.max_depth_m if max_depth_m is None else max_depth_m
    if not 0 < near_m < far_m < float("inf"):
        raise InputError(f"min_depth={near_m:g}, max_depth={far_m:g}: expected 0 < min < max, in metres.")
    return replace(named, min_depth_m=near_m, max_depth_m=far_m)
