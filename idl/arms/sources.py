"""Where the arms' columns come from: an encoder's maps beside the patches, and the same maps under other truth."""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Int64

from idl.data.loading import batches
from idl.features import EncodedDataset, MapBatch, MapSource
from idl.probes.basis import NUM_NULL, Columns


class JointMaps:
    """[null | patches | components]: an encoder's maps and those of the patches of its stride.

    Patches are maps of their own, because they are the same for every encoder of a stride, and for all its twins.
    encoded, patches: of the same store, split, grid and batch size. None: the image does not vary within a cell.
    """

    def __init__(self, encoded: EncodedDataset, patches: EncodedDataset | None) -> None:
        if patches is None:
            pass
        elif encoded.grid != patches.grid or encoded.split.digest != patches.split.digest:
            raise ValueError(f"maps of {encoded.grid} and {patches.grid} cells do not lie side by side")
        self.encoded = encoded
        self.patches = patches
        self.store = encoded.store
        self.split = encoded.split
        self.folder = encoded.folder
        self.device = encoded.device
        self.world = encoded.world

    @property
    def columns(self) -> Columns:
        """Order of the columns."""
        num_patches = 0 if self.patches is None else self.patches.basis.num_components
        return Columns(self.encoded.basis.num_components, num_patches)

    @property
    def digest(self) -> str:
        """Of both bases."""
        return _digest(self.encoded.digest, *([] if self.patches is None else [self.patches.digest]))

    def share(self, name: str) -> range:
        """Positions in split `name` that `stream` yields on this rank."""
        return self.encoded.share(name)

    def stream(self, name: str, layers: tuple[str, ...]) -> Iterator[MapBatch]:
        """Yield this rank's share of split `name` in its order."""
        if self.patches is None:
            yield from self.encoded.stream(name, layers)
            return
        both = zip(self.encoded.stream(name, layers), self.patches.stream(name, ("valid",)), strict=True)
        for batch, beside in both:
            if batch.position != beside.position or len(batch.maps) != len(beside.maps):
                raise ValueError(f"batches at {batch.position} and {beside.position} do not lie side by side")
            null, components = batch.maps[..., :NUM_NULL], batch.maps[..., NUM_NULL:]
            maps = torch.cat([null, beside.maps[..., NUM_NULL:], components], dim=-1)
            yield MapBatch(batch.position, maps, batch.layers)


class ShuffledMaps:
    """Maps under the truth and the mask of other images.

    maps: of the images themselves.
    lenders: by split, the position of the image whose truth each image gets.
    batch_size: that of `maps`.
    """

    def __init__(self, maps: MapSource, lenders: Mapping[str, Int64[np.ndarray, " images"]], batch_size: int) -> None:
        self.store = maps.store
        self.split = maps.split
        self.folder = maps.folder
        self.device = maps.device
        self.world = maps.world
        self._maps = maps
        self.lenders = lenders
        self._batch_size = batch_size

    @property
    def columns(self) -> Columns:
        """Order of the columns."""
        return self._maps.columns

    @property
    def digest(self) -> str:
        """Of the maps and of who lends to whom."""
        lent = [hashlib.sha256(self.lenders[name].tobytes()).hexdigest() for name in sorted(self.lenders)]
        return _digest(self._maps.digest, *lent)

    def share(self, name: str) -> range:
        """Positions in split `name` that `stream` yields on this rank."""
        return self._maps.share(name)

    def stream(self, name: str, layers: tuple[str, ...]) -> Iterator[MapBatch]:
        """Yield this rank's share of split `name` in its order; `layers` are the lenders'."""
        share = self.share(name)
        order = self.split.indices[name]
        lent = [order[position] for position in self.lenders[name][: share.stop]]
        read = batches(self.store, layers, lent, self._batch_size, first=share.start)
        for batch, truth in zip(self._maps.stream(name, ("valid",)), read, strict=True):
            yield MapBatch(batch.position, batch.maps, truth)


def _digest(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
