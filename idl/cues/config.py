"""How the cues are measured, and by which rules a cue counts as read."""

from dataclasses import dataclass

from idl.errors import InputError


@dataclass(frozen=True)
class CuesConfig:
    """How the cues are measured.

    max_images: test images that are measured, spread evenly over the split.
    hue_degrees: angle that hues are rotated by; 180 gives every colour its opposite.
    sigma: of the low-pass, pixels.
    tile: side of the shuffled tiles, pixels; brought to whole cells of the encoder's grid.
    seed: of the shuffles.
    batch_size: images encoded at once.
    draws, level, bootstrap_seed: of the intervals over clusters, as in `VerdictConfig`.
    num_examples: images that are kept for a picture.
    """

    max_images: int = 180
    hue_degrees: float = 180.0
    sigma: float = 4.0
    tile: int = 64
    seed: int = 0
    batch_size: int = 32
    draws: int = 10_000
    level: float = 0.95
    bootstrap_seed: int = 0
    num_examples: int = 2

    def __post_init__(self) -> None:
        for name in ("max_images", "tile", "batch_size", "draws"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: expected 1 or more.")
        if self.sigma <= 0:
            raise InputError(f"sigma={self.sigma:g}: expected more than 0 pixels.")
