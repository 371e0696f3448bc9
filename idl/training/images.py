"""Batches to train on: which images, in which order, cropped and mirrored how, all fixed by seed and step."""

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from idl.data.crops import DIRECTIONS, MIRRORED_AXES
from idl.data.loading import batches, images_of
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
        local = self.batch_size // num_ranks
        part = slice(rank * local, (rank + 1) * local)
        step = first_step
        while True:
            epoch, done = divmod(step, self.steps_per_epoch)
            order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.indices)
            order = order[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)[:, part]
            read = batches(self.store, self.layers, order.ravel().tolist(), local, first=done * local)
            with closing(read):
                for batch in read:
                    yield self._changed(batch, step, part)
                    step += 1

    def _changed(self, batch: Batch, step: int, part: slice) -> Batch:
        """Cut and mirror every image, the same way in all layers."""
        generator = np.random.default_rng([self.seed, _CHANGE, step])
        side = self.store.protocol.resolution
        # Drawn for all ranks: their number changes nothing.
        corners = generator.integers(0, side - (self.crop or side) + 1, (self.batch_size, 2))[part]
        is_flipped = generator.random(self.batch_size)[part] < 0.5
        changed = dict(batch)
        if self.crop:
            changed = {
                name: torch.stack(
                    [
                        image[top : top + self.crop, left : left + self.crop]
                        for image, (top, left) in zip(images, corners.tolist(), strict=True)
                    ]
                )
                for name, images in changed.items()
            }
        if self.flip:
            chosen = torch.from_numpy(is_flipped)
            changed = {
                name: torch.where(chosen.view(-1, *(1,) * (images.ndim - 1)), _mirrored(name, images), images)
                for name, images in changed.items()
            }
        return changed


def _mirrored(layer: str, images: Tensor) -> Tensor:
    mirrored = images.flip(2)
    return mirrored * mirrored.new_tensor(MIRRORED_AXES) if layer in DIRECTIONS else mirrored


def to_network(batch: Batch, device: torch.device) -> Batch:
    """Bring a batch to `device`: "rgb" as float32 (batch, 3, H, W) in [0, 1], channels_last; the rest as it is."""
    moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    moved["rgb"] = images_of(moved["rgb"])
    return moved
