"""What the decoder's six channels say about an image, and how far that is from the image.

Channels 0 to 2 are the means mu, 3 to 5 the log-scales ln b, of a logit-Laplace distribution over each colour of
each pixel, mapped into [0.1, 0.9].
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import mse_loss

from idl.encoders.autoencoder.config import Loss

# The logit of 0 and of 1 is infinite: colours keep this distance from both.
MARGIN = 0.1
# A step of 8-bit colour is at least 0.8 / 255 / 0.25 = 0.0125 logits. Below a tenth of it a scale says nothing
# about a photograph, but the likelihood of a plain wall would grow, and its gradient with it, without end.
LEAST_SCALE = 0.001


def map_pixels(rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch 3 H W"]:
    """Take [0, 1] to [0.1, 0.9], linearly."""
    return rgb * (1 - 2 * MARGIN) + MARGIN


def picture(output: Float[Tensor, "batch 6 H W"]) -> Float[Tensor, "batch 3 H W"]:
    """Give the picture that the decoder means, float32 RGB in [0, 1]."""
    mapped = torch.sigmoid(output[:, :3].float())
    return ((mapped - MARGIN) / (1 - 2 * MARGIN)).clamp(0, 1)


def loss(kind: Loss, output: Float[Tensor, "batch 6 H W"], rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, ""]:
    """Compare the decoder's output with the image, in float32.

    rgb: in [0, 1].
    Returns the mean over pixels and colours, of `squared_error` or `negative_log_likelihood`.
    """
    mean, log_scale = output.float().chunk(2, dim=1)
    if kind == "l2":
        return squared_error(mean, rgb)
    return negative_log_likelihood(mean, log_scale, map_pixels(rgb.float())).mean()


def squared_error(mean: Float[Tensor, "batch 3 H W"], rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, ""]:
    """Mean squared error of sigmoid(mean) against the mapped pixels, in units of the unmapped ones, RGB in [0, 1].

    It is that of the picture before this is clamped, so that a colour beyond black or white still has a gradient.
    """
    return mse_loss(torch.sigmoid(mean), map_pixels(rgb.float())) / (1 - 2 * MARGIN) ** 2


def negative_log_likelihood(mean: Tensor, log_scale: Tensor, mapped: Tensor) -> Tensor:
    """-ln f(x; mu, b) = |logit x - mu| / b + ln(2 b x (1 - x)) of each mapped pixel, in nats.

    mean, log_scale: mu and ln(b - LEAST_SCALE), logits.
    mapped: x, inside (0, 1), of the same shape, which is the result's, too.
    """
    log_b = torch.logaddexp(log_scale, log_scale.new_tensor(math.log(LEAST_SCALE)))
    distance = (torch.logit(mapped) - mean).abs()
    return distance * torch.exp(-log_b) + log_b + torch.log(2 * mapped * (1 - mapped))
