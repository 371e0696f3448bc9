"""What a target is: a map with truth, the space in which a probe is fitted, and the way back."""

from abc import ABC, abstractmethod
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

Kind = Literal["depth", "normals", "field"]


class Target(ABC):
    """A dense quantity that a probe predicts.

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
