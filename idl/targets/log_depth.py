"""The natural logarithm of depth: equal ratios weigh alike."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from idl.targets.base import Target


class LogDepth(Target):
    """ln of the depth in metres: 1 m for 2 m costs as much as 4 m for 8 m."""

    name = "log-depth"
    layer = "depth"
    unit = "ln m"
    num_outputs = 1
    kind = "depth"

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
