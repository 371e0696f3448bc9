"""The raw pixels under each cell less their mean colour, as a feature map: what the null does not read of the image."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from idl.encoders.base import Encoder, Origin, digest_of


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


def patches(stride: int, device: torch.device) -> Encoder:
    """Give 3 stride^2 channels a cell, 3 of them dependent: no choice of `build`, but a control for other encoders."""
    network = Unshuffle(stride)
    return Encoder(
        network,
        name="patches",
        stride=stride,
        channels=3 * stride**2,
        origin=Origin("pixel_unshuffle", "none", digest_of(network.state_dict()), "none", None, "the image"),
        encoder_args={"stride": stride},
    ).to(device)
