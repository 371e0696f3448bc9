"""Looks at the validation split during a training: figures and pictures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from idl.data.loading import batches
from idl.data.store import Store
from idl.report import Image
from idl.training.images import Batch, to_network
from idl.training.objective import Forward, Objective

SHOWN_IMAGES = 6


@dataclass(frozen=True)
class Validation:
    """The images that every look sees, in the store's order.

    crop: side of the square that is cut from the middle of each, pixels; 0: they are seen whole.
    """

    objective: Objective
    store: Store
    indices: tuple[int, ...]
    batch_size: int
    crop: int
    device: torch.device

    @classmethod
    def spread(
        cls,
        objective: Objective,
        store: Store,
        indices: tuple[int, ...],
        num_images: int,
        batch_size: int,
        crop: int,
        device: torch.device,
    ) -> "Validation":
        """Take `num_images` of `indices`, or all of fewer, spread evenly."""
        positions = np.linspace(0, len(indices) - 1, min(num_images, len(indices))).round().astype(int)
        return cls(objective, store, tuple(indices[position] for position in positions), batch_size, crop, device)

    def measure(self, forward: Forward) -> dict[str, float]:
        """What `Objective.evaluate` says."""
        return dict(self.objective.evaluate(forward, self._batches()))

    def panels(self, forward: Forward) -> Mapping[str, Image]:
        """What `Objective.panels` shows of a few of the images."""
        shown = self.indices[:: max(1, len(self.indices) // SHOWN_IMAGES)][:SHOWN_IMAGES]
        read = self.store.read(self.objective.layers, shown)
        batch = {name: torch.from_numpy(values) for name, values in read.items()}
        return self.objective.panels(forward, self._prepared(batch))

    def _batches(self) -> Iterator[Batch]:
        for batch in batches(self.store, self.objective.layers, self.indices, self.batch_size):
            yield self._prepared(batch)

    def _prepared(self, batch: Batch) -> Batch:
        side = self.store.protocol.resolution
        first = (side - self.crop) // 2
        middle = slice(first, first + self.crop) if self.crop else slice(None)
        return to_network({name: images[:, middle, middle] for name, images in batch.items()}, self.device)
