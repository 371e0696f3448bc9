"""How large an autoencoder is, what it is trained with, and which images it takes."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from idl.errors import InputError

Loss = Literal["l2", "logit-laplace"]

NUM_GROUPS = 4
# A max pool halves the sides behind each group of blocks but the last.
STRIDE = 2 ** (NUM_GROUPS - 1)
# The residual path of a block is narrower than its output by this.
BOTTLENECK = 4


@dataclass(frozen=True)
class AutoencoderConfig:
    """Which autoencoder is wanted. Raises InputError for one that there cannot be.

    n_hid: channels of the first group of blocks; the deepest has eight times as many. A multiple of 4.
    num_blocks: residual blocks a group; there are four groups in each half.
    latent_channels: numbers at a cell of the latent grid, at most the channels that they are computed from.
    loss: "l2", the squared error of the means, or "logit-laplace", the negative log-likelihood.
    n_init: channels behind the decoder's first convolution.
    """

    n_hid: int = 32
    num_blocks: int = 2
    latent_channels: int = 10
    loss: Loss = "l2"
    n_init: int = 128

    def __post_init__(self) -> None:
        # The values may come from a user's JSON, or from the metadata of a file.
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "loss" and (type(value) is not int or value < 1):
                raise InputError(
                    f"{field.name}={value!r}: the autoencoder needs a whole number of at least 1 there. "
                    f"Pass e.g. {field.default}."
                )
        if self.n_hid % BOTTLENECK:
            above = self.n_hid + BOTTLENECK - self.n_hid % BOTTLENECK
            raise InputError(f"n_hid={self.n_hid}: must be a multiple of {BOTTLENECK}. Pass {above}.")
        if self.latent_channels > self.width:
            raise InputError(
                f"latent_channels={self.latent_channels}: above the {self.width} channels that the encoder has at "
                f"n_hid={self.n_hid}. Pass {self.width} or less, or a larger n_hid."
            )
        if self.loss not in get_args(Loss):
            raise InputError(f"loss={self.loss!r}: no such loss. Pass one of {', '.join(get_args(Loss))}.")

    @property
    def width(self) -> int:
        """Channels of the deepest group."""
        return self.n_hid * 2 ** (NUM_GROUPS - 1)


# small trains on a laptop, medium on one GPU within hours; paper is the size of the public model.
PRESETS = {
    "small": AutoencoderConfig(),
    "medium": AutoencoderConfig(n_hid=128),
    "paper": AutoencoderConfig(n_hid=256),
}


def require_size(resolution: int) -> None:
    """Make sure, before work starts, that images of `resolution` pixels square can be encoded.

    Raises InputError where the stride does not divide them.
    """
    if resolution < STRIDE or resolution % STRIDE:
        near = max(STRIDE, round(resolution / STRIDE) * STRIDE)
        raise InputError(
            f"images of {resolution} x {resolution} pixels: the autoencoder halves an image {NUM_GROUPS - 1} times, "
            f"so that its sides must be multiples of {STRIDE}, such as {near}."
        )
