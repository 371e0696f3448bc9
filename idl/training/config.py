"""How long and how fast a network is trained."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch

from idl.encoders.arithmetic import has_fast_bfloat16
from idl.errors import InputError


@dataclass(frozen=True)
class TrainingConfig:
    """What a training is asked for, besides the network and the dataset. Raises InputError for what cannot be.

    epochs: passes over the training split, if it does not converge before.
    batch_size: images a step, on all ranks together.
    accumulate: parts that a batch is cut into, one after the other, where memory is short; same gradient.
    crop: side of the random square crops that a step sees, pixels; 0: whole images.
    flip: mirror half the images.
    lr: AdamW's learning rate at its highest.
    weight_decay: AdamW's, on matrices and kernels; vectors (biases, norms, scales) have none.
    warmup: share of the steps over which the rate rises to `lr`; it then falls to 0 along a half cosine.
    clip: the gradient's norm is cut to this.
    validate_every: steps between two looks at the validation split; 0: twenty looks in all.
    val_images: at most so many validation images, spread evenly.
    patience: looks without gain after which the training has converged and ends.
    min_gain: fraction by which the best validation loss must fall to count as a gain.
    checkpoint_minutes: time between two checkpoints.
    seed: of the initial weights, the order, the crops and the flips.
    arithmetic: "auto" takes bfloat16 products (autocast, float32 weights) where the device has them.
    """

    epochs: float = 20.0
    batch_size: int = 32
    accumulate: int = 1
    crop: int = 0
    flip: bool = True
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip: float = 1.0
    validate_every: int = 0
    val_images: int = 256
    patience: int = 5
    min_gain: float = 0.002
    checkpoint_minutes: float = 5.0
    seed: int = 0
    arithmetic: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        least: dict[str, float] = {
            "batch_size": 1,
            "accumulate": 1,
            "crop": 0,
            "validate_every": 0,
            "val_images": 1,
            "patience": 1,
            "seed": 0,
            "weight_decay": 0,
            "warmup": 0,
            "min_gain": 0,
            "checkpoint_minutes": 0,
        }
        for name, value in asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name}={value}: expected a finite number.")
            if name in least and value < least[name]:
                raise InputError(f"{name}={value}: expected {least[name]:g} or more.")
            if name in ("epochs", "lr", "clip") and value <= 0:
                raise InputError(f"{name}={value}: expected more than 0.")
        if self.warmup >= 1 or self.min_gain >= 1:
            name = "warmup" if self.warmup >= 1 else "min_gain"
            raise InputError(f"{name}={getattr(self, name)}: expected a share below 1.")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate={self.accumulate}: does not divide batch_size={self.batch_size}. Pass a divisor of it."
            )


def resolved(config: TrainingConfig, device: torch.device) -> TrainingConfig:
    """Say which arithmetic "auto" is on `device`: what was trained in one is not gone on with in another."""
    if config.arithmetic != "auto":
        return config
    return replace(config, arithmetic="bfloat16" if has_fast_bfloat16(device) else "float32")
