"""The image itself as a feature map: averaged (the null encoder), or pixel by pixel (a baseline of verdicts)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from idl.encoders.base import Encoder, EncoderConfig, Origin, digest_of
from idl.errors import InputError


class Unshuffle(nn.Module):
    """The pixels of each square of `stride` pixels as channels, less the square's mean of their colour.

    The mean is what the null reads: with it, null and patches would be collinear.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Float[Tensor, "batch channels H W"]) -> Float[Tensor, "batch pixels h w"]:
        """Rearrange; pixels = channels * stride^2, h = H / stride, which must be whole."""
        pixels = pixel_unshuffle(x, self.stride).unflatten(1, (x.shape[1], -1))
        return (pixels - pixels.mean(dim=2, keepdim=True)).flatten(1, 2)


def build(config: EncoderConfig, device: torch.device) -> Encoder:
    """Build the null encoder: 3 channels, always in float32, because there is no product to make faster."""
    if config.weights not in ("auto", "none"):
        raise InputError(f"weights={config.weights}: the null encoder has none. Leave weights at auto.")
    return Encoder(
        # A remainder at the right and at the bottom is left out.
        nn.AvgPool2d(config.stride),
        name=config.name,
        stride=config.stride,
        channels=3,
        origin=Origin("average_pool", "none", digest_of({}), "none", None, "the image"),
        mean=config.mean,
        std=config.std,
    ).to(device)


def patches(stride: int, device: torch.device) -> Encoder:
    """Build 3 stride^2 channels a cell, 3 of them dependent: no choice of `idl.encoders.build`, but a baseline."""
    return Encoder(
        Unshuffle(stride),
        name="patches",
        stride=stride,
        channels=3 * stride**2,
        origin=Origin("pixel_unshuffle", "none", digest_of({}), "none", None, "the image"),
        encoder_args={"stride": stride},
    ).to(device)
