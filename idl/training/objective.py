"""What a training needs to know of that which is trained."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from torch import Tensor, nn

from idl.report import Image
from idl.training.images import Batch

Forward = Callable[[Tensor], Tensor]


class Objective(Protocol):
    """A network, and what it is to become good at."""

    @property
    def task(self) -> str:
        """The second parameter of the framework: "reconstruction". Recorded with the weights."""
        ...

    @property
    def purpose(self) -> str:
        """The task in words, after "dvae, "."""
        ...

    @property
    def encoder(self) -> str:
        """Name by which the trained weights are probed: "autoencoder"."""
        ...

    @property
    def architecture(self) -> str:
        """ "dvae", or timm's name."""
        ...

    @property
    def arguments(self) -> Mapping[str, object]:
        """The architecture's, JSON values."""
        ...

    @property
    def module(self) -> nn.Module:
        """RGB in [0, 1] (batch, 3, H, W) to its output; trained in place."""
        ...

    @property
    def layers(self) -> tuple[str, ...]:
        """Of the store, all that the loss may see; "rgb" among them."""
        ...

    @property
    def settings(self) -> Mapping[str, object]:
        """What decides the module, JSON values: a training is resumed under the same ones only."""
        ...

    @property
    def depends_on_frame(self) -> bool:
        """Whether a crop is another task than the whole image, so that looks see crops as the steps do."""
        ...

    def published(self, name: str) -> str:
        """Return the name of one of the module's tensors in a file of weights."""
        ...

    def require(self, side: int) -> None:
        """Raise InputError where the network takes no images of `side` pixels square."""
        ...

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean over the batch of what is minimised, a float32 scalar. batch: from `to_network`."""
        ...

    def evaluate(self, forward: Forward, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Measure `forward` on validation batches: "loss", and whatever else tells how good it is, by name."""
        ...

    def panels(self, forward: Forward, batch: Batch) -> Mapping[str, Image]:
        """Show what it does on a few images, by key."""
        ...
