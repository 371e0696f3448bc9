"""Batches to train on and to validate on: which images, in which order, cropped and mirrored how."""

import itertools
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from idl.data.crops import mirrored
from idl.data.loading import ahead, batches, images_of
from idl.data.store import Store

Batch = Mapping[str, Tensor]
_ORDER, _CHANGE = 0x0DE2, 0xC409
NUM_SHOWN = 6


@dataclass(frozen=True)
class TrainingImages:
    """The training split as an endless row of batches; batch t is the same in every run with the same settings.

    layers: of the store, each (batch, H, W) or (batch, H, W, channels). In a mirror image directions are mirrored too:
      normals change the sign of x. There is no flip upside down: gravity would point the wrong way.
    batch_size: images a step over all ranks; a last batch that would not be full is left out of its epoch.
    crop: side of random crops, pixels; 0: whole images. flip: mirror each image or not, at even chances.
    """

    store: Store
    indices: tuple[int, ...]
    layers: tuple[str, ...]
    batch_size: int
    crop: int
    flip: bool
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass."""
        return len(self.indices) // self.batch_size

    def stream(self, first_step: int, rank: int = 0, num_ranks: int = 1) -> Generator[Batch]:
        """Yield this rank's part of the batches from `first_step` on, as stored, for ever."""
        return ahead(self._batches(first_step, rank, num_ranks))

    def _batches(self, first_step: int, rank: int, num_ranks: int) -> Iterator[Mapping[str, np.ndarray]]:
        local = self.batch_size // num_ranks
        part = slice(rank * local, (rank + 1) * local)
        resolution = self.store.protocol.resolution
        side = self.crop or resolution
        order, order_epoch = np.empty(0, np.int64), -1
        for step in itertools.count(first_step):
            epoch, done = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.indices)
                order_epoch = epoch
            chosen = order[done * self.batch_size :][part].tolist()
            # Drawn for all ranks: their number changes nothing.
            generator = np.random.default_rng([self.seed, _CHANGE, step])
            tops, lefts = generator.integers(0, resolution - side + 1, (self.batch_size, 2))[part].T
            is_flipped = (generator.random(self.batch_size)[part] < 0.5) & self.flip
            strips = self.store.read(self.layers, chosen, tops.tolist(), side)
            batch = {}
            for layer, rows in strips.items():
                # Whole images keep their width, whatever it is; so do layers of another size.
                kept = (
                    [row[:, left : left + side] for row, left in zip(rows, lefts, strict=True)] if self.crop else rows
                )
                pieces = zip(kept, is_flipped, strict=True)
                batch[layer] = np.stack([mirrored(layer, piece) if flip else piece for piece, flip in pieces])
            yield batch


@dataclass(frozen=True)
class ValidationImages:
    """The images of every validation, in the store's order.

    crop: side of the square that is cut from the middle of each, pixels; 0: they are seen whole.
    """

    store: Store
    indices: tuple[int, ...]
    layers: tuple[str, ...]
    batch_size: int
    crop: int
    device: torch.device

    def batches(self) -> Iterator[Batch]:
        """Yield all of them as the network takes them."""
        return map(self._prepared, batches(self.store, self.layers, self.indices, self.batch_size))

    def shown(self) -> Batch:
        """Return the few that panels show."""
        indices = self.indices[:: max(1, len(self.indices) // NUM_SHOWN)][:NUM_SHOWN]
        read = self.store.read(self.layers, indices)
        return self._prepared({name: torch.from_numpy(values) for name, values in read.items()})

    def _prepared(self, batch: Batch) -> Batch:
        first = (self.store.protocol.resolution - self.crop) // 2
        middle = slice(first, first + self.crop) if self.crop else slice(None)
        return to_network({name: images[:, middle, middle] for name, images in batch.items()}, self.device)


def evenly(indices: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return `count` of `indices`, or all of fewer, spread evenly."""
    positions = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return tuple(indices[position] for position in positions)


def to_network(batch: Batch, device: torch.device) -> Batch:
    """Bring a batch to `device`: "rgb" as float32 (batch, 3, H, W) in [0, 1], channels_last; the rest as it is."""
    moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    moved["rgb"] = images_of(moved["rgb"])
    return moved
