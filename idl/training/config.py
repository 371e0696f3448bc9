"""How long and how fast a network is trained."""

import math
from dataclasses import dataclass, fields

from idl.encoders.base import Arithmetic
from idl.errors import InputError
from idl.settings import setting


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training besides the network and the dataset. Raises InputError for what cannot be.

    accumulate: the gradient is the same. clip, lr: above 0.
    lr: AdamW's; it falls to 0 along a half cosine once it has risen. weight_decay: of matrices and kernels; vectors
      (biases, norms, scales) have none.
    flip: mirror half the images.
    arithmetic: bfloat16 is autocast, with float32 weights.
    """

    epochs: float = setting(20.0, "Passes over the training split, if it does not converge before.")
    batch_size: int = setting(32, "Images a step, on all ranks together.", at_least=1)
    accumulate: int = setting(1, "Parts that a batch is cut into, to save memory.", at_least=1)
    crop: int = setting(0, "Side of random square crops, pixels; 0: whole images.", at_least=0)
    flip: bool = True
    lr: float = setting(1e-3, "AdamW's learning rate at its highest.")
    weight_decay: float = setting(0.05, "AdamW's weight decay.", at_least=0)
    warmup: float = setting(0.05, "Share of the steps over which the learning rate rises.", at_least=0)
    clip: float = setting(1.0, "Largest norm of the gradient; a longer one is scaled down.")
    validate_every: int = setting(0, "Steps between validations; 0: twenty validations in all.", at_least=0)
    val_images: int = setting(256, "Validation images, spread evenly, at most.", at_least=1)
    patience: int = setting(5, "Validations without gain after which the training has converged.", at_least=1)
    min_gain: float = setting(0.002, "Share by which the validation loss must fall to count as a gain.", at_least=0)
    checkpoint_minutes: float = setting(5.0, "Time between two checkpoints, minutes.", at_least=0)
    seed: int = setting(0, "Seed of weights, order, crops and mirror images.", at_least=0)
    arithmetic: Arithmetic = setting("float32", "Arithmetic of the products; bfloat16 is faster on some processors.")

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), field.metadata.get("at_least")
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{field.name}={value}: expected a finite number.")
            if least is not None and value < least:
                raise InputError(f"{field.name}={value}: expected {least:g} or more.")
            if field.name in ("epochs", "lr", "clip") and value <= 0:
                raise InputError(f"{field.name}={value}: expected more than 0.")
            if field.name in ("warmup", "min_gain") and value >= 1:
                raise InputError(f"{field.name}={value}: expected a share below 1.")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate={self.accumulate}: does not divide batch_size={self.batch_size}. Pass a divisor of it."
            )


# Defaults of the two commands. Each takes half an hour on one core; benchmarks/README.md has what was tried.
AUTOENCODER = TrainingConfig(epochs=20.0, crop=64, lr=3e-3, weight_decay=0.01, val_images=96)
PRETRAIN = TrainingConfig(epochs=15.0, batch_size=16, crop=128, lr=2e-3, val_images=240)
