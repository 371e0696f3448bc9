"""What single images say of every linear probe: minibatches, their exact full-resolution loss and its gradient.

Image i is (G_i, b_i, c_i, n_i): its squared error under weights w is w'G_i w - 2 b_i'w + c_i over n_i valid pixels.
A minibatch is the sum over its images B, so that its mean squared error over pixels and outputs, and the gradient of
that, cost no pixel and no feature map:

    loss = (w'G_B w - 2 b_B'w + c_B) / (n_B out),   gradient = 2 (G_B w - b_B) / (n_B out)

Two forms hold it: `ImageGrams` the matrices themselves, `ImageMaps` what they are made of. Both stand behind
`ImageStatistics`; `StreamedStatistics` reads either from elsewhere, some images at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from idl.probes.statistics import Statistics


class Minibatch(ABC):
    """The mean squared error of some images, over their valid pixels and the outputs.

    weights: a row is one output of one probe, its bias first; row t * out + o is output o of probe t. An image
    without a valid pixel counts for nothing; a minibatch of such images has loss and gradient 0.
    """

    @abstractmethod
    def gradient(
        self, weights: Float[Tensor, "probes*out columns"], *, out: Float[Tensor, "probes*out columns"]
    ) -> Float[Tensor, "probes*out columns"]:
        """Gradient of every probe's own loss, written to `out` and returned."""

    @abstractmethod
    def loss(self, weights: Float[Tensor, "probes*out columns"]) -> Float[Tensor, " probes"]:
        """Mean squared error of every probe, target units squared."""

    @abstractmethod
    def num_multiplications(self, num_rows: int) -> int:
        """Multiplications of the matrix products of `gradient`, for `num_rows` rows of weights."""


class ImageStatistics(ABC):
    """Images one by one, on the columns [bias | leading components].

    Laws, tested for both forms: `total` is what `Statistics` accumulates from the same images; loss and gradient of
    a minibatch are those of automatic differentiation through bilinear upsampling; `leading` is the statistics of
    those columns alone, `standardised` of that target; nothing depends on the order of images within a minibatch.
    """

    @property
    @abstractmethod
    def num_images(self) -> int:
        """Images held, those without a valid pixel counted."""

    @property
    @abstractmethod
    def num_columns(self) -> int:
        """The bias and the components."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Numbers that a pixel's target has."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where minibatches are made."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of losses and gradients."""

    @abstractmethod
    def total(self) -> Statistics:
        """Sum over all images, in float64 on the CPU."""

    @abstractmethod
    def leading(self, k: int) -> Self:
        """Keep the bias and the first `k` components."""

    @abstractmethod
    def standardised(self, mean: Float[Tensor, " out"], spread: Float[Tensor, " out"]) -> Self:
        """Statistics of the target (y - mean) / spread. The first column must be the bias."""

    @abstractmethod
    def minibatches(self, order: Int[Tensor, " images"], batch_size: int) -> Iterator[Minibatch]:
        """Yield minibatches of `batch_size` images in `order`, the last one of those that are left.

        order: positions, on the CPU. Nothing waits for the device.
        """


@dataclass(frozen=True)
class HeldStatistics(ImageStatistics):
    """Images held in memory: tensors whose first dimension is the image.

    num_valid: pixels, in the floating type of the others.
    """

    energy: Float[Tensor, "images out"]
    num_valid: Float[Tensor, " images"]

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Join the images of all parts, in order."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @property
    def num_bytes(self) -> int:
        """Bytes of all images."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    @property
    def num_images(self) -> int:
        """Images held, those without a valid pixel counted."""
        return len(self.num_valid)

    @property
    def num_outputs(self) -> int:
        """Numbers that a pixel's target has."""
        return self.energy.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.energy.device

    @property
    def dtype(self) -> torch.dtype:
        """Of losses and gradients."""
        return self.energy.dtype

    def to(self, device: torch.device) -> Self:
        """Return the statistics with their tensors on `device`."""
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))

    def select(self, positions: Int[Tensor, " chosen"]) -> Self:
        """Statistics of some of the images, in that order."""
        return type(self)(*(getattr(self, field.name)[positions] for field in fields(self)))


class StreamedStatistics(ImageStatistics):
    """Images that are read again in every epoch, because memory does not hold them.

    read: positions to their images, in that order, on the device where minibatches are to be made.
    images_at_once: how many images memory holds; at least one minibatch is read at a time.
    """

    def __init__(
        self,
        read: Callable[[Int[Tensor, " images"]], ImageStatistics],
        num_images: int,
        images_at_once: int,
    ) -> None:
        self._read = read
        self._num_images = num_images
        self._images_at_once = images_at_once
        # What one image says of sizes, types and places holds for all.
        self._first = read(torch.arange(1))

    @property
    def num_images(self) -> int:
        """Images that can be read."""
        return self._num_images

    @property
    def num_columns(self) -> int:
        """The bias and the components."""
        return self._first.num_columns

    @property
    def num_outputs(self) -> int:
        """Numbers that a pixel's target has."""
        return self._first.num_outputs

    @property
    def device(self) -> torch.device:
        """Where minibatches are made."""
        return self._first.device

    @property
    def dtype(self) -> torch.dtype:
        """Of losses and gradients."""
        return self._first.dtype

    def total(self) -> Statistics:
        """Sum over all images: reads every one."""
        statistics = Statistics.empty(self.num_columns, self.num_outputs)
        for positions in torch.arange(self._num_images).split(self._images_at_once):
            statistics = statistics.merge(self._read(positions).total())
        return statistics

    def leading(self, k: int) -> Self:
        """Keep the bias and the first `k` components of what is read."""
        return self._changed(lambda images: images.leading(k))

    def standardised(self, mean: Float[Tensor, " out"], spread: Float[Tensor, " out"]) -> Self:
        """Standardise the target of what is read."""
        return self._changed(lambda images: images.standardised(mean, spread))

    def minibatches(self, order: Int[Tensor, " images"], batch_size: int) -> Iterator[Minibatch]:
        """Read whole minibatches, as many as memory holds."""
        at_once = max(1, self._images_at_once // batch_size) * batch_size
        for positions in order.split(at_once):
            images = self._read(positions)
            yield from images.minibatches(torch.arange(len(positions)), batch_size)

    def _changed(self, change: Callable[[ImageStatistics], ImageStatistics]) -> Self:
        return type(self)(lambda positions: change(self._read(positions)), self._num_images, self._images_at_once)
