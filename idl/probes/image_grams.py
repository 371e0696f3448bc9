"""One matrix an image: the form for few columns or many cells."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from idl.probes.grid import Coupling, gather
from idl.probes.image_statistics import HeldStatistics, Minibatch
from idl.probes.statistics import Statistics

# Whole matrices that are held at a time, beside the packed ones.
_BYTES_AT_ONCE = 2**25


def num_pairs(num_columns: int) -> int:
    """Entries of a symmetric matrix on and below its diagonal."""
    return num_columns * (num_columns + 1) // 2


@dataclass(frozen=True)
class GramMinibatch(Minibatch):
    """Sums over a minibatch, made ready for a step.

    gram: 2 G_B / (n_B out). moment: 2 b_B' / (n_B out). energy: c_B / (n_B out).
    """

    gram: Float[Tensor, "columns columns"]
    moment: Float[Tensor, "out columns"]
    energy: Float[Tensor, " out"]

    def gradient(
        self, weights: Float[Tensor, "probes*out columns"], *, out: Float[Tensor, "probes*out columns"]
    ) -> Float[Tensor, "probes*out columns"]:
        """Take one product of (probes * out, columns) and (columns, columns): G is symmetric."""
        return torch.addmm(self._moments(len(weights)), weights, self.gram, beta=-1, out=out)

    def loss(self, weights: Float[Tensor, "probes*out columns"]) -> Float[Tensor, " probes"]:
        """w'Gw/2 - b'w + c of the scaled sums."""
        parts = (weights * (weights @ self.gram / 2 - self._moments(len(weights)))).sum(dim=1)
        return (parts.unflatten(0, (-1, len(self.energy))) + self.energy).sum(dim=1)

    def num_multiplications(self, num_rows: int) -> int:
        """Multiplications of the one product."""
        return num_rows * self.gram.numel()

    def _moments(self, num_rows: int) -> Tensor:
        # One output: addmm itself repeats the row.
        return self.moment if len(self.moment) == 1 else self.moment.repeat(num_rows // len(self.moment), 1)


@dataclass(frozen=True)
class ImageGrams(HeldStatistics):
    """Per-image statistics as matrices.

    gram: entry (i, j), i <= j, of G stands at j (j + 1) / 2 + i: leading columns are leading entries. Packing
      halves the memory, and more than halves the time of an epoch's sums, unpacking included (1,200 images of 65
      columns, batches of 32, one core: 0.36 against 0.91 ms).
    """

    gram: Float[Tensor, "images pairs"]
    moment: Float[Tensor, "images out columns"]

    @classmethod
    def of(
        cls,
        columns: Float[Tensor, "batch columns h w"],
        target: Float[Tensor, "batch out H W"],
        valid: Bool[Tensor, "batch H W"],
    ) -> Self:
        """Statistics of each image of a batch, in the columns' own floating type.

        columns: the bias first; fastest in channels_last memory.
        target: in the target's own space, finite everywhere.
        """
        cells = columns.permute(0, 2, 3, 1)
        height, width, num_columns = cells.shape[1:]
        mask = valid.to(columns.dtype)
        gathered = gather(target, mask, height, width).flatten(2)
        row, column = torch.tril_indices(num_columns, num_columns, device=columns.device)
        gram = torch.empty(len(cells), num_pairs(num_columns), dtype=columns.dtype, device=columns.device)
        step = max(1, _BYTES_AT_ONCE // (gram.itemsize * num_columns * max(num_columns, height * width)))
        for first in range(0, len(cells), step):
            part = slice(first, first + step)
            coupled = Coupling.of_mask(mask[part], height, width).apply(cells[part]).flatten(1, 2)
            product = (cells[part].flatten(1, 2).mT @ coupled).flatten(1)
            # The product of a symmetric form is symmetric up to rounding only.
            lower, upper = (product.index_select(1, i * num_columns + j) for i, j in ((row, column), (column, row)))
            gram[part] = lower.add_(upper).div_(2)
        return cls(
            gram=gram,
            moment=gathered @ cells.flatten(1, 2),
            energy=(target * mask[:, None]).square_().sum(dim=(2, 3), dtype=torch.float64).to(columns.dtype),
            num_valid=mask.sum(dim=(1, 2)),
        )

    @staticmethod
    def bytes_per_image(k_max: int, num_outputs: int) -> int:
        """Bytes of one image in float32."""
        return 4 * (num_pairs(1 + k_max) + (2 + k_max) * num_outputs + 1)

    @property
    def num_columns(self) -> int:
        """The bias and the components."""
        return self.moment.shape[2]

    def total(self) -> Statistics:
        """Sum over all images, in float64 on the CPU."""
        gram = self.gram.sum(dim=0, dtype=torch.float64).cpu()
        return Statistics(
            gram[_unpacking(self.num_columns, gram.device)].unflatten(0, (self.num_columns, -1)),
            self.moment.sum(dim=0, dtype=torch.float64).T.cpu(),
            self.energy.sum(dim=0, dtype=torch.float64).cpu(),
            int(self.num_valid.sum(dtype=torch.float64)),
            self.num_images,
        )

    def leading(self, k: int) -> Self:
        """Keep the bias and the first `k` components; nothing is copied where these are all."""
        if 1 + k == self.num_columns:
            return self
        return replace(
            self,
            gram=self.gram[:, : num_pairs(1 + k)].contiguous(),
            moment=self.moment[..., : 1 + k].contiguous(),
        )

    def standardised(self, mean: Float[Tensor, " out"], spread: Float[Tensor, " out"]) -> Self:
        """Statistics of (y - mean) / spread; the matrices are shared, not copied."""
        # The bias's row of G: entry (0, j) opens the packed column j.
        column = torch.arange(self.num_columns, device=self.device)
        bias = self.gram[:, column * (column + 1) // 2]
        moment = (self.moment - mean[:, None] * bias[:, None]) / spread[:, None]
        energy = self.energy - 2 * mean * self.moment[..., 0] + mean.square() * self.num_valid[:, None]
        return replace(self, moment=moment, energy=energy / spread.square())

    def minibatches(self, order: Int[Tensor, " images"], batch_size: int) -> Iterator[Minibatch]:
        """Sum and unpack as many minibatches at once as 32 MB of whole matrices hold."""
        num_columns = self.num_columns
        at_once = max(1, _BYTES_AT_ONCE // (self.gram.itemsize * num_columns**2)) * batch_size
        unpacking = _unpacking(num_columns, self.device)
        for part in order.to(self.device).split(at_once):
            first = torch.arange(0, len(part), batch_size, device=self.device)
            gram, moment, energy, num_valid = (
                F.embedding_bag(part, each, first, mode="sum")
                for each in (self.gram, self.moment.flatten(1), self.energy, self.num_valid[:, None])
            )
            half = 1 / (num_valid.clamp(min=1) * self.num_outputs)
            grams = gram.mul_(2 * half).index_select(1, unpacking).unflatten(1, (num_columns, num_columns))
            moments = moment.mul_(2 * half).unflatten(1, (self.num_outputs, num_columns))
            for sums in zip(grams.unbind(), moments.unbind(), (energy * half).unbind(), strict=True):
                yield GramMinibatch(*sums)


@lru_cache(maxsize=8)
def _unpacking(num_columns: int, device: torch.device) -> Int[Tensor, " columns*columns"]:
    """Place of each entry of the whole matrix among the packed ones."""
    index = torch.arange(num_columns, device=device)
    row, column = index[:, None], index[None]
    larger = torch.maximum(row, column)
    return (larger * (larger + 1) // 2 + torch.minimum(row, column)).flatten()
