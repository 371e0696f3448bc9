"""What an encoder is: a frozen network that turns RGB images into one feature map, and where it came from."""

import copy
import hashlib
import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from idl.encoders.folding import folded
from idl.errors import InputError
from idl.plugins import reason
from idl.settings import setting

Weights = Literal["none", "imagenet", "shipped", "random", "file", "registry", "custom"]
Arithmetic = Literal["float32", "bfloat16"]
Triple = tuple[float, float, float]
Size = tuple[int, int]


@dataclass(frozen=True)
class Origin:
    """Where an encoder's weights came from.

    architecture: timm's name, "average_pool", "dvae", or "package.module:factory".
    weights_digest: `digest_of` the network that computes the features, after layers it does not need are cut.
    task: what they were trained for: "none" where nothing was learned, "unknown", or what a file's metadata record.
    seed: of random weights. source: hub repository, path or URI, for people. warning: one line that a user must see.
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
    """Which encoder to build. Raises InputError where arguments, mean or std cannot be.

    stage: counted from the end where negative. registry_file: local file of a "models:/..." URI's weights.
    size: of the short side, pixels; None: what `idl.encoders.sizes` finds.
    """

    name: str = setting(
        "convnext", "null, autoencoder, convnext, timm:NAME, or package.module:factory.", option="encoder"
    )
    stage: int | None = setting(None, "Feature level of the network; auto: the deepest with a stride of at most 16.")
    weights: str = setting("auto", "auto, imagenet, shipped, shipped:TASK, random, a file, or models:/NAME/VERSION.")
    encoder_args: str = setting(
        "{}", "JSON object for timm's create_model, the factory, or the autoencoder (preset, n_hid, ...)."
    )
    mean: Triple | None = setting(None, "Colour means R,G,B of the network's input in [0, 1]; auto: the model's own.")
    std: Triple | None = setting(None, "Standard deviations R,G,B of the network's input; auto: the model's own.")
    size: int | None = setting(
        None,
        "Short side that images are resized to for the encoder, pixels; auto: their own, else the nearest it takes.",
        option="encoder_size",
        at_least=1,
    )
    stride: int = setting(8, "Side of the squares that the null encoder averages, pixels.", at_least=1)
    seed: int = setting(0, "Seed of random weights.", at_least=0)
    arithmetic: Arithmetic = setting(
        "float32", "Arithmetic of the encoder; bfloat16 is faster on some processors, and moves losses by about 2 %."
    )
    registry_file: Path | None = None

    def __post_init__(self) -> None:
        _ = self.arguments
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and not (len(values) == 3 and all(map(math.isfinite, values))):
                raise InputError(f"{name}={values}: not three finite numbers. Pass one a colour, for RGB in [0, 1].")
        if self.std is not None and min(self.std) <= 0:
            raise InputError(f"std={self.std}: a standard deviation must be above 0. Pass e.g. 0.5,0.5,0.5.")

    @property
    def arguments(self) -> dict[str, Any]:
        """`encoder_args`, read."""
        try:
            return dict(json.loads(self.encoder_args))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"encoder_args={self.encoder_args}: not a JSON object. Pass e.g. '{{\"output_stride\": 8}}'."
            ) from error


Builder = Callable[[EncoderConfig, torch.device], "Encoder"]


def digest_of(state: Mapping[str, Tensor]) -> str:
    """First 16 hex digits of the SHA-256 over names, dtypes, shapes and bytes of tensors, sorted by name."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` inside the block, and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        # The CPU generator alone: torch.manual_seed would seed those of the GPUs too, which are not forked.
        torch.default_generator.manual_seed(seed)
        yield


