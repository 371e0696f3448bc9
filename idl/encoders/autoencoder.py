"""The autoencoder: a residual encoder, k latent channels at stride 8, and its mirror image back to pixels.

The network of DALL-E's discrete variational autoencoder (Ramesh et al. 2021). Its quantiser is left out: what would
be the vocabulary's logits are the latent channels themselves, and go to the decoder as they are. The decoder gives
six channels: 0 to 2 are the means mu, 3 to 5 the log-scales ln b, of a logit-Laplace distribution over each colour of
each pixel, mapped into [0.1, 0.9]. The encode half is an encoder: its latents are what a probe reads.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, mse_loss, relu

from idl.encoders import weights
from idl.encoders.base import Encoder, EncoderConfig
from idl.errors import InputError
from idl.settings import setting

Preset = Literal["small", "medium", "paper"]
Loss = Literal["l2", "logit-laplace"]

ARCHITECTURE = "dvae"
NUM_GROUPS = 4
# A max pool halves the sides behind each group of blocks but the last.
STRIDE = 2 ** (NUM_GROUPS - 1)
# The residual path of a block is narrower than its output by this.
BOTTLENECK = 4
# small trains on a laptop, medium on one GPU within hours; paper is the size of the public model.
WIDTHS: Mapping[str, int] = {"small": 32, "medium": 128, "paper": 256}

# The logit of 0 and of 1 is infinite: colours keep this distance from both.
MARGIN = 0.1
# A step of 8-bit colour is at least 0.8 / 255 / 0.25 = 0.0125 logits. Below a tenth of it a scale says nothing
# about a photograph, but the likelihood of a plain wall would grow, and its gradient with it, without end.
LEAST_SCALE = 0.001


@dataclass(frozen=True)
class AutoencoderConfig:
    """How large an autoencoder is, and what it is trained with. Raises InputError for one that there cannot be.

    n_hid: a multiple of 4; the deepest of the four groups of each half has eight times as many. 0: the preset's.
    loss: "l2", the squared error of the means, or "logit-laplace", the negative log-likelihood.
    n_init: channels behind the decoder's first convolution.
    """

    preset: Preset = setting("small", "Width of the autoencoder.")
    n_hid: int = setting(0, "Channels of the first group of blocks; 0: the preset's, 32, 128 or 256.", at_least=0)
    num_blocks: int = setting(2, "Residual blocks a group.", at_least=1)
    latent_channels: int = setting(10, "Numbers at a cell of the latent grid.", at_least=1)
    loss: Loss = setting("l2", "Loss that the training minimises.")
    n_init: int = 128

    def __post_init__(self) -> None:
        # The values may come from a user's JSON, or from the metadata of a file.
        for name, known in (("preset", WIDTHS), ("loss", get_args(Loss))):
            if getattr(self, name) not in known:
                raise InputError(f"{name}={getattr(self, name)!r}: no such {name}. Pass one of {', '.join(known)}.")
        if self.n_hid == 0:
            object.__setattr__(self, "n_hid", WIDTHS[self.preset])
        for name in ("n_hid", "num_blocks", "latent_channels", "n_init"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"{name}={value!r}: the autoencoder needs a whole number of at least 1 there.")
        if self.n_hid % BOTTLENECK:
            above = self.n_hid + BOTTLENECK - self.n_hid % BOTTLENECK
            raise InputError(f"n_hid={self.n_hid}: must be a multiple of {BOTTLENECK}. Pass {above}.")
        if self.latent_channels > self.width:
            raise InputError(
                f"latent_channels={self.latent_channels}: above the {self.width} channels that the encoder has at "
                f"n_hid={self.n_hid}. Pass {self.width} or less, or a larger n_hid."
            )

    @property
    def width(self) -> int:
        """Channels of the deepest group."""
        return self.n_hid * 2 ** (NUM_GROUPS - 1)

    @property
    def arguments(self) -> dict[str, object]:
        """What decides the network and its training, JSON values: all but the preset, which n_hid repeats."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "preset"}


