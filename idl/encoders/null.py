"""The baseline: the image itself, averaged down to a grid."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from idl.encoders.base import Encoder, EncoderConfig, Origin, digest_of
from idl.errors import InputError


class AveragePool(nn.Module):
    """The mean of each square of `stride` pixels; a remainder at the right and at the bottom is left out."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Float[Tensor, "batch channels H W"]) -> Float[Tensor, "batch channels h w"]:
        """Average; h = floor(H / stride)."""
        return avg_pool2d(x, self.stride)


def build(config: EncoderConfig, device: torch.device) -> Encoder:
    """Build the null encoder: 3 channels, always in float32, because there is no product to make faster.

    Raises InputError where a setting is given that it does not have.
    """
    if config.stride < 1:
        raise InputError(f"stride={config.stride}: the null encoder averages squares of at least 1 pixel. Pass 8.")
    if config.weights not in ("auto", "none"):
        raise InputError(f"weights={config.weights}: the null encoder has none. Leave weights at auto.")
    if config.stage is not None:
        raise InputError(f"stage={config.stage}: the null encoder has one level only. Pass stride instead.")
    network = AveragePool(config.stride)
    origin = Origin("average_pool", "none", digest_of(network.state_dict()), "none", None, "the image")
    encoder = Encoder(
        network,
        name=config.name,
        stride=config.stride,
        channels=3,
        origin=origin,
        mean=config.mean or (0.0, 0.0, 0.0),
        std=config.std or (1.0, 1.0, 1.0),
    )
    return encoder.to(device)
