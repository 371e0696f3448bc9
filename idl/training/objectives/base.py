"""What a network is trained for: the contract of an objective, and what those on a ConvNeXt have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from idl.encoders.base import seeded
from idl.errors import InputError
from idl.report import Image
from idl.training.images import Batch

Forward = Callable[[Tensor], Tensor]


class Objective(ABC):
    """A network, and what it is to become good at.

    task: name of what it is trained for, recorded with the weights. purpose: the same in words, after "dvae, ".
    encoder: name by which the trained weights are probed. architecture: "dvae", or timm's name.
    stride: of its deepest level, pixels; it must divide the sides of images and crops.
    arguments: what the architecture is built with; settings: all that decides the module. JSON values.
    module: RGB in [0, 1] (batch, 3, H, W) to its output; trained in place.
    layers: of the store, all that the loss may see; "rgb" among them.
    depends_on_frame: whether a crop is another task than the whole image, so that crops are validated on, too.
    """

    task: str
    purpose: str
    encoder: str
    architecture: str
    stride: int
    arguments: Mapping[str, object]
    settings: Mapping[str, object]
    module: nn.Module
    layers: tuple[str, ...] = ("rgb",)
    depends_on_frame = False

    def published(self, name: str) -> str:
        """Return the name of one of the module's tensors in a file of weights."""
        return name

    def require(self, side: int) -> None:
        """Raise InputError where the stride does not divide `side`, pixels."""
        if side < self.stride or side % self.stride:
            near = max(self.stride, round(side / self.stride) * self.stride)
            raise InputError(
                f"images of {side} x {side} pixels: sides must be multiples of {self.stride}. Pass {near}."
            )

    def prepared(self, batch: Batch, draw: int) -> Batch:
        """Return the batch as its loss takes it; its "rgb" is what the network sees.

        batch: from `to_network`. draw: a number that whatever is drawn for it depends on, and on nothing else.
        """
        return batch

    @abstractmethod
    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the mean over the batch of what is minimised, a float32 scalar. batch: as `prepared` returns it."""

    @abstractmethod
    def evaluate(self, forward: Forward, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Return metrics of `forward` on validation batches: "loss", and whatever else tells how good it is.

        batches: as `prepared` returns them, alike in every validation.
        """

    @abstractmethod
    def panels(self, forward: Forward, batch: Batch) -> Mapping[str, Image]:
        """Return pictures of what it does on a few images, by key. batch: as `prepared` returns it."""


class OnConvNeXt(Objective):
    """An objective on one of timm's ConvNeXts, whose weights are published under timm's own names.

    layer_scale: at the start; timm's 1e-6 hardly learns in a few thousand steps.
    """

    stride = 32
    layer_scale = 1.0

    def __init__(self, architecture: str, seed: int) -> None:
        import timm

        if architecture not in timm.list_models("convnext*"):
            near = ", ".join(timm.list_models("convnext_*", exclude_filters="*_ols")[:8])
            raise InputError(f"model={architecture}: timm has no such ConvNeXt. Pass one of {near}, ...")
        self.architecture = architecture
        self.encoder = f"timm:{architecture}"
        self.arguments = {"ls_init_value": self.layer_scale}
        self.settings = {"model": architecture, **self.arguments}
        with seeded(seed):
            self.module = self.build()

    @abstractmethod
    def build(self) -> nn.Module:
        """Make the module, its ConvNeXt named "model"; anything else in it is named "head"."""

    def convnext(self, num_classes: int = 0) -> nn.Module:
        """Return the ConvNeXt with random weights."""
        import timm

        return timm.create_model(self.architecture, num_classes=num_classes, **self.arguments)  # pyright: ignore[reportArgumentType]

    def published(self, name: str) -> str:
        """Return timm's own name; what is not timm's stays behind "head.", which a probe passes over."""
        return name.removeprefix("model.")


class Normalised(nn.Module):
    """A timm model behind the normalisation that its card asks for: RGB in [0, 1] in, its output out."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        card: Any = model.pretrained_cfg
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(card[name]).view(1, 3, 1, 1), persistent=False)

    def normalised(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch 3 H W"]:
        """Return what the model takes."""
        return (rgb - self.mean) / self.std

    def forward(self, rgb: Float[Tensor, "batch 3 H W"]) -> Tensor:
        """Compute the model's output."""
        return self.model(self.normalised(rgb))


class Dense(Normalised):
    """A ConvNeXt with a light head that gives numbers at every cell of stride 8.

    The levels of stride 8, 16 and 32 are brought to WIDTH channels each by a matrix, upsampled and summed; a 3 x 3
    convolution and a matrix follow (feature pyramids: Lin et al. 2017).
    """

    LEVELS = (1, 2, 3)
    STRIDE = 8
    WIDTH = 128

    def __init__(self, model: nn.Module, outputs: int) -> None:
        super().__init__(model)
        info: Any = model.feature_info
        # The classifier's norm would get no gradient.
        model.prune_intermediate_layers(self.LEVELS, prune_norm=True)  # pyright: ignore[reportCallIssue]
        self.head = nn.ModuleDict(
            {
                "laterals": nn.ModuleList(nn.Conv2d(info[level]["num_chs"], self.WIDTH, 1) for level in self.LEVELS),
                "norm": nn.GroupNorm(8, self.WIDTH),
                "mix": nn.Conv2d(self.WIDTH, self.WIDTH, 3, padding=1),
                "output": nn.Conv2d(self.WIDTH, outputs, 1),
            }
        )

    def forward(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch outputs H/8 W/8"]:
        """Compute the head's numbers."""
        levels: list[Tensor] = self.model.forward_intermediates(  # pyright: ignore[reportCallIssue]
            self.normalised(rgb), indices=self.LEVELS, intermediates_only=True
        )
        head: Any = self.head
        maps = [lateral(level) for lateral, level in zip(head.laterals, levels, strict=True)]
        size = maps[0].shape[2:]
        total = sum((interpolate(each, size, mode="bilinear") for each in maps[1:]), maps[0])
        return head.output(gelu(head.mix(gelu(head.norm(total)))))


def bytes_of(rgb: Float[Tensor, "batch 3 H W"]) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Return RGB in [0, 1] as pictures of bytes."""
    images = (rgb * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [np.ascontiguousarray(image) for image in images]
