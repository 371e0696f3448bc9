"""What an encoder is: a frozen network that turns RGB images into one feature map, and where it came from."""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from idl.encoders.exporting import simplify
from idl.errors import InputError

Weights = Literal["none", "imagenet", "shipped", "random", "file", "registry", "custom"]
Arithmetic = Literal["float32", "bfloat16"]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Origin:
    """Where an encoder's weights came from.

    architecture: timm's name, "average_pool", "dvae", or "package.module:factory".
    weights: the kind that was really loaded; never "auto". "shipped": a file that comes with the package.
    weights_digest: `digest_of` the network that computes the features, after layers it does not need are cut.
    task: what the weights were trained for: "none" where nothing was learned, "imagenet", "unknown", or what
      a safetensors file says under the metadata key "task".
    seed: of random weights.
    source: hub repository, path or URI, for people.
    warning: one line that a user must see, or None.
    """

    architecture: str
    weights: Weights
    weights_digest: str
    task: str
    seed: int | None
    source: str
    warning: str | None = None


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder is wanted.

    name: "null", "autoencoder", "convnext", "timm:NAME" or "package.module:factory".
    stage: index into the architecture's feature levels, negative from the end; None: the deepest level whose
      stride is at most 16.
    weights: "auto", "imagenet", "shipped", "random", the path of a file, or "models:/..." of the registry.
    encoder_args: JSON object of arguments for timm's `create_model`, for the factory, or of an
      `AutoencoderConfig`, with "preset" for its width.
    mean, std: of the colour channels of RGB in [0, 1]; None: what the architecture expects.
    stride: side of the squares, in pixels, that "null" averages.
    seed: of random weights.
    arithmetic: "auto" takes bfloat16 where it was measured to be faster.
    registry_file: local file that holds the weights of a "models:/..." URI.
    """

    name: str = "convnext"
    stage: int | None = None
    weights: str = "auto"
    encoder_args: str = "{}"
    mean: Triple | None = None
    std: Triple | None = None
    stride: int = 8
    seed: int = 0
    arithmetic: Literal["auto", "float32", "bfloat16"] = "auto"
    registry_file: Path | None = None


Builder = Callable[[EncoderConfig, torch.device], "Encoder"]


def digest_of(state: Mapping[str, Tensor]) -> str:
    """First 16 hex digits of the SHA-256 over names, dtypes, shapes and bytes of tensors, sorted by name."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]


