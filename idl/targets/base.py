"""What a target is: a map with truth, the space in which a probe is fitted, and the way back."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor


class Target(ABC):
    """A dense quantity that a probe predicts.

    name: as on the command line and in model names.
    layer: the store's layer that holds its truth, "depth" or "normals".
    unit: unit of the target's own space, "m"; the loss is a squared error there, so in this unit squared.
      "1" where there is none.
    num_outputs: numbers a pixel.

    Laws, tested for every target: decode(encode(v)) is v where defined; what `encode` returns is finite for
    any input, and does not depend on values that are not valid; no image influences another.
    """

    name: str
    layer: str
    unit: str
    num_outputs: int

    @abstractmethod
    def encode(
        self, values: Float[Tensor, "batch *layer"], valid: Bool[Tensor, "batch H W"]
    ) -> tuple[Float[Tensor, "batch out H W"], Bool[Tensor, "batch H W"]]:
        """Bring the store's layer to the target's space.

        values: depth in metres (batch, H, W), or normals (batch, H, W, 3).
        Returns the target in the floating type of `values` (at least float32), finite everywhere and 0 where
        it is not defined, and the pixels where it is defined: a subset of `valid`.
        """

    @abstractmethod
    def decode(self, prediction: Float[Tensor, "batch out H W"]) -> Float[Tensor, "batch out H W"]:
        """Bring a prediction, already at the target's resolution, back to metres (or unit normals).

        Depth may come back zero, negative or infinite: the metrics clamp it to the protocol's range. Infinity
        means farther than anything.
        """
