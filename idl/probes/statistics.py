"""Sufficient statistics of a linear probe under the masked full-resolution squared loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from typing import Self

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from idl.probes.grid import UpsampledGram, mask_of, upsample_adjoint

# Rows of one product, at least an image's: 1.2 times as fast as 4,096, because they stay in the processor's cache.
ROWS_PER_PRODUCT = 1024


@dataclass(frozen=True)
class Statistics:
    """What some images say of every linear probe on their columns: loss(w) = w'Gw - 2 b'w + c, in squared units.

    With X the columns upsampled to the valid pixels and y the target there:
    xtx: G = X'X = sum of Z'KZ over images.
    xty: b = X'y = sum of Z'r, one column an output.
    yty: c = sum of y'My, one entry an output.
    num_valid: valid pixels (a pixel with three outputs counts once).
    num_images: images accumulated.
    """

    xtx: Float64[Tensor, "columns columns"]
    xty: Float64[Tensor, "columns out"]
    yty: Float64[Tensor, " out"]
    num_valid: int
    num_images: int

    @classmethod
    def empty(cls, num_columns: int, num_outputs: int = 1) -> Self:
        """Statistics of no image at all."""
        shapes = ((num_columns, num_columns), (num_columns, num_outputs), (num_outputs,))
        xtx, xty, yty = (torch.zeros(shape, dtype=torch.float64) for shape in shapes)
        return cls(xtx, xty, yty, 0, 0)

    def __add__(self, other: Self) -> Self:
        """Statistics of both sets of images."""
        return type(self)(*(one + vars(other)[name] for name, one in vars(self).items()))

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
        xtx, xty, yty, num_valid = self.xtx.clone(), self.xty.clone(), self.yty.clone(), self.num_valid
        # A few images at a time, from the pixels to the product: they stay in the processor's cache.
        step = max(1, ROWS_PER_PRODUCT // (height * width))
        for first in range(0, len(cells), step):
            part = slice(first, first + step)
            grid, mask = cells[part].double(), mask_of(valid[part], columns.dtype)
            truth = (target[part] * mask[:, None]).double()
            rows = grid.reshape(-1, num_columns)
            # In the type of the columns: where K is rounded to float32, it is so for all of them alike, and faster.
            gram = UpsampledGram(UpsampledGram.of_mask(mask, height, width).diagonals.double())
            on_grid = upsample_adjoint(truth, None, height, width).permute(0, 2, 3, 1)
            xtx += (rows.T @ gram.apply(grid).reshape(-1, num_columns)).cpu()
            xty += (rows.T @ on_grid.reshape(-1, target.shape[1])).cpu()
            yty += truth.square().sum(dim=(0, 2, 3)).cpu()
            num_valid += int(valid[part].sum())
        # The product of a symmetric form is symmetric up to rounding only.
        return type(self)((xtx + xtx.T) / 2, xty, yty, num_valid, self.num_images + len(cells))

    def subset(self, index: Int[Tensor, " chosen"]) -> Self:
        """Statistics of some of the columns, in the order of `index`: the system of one arm."""
        return replace(self, xtx=self.xtx[index][:, index], xty=self.xty[index])

    def outputs(self, chosen: slice) -> Self:
        """Statistics of some of the outputs."""
        return replace(self, xty=self.xty[:, chosen], yty=self.yty[chosen])

    def output_errors(self, weights: Float64[Tensor, "columns *path out"]) -> Float64[Tensor, "*path out"]:
        """Squared error of each output summed over valid pixels, for one weight matrix or a path of them."""
        xty = self.xty.reshape(-1, *[1] * (weights.ndim - 2), weights.shape[-1])
        inner = (self.xtx @ weights.flatten(1)).view(weights.shape).sub_(xty, alpha=2).mul_(weights)
        return inner.sum(dim=0) + self.yty

    def squared_error(self, weights: Float64[Tensor, "columns *path out"]) -> Float64[Tensor, " *path"]:
        """Squared error summed over valid pixels and outputs, for one weight matrix or a path of them."""
        # A perfect fit may come out a rounding below zero.
        return self.output_errors(weights).sum(dim=-1).clamp(min=0)

    def mse(self, weights: Float64[Tensor, "columns *path out"]) -> Float64[Tensor, " *path"]:
        """Mean squared error over valid pixels and outputs, for one weight matrix or a path of them."""
        return self.squared_error(weights) / self.num_terms

    @property
    def num_terms(self) -> int:
        """Squared errors that a mean goes over: valid pixels times outputs."""
        return self.num_valid * len(self.yty)


def total(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of all parts together."""
    return reduce(add, parts)


@dataclass(frozen=True)
class FoldedStatistics:
    """Statistics of the training and the validation split for one target, fold by fold; a scene is in one fold.

    train, val: one entry a fold, in the same order, which may be empty; of the target less `offset`, the bias first.
    offset: a constant near the target's mean, one an output. The bias takes it up exactly, and what float32 truth
      loses of a mean that is large against the spread (40 times as much for depth) is not lost.
    mean_depth_m: of the training split's valid pixels; 0 for other kinds of targets.
    """

    train: tuple[Statistics, ...]
    val: tuple[Statistics, ...]
    offset: tuple[float, ...] = (0.0,)
    mean_depth_m: float = 0.0

    def subset(self, index: Int[Tensor, " chosen"]) -> Self:
        """Statistics of some of the columns, in the order of `index`."""
        train, val = (tuple(fold.subset(index) for fold in split) for split in (self.train, self.val))
        return replace(self, train=train, val=val)

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
        folds = [fold for fold in map(add, self.train, self.val) if fold.num_valid]
        if len(folds) < 2:
            return ((self.whole_train, self.whole_val),)
        return tuple((total(folds[:each] + folds[each + 1 :]), folds[each]) for each in range(len(folds)))

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the target over the training split's valid pixels, one an output, in its own unit."""
        above = self.whole_train.xty[0] / self.whole_train.num_valid
        return tuple((above + torch.tensor(self.offset, dtype=torch.float64)).tolist())

    def with_offset(self, weights: Float64[Tensor, "columns out"]) -> Float64[Tensor, "columns out"]:
        """Return weights of the target itself, for weights of the target less its offset."""
        weights = weights.clone()
        weights[0] += torch.tensor(self.offset, dtype=torch.float64)
        return weights