class Block(nn.Module):
    """out = id(x) + post_gain * res(x), where x is what comes in, upsampled twofold if `upsamples`.

    id is a 1x1 convolution where the channels change, else the identity. res is four times a ReLU and a convolution,
    through a quarter of the channels that come out. A block that upsamples begins with a kernel of 1.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernels: Sequence[int], post_gain: float, *, upsamples: bool = False
    ) -> None:
        super().__init__()
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


class Half(nn.Module):
    """Encoder (RGB in [0, 1] to latents) or decoder (latents to means and log-scales, in logits).

    Convolutions at both ends of groups of blocks, from each of `widths` to the next. The encoder halves the sides
    behind each group but the last, leaving out what lies beyond a multiple of 8; the decoder doubles them.
    """

    def __init__(
        self, channels_in: int, widths: Sequence[int], channels_out: int, num_blocks: int, *, is_decoder: bool
    ) -> None:
        super().__init__()
        kernel, kernels = (1, (1, 3, 3, 3)) if is_decoder else (7, (3, 3, 3, 1))
        post_gain = 1 / (NUM_GROUPS * num_blocks) ** 2
        self.is_decoder = is_decoder
        self.input = nn.Conv2d(channels_in, widths[0], kernel, padding=kernel // 2)
        self.groups = nn.ModuleList()
        for index, (before, after) in enumerate(pairwise(widths)):
            first = Block(before, after, kernels, post_gain, upsamples=is_decoder and index > 0)
            further = (Block(after, after, kernels, post_gain) for _ in range(num_blocks - 1))
            self.groups.append(nn.Sequential(first, *further))
        self.output = nn.Conv2d(widths[-1], channels_out, 1)

    def forward(self, x: Float[Tensor, "batch in h w"]) -> Float[Tensor, "batch out H W"]:
        """Encode: H = floor(h / 8); or decode: H = 8 h."""
        x = self.input(x if self.is_decoder else map_pixels(x))
        for index, group in enumerate(self.groups):
            x = group(x if self.is_decoder or index == 0 else max_pool2d(x, 2))
        return self.output(relu(x))


class Autoencoder(nn.Module):
    """Both halves, with weights of `seed`: N(0, 1 / sqrt(n_in * kernel^2)), biases 0."""

    def __init__(self, config: AutoencoderConfig, seed: int = 0) -> None:
        super().__init__()
        widths, latent = [config.n_hid * 2**group for group in range(NUM_GROUPS)], config.latent_channels
        # A convolution draws weights from the global state as it is made; these are replaced at once.
        with torch.random.fork_rng(devices=[]):
            self.encoder = Half(3, [widths[0], *widths], latent, config.num_blocks, is_decoder=False)
            self.decoder = Half(latent, [config.n_init, *widths[::-1]], 6, config.num_blocks, is_decoder=True)
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5, generator=generator)
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch 6 H W"]:
        """Encode RGB in [0, 1], whose sides must be multiples of 8, and decode."""
        return self.decoder(self.encoder(rgb))


def map_pixels(rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch 3 H W"]:
    """Take [0, 1] to [0.1, 0.9], linearly."""
    return rgb * (1 - 2 * MARGIN) + MARGIN


def picture(output: Float[Tensor, "batch 6 H W"]) -> Float[Tensor, "batch 3 H W"]:
    """Return the picture that the decoder means, float32 RGB in [0, 1]."""
    mapped = torch.sigmoid(output[:, :3].float())
    return ((mapped - MARGIN) / (1 - 2 * MARGIN)).clamp(0, 1)


def reconstruction_loss(
    kind: Loss, output: Float[Tensor, "batch 6 H W"], rgb: Float[Tensor, "batch 3 H W"]
) -> Float[Tensor, ""]:
    """Return the mean loss over pixels and colours of RGB in [0, 1], float32; "logit-laplace": nats.

    "l2": squared error of the picture before it is clamped: a colour beyond black or white still has a gradient.
    """
    mean, log_scale = output.float().chunk(2, dim=1)
    mapped = map_pixels(rgb.float())
    if kind == "l2":
        return mse_loss(torch.sigmoid(mean), mapped) / (1 - 2 * MARGIN) ** 2
    return negative_log_likelihood(mean, log_scale, mapped).mean()


def negative_log_likelihood(mean: Tensor, log_scale: Tensor, mapped: Tensor) -> Tensor:
    """-ln f(x; mu, b) = |logit x - mu| / b + ln(2 b x (1 - x)) of each mapped pixel, in nats.

    mean, log_scale: mu and ln(b - LEAST_SCALE), logits.
    mapped: x, inside (0, 1), of the same shape, which is the result's, too.
    """
    log_b = torch.logaddexp(log_scale, log_scale.new_tensor(math.log(LEAST_SCALE)))
    distance = (torch.logit(mapped) - mean).abs()
    return distance * torch.exp(-log_b) + log_b + torch.log(2 * mapped * (1 - mapped))


def build(config: EncoderConfig, device: torch.device) -> Encoder:
    """Build the encode half, by default with the weights that come with the package.

    A file of weights may hold the whole autoencoder, or the encode half alone, as the registry does. What its
    metadata hold about the network counts; `encoder_args` may only repeat it. For a file without metadata, and for
    random weights, `encoder_args` decide: fields of `AutoencoderConfig`.

    Raises InputError where a setting is given that it does not have, or the weights cannot be had or do not fit.
    """
    given = config.arguments
    size = _config("encoder_args", given)
    source = weights.locate(config, "autoencoder", ("shipped", "random", "auto"))
    architecture = source.metadata.get("architecture", ARCHITECTURE)
    if architecture != ARCHITECTURE:
        raise InputError(
            f"{source.path}: weights of {architecture}, not of an autoencoder. Pass encoder=timm:{architecture}."
        )
    if recorded := source.arguments(ARCHITECTURE):
        requested, size = size, _config(f"{source.path}: config", recorded)
        for name in ("n_hid" if name == "preset" else name for name in given):
            value, own = getattr(requested, name), getattr(size, name)
            if value != own:
                raise InputError(
                    f"encoder_args: {name}={value!r}, but {source.path} holds an autoencoder of {name}={own!r}. "
                    "Leave it out, or pass other weights."
                )
    network = Autoencoder(size, config.seed).encoder
    if source.tensors:
        tensors = {name: tensor for name, tensor in source.tensors.items() if not name.startswith("decoder.")}
        tensors = {name.removeprefix("encoder."): tensor for name, tensor in tensors.items()}
        source.load(network, f"an autoencoder of n_hid={size.n_hid}, num_blocks={size.num_blocks}", tensors)
    return Encoder(
        network,
        name=config.name,
        stride=STRIDE,
        channels=size.latent_channels,
        origin=source.origin(ARCHITECTURE, network, seed=None if source.tensors else config.seed),
        encoder_args=size.arguments,
        mean=config.mean,
        std=config.std,
        arithmetic=config.arithmetic,
    ).to(device)


def _config(where: str, arguments: Mapping[str, Any]) -> AutoencoderConfig:
    """Return the size that arguments come to. where: they stand, for messages."""
    known = [field.name for field in fields(AutoencoderConfig)]
    for name in arguments:
        if name not in known:
            raise InputError(f"{where}: the autoencoder has no {name}. It has {', '.join(known)}.")
    return AutoencoderConfig(**arguments)
