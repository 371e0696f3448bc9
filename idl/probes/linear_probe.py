"""The fitted probe, and the whole model: frozen encoder, probe, depth map."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch.nn.functional as F
from jaxtyping import Float, Float32
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from idl.errors import InputError


@dataclass(frozen=True)
class ProbeCard:
    """What a probe was fitted on and for; travels in the safetensors header.

    k: components read. penalty: in units of the mean square of a column.
    resolution, width: height and width of the images it was fitted on, pixels; a width of 0: they were square, as those
      of probes that do not say it.
    target_factory, target_identity: of a target from outside, "package.module:factory", and what sets it apart from
      others of its name.
    """

    target: str
    unit: str
    k: int
    penalty: float
    encoder: str
    encoder_digest: str
    dataset: str
    dataset_digest: str
    protocol_digest: str
    resolution: int
    width: int = 0
    target_factory: str = ""
    target_identity: str = ""


_TENSORS = ("mean", "projection", "weight", "bias")


class LinearProbe(nn.Module):
    """k components of a feature map in, one number (three for normals) a cell out, upsampled bilinearly."""

    mean: Tensor
    projection: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        mean: Float32[Tensor, " channels"],
        projection: Float32[Tensor, "channels k"],
        weight: Float32[Tensor, "out k"],
        bias: Float32[Tensor, " out"],
        card: ProbeCard,
    ) -> None:
        super().__init__()
        for name, tensor in zip(_TENSORS, (mean, projection, weight, bias), strict=True):
            self.register_buffer(name, tensor.detach().clone().contiguous())
        self.card = card

    def forward(self, features: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch out h w"]:
        """Predict on the encoder's grid, in the target's own space."""
        # Two steps rather than one folded matrix: components with a variance of 1e-9 would cancel in float32.
        components = (features.permute(0, 2, 3, 1) - self.mean) @ self.projection
        return (components @ self.weight.T + self.bias).permute(0, 3, 1, 2)

    def predict(
        self, features: Float[Tensor, "batch channels h w"], size: tuple[int, int]
    ) -> Float[Tensor, "batch out H W"]:
        """Predict at `size` pixels, in the target's own space."""
        return F.interpolate(self(features), size=size, mode="bilinear", align_corners=False)

    def to_bytes(self) -> bytes:
        """As safetensors, the card in the header."""
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return save(tensors, metadata={"idl.probe": json.dumps(vars(self.card), sort_keys=True)})

    @classmethod
    def load(cls, path: str) -> Self:
        """Read what `to_bytes` wrote. Raises InputError where the file is not such a probe."""
        try:
            with safe_open(path, framework="pt") as file:
                card = ProbeCard(**json.loads((file.metadata() or {})["idl.probe"]))
                return cls(**{name: file.get_tensor(name) for name in _TENSORS}, card=card)
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            problem = "no such file" if isinstance(error, FileNotFoundError) else "not a probe of this project"
            raise InputError(f"{path}: {problem}. Pass the probe.safetensors of a run.") from error


class DepthModel(nn.Module):
    """RGB in [0, 1] in, the target out: metres (or unit normals) at the image's own size.

    decode: brings the target's space to metres; the result is clamped to `range_m`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        probe: LinearProbe,
        decode: Callable[[Tensor], Tensor],
        range_m: tuple[float, float] | None,
    ) -> None:
        super().__init__()
        self.encoder, self.probe = encoder, probe
        self.decode, self.range_m = decode, range_m

    def forward(self, rgb: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch out H W"]:
        """Predict for images of any size that the encoder takes."""
        prediction = self.decode(self.probe.predict(self.encoder(rgb), (rgb.shape[2], rgb.shape[3])))
        return prediction if self.range_m is None else prediction.clamp(*self.range_m)
