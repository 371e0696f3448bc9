"""The full-resolution squared loss, held on the encoder's grid.

With p the prediction on the grid, U the bilinear upsampling, M the valid mask and y the target, the loss of one image
is |M (U p - y)|^2 = p'Kp - 2 p'r + y'My with K = U'MU and r = U'My. A pixel reads a cell and its neighbour at most, so
that K couples a cell with its eight neighbours only: it is symmetric and held as five diagonals.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

# One of each pair of opposite neighbours; the other one follows from the symmetry of K.
OFFSETS = ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1))


@lru_cache(maxsize=32)
def upsampling(num_cells: int, num_pixels: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "pixels cells"]:
    """Matrix of 1-D bilinear upsampling as `torch.nn.functional.interpolate(align_corners=False)` defines it.

    Raises ValueError where the grid is finer than the pixels: K would couple cells farther apart.
    """
    if num_cells > num_pixels:
        raise ValueError(f"a grid of {num_cells} cells is finer than {num_pixels} pixels")
    position = ((torch.arange(num_pixels, dtype=torch.float64) + 0.5) * num_cells / num_pixels - 0.5).clamp(min=0)
    left = position.floor().long().clamp(max=num_cells - 1)
    right = (left + 1).clamp(max=num_cells - 1)
    share = position - left
    matrix = torch.zeros(num_pixels, num_cells, dtype=torch.float64)
    for cell, weight in ((left, 1 - share), (right, share)):
        matrix.index_put_((torch.arange(num_pixels), cell), weight, accumulate=True)
    return matrix.to(dtype)


def upsample(grid: Float[Tensor, "*batch h w"], height: int, width: int) -> Float[Tensor, "*batch H W"]:
    """Upsample a grid bilinearly (align_corners=False) by two small matrix products."""
    rows = upsampling(grid.shape[-2], height, grid.dtype).to(grid.device)
    columns = upsampling(grid.shape[-1], width, grid.dtype).to(grid.device)
    return rows @ grid @ columns.T


@lru_cache(maxsize=32)
def _shift_products(num_cells: int, num_pixels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """U * shift(U, by): for rows, by = 0, 1, (2, cells, pixels); for columns, by = -1, 0, 1, (pixels, 3 cells)."""
    matrix = upsampling(num_cells, num_pixels, dtype)
    products = [matrix * F.pad(matrix, (1, 1))[:, 1 + by : 1 + by + num_cells] for by in (-1, 0, 1)]
    return torch.stack([each.T for each in products[1:]]).contiguous(), torch.cat(products, dim=1).contiguous()


@dataclass(frozen=True)
class UpsampledGram:
    """K = U'MU of a batch of images, as its five distinct diagonals.

    diagonals: entry [o, i, a, b] couples cell (a, b) of image i with cell (a, b) + OFFSETS[o], in pixels.
    """

    diagonals: Float[Tensor, "5 batch h w"]

    @classmethod
    def of_mask(cls, mask: Float[Tensor, "batch H W"], height: int, width: int) -> Self:
        """K of `mask` (1 where valid, else 0) on a grid of `height` x `width` cells.

        diagonal(dy, dx) = (Uy * shift(Uy, dy))' M (Ux * shift(Ux, dx)), products elementwise inside.
        """
        rows = _shift_products(height, mask.shape[-2], mask.dtype)[0].to(mask.device)
        columns = _shift_products(width, mask.shape[-1], mask.dtype)[1].to(mask.device)
        half = mask @ columns  # (batch, H, 3 w): the columns are done once for both row shifts
        both = (rows[:, None] @ half).unflatten(-1, (3, width))
        return cls(torch.stack([both[dy, :, :, dx + 1] for dy, dx in OFFSETS]))

    def apply(self, cells: Float[Tensor, "batch h w columns"]) -> Float[Tensor, "batch h w columns"]:
        """K times each column."""
        height, width = cells.shape[1:3]
        diagonals = self.diagonals.unsqueeze(-1)
        result = cells * diagonals[0]
        for (dy, dx), diagonal in zip(OFFSETS[1:], diagonals[1:], strict=True):
            # Cells that have a neighbour at (dy, dx), and those neighbours.
            here = (slice(None), slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
            there = (slice(None), slice(dy, height), slice(max(0, dx), width - max(0, -dx)))
            result[here].addcmul_(diagonal[here], cells[there])
            result[there].addcmul_(diagonal[here], cells[here])
        return result


def upsample_adjoint(
    target: Float[Tensor, "batch out H W"], mask: Float[Tensor, "batch H W"] | None, height: int, width: int
) -> Float[Tensor, "batch out h w"]:
    """r = U'My: the target, brought to the grid by the transpose of the upsampling.

    mask: M; None: the target is 0 already where it is not valid.
    """
    rows = upsampling(height, target.shape[-2], target.dtype).to(target.device)
    columns = upsampling(width, target.shape[-1], target.dtype).to(target.device)
    return rows.T @ (target if mask is None else target * mask[:, None]) @ columns


def mask_of(valid: Bool[Tensor, "batch H W"], dtype: torch.dtype) -> Float[Tensor, "batch H W"]:
    """M: 1 where valid, else 0. By way of bytes, which torch converts five times as fast as bools."""
    return valid.view(torch.uint8).to(dtype)


def position_columns(height: int, width: int) -> Float[Tensor, "5 h w"]:
    """Position of each cell: x, y, x^2, xy, y^2 of its centre in (-1, 1), each at zero mean and unit variance.

    A column without variance (a grid of one cell) stays zero.
    """
    y, x = torch.meshgrid(
        *((torch.arange(num, dtype=torch.float64) + 0.5) * 2 / num - 1 for num in (height, width)), indexing="ij"
    )
    columns = torch.stack([x, y, x * x, x * y, y * y]).flatten(1)
    centred = columns - columns.mean(dim=1, keepdim=True)
    spread = centred.square().mean(dim=1, keepdim=True).sqrt()
    return (centred / spread.clamp(min=1e-9)).unflatten(1, (height, width)).float()
