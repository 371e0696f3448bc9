"""The autoencoder: a residual encoder, k latent channels at stride 8, and its mirror image back to pixels.

The network of DALL-E's discrete variational autoencoder (Ramesh et al. 2021). Its quantiser is left out: what would
be the vocabulary's logits are the latent channels themselves, and go to the decoder as they are.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, relu

from idl.encoders.autoencoder import likelihood
from idl.encoders.autoencoder.config import BOTTLENECK, NUM_GROUPS, STRIDE, AutoencoderConfig

ENCODER_KERNELS = (3, 3, 3, 1)
DECODER_KERNELS = (1, 3, 3, 3)


class Block(nn.Module):
    """out = id(x) + post_gain * res(x), where x is what comes in, upsampled twofold if `upsamples`.

    id is a 1x1 convolution where the channels change, else the identity. res is four times a ReLU and a
    convolution, through a quarter of the channels that come out. Nothing normalises; a small post_gain keeps
    deep stacks tame.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernels: Sequence[int], post_gain: float, *, upsamples: bool = False
    ) -> None:
        super().__init__()
        if upsamples and kernels[0] != 1:
            raise ValueError(f"kernels {kernels}: a block that upsamples begins with a kernel of 1")
        hidden = channels_out // BOTTLENECK
        widths = (channels_in, hidden, hidden, hidden, channels_out)
        same = channels_in == channels_out
        self.identity = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)
        self.residual = nn.ModuleList(
            nn.Conv2d(into, out, kernel, padding=kernel // 2)
            for (into, out), kernel in zip(pairwise(widths), kernels, strict=True)
        )
        self.post_gain = post_gain
        self.upsamples = upsamples

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch out H W"]:
        """Add the residual. H = 2 h and W = 2 w where it upsamples, else h and w."""
        short, y = self.identity(x), self.residual[0](relu(x))
        if self.upsamples:
            # Nearest upsampling commutes with ReLUs and 1x1 convolutions. Behind them it gives the same numbers,
            # bit for bit, at a quarter of their cost: a training step at n_hid 32 takes a fifth less time.
            short = interpolate(short, scale_factor=2, mode="nearest")
            y = interpolate(y, scale_factor=2, mode="nearest")
        for convolution in self.residual[1:]:
            y = convolution(relu(y))
        return torch.add(short, y, alpha=self.post_gain)


class EncoderHalf(nn.Module):
    """Pixels to latents. Weights are PyTorch's initial ones: `Autoencoder` draws those of the architecture."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.n_hid * 2**group for group in range(NUM_GROUPS)]
        self.input = nn.Conv2d(3, config.n_hid, 7, padding=3)
        self.groups = _groups(config, [config.n_hid, *widths], ENCODER_KERNELS)
        self.output = nn.Conv2d(config.width, config.latent_channels, 1)

    def forward(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch k H/8 W/8"]:
        """Encode RGB in [0, 1]; rows and columns beyond the last multiple of 8 are left out."""
        x = self.input(likelihood.map_pixels(rgb))
        for index, group in enumerate(self.groups):
            x = group(x if index == 0 else max_pool2d(x, 2))
        return self.output(relu(x))


class DecoderHalf(nn.Module):
    """Latents to means and log-scales."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = [config.n_hid * 2**group for group in reversed(range(NUM_GROUPS))]
        self.input = nn.Conv2d(config.latent_channels, config.n_init, 1)
        self.groups = _groups(config, [config.n_init, *widths], DECODER_KERNELS, upsample=True)
        self.output = nn.Conv2d(config.n_hid, 6, 1)

    def forward(self, latents: Float[Tensor, "batch k h w"]) -> Float[Tensor, "batch 6 8*h 8*w"]:
        """Decode into three means and three log-scales of a logit-Laplace distribution, in logits."""
        x = self.input(latents)
        for group in self.groups:
            x = group(x)
        return self.output(relu(x))


class Autoencoder(nn.Module):
    """Both halves, with the loss that `config` names.

    config: kept as an attribute.
    seed: of the initial weights, N(0, 1 / sqrt(n_in * kernel^2)) with biases 0. The global random state is left
      as it was.
    """

    def __init__(self, config: AutoencoderConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        # A convolution draws weights from the global state as it is made; these are replaced at once.
        with torch.random.fork_rng(devices=[]):
            self.encoder = EncoderHalf(config)
            self.decoder = DecoderHalf(config)
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.in_channels * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=fan_in**-0.5, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def encode(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch k H/8 W/8"]:
        """Give the latents of RGB in [0, 1]. Raises ValueError where 8 does not divide the sides."""
        height, width = rgb.shape[-2:]
        if height % STRIDE or width % STRIDE:
            raise ValueError(f"images of {height} x {width} pixels: the sides must be multiples of {STRIDE}")
        return self.encoder(rgb)

    def decode(self, latents: Float[Tensor, "batch k h w"]) -> Float[Tensor, "batch 6 8*h 8*w"]:
        """Give three means and three log-scales of a logit-Laplace distribution, in logits."""
        return self.decoder(latents)

    def forward(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch 6 H W"]:
        """Encode and decode."""
        return self.decode(self.encode(rgb))

    def reconstruct(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch 3 H W"]:
        """Give the picture that comes back, float32 RGB in [0, 1]."""
        return likelihood.picture(self(rgb))

    def loss(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, ""]:
        """Give the mean over pixels and colours of the loss, float32.

        "l2": squared error in units of RGB in [0, 1]; "logit-laplace": nats. See `likelihood.loss`.
        """
        return self.loss_of(self(rgb), rgb)

    def loss_of(self, output: Float[Tensor, "batch 6 H W"], rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, ""]:
        """Give the same for an output of `forward`, which may have come through a wrapper of this module."""
        return likelihood.loss(self.config.loss, output, rgb)


def _groups(
    config: AutoencoderConfig, widths: Sequence[int], kernels: Sequence[int], *, upsample: bool = False
) -> nn.ModuleList:
    """Make the groups from each width to the next; with `upsample` all but the first upsample what they get."""
    post_gain = 1 / (NUM_GROUPS * config.num_blocks) ** 2
    groups = nn.ModuleList()
    for index, (before, after) in enumerate(pairwise(widths)):
        first = Block(before, after, kernels, post_gain, upsamples=upsample and index > 0)
        further = (Block(after, after, kernels, post_gain) for _ in range(config.num_blocks - 1))
        groups.append(nn.Sequential(first, *further))
    return groups
