"""Depth in metres, as measured."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from idl.targets.base import Target


class Depth(Target):
    """Metres along the optical axis: a squared error weighs far and near alike, in metres."""

    name = "depth"
    layer = "depth"
    unit = "m"
    num_outputs = 1
    kind = "depth"

    def encode(
        self, values: Float[Tensor, "batch H W"], valid: Bool[Tensor, "batch H W"]
    ) -> tuple[Float[Tensor, "batch 1 H W"], Bool[Tensor, "batch H W"]]:
        """Keep metres; defined where `valid` and the depth is positive and finite."""
        defined = valid & (values > 0) & (values < torch.inf)
        return torch.where(defined, values, 0.0).unsqueeze(1), defined

    def decode(self, prediction: Float[Tensor, "batch 1 H W"]) -> Float[Tensor, "batch 1 H W"]:
        """Return the prediction itself, in metres; a linear probe may go below zero."""
        return prediction
