"""Inverse depth: what a stereo camera measures, and what weighs near pixels most."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from idl.targets.base import Target


class InverseDepth(Target):
    """1 / depth in 1/metres: zero is infinitely far."""

    name = "inverse-depth"
    layer = "depth"
    unit = "1/m"
    num_outputs = 1
    kind = "depth"

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
