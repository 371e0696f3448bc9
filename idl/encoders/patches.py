"""The raw pixels under each cell, as a feature map: what a probe of the image itself can read."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from idl.encoders.base import Encoder, Origin, digest_of


class Unshuffle(nn.Module):
    """The pixels of each square of `stride` pixels as channels; its sides divide the image's."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Float[Tensor, "batch channels H W"]) -> Float[Tensor, "batch pixels h w"]:
        """Rearrange; pixels = channels * stride^2, h = H / stride."""
        return pixel_unshuffle(x, self.stride)


def patches(stride: int, device: torch.device) -> Encoder:
    """Give 3 stride^2 channels a cell: no choice of `build`, but a control for other encoders of that stride."""
    network = Unshuffle(stride)
    return Encoder(
        network,
        name="patches",
        stride=stride,
        channels=3 * stride**2,
        origin=Origin("pixel_unshuffle", "none", digest_of(network.state_dict()), "none", None, "the image"),
        encoder_args={"stride": stride},
    ).to(device)
