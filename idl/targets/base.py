"""What a target is, and those of every dataset's own truth: depth in metres, as a logarithm, and inverted; normals."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Kind = Literal["depth", "normals", "field"]


class Target(ABC):
    """A dense quantity that a probe predicts: a map with truth, the space in which it is fitted, and the way back.

    name: as on the command line and in model names.
    layer: the store's layer that holds its truth: "depth", "normals", or any other that the dataset has.
    unit: unit of the target's own space, "m"; the loss is in this unit squared. "1" where there is none.
    num_outputs: numbers a pixel.
    kind: how it is measured and shown. "depth": in metres, which `decode` gives, against the layer. "normals": by
      angles between what `decode` gives and the truth. "field": any other, in its own unit.
    identity: of a target from outside, set by `idl.targets.custom`, so that two of one name share nothing.

    Laws, tested for every target: decode(encode(v)) is v where defined (of a field: encode(v)); what `encode`
    returns is finite for any input, and does not depend on values that are not valid; no image influences another.
    """

    name: str
    layer: str
    unit: str
    num_outputs: int
    kind: Kind
    identity: str = ""

    @abstractmethod
    def encode(
        self, values: Float[Tensor, "  batch *layer"], valid: Bool[Tensor, "batch H W"]
    ) -> tuple[Float[Tensor, "batch out H W"], Bool[Tensor, "batch H W"]]:
        """Bring the store's layer to the target's space.

        values: the layer in float32: depth in metres (batch, H, W), normals (batch, H, W, 3), labels as whole
          numbers (batch, H, W).
        Returns the target in the floating type of `values` (at least float32), finite everywhere and 0 where
        it is not defined, and the pixels where it is defined: a subset of `valid`.
        """

    @abstractmethod
    def decode(self, prediction: Float[Tensor, "batch out H W"]) -> Float[Tensor, "batch out H W"]:
        """Bring a prediction, already at the target's resolution, to what is measured and what a model returns.

        Of a depth, metres: zero, negative or infinite ones too, for the metrics clamp them to the protocol's range,
        and infinity means farther than anything. Of normals, unit normals. Of a field, its own unit still: the
        prediction itself, or its nearest value that can occur.
        """

    @property
    def key(self) -> str:
        """Name of what is kept of this target, in file names."""
        return f"{self.name}-{self.identity}" if self.identity else self.name


class Depth(Target):
    """Metres along the optical axis: a squared error weighs far and near alike, in metres."""

    name, layer, unit, num_outputs, kind = "depth", "depth", "m", 1, "depth"

    def encode(
        self, values: Float[Tensor, "batch H W"], valid: Bool[Tensor, "batch H W"]
    ) -> tuple[Float[Tensor, "batch 1 H W"], Bool[Tensor, "batch H W"]]:
        """Bring metres to the target's space; defined where `valid`, and both there and here positive and finite."""
        defined = valid & (values > 0) & (values < torch.inf)
        # 1 m where undefined, so that no infinity ever arises.
        encoded = self._of_metres(torch.where(defined, values, 1.0))
        # In float32 the inverse of a depth below 2.9e-39 m overflows; such a pixel is no measurement.
        defined &= encoded.isfinite()
        return torch.where(defined, encoded, 0.0).unsqueeze(1), defined

    def decode(self, prediction: Float[Tensor, "batch 1 H W"]) -> Float[Tensor, "batch 1 H W"]:
        """Return the prediction itself, in metres; a linear probe may go below zero."""
        return prediction

    def _of_metres(self, depth_m: Tensor) -> Tensor:
        return depth_m


class LogDepth(Depth):
    """ln of the depth in metres: equal ratios weigh alike, 1 m for 2 m costs as much as 4 m for 8 m."""

    name, unit = "log-depth", "ln m"

    def decode(self, prediction: Float[Tensor, "batch 1 H W"]) -> Float[Tensor, "batch 1 H W"]:
        """Return exp of the prediction, in metres; it overflows to infinity above ln m = 88 in float32."""
        return prediction.exp()

    def _of_metres(self, depth_m: Tensor) -> Tensor:
        return depth_m.log()


class InverseDepth(Depth):
    """1 / depth in 1/metres, as a stereo camera measures it: zero is infinitely far, near pixels weigh most."""

    name, unit = "inverse-depth", "1/m"

    def decode(self, prediction: Float[Tensor, "batch 1 H W"]) -> Float[Tensor, "batch 1 H W"]:
        """Return 1 / prediction in metres, and infinity where the prediction is not positive.

        1/p of a slightly negative p is a large negative depth, which a clamp would turn into the nearest one;
        the prediction, however, went past zero, that is, past infinitely far.
        """
        return torch.where(prediction > 0, 1.0 / prediction, torch.inf)

    def _of_metres(self, depth_m: Tensor) -> Tensor:
        return 1.0 / depth_m


class Normals(Target):
    """Unit normals in camera coordinates: x right, y down, z forward, so that a facing surface has z < 0.

    The loss is the squared distance between the three outputs and the unit normal; it has no unit.
    """

    name, layer, unit, num_outputs, kind = "normals", "normals", "1", 3, "normals"

    def encode(
        self, values: Float[Tensor, "batch H W 3"], valid: Bool[Tensor, "batch H W"]
    ) -> tuple[Float[Tensor, "batch 3 H W"], Bool[Tensor, "batch H W"]]:
        """Bring the store's normals to unit length; defined where `valid` and the length is not zero."""
        # The store keeps float16: a stored unit vector is off by up to 4e-4 in length.
        vectors = values.movedim(-1, 1).to(torch.promote_types(values.dtype, torch.float32))
        length = vectors.square().sum(dim=1).sqrt()  # norm(dim=1) takes a hundred times as long
        defined = valid & (length > 0) & (length < torch.inf)
        return torch.where(defined.unsqueeze(1), vectors / length.unsqueeze(1), 0.0), defined

    def decode(self, prediction: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch 3 H W"]:
        """Return the prediction at unit length; a zero vector, which has no direction, stays zero."""
        length = prediction.square().sum(dim=1, keepdim=True).sqrt()
        return torch.where(length > 0, prediction / length, 0.0)
