"""A protocol: everything besides the probe that decides what a reported figure means."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

Alignment = Literal["none", "median", "affine"]


@dataclass(frozen=True)
class Protocol:
    """How images become 256 x 256 truth, and how a prediction is held against it.

    Figures under different digests are not put in one table.

    name: a short name for people.
    resolution: side of the square images, pixels: the short side is resized to it, the centre is kept.
    crop: (top, bottom, left, right) in native pixels, cut before resizing; None: the whole image.
    min_depth_m, max_depth_m: only truth inside this range is valid; predictions are clamped to it before
      any ratio or logarithm.
    min_valid_share: a resized cell counts only where at least this share of it was measured.
    mask: which native pixels are truth.
    alignment: what a prediction may borrow from the truth of its own image: nothing ("none"), one factor
      ("median"), or scale and shift by least squares ("affine").
    """

    name: str = "idl"
    resolution: int = 256
    crop: tuple[int, int, int, int] | None = None
    min_depth_m: float = 1e-3
    max_depth_m: float = 10.0
    min_valid_share: float = 0.5
    mask: str = "sensor"
    alignment: Alignment = "none"

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Protocol":
        """Inverse of `to_json`."""
        values = json.loads(text)
        if values.get("crop") is not None:
            values["crop"] = tuple(values["crop"])
        return cls(**values)

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]
