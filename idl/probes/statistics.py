"""Sufficient statistics of a linear probe under the masked full-resolution squared loss."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from idl.probes.grid import Coupling, gather

# Rows of one float32 product. Longer sums lose digits, shorter products lose speed.
ROWS_PER_PRODUCT = 8192


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
        Products are taken in the columns' own type (float32 in the pipeline), sums over images in float64.
        """
        cells = columns.permute(0, 2, 3, 1)
        height, width, num_columns = cells.shape[1:]
        mask = valid.to(columns.dtype)
        gathered = gather(target, mask, height, width).permute(0, 2, 3, 1)
        gram, moment = self.gram.clone(), self.moment.clone()
        step = max(1, ROWS_PER_PRODUCT // (height * width))
        for first in range(0, len(cells), step):
            part = slice(first, first + step)
            rows = cells[part].reshape(-1, num_columns)
            coupled = Coupling.of_mask(mask[part], height, width).apply(cells[part]).reshape(-1, num_columns)
            gram += (rows.T @ coupled).to("cpu", torch.float64)
            moment += (rows.T @ gathered[part].reshape(-1, target.shape[1])).to("cpu", torch.float64)
        energy = (target * mask[:, None]).square_().sum(dim=(0, 2, 3), dtype=torch.float64).cpu()
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

    def mse(self, weights: Float64[Tensor, "columns *path out"]) -> Float64[Tensor, " *path"]:
        """Mean squared error over valid pixels and outputs, for one weight matrix or a path of them."""
        moment = self.moment.reshape(-1, *[1] * (weights.ndim - 2), weights.shape[-1])
        inner = (self.gram @ weights.flatten(1)).view(weights.shape).sub_(moment, alpha=2).mul_(weights)
        total = (inner.sum(dim=0) + self.energy).sum(dim=-1)
        # A perfect fit may come out a rounding below zero.
        return total.clamp(min=0) / (self.num_valid * weights.shape[-1])