class Encoder(nn.Module):
    """A frozen network with its normalisation: RGB in [0, 1] in, one float32 feature map out.

    It has no trainable parameter and stays in eval mode, whatever `train` is told. The network must not be
    changed in place, because its digest and its bfloat16 copy are made once: `with_network` swaps it.

    network: (batch, 3, H, W) normalised RGB in, (batch, channels, h, w) out; float32 weights.
    name: as on the command line.
    stage: index of the feature level, None where there is but one.
    stride: H / h, pixels.
    encoder_args: what the network was built with, JSON values.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        stride: int,
        channels: int,
        origin: Origin,
        stage: int | None = None,
        encoder_args: Mapping[str, object] | None = None,
        mean: Triple = (0.0, 0.0, 0.0),
        std: Triple = (1.0, 1.0, 1.0),
        arithmetic: Arithmetic = "float32",
    ) -> None:
        super().__init__()
        self.name = name
        self.stride = stride
        self.channels = channels
        self.origin = origin
        self.stage = stage
        self.encoder_args = dict(encoder_args or {})
        self.normalisation = (mean, std)
        self.arithmetic: Arithmetic = arithmetic
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.requires_grad_(False)
        self.train(False)
        self._lowered = self._lower()

    def forward(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch channels h w"]:
        """Compute the feature map.

        rgb: in [0, 1], any memory format; it is not changed.
        Returns float32 in memory order (batch, h, w, channels), that is, contiguous as channels_last.
        """
        # One pass: (rgb - mean) / std takes two, 0.2 instead of 0.09 ms an image of 256 x 256.
        x = torch.addcmul(-self.mean / self.std, rgb, 1 / self.std)
        x = x.contiguous(memory_format=torch.channels_last)
        features = self._lowered[0](x.to(torch.bfloat16)) if self._lowered else self.network(x)
        return features.float().contiguous(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: batch statistics of a probe's data are none of a frozen encoder's business."""
        return super().train(False)

    @torch.no_grad()
    def require(self, height: int, width: int = 0) -> None:
        """Make sure, before work starts, that images of `height` x `width` pixels give a grid of that stride.

        width: 0: the images are square.

        Raises InputError where the network takes no such images, as vision transformers of a fixed size do,
        or pads them so that its cells are not squares of `stride` pixels side by side.
        """
        width = width or height
        image = torch.zeros(1, 3, height, width, device=self.mean.device)
        size = str(height) if height == width else f"[{height}, {width}]"
        advice = (
            "Pass a resolution that it takes, another encoder, or encoder_args such as "
            f'{{"img_size": {size}}} or {{"dynamic_img_size": true}}.'
        )
        told = f"{height} x {width} pixels"
        try:
            shape = tuple(self(image).shape[1:])
        except (AssertionError, IndexError, ValueError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            message = " ".join(str(error).split())[:200]
            raise InputError(f"encoder={self.name}: fails on {told} ({message}). {advice}") from error
        cells = (height // self.stride, width // self.stride)
        if height % self.stride or width % self.stride or shape != (self.channels, *cells):
            raise InputError(
                f"encoder={self.name}: gives {shape[1]} x {shape[2]} cells for {told}, "
                f"which is not a stride of {self.stride}. {advice}"
            )

    def exportable(self) -> "Encoder":
        """Give a copy on the CPU in float32, as `torch.export` wants it; it computes the same, with other modules."""
        shallow = copy.copy(self)
        shallow.arithmetic = "float32"
        shallow._lowered = ()
        twin = copy.deepcopy(shallow).cpu()
        simplify(twin.network)
        # torch.export's archive takes a channels_last weight for a slice of something larger, and warns.
        twin.network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        return twin

    def with_network(self, network: nn.Module, weights: Weights, task: str, source: str, seed: int) -> "Encoder":
        """Give an encoder that differs in its weights only: for controls that permute or recalibrate them.

        network: same architecture, and not shared with this encoder.
        """
        origin = replace(
            self.origin,
            weights=weights,
            weights_digest=digest_of(network.state_dict()),
            task=task,
            source=source,
            seed=seed,
            warning=None,
        )
        mean, std = self.normalisation
        twin = Encoder(
            network,
            name=self.name,
            stride=self.stride,
            channels=self.channels,
            origin=origin,
            stage=self.stage,
            encoder_args=self.encoder_args,
            mean=mean,
            std=std,
            arithmetic=self.arithmetic,
        )
        return twin.to(self.mean.device)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.mean.device

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of everything that decides the features, arithmetic apart."""
        mean, std = self.normalisation
        decides: dict[str, object] = {
            "architecture": self.origin.architecture,
            "stage": self.stage,
            "encoder_args": self.encoder_args,
            "mean": mean,
            "std": std,
            "weights_digest": self.origin.weights_digest,
        }
        if self.origin.architecture == "average_pool":
            decides["stride"] = self.stride
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self) -> dict[str, object]:
        """Give the run's parameters; those that do not apply are left out."""
        mean, std = self.normalisation
        described: dict[str, object] = {
            "encoder": self.name,
            "architecture": self.origin.architecture,
            "stage": self.stage,
            "stride": self.stride,
            "channels": self.channels,
            "weights": self.origin.weights,
            "weights_digest": self.origin.weights_digest,
            "task": self.origin.task,
            "mean": ",".join(f"{value:g}" for value in mean),
            "std": ",".join(f"{value:g}" for value in std),
            "encoder_args": json.dumps(self.encoder_args, sort_keys=True),
            "seed": self.origin.seed,
        }
        return {key: value for key, value in described.items() if value is not None}

    def _lower(self) -> tuple[nn.Module, ...]:
        # A cast copy beside the float32 weights, which exporting and digests need. In a tuple, so that it is
        # not registered as a submodule. Autocast would cast frozen weights again at every call: arithmetic.py
        # has the figures.
        if self.arithmetic == "float32":
            return ()
        return (copy.deepcopy(self.network).to(torch.bfloat16),)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # All of `.to`, `.cuda` and `.cpu` come through here: the bfloat16 copy follows the weights.
        self._lowered = ()
        super()._apply(fn, recurse)
        self._lowered = self._lower()
        return self
