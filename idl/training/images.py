"""Batches to train on: which images, in which order, cropped and mirrored how, all fixed by seed and step."""

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from idl.data.crops import mirrored
from idl.data.loading import ahead, images_of
from idl.data.store import Store

Batch = Mapping[str, Tensor]
_ORDER, _CHANGE = 0x0DE2, 0xC409


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
        order, of_epoch = np.empty(0, np.int64), -1
        for step in itertools.count(first_step):
            epoch, done = divmod(step, self.steps_per_epoch)
            if epoch != of_epoch:
                order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.indices)
                of_epoch = epoch
            chosen = order[done * self.batch_size :][part].tolist()
            # Drawn for all ranks: their number changes nothing.
            generator = np.random.default_rng([self.seed, _CHANGE, step])
            resolution = self.store.protocol.resolution
            side = self.crop or resolution
            corners = generator.integers(0, resolution - side + 1, (self.batch_size, 2))[part]
            is_flipped = generator.random(self.batch_size)[part] < 0.5
            strips = self.store.read_rows(self.layers, chosen, corners[:, 0].tolist(), side)
            lefts = corners[:, 1].tolist() if self.crop else []
            yield {name: _changed(name, images, lefts, side, is_flipped & self.flip) for name, images in strips.items()}


def _changed(
    layer: str,
    strips: Shaped[np.ndarray, "images rows width *channels"],
    lefts: Sequence[int],
    side: int,
    is_flipped: Bool[np.ndarray, " images"],
) -> Shaped[np.ndarray, "images rows kept *channels"]:
    """Cut `side` columns out of every strip, from its own of `lefts` on (none: keep all), and mirror some."""
    if not lefts and not is_flipped.any():
        return strips
    width = side if lefts else strips.shape[2]
    changed = np.empty((*strips.shape[:2], width, *strips.shape[3:]), strips.dtype)
    for row, strip in enumerate(strips):
        piece = strip[:, lefts[row] : lefts[row] + side] if lefts else strip
        changed[row] = mirrored(layer, piece) if is_flipped[row] else piece
    return changed


def to_network(batch: Batch, device: torch.device) -> Batch:
    """Bring a batch to `device`: "rgb" as float32 (batch, 3, H, W) in [0, 1], channels_last; the rest as it is."""
    moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    moved["rgb"] = images_of(moved["rgb"])
    return moved