class Encoder(nn.Module):
    """A frozen network with its normalisation: RGB in [0, 1] in, one float32 feature map out.

    It has no trainable parameter and stays in eval mode. The network must not be changed in place, because its digest
    and the copy that is run are made once: `with_network` swaps it.

    network: (batch, 3, H, W) normalised RGB in, (batch, channels, h, w) out; float32 weights.
    name: as on the command line. stage: index of the feature level, None where there is but one.
    stride: H / h, pixels. encoder_args: what the network was built with, JSON values.
    made_for: (height, width) that the network says that it takes, None if nothing.
    size: that every image is resized to, bilinearly with antialias; None: the network takes any. image_size: of the
      images that it was sized for. Both are set by `sized`.
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
        mean: Triple | None = None,
        std: Triple | None = None,
        arithmetic: Arithmetic = "float32",
        made_for: Size | None = None,
    ) -> None:
        super().__init__()
        self.name, self.origin, self.stage = name, origin, stage
        self.stride, self.channels, self.made_for = stride, channels, made_for
        self.size: Size | None = None
        self.image_size: Size | None = None
        self.encoder_args = dict(encoder_args or {})
        self.normalisation: tuple[Triple, Triple] = (mean or (0.0, 0.0, 0.0), std or (1.0, 1.0, 1.0))
        self.arithmetic: Arithmetic = arithmetic
        for buffer, values in zip(("mean", "std"), self.normalisation, strict=True):
            self.register_buffer(buffer, torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1))
        self._set(network)

    def _set(self, network: nn.Module) -> None:
        self.network = network
        for tensor in (*network.parameters(), *network.buffers()):
            # `Module.to` would refuse the kernels of a Conv3d.
            if tensor.ndim == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        self.requires_grad_(False)
        self.train(False)
        self._fast: tuple[nn.Module, ...] = ()

    def forward(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch channels h w"]:
        """Compute the feature map.

        rgb: in [0, 1], any memory format; it is not changed.
        Returns float32 in memory order (batch, h, w, channels), that is, contiguous as channels_last.
        """
        x, network = self.prepared(rgb), self.network
        if not torch.compiler.is_exporting():
            # A copy beside the weights, which exporting and digests need; in a tuple, so that it is no submodule.
            self._fast = self._fast or (self._made_fast(x),)
            (network,) = self._fast
        if self.arithmetic == "bfloat16":
            x = x.to(torch.bfloat16)
        return network(x).float().contiguous(memory_format=torch.channels_last)

    def _made_fast(self, x: Float[Tensor, "batch 3 height width"]) -> nn.Module:
        """Return what is run in the network's place, for images such as `x`."""
        network = folded(self.network, x)
        # Autocast would cast frozen weights again at every call.
        return copy.deepcopy(network).to(torch.bfloat16) if self.arithmetic == "bfloat16" else network

    def resized(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch 3 height width"]:
        """Return the image at the size that the network is fed."""
        # An exported program takes images of any size, and must not be tied to that of its example.
        if self.size is None or (tuple(rgb.shape[2:]) == self.size and not torch.compiler.is_exporting()):
            return rgb
        return F.interpolate(rgb, size=self.size, mode="bilinear", antialias=True)

    def prepared(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch 3 height width"]:
        """Return what the network is fed: resized and normalised."""
        # One pass: (rgb - mean) / std takes two, 0.2 instead of 0.09 ms an image of 256 x 256.
        x = torch.addcmul(-self.mean / self.std, self.resized(rgb), 1 / self.std)
        return x.contiguous(memory_format=torch.channels_last)

    def grid(self, height: int, width: int) -> Size:
        """Return how many cells it gives, down and across, for images of `height` x `width` pixels."""
        height, width = self.size or (height, width)
        return height // self.stride, width // self.stride

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: batch statistics of a probe's data are none of a frozen encoder's business."""
        return super().train(False)

    @torch.no_grad()
    def fault(self, height: int, width: int) -> str:
        """Return why images of `height` x `width` pixels give no grid of its stride; "" where they do."""
        fed = self.size or (height, width)
        try:
            shape = tuple(self(torch.zeros(1, 3, height, width, device=self.device)).shape[1:])
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # each network checks its input in its own way
            return f"fails on {fed[0]} x {fed[1]} pixels ({reason(error)})"
        if any(side % self.stride for side in fed) or shape != (self.channels, *self.grid(height, width)):
            cells = " x ".join(map(str, shape[1:]))
            return f"gives {cells} cells for {fed[0]} x {fed[1]} pixels, which is not a stride of {self.stride}"
        return ""

    def require(self, height: int, width: int = 0) -> None:
        """Raise InputError where images of `height` x `width` pixels (0: square) give no grid of its stride."""
        if fault := self.fault(height, width or height):
            raise InputError(f"encoder={self.name}: {fault}. Pass an encoder_size that it takes.")

    def sized(self, size: Size | None, image_size: Size | None) -> "Encoder":
        """Return this encoder with images of `image_size` resized to `size`; None: as they are. Weights are shared."""
        twin = copy.copy(self)
        twin.size, twin.image_size = size, image_size
        return twin

    def named(self, name: str) -> "Encoder":
        """Return this encoder under another name. Weights are shared."""
        twin = copy.copy(self)
        twin.name = name
        return twin

    def exportable(self) -> "Encoder":
        """Return a copy on the CPU in float32 for `torch.export`; it computes the same, with other modules."""
        twin = copy.deepcopy(self, {id(self._fast): ()}).cpu()
        twin.arithmetic = "float32"
        simplify(twin.network)
        # torch.export's archive takes a channels_last weight for a slice of something larger, and warns.
        twin.network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        return twin

    def with_network(self, network: nn.Module, weights: Weights, task: str, source: str, seed: int) -> "Encoder":
        """Return an encoder that differs in its weights only: for controls that permute or recalibrate them.

        network: same architecture, and not shared with this encoder.
        """
        twin = copy.deepcopy(self, {id(self.network): network, id(self._fast): ()})
        twin._set(network)
        digest = digest_of(network.state_dict())
        twin.origin = Origin(self.origin.architecture, weights, digest, task, seed, source)
        return twin.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.mean.device

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of everything that decides the features, arithmetic apart."""
        origin, (mean, std) = self.origin, self.normalisation
        decides: dict[str, object] = {"architecture": origin.architecture, "weights_digest": origin.weights_digest}
        decides |= {"stage": self.stage, "encoder_args": self.encoder_args, "mean": mean, "std": std}
        if self.origin.architecture == "average_pool":
            decides["stride"] = self.stride
        if self.size != self.image_size and self.size is not None:
            decides["encoder_size"] = self.size
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self) -> dict[str, object]:
        """Return the run's parameters; those that do not apply are left out."""
        mean, std = (",".join(f"{value:g}" for value in values) for values in self.normalisation)
        described: dict[str, object] = {
            "encoder": self.name,
            "architecture": self.origin.architecture,
            "stage": self.stage,
            "stride": self.stride,
            "channels": self.channels,
            "encoder_size": self.size and " x ".join(map(str, self.size)),
            "weights": self.origin.weights,
            "weights_digest": self.origin.weights_digest,
            "task": self.origin.task,
            "mean": mean,
            "std": std,
            "encoder_args": json.dumps(self.encoder_args, sort_keys=True),
            "seed": self.origin.seed,
        }
        return {key: value for key, value in described.items() if value is not None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # All of `.to`, `.cuda` and `.cpu` come through here: the copy that is run is made anew of the weights.
        self._fast = ()
        return super()._apply(fn, recurse)


@torch.no_grad()
def open_layer_scales(network: nn.Module) -> None:
    """Set layer scales to 1, in place.

    Where they start near zero (timm's ConvNeXt: 1e-6), a random network's blocks are the identity: as a control it
    would be a straw man.
    """
    for name, parameter in network.named_parameters():
        # As ConvNeXt, LayerScale, CaiT and BEiT are written in timm, and ConvNeXt in torchvision.
        if re.search(r"(^|\.)(gamma(_\d)?|layer_scale)$", name):
            parameter.fill_(1.0)


class SameConvolution(nn.Module):
    """TensorFlow's SAME convolution, of the sums and layout of timm's `Conv2dSame`, in terms that stay short.

    A side of n cells becomes ceil(n / stride) = (n - 1) // stride + 1 cells; the padding is kernel - 1 - (n - 1) mod
    stride, its smaller half in front. timm's maximum and ceiling nest from layer to layer when n is a symbol:
    mobilenetv2_100 took 89 s to export. Padding enough behind, and keeping the cells that count, it takes 6 s.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Float[Tensor, "batch in H W"]) -> Float[Tensor, "batch out h w"]:
        """Convolve."""
        conv = self.convolution
        height, width = x.shape[2:]
        (tall, wide), (down, right) = _extent(conv), conv.stride
        above, before = (tall - 1 - (height - 1) % down) // 2, (wide - 1 - (width - 1) % right) // 2
        padded = F.pad(x, (before, wide - 1, above, tall - 1))
        y = F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
        return y.narrow(2, 0, (height - 1) // down + 1).narrow(3, 0, (width - 1) // right + 1)


def simplify(network: nn.Module) -> None:
    """Replace, in place, the layers inside `network` that `torch.export` takes long over."""
    from timm.layers.conv2d_same import Conv2dSame  # here, because timm takes 3.7 s to import

    for name, child in network.named_children():
        if not (isinstance(child, nn.Conv2d) and isinstance(child, Conv2dSame)):
            simplify(child)
        # Where a kernel is smaller than its stride, the padding could be negative.
        elif all(map(operator.ge, _extent(child), child.stride)):
            setattr(network, name, SameConvolution(child))


def _extent(convolution: nn.Conv2d) -> tuple[int, int]:
    """Cells that a kernel spans, dilation included."""
    (tall, wide), (dilated_y, dilated_x) = convolution.kernel_size, convolution.dilation
    return (tall - 1) * dilated_y + 1, (wide - 1) * dilated_x + 1
