"""Surface normals: a direction a pixel."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from idl.targets.base import Target


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
