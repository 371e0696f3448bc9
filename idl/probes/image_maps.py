"""One feature map an image: the form for many columns on few cells.

With p = Z w the prediction on the grid, the gradient of an image's squared error is 2 Z'(K p - r): what the matrices
Z'KZ are made of serves as well, and is smaller where there are more columns than cells.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from idl.probes.grid import OFFSETS, Coupling, gather
from idl.probes.image_statistics import HeldStatistics, Minibatch
from idl.probes.statistics import Statistics


@dataclass(frozen=True)
class MapMinibatch(Minibatch):
    """A minibatch's maps. scale: 1 / (n_B out)."""

    rows: Float[Tensor, "cells columns"]
    coupling: Coupling
    gathered: Float[Tensor, "batch h w out"]
    energy: Float[Tensor, ""]
    scale: Float[Tensor, ""]

    def gradient(
        self, weights: Float[Tensor, "probes*out columns"], *, out: Float[Tensor, "probes*out columns"]
    ) -> Float[Tensor, "probes*out columns"]:
        """Z'(Kp - r), summed over the images by one product."""
        _, coupled, gathered = self._predicted(weights)
        residual = coupled.sub_(gathered).mul_(2 * self.scale).flatten(0, 2)
        return torch.mm(residual.T, self.rows, out=out)

    def loss(self, weights: Float[Tensor, "probes*out columns"]) -> Float[Tensor, " probes"]:
        """p'(Kp - 2r) + c."""
        prediction, coupled, gathered = self._predicted(weights)
        parts = (prediction * (coupled - 2 * gathered)).sum(dim=(0, 1, 2))
        return (parts.unflatten(0, (-1, self.gathered.shape[3])).sum(dim=1) + self.energy) * self.scale

    def num_multiplications(self, num_rows: int) -> int:
        """Multiplications of the products with the maps, there and back."""
        return 2 * num_rows * self.rows.numel()

    def _predicted(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """p, Kp and r repeated for every probe: each (batch, h, w, probes * out)."""
        batch, height, width, num_outputs = self.gathered.shape
        prediction = (self.rows @ weights.T).view(batch, height, width, -1)
        repeated = self.gathered.repeat(1, 1, 1, len(weights) // num_outputs)
        return prediction, self.coupling.apply(prediction), repeated


@dataclass(frozen=True)
class ImageMaps(HeldStatistics):
    """Per-image statistics as feature maps and what couples their cells.

    maps: columns of each cell, in half precision as the cache holds them, the bias among them.
    coupling: the five diagonals of K. gathered: r = U'My.
    """

    maps: Float[Tensor, "images h w columns"]
    coupling: Float[Tensor, "images 5 h w"]
    gathered: Float[Tensor, "images h w out"]

    @classmethod
    def of(
        cls,
        columns: Float[Tensor, "batch columns h w"],
        target: Float[Tensor, "batch out H W"],
        valid: Bool[Tensor, "batch H W"],
        *,
        stored: torch.dtype = torch.float16,
    ) -> Self:
        """Statistics of each image of a batch; all but the maps are in the columns' own floating type.

        columns: the bias first; exact where `stored` can hold them, as it can what `Basis.project` has rounded.
        target: in the target's own space, finite everywhere.
        """
        height, width = columns.shape[2:]
        mask = valid.to(columns.dtype)
        return cls(
            maps=columns.permute(0, 2, 3, 1).to(stored).contiguous(),
            coupling=Coupling.of_mask(mask, height, width).diagonals.transpose(0, 1).contiguous(),
            gathered=gather(target, mask, height, width).permute(0, 2, 3, 1).contiguous(),
            energy=(target * mask[:, None]).square_().sum(dim=(2, 3), dtype=torch.float64).to(columns.dtype),
            num_valid=mask.sum(dim=(1, 2)),
        )

    @staticmethod
    def bytes_per_image(k_max: int, num_outputs: int, num_cells: int) -> int:
        """Bytes of one image: half precision for the maps, float32 for the rest."""
        return num_cells * (2 * (1 + k_max) + 4 * (len(OFFSETS) + num_outputs)) + 4 * (num_outputs + 1)

    @property
    def num_columns(self) -> int:
        """The bias and the components."""
        return self.maps.shape[3]

    def total(self) -> Statistics:
        """Sum over all images, in float64 on the CPU: one product an image."""
        gram = torch.zeros(self.num_columns, self.num_columns, dtype=torch.float64)
        moment = torch.zeros(self.num_columns, self.num_outputs, dtype=torch.float64)
        for index in range(self.num_images):
            cells = self.maps[index, None].to(self.dtype)
            coupled = Coupling(self.coupling[index, :, None]).apply(cells)
            rows = cells.flatten(0, 2).T
            gram += (rows @ coupled.flatten(0, 2)).to("cpu", torch.float64)
            moment += (rows @ self.gathered[index].flatten(0, 1)).to("cpu", torch.float64)
        energy = self.energy.sum(dim=0, dtype=torch.float64).cpu()
        num_valid = int(self.num_valid.sum(dtype=torch.float64))
        return Statistics((gram + gram.T) / 2, moment, energy, num_valid, self.num_images)

    def leading(self, k: int) -> Self:
        """Keep the bias and the first `k` components: a view of the maps."""
        return replace(self, maps=self.maps[..., : 1 + k])

    def standardised(self, mean: Float[Tensor, " out"], spread: Float[Tensor, " out"]) -> Self:
        """Statistics of (y - mean) / spread; maps and coupling are shared, not copied."""
        ones = torch.ones_like(self.gathered[..., :1])
        # U 1 = 1: what the mask gathers of a constant is the constant times K 1.
        constant = Coupling(self.coupling.transpose(0, 1)).apply(ones)
        summed = self.gathered.sum(dim=(1, 2))
        energy = self.energy - 2 * mean * summed + mean.square() * self.num_valid[:, None]
        return replace(self, gathered=(self.gathered - mean * constant) / spread, energy=energy / spread.square())

    def minibatches(self, order: Int[Tensor, " images"], batch_size: int) -> Iterator[Minibatch]:
        """Bring one minibatch's maps to the type of the rest at a time."""
        for chosen in order.to(self.device).split(batch_size):
            yield MapMinibatch(
                self.maps[chosen].to(self.dtype).flatten(0, 2),
                Coupling(self.coupling[chosen].transpose(0, 1).contiguous()),
                self.gathered[chosen],
                self.energy[chosen].sum(),
                1 / (self.num_valid[chosen].sum().clamp(min=1) * self.num_outputs),
            )
