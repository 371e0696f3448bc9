"""The targets that read depth: in metres, as a logarithm, and inverted."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from idl.targets.base import Target


class Depth(Target):
    """Metres along the optical axis: a squared error weighs far and near alike, in metres."""

    name, layer, unit, num_outputs, kind = "depth", "depth", "m", 1, "depth"

    def encode(
        self, values: Float[Tensor, "batch H W"], valid: Bool[Tensor, "batch H W"]
    ) -> tuple[Float[Tensor, "batch 1 H W"], Bool[Tensor, "batch H W"]]:
        """Keep metres; defined where `valid` and the depth is positive and finite."""
        defined = valid & (values > 0) & (values < torch.inf)
        return torch.where(defined, values, 0.0).unsqueeze(1), defined

    def decode(self, prediction: Float[Tensor, "batch 1 H W"]) -> Float[Tensor, "batch 1 H W"]:
        """Return the prediction itself, in metres; a linear probe may go below zero."""
        return prediction


class LogDepth(Target):
    """ln of the depth in metres: equal ratios weigh alike, 1 m for 2 m costs as much as 4 m for 8 m."""

    name, layer, unit, num_outputs, kind = "log-depth", "depth", "ln m", 1, "depth"

    def encode(
        self, values: Float[Tensor, "batch H W"], valid: Bool[Tensor, "batch H W"]
    ) -> tuple[Float[Tensor, "batch 1 H W"], Bool[Tensor, "batch H W"]]:
        """Take ln of metres; defined where `valid` and the depth is positive and finite."""
        defined = valid & (values > 0) & (values < torch.inf)
        # 1 where undefined: its logarithm is the 0 that the contract asks for, and no infinity ever arises.
        return torch.where(defined, values, 1.0).log().unsqueeze(1), defined

    def decode(self, prediction: Float[Tensor, "batch 1 H W"]) -> Float[Tensor, "batch 1 H W"]:
        """Return exp of the prediction, in metres; it overflows to infinity above ln m = 88 in float32."""
        return prediction.exp()


class InverseDepth(Target):
    """1 / depth in 1/metres, as a stereo camera measures it: zero is infinitely far, near pixels weigh most."""

    name, layer, unit, num_outputs, kind = "inverse-depth", "depth", "1/m", 1, "depth"

    def encode(
        self, values: Float[Tensor, "batch H W"], valid: Bool[Tensor, "batch H W"]
    ) -> tuple[Float[Tensor, "batch 1 H W"], Bool[Tensor, "batch H W"]]:
        """Take 1 / metres; defined where `valid`, and the depth and its inverse are positive and finite."""
        # In float32 the inverse of a depth below 2.9e-39 m overflows; such a pixel is no measurement.
        inverse = 1.0 / torch.where(valid, values, torch.inf)
        defined = (inverse > 0) & (inverse < torch.inf)
        return torch.where(defined, inverse, 0.0).unsqueeze(1), defined

    def decode(self, prediction: Float[Tensor, "batch 1 H W"]) -> Float[Tensor, "batch 1 H W"]:
        """Return 1 / prediction in metres, and infinity where the prediction is not positive.

        1/p of a slightly negative p is a large negative depth, which a clamp would turn into the nearest one;
        the prediction, however, went past zero, that is, past infinitely far.
        """
        return torch.where(prediction > 0, 1.0 / prediction, torch.inf)
