"""What single images say of every linear probe: minibatches and the exact gradient of their full-resolution loss.

Image i is (G_i, b_i, n_i): its squared error under weights w is w'G_i w - 2 b_i'w + c_i over n_i valid pixels. The
gradient of a minibatch B, of its mean squared error over pixels and outputs, is 2 (G_B w - b_B) / (n_B out).

`ImageGrams` holds the matrices, for few columns or many cells; `ImageMaps` what they are made of, for many columns on
few cells: with p = Z w the prediction on the grid, an image's gradient is 2 Z'(K p - r). `StreamedStatistics` reads
either from elsewhere, some images at a time; `plan` chooses.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from idl.probes.grid import OFFSETS, UpsampledGram, mask_of, upsample_adjoint

# Whole matrices that are held at a time, beside the packed ones.
_BYTES_OF_MATRICES = 2**25
# A step of 20 probes in batches of 32, one core, 8 x 8 cells: 0.4 (matrices) and 1.5 ms (maps) at 320 components,
# where the matrices are 4.9 times as large; 4.6 and 3.6 ms at 768 components, where they are 12 times as large.
LARGEST_RATIO = 8.0
# Where k is left open, components are given up to stay in memory, but not below so many.
LEAST_OPEN_K = 64


@dataclass(frozen=True)
class Minibatch:
    """The mean squared error of some images, over their valid pixels and the outputs; 0 where there are none.

    gradient: called with weights (probes * out, columns) and out=, of that shape, to which it writes the gradient of
      every probe's own loss, and which it returns. Row t * out + o is output o of probe t, its bias first.
    multiplications: of its matrix products, for each row of weights.
    """

    gradient: Callable[..., Tensor]
    multiplications: int


@dataclass(frozen=True)
class _Held(ABC):
    """Images held in memory, on the columns [bias | leading components]: tensors whose first dimension is the image.

    num_valid: pixels, in the floating type of the others. xty: b of each output.
    """

    num_valid: Float[Tensor, " images"]
    xty: Float[Tensor, "images out *columns_or_cells"]

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
        mask = mask_of(valid, columns.dtype)
        on_grid = upsample_adjoint(target, mask, *columns.shape[2:])
        return cls(mask.sum(dim=(1, 2)), *cls._parts(columns.permute(0, 2, 3, 1), on_grid, mask))

    @staticmethod
    @abstractmethod
    def _parts(cells: Tensor, on_grid: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return the fields after `num_valid`. cells: (batch, h, w, columns). on_grid: r = U'My, (batch, out, h, w)."""

    @classmethod
    def cat(cls, parts: Sequence["_Held"]) -> Self:
        """Join the images of all parts, in order."""
        return cls(*(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)))

    def to(self, device: torch.device) -> Self:
        """Return the statistics with their tensors on `device`."""
        return type(self)(*(tensor.to(device) for tensor in vars(self).values()))

    @property
    def num_images(self) -> int:
        """Images held, those without a valid pixel counted."""
        return len(self.num_valid)

    @property
    def device(self) -> torch.device:
        """Where the tensors are, and minibatches are made."""
        return self.num_valid.device

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and gradients."""
        return self.num_valid.dtype

    @property
    def num_outputs(self) -> int:
        """Numbers that a pixel's target has."""
        return self.xty.shape[1]


