"""Sufficient statistics of a linear probe under the masked full-resolution squared loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Self

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from idl.probes.grid import Coupling, gather

# Rows of one product, at least an image's: 1.2 times as fast as 4,096, because they stay in the processor's cache.
ROWS_PER_PRODUCT = 1024


@dataclass(frozen=True)
class Statistics:
    """What a split says of every linear probe on its columns: loss(w) = w'Gw - 2 b'w + c, in squared units.

    gram: G = sum of Z'KZ over images.
    moment: b = sum of Z'r, one column an output.
    energy: c = sum of y'My, one entry an output.
    num_valid: valid pixels (a pixel with three outputs counts once).
    num_images: images accumulated.
    """

    gram: Float64[Tensor, "columns columns"]
    moment: Float64[Tensor, "columns out"]
    energy: Float64[Tensor, " out"]
    num_valid: int
    num_images: int

    @classmethod
    def empty(cls, num_columns: int, num_outputs: int = 1) -> Self:
        """Statistics of no image at all."""
        return cls(
            torch.zeros(num_columns, num_columns, dtype=torch.float64),
            torch.zeros(num_columns, num_outputs, dtype=torch.float64),
            torch.zeros(num_outputs, dtype=torch.float64),
            0,
            0,
        )

    def accumulate(
        self,
        columns: Float[Tensor, "batch columns h w"],
        target: Float[Tensor, "batch out H W"],
        valid: Bool[Tensor, "batch H W"],
    ) -> Self:
        """Add a batch of images.

        columns: what the probe reads at each cell, the bias among them; fastest in channels_last memory.
        target: in the target's own space, finite everywhere.
        Products and sums are float64: sums of 8,192 float32 products are off by 3e-7 of a column's square, which is
        more than what two nearly equal columns differ by, and a solver would make something of it.
        """
        cells = columns.permute(0, 2, 3, 1)
        height, width, num_columns = cells.shape[1:]
        mask, truth = valid.double(), target.double()
        gathered = gather(truth, mask, height, width).permute(0, 2, 3, 1)
        gram, moment = self.gram.clone(), self.moment.clone()
        step = max(1, ROWS_PER_PRODUCT // (height * width))
        for first in range(0, len(cells), step):
            part = slice(first, first + step)
            grid = cells[part].double()
            rows = grid.reshape(-1, num_columns)
            # In the type of the columns: where K is rounded to float32, it is so for all of them alike, and faster.
            coupling = Coupling(Coupling.of_mask(valid[part].to(columns.dtype), height, width).diagonals.double())
            coupled = coupling.apply(grid).reshape(-1, num_columns)
            gram += (rows.T @ coupled).cpu()
            moment += (rows.T @ gathered[part].reshape(-1, target.shape[1])).cpu()
        energy = (truth * mask[:, None]).square_().sum(dim=(0, 2, 3)).cpu()
        return type(self)(
            # The product of a symmetric form is symmetric up to rounding only.
            (gram + gram.T) / 2,
            moment,
            self.energy + energy,
            self.num_valid + int(valid.sum()),
            self.num_images + len(cells),
        )

    def merge(self, other: Self) -> Self:
        """Statistics of both sets of images."""
        return type(self)(
            self.gram + other.gram,
            self.moment + other.moment,
            self.energy + other.energy,
            self.num_valid + other.num_valid,
            self.num_images + other.num_images,
        )

    def subset(self, index: Int[Tensor, " chosen"]) -> Self:
        """Statistics of some of the columns, in the order of `index`: the system of one arm."""
        return type(self)(self.gram[index][:, index], self.moment[index], self.energy, self.num_valid, self.num_images)

    def squared_error(self, weights: Float64[Tensor, "columns *path out"]) -> Float64[Tensor, " *path"]:
        """Squared error summed over valid pixels and outputs, for one weight matrix or a path of them."""
        moment = self.moment.reshape(-1, *[1] * (weights.ndim - 2), weights.shape[-1])
        inner = (self.gram @ weights.flatten(1)).view(weights.shape).sub_(moment, alpha=2).mul_(weights)
        # A perfect fit may come out a rounding below zero.
        return (inner.sum(dim=0) + self.energy).sum(dim=-1).clamp(min=0)

    def mse(self, weights: Float64[Tensor, "columns *path out"]) -> Float64[Tensor, " *path"]:
        """Mean squared error over valid pixels and outputs, for one weight matrix or a path of them."""
        return self.squared_error(weights) / self.num_terms

    @property
    def num_terms(self) -> int:
        """Squared errors that a mean goes over: valid pixels times outputs."""
        return self.num_valid * len(self.energy)


@dataclass(frozen=True)
class FoldedStatistics:
    """Statistics of the training and the validation split, fold by fold; a scene is in one fold.

    train, val: of each split, one entry a fold, in the same order; a fold may be empty in one of them.
    """

    train: tuple[Statistics, ...]
    val: tuple[Statistics, ...]

    def subset(self, index: Int[Tensor, " chosen"]) -> Self:
        """Statistics of some of the columns, in the order of `index`."""
        return type(self)(*(tuple(fold.subset(index) for fold in split) for split in (self.train, self.val)))

    @cached_property
    def whole_train(self) -> Statistics:
        """Of the training split."""
        return total(self.train)

    @cached_property
    def whole_val(self) -> Statistics:
        """Of the validation split."""
        return total(self.val)

    @cached_property
    def pairs(self) -> tuple[tuple[Statistics, Statistics], ...]:
        """For cross-validation: all folds but one, and that one, of both splits together.

        Where fewer than two folds have a valid pixel: the training split, and the validation split.
        """
        both = (one.merge(other) for one, other in zip(self.train, self.val, strict=True))
        folds = [fold for fold in both if fold.num_valid]
        if len(folds) < 2:
            return ((self.whole_train, self.whole_val),)
        return tuple((total(folds[:each] + folds[each + 1 :]), folds[each]) for each in range(len(folds)))


def total(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of all parts together."""
    return reduce(Statistics.merge, parts)