@dataclass(frozen=True)
class ImageGrams(_Held):
    """Per-image statistics as matrices. xty: (images, out, columns).

    xtx: entry (i, j), i <= j, of G stands at j (j + 1) / 2 + i: leading columns are leading entries. Packed, it takes
      half the memory, and an epoch's sums 0.4 times as long (1,200 images of 65 columns, batches of 32).
    """

    xtx: Float[Tensor, "images pairs"]

    @staticmethod
    def _parts(cells: Tensor, on_grid: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        height, width, num_columns = cells.shape[1:]
        row, column = torch.tril_indices(num_columns, num_columns, device=cells.device)
        xtx = torch.empty(len(cells), len(row), dtype=cells.dtype, device=cells.device)
        step = max(1, _BYTES_OF_MATRICES // (xtx.itemsize * num_columns * max(num_columns, height * width)))
        for first in range(0, len(cells), step):
            part = slice(first, first + step)
            coupled = UpsampledGram.of_mask(mask[part], height, width).apply(cells[part]).flatten(1, 2)
            product = (cells[part].flatten(1, 2).mT @ coupled).flatten(1)
            # The product of a symmetric form is symmetric up to rounding only.
            lower, upper = (product.index_select(1, i * num_columns + j) for i, j in ((row, column), (column, row)))
            xtx[part] = lower.add_(upper).div_(2)
        return on_grid.flatten(2) @ cells.flatten(1, 2), xtx

    @staticmethod
    def bytes_per_image(k_max: int, num_outputs: int, num_cells: int) -> int:
        """Bytes of one image in float32."""
        return 4 * ((1 + k_max) * (2 + k_max) // 2 + (1 + k_max) * num_outputs + 1)

    @property
    def num_columns(self) -> int:
        """The bias and the components."""
        return self.xty.shape[2]

    def leading(self, k: int, mean: Float[Tensor, " out"], spread: Float[Tensor, " out"]) -> Self:
        """Keep the bias and the first `k` components, for the target (y - mean) / spread; the rest is shared."""
        # The bias's row of G: entry (0, j) opens the packed column j.
        column = torch.arange(1 + k, device=self.device)
        bias = self.xtx[:, column * (column + 1) // 2]
        xty = (self.xty[..., : 1 + k] - mean[:, None] * bias[:, None]) / spread[:, None]
        return replace(self, xtx=self.xtx[:, : (1 + k) * (2 + k) // 2].contiguous(), xty=xty)

    def minibatches(self, order: Int[Tensor, " images"], batch_size: int) -> Iterator[Minibatch]:
        """Yield minibatches of images in `order`, which is on the CPU; nothing waits for the device.

        As many are summed and unpacked together as 32 MB of whole matrices hold.
        """
        num_columns = self.num_columns
        num_summed = max(1, _BYTES_OF_MATRICES // (self.xtx.itemsize * num_columns**2)) * batch_size
        unpacking = _unpacking(num_columns, self.device)
        for part in order.to(self.device).split(num_summed):
            first = torch.arange(0, len(part), batch_size, device=self.device)
            xtx, xty, num_valid = (
                F.embedding_bag(part, each, first, mode="sum")
                for each in (self.xtx, self.xty.flatten(1), self.num_valid[:, None])
            )
            scale = 2 * (1 / (num_valid.clamp(min=1) * self.num_outputs))
            whole = xtx.mul_(scale).index_select(1, unpacking).unflatten(1, (num_columns, num_columns))
            rows = xty.mul_(scale).unflatten(1, (self.num_outputs, num_columns))
            for sums in zip(whole.unbind(), rows.unbind(), strict=True):
                yield Minibatch(partial(_gram_gradient, *sums), num_columns**2)


def _gram_gradient(xtx: Tensor, xty: Tensor, weights: Tensor, *, out: Tensor) -> Tensor:
    """Gw - b. xtx: 2 G_B / (n_B out), xty: 2 b_B' / (n_B out), (out, columns)."""
    # One output: addmm itself repeats the row.
    xty = xty if len(xty) == 1 else xty.repeat(len(weights) // len(xty), 1)
    return torch.addmm(xty, weights, xtx, beta=-1, out=out)


@lru_cache(maxsize=8)
def _unpacking(num_columns: int, device: torch.device) -> Int[Tensor, " columns*columns"]:
    """Place of each entry of the whole matrix among the packed ones."""
    index = torch.arange(num_columns, device=device)
    larger, smaller = torch.maximum(index[:, None], index), torch.minimum(index[:, None], index)
    return (larger * (larger + 1) // 2 + smaller).flatten()


@dataclass(frozen=True)
class ImageMaps(_Held):
    """Per-image statistics as feature maps and what couples their cells. xty: r = U'My, (images, out, h, w).

    maps: columns of each cell, in half precision as the cache holds them, the bias among them.
    diagonals: the five diagonals of K.
    """

    maps: Float[Tensor, "images h w columns"]
    diagonals: Float[Tensor, "images 5 h w"]

    @staticmethod
    def _parts(cells: Tensor, on_grid: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        diagonals = UpsampledGram.of_mask(mask, *cells.shape[1:3]).diagonals
        return (on_grid, cells.half().contiguous(), diagonals.transpose(0, 1).contiguous())

    @staticmethod
    def bytes_per_image(k_max: int, num_outputs: int, num_cells: int) -> int:
        """Bytes of one image: half precision for the maps, float32 for the rest."""
        return num_cells * (2 * (1 + k_max) + 4 * (len(OFFSETS) + num_outputs)) + 4

    @property
    def num_columns(self) -> int:
        """The bias and the components."""
        return self.maps.shape[3]

    def leading(self, k: int, mean: Float[Tensor, " out"], spread: Float[Tensor, " out"]) -> Self:
        """Keep the bias and the first `k` components, for the target (y - mean) / spread: a view of the maps."""
        # U 1 = 1: U'M of a constant is the constant times K 1.
        ones = torch.ones_like(self.xty[:, 0, ..., None])
        constant = UpsampledGram(self.diagonals.transpose(0, 1)).apply(ones).movedim(3, 1)
        mean, spread = mean[:, None, None], spread[:, None, None]
        return replace(self, maps=self.maps[..., : 1 + k], xty=(self.xty - mean * constant) / spread)

    def minibatches(self, order: Int[Tensor, " images"], batch_size: int) -> Iterator[Minibatch]:
        """Yield minibatches of images in `order`; the maps of one at a time are brought to the type of the rest."""
        for chosen in order.to(self.device).split(batch_size):
            rows = self.maps[chosen].to(self.dtype).flatten(0, 2)
            gram = UpsampledGram(self.diagonals[chosen].transpose(0, 1).contiguous())
            scale = 2 * (1 / (self.num_valid[chosen].sum().clamp(min=1) * self.num_outputs))
            gradient = partial(_map_gradient, rows, gram, self.xty[chosen].movedim(1, 3), scale)
            # There and back.
            yield Minibatch(gradient, 2 * rows.numel())


def _map_gradient(
    rows: Tensor, gram: UpsampledGram, target: Tensor, scale: Tensor, weights: Tensor, *, out: Tensor
) -> Tensor:
    """Z'(Kp - r), summed over the images. rows: Z. target: r = U'My, (batch, h, w, out). scale: 2 / (n_B out)."""
    prediction = (rows @ weights.T).view(*target.shape[:3], -1)
    repeated = target.repeat(1, 1, 1, len(weights) // target.shape[3])
    residual = gram.apply(prediction).sub_(repeated).mul_(scale).flatten(0, 2)
    return torch.mm(residual.T, rows, out=out)


HeldStatistics = ImageGrams | ImageMaps
Form = type[ImageGrams] | type[ImageMaps]


class StreamedStatistics:
    """Images that are read again in every epoch, because memory holds but `images_per_read` of them.

    read: positions to their images, in that order, on the device where minibatches are to be made.
    """

    def __init__(
        self, read: Callable[[Int[Tensor, " images"]], HeldStatistics], num_images: int, images_per_read: int
    ) -> None:
        self._read = read
        self._images_per_read = images_per_read
        self.num_images = num_images
        # What one image says of sizes, types and places holds for all.
        first = read(torch.arange(1))
        self.num_columns, self.num_outputs = first.num_columns, first.num_outputs
        self.device, self.dtype = first.device, first.dtype

    def leading(self, k: int, mean: Float[Tensor, " out"], spread: Float[Tensor, " out"]) -> "StreamedStatistics":
        """Keep the bias and the first `k` components of what is read, as of images in memory."""
        read, per_read = self._read, self._images_per_read
        return StreamedStatistics(lambda order: read(order).leading(k, mean, spread), self.num_images, per_read)

    def minibatches(self, order: Int[Tensor, " images"], batch_size: int) -> Iterator[Minibatch]:
        """Read whole minibatches, as many as memory holds."""
        for positions in order.split(max(1, self._images_per_read // batch_size) * batch_size):
            yield from self._read(positions).minibatches(torch.arange(len(positions)), batch_size)


ImageStatistics = HeldStatistics | StreamedStatistics


@dataclass(frozen=True)
class Plan:
    """What is held of each image, and where.

    k_max: leading components. num_bytes: of all images. sentence: all of it, for people.
    """

    k_max: int
    form: Form
    is_streamed: bool
    num_bytes: int
    sentence: str


def plan(
    num_images: int, grid: tuple[int, int], num_components: int, num_outputs: int, *, budget: int, k: int | None = None
) -> Plan:
    """Decide from the sizes how `num_images` images are held.

    grid: cells, (h, w). num_components: that the basis has.
    budget: bytes that per-image statistics may take where minibatches are made.
    k: the largest that any probe reads, kept whatever it costs; None: all that there are, or as many as fit, but not
      below 64.

    Matrices where they fit and are at most 8 times as large as the maps; maps where only these fit; else streamed, in
    the smaller form.
    """

    def size(form: Form, k_max: int) -> int:
        return num_images * form.bytes_per_image(k_max, num_outputs, grid[0] * grid[1])

    k_max = num_components if k is None else min(k, num_components)
    fewer = [each for each in range(LEAST_OPEN_K, num_components) if size(ImageGrams, each) <= budget]
    if size(ImageGrams, k_max) <= min(budget, LARGEST_RATIO * size(ImageMaps, k_max)):
        form = ImageGrams
    elif size(ImageMaps, k_max) <= budget:
        form = ImageMaps
    elif k is None and fewer:
        k_max, form = fewer[-1], ImageGrams
    else:
        form = min((ImageGrams, ImageMaps), key=lambda each: size(each, k_max))
    num_bytes = size(form, k_max)
    is_streamed = num_bytes > budget
    what = "one matrix an image" if form is ImageGrams else f"one map of {grid[0]} x {grid[1]} cells an image"
    sentence = (
        f"{num_images:,} images, {k_max} of {num_components} components: {what}, "
        f"{num_bytes / num_images / 1e3:.1f} kB, {num_bytes / 1e6:,.1f} MB in all, "
        f"{'read again in every epoch' if is_streamed else 'in memory'} ({budget / 1e6:,.0f} MB allowed)."
    )
    return Plan(k_max, form, is_streamed, num_bytes, sentence)
