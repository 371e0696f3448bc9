"""One pass of a frozen encoder over a dataset: every image is encoded once, projected, kept, and streamed.

The first training images fix the basis; from then on an image is its projected map in half precision, whether it
comes from the encoder or from the cache. Each rank has a consecutive share of every split, and writes its maps to their
places in the same files as one rank would.
"""

import ctypes
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float16, UInt8
from torch import Tensor, nn

from idl import cache
from idl.data.loading import batches, images_of
from idl.data.splits import Split
from idl.data.store import Store
from idl.distributed import ALONE, World
from idl.errors import InputError
from idl.probes.basis import Basis, Columns, null_map
from idl.progress import Progress, silent

# Raised whenever the stored numbers change their meaning.
FEATURES_VERSION = 3
BASIS_IMAGES = 256
BASIS = "basis.safetensors"
# An estimate, for want of a GPU to measure on: compiling takes a minute, and saves parts of a millisecond an image.
COMPILED_FROM = 100_000
# <malloc.h> of glibc.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


class NoFeaturesError(InputError):
    """An encoder's features are the same everywhere, or not finite."""


@dataclass(frozen=True)
class MapBatch:
    """A batch of a split. position: of its first image in the split's order. layers: as the store has them."""

    position: int
    maps: Float16[Tensor, "batch h w stored"]
    layers: Mapping[str, Tensor]


class MapSource(Protocol):
    """Where maps come from, beside the truth that they are held against: what statistics are taken of."""

    store: Store
    split: Split
    folder: Path
    device: torch.device
    world: World

    @property
    def columns(self) -> Columns:
        """Order of the columns that statistics are taken on."""
        ...

    @property
    def digest(self) -> str:
        """Of all that decides the columns and, beside the store and the split, the truth: for the names of files."""
        ...

    def share(self, name: str) -> range:
        """Positions in split `name` that `stream` yields on this rank."""
        ...

    def stream(self, name: str, layers: tuple[str, ...]) -> Iterator[MapBatch]:
        """Yield this rank's share of split `name` in its order."""
        ...


def keep_freed_buffers() -> None:
    """Let glibc keep what is freed instead of giving it back to the system at once; other C libraries stay as they are.

    By default each buffer above 32 MB is mapped and unmapped anew, and its pages are zeroed by the system each time:
    a fifth of the time of encoding with convnext_atto on two cores.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        for option, value in ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
            mallopt(option, value)


def compiled(
    encoder: nn.Module, device: torch.device, batch_size: int, num_images: int, backend: Any = "inductor"
) -> Callable[[Tensor], Tensor]:
    """Return `encoder`, compiled for batches of `batch_size` images where a GPU has at least COMPILED_FROM to encode.

    Any other batch, such as the last one, goes through the encoder as it is, instead of being compiled for; so does
    every batch where compiling fails, for want of a C compiler, say.
    """
    if device.type != "cuda" or num_images < COMPILED_FROM:
        return encoder
    fast: Callable[[Tensor], Tensor] = torch.compile(encoder, dynamic=False, backend=backend)

    def encode(images: Tensor) -> Tensor:
        nonlocal fast
        if len(images) != batch_size:
            return encoder(images)
        try:
            return fast(images)
        except Exception:  # what is wrong with the images themselves is raised again by the encoder
            fast = encoder
            return encoder(images)

    return encode


def features_key(store: Store, split: Split, encoder_digest: str, arithmetic: str) -> str:
    """First 16 hex digits of the SHA-256 of all that decides the maps."""
    parts = [store.digest, store.protocol.digest, split.digest, encoder_digest, arithmetic, FEATURES_VERSION]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class EncodedDataset:
    """The projected maps of one encoder on one split dataset, encoded when first asked for.

    encoder: RGB in [0, 1] (batch, 3, H, W) to (batch, channels, h, w), frozen.
    folder: where the maps are kept, one a key; the caller keeps other runs out of it (`cache.locked`). All ranks must
      share it.
    most: leading components that are kept; None: all. The caller gives each number a folder of its own.

    grid: cells, (h, w).
    """

    def __init__(
        self,
        store: Store,
        split: Split,
        encoder: nn.Module,
        folder: Path,
        batch_size: int,
        device: torch.device,
        progress: Progress = silent,
        world: World = ALONE,
        most: int | None = None,
    ) -> None:
        self.store, self.split, self.folder, self.device, self.world = store, split, folder, device, world
        self._num_encoded, self._seconds = 0, 0.0
        self._batch_size, self._most = batch_size, most
        num_images = sum(len(indices) for indices in split.indices.values())
        self._encoder = compiled(encoder, device, batch_size, num_images)
        self.basis, self.grid = self._same_basis(progress)
        self._device_basis = self.basis.to(device)

    @property
    def columns(self) -> Columns:
        """Order of the columns that statistics are taken on."""
        return Columns(self.basis.num_components)

    @property
    def digest(self) -> str:
        """Of the basis."""
        return self.basis.digest

    def share(self, name: str) -> range:
        """Positions in split `name` that `stream` yields on this rank: with one rank, all."""
        return self.world.share(len(self.split.indices[name]), self._batch_size)

    def stream(self, name: str, layers: tuple[str, ...]) -> Iterator[MapBatch]:
        """Yield this rank's share of split `name` in its order, with `layers` of the store.

        Encodes what the cache does not hold. Raises NoFeaturesError where an image has no finite features.
        """
        share = self.share(name)
        order = self.split.indices[name][: share.stop]
        file = self._file(name)
        position = share.start
        kept = min(file.num_images, share.stop)
        if kept < share.stop:
            # In whole batches, so that they are the same in every run.
            kept -= kept % self._batch_size
        for read in batches(self.store, layers, order[:kept], self._batch_size, first=position):
            maps = file.read(position, len(read[layers[0]]))
            if maps is None:
                break
            yield MapBatch(position, torch.from_numpy(maps), read)
            position += len(maps)
        # What lies beyond the last good batch is encoded again.
        encoded_layers = tuple(dict.fromkeys(("rgb", *layers)))
        for read in batches(self.store, encoded_layers, order, self._batch_size, first=position):
            maps = self._projected(self._device_basis, *self._encode(read["rgb"]), order[position:])
            file.write(position, maps.numpy())
            yield MapBatch(position, maps, read)
            position += len(maps)

    def read(self, name: str, positions: Sequence[int], layers: tuple[str, ...]) -> MapBatch:
        """Read some images of split `name`, whose maps are all in the cache, in the order of `positions`.

        Raises InputError where one is damaged.
        """
        file = self._file(name)
        found = [maps for position in positions if (maps := file.read(position, 1)) is not None]
        if len(found) < len(positions):
            raise InputError(f"{file.path}: damaged while it was used. The same command makes it anew.")
        read = self.store.read(layers, [self.split.indices[name][position] for position in positions])
        tensors = {layer: torch.from_numpy(values) for layer, values in read.items()}
        return MapBatch(positions[0], torch.from_numpy(np.concatenate(found)), tensors)

    def throughput(self) -> tuple[int, float]:
        """Return how many images all ranks have encoded in this run, and the seconds of the slowest."""
        num_images, seconds = zip(*self.world.gather((self._num_encoded, self._seconds)), strict=True)
        return sum(num_images), max(seconds)

    def _encode(self, rgb: UInt8[Tensor, "batch H W 3"]) -> tuple[Tensor, Tensor]:
        start = time.perf_counter()
        with torch.inference_mode():
            images = images_of(rgb.to(self.device))
            features = self._encoder(images)
            null = null_map(images, *features.shape[2:])
            if self.device.type == "cuda":
                # Kernels are queued: without this the clock would stop before they have run.
                torch.cuda.synchronize(self.device)
        self._num_encoded += len(rgb)
        self._seconds += time.perf_counter() - start
        return features, null

    def _projected(self, basis: Basis, features: Tensor, null: Tensor, indices: Sequence[int]) -> Tensor:
        """Project a batch. indices: of its images in the store, more may follow.

        Raises NoFeaturesError where an image has features that are not finite, or too large to be projected.
        """
        maps = basis.project(features, null)
        # A sum is finite where all of its terms are: a hundredth of the time of looking at each.
        is_sound = features.sum(dim=(1, 2, 3)).isfinite() & maps.sum(dim=(1, 2, 3), dtype=torch.float32).isfinite()
        if not is_sound.all():
            name = self.store.names[indices[int(is_sound.int().argmin())]]
            raise NoFeaturesError(
                f"encoder: the features of image {name} are not finite. Check its weights and its mean and std."
            )
        return maps.cpu()

    def _file(self, name: str) -> cache.MapFile:
        return cache.MapFile(self.folder / f"{name}.maps", (*self.grid, self.basis.num_stored))

    def _same_basis(self, progress: Progress) -> tuple[Basis, tuple[int, int]]:
        """Load or fit the basis on rank 0; make sure that all ranks mean the same maps by the same names."""
        if self.world.broadcast(self.folder.name) != self.folder.name:
            raise InputError(
                "dataset or encoder: not those of rank 0. Name them for all: dataset=, weights=, arithmetic=."
            )
        basis, grid = self.world.once(lambda: self._load_basis() or self._fit_basis(progress))
        if not self.world.is_first:
            loaded = self._load_basis()
            if loaded is None or loaded[0].digest != basis.digest:
                raise InputError(f"{self.folder}: another one than rank 0's. Pass a cache= that all machines share.")
        return basis, grid

    def _load_basis(self) -> tuple[Basis, tuple[int, int]] | None:
        loaded = cache.read_tensors(self.folder / BASIS)
        return None if loaded is None else (Basis(**loaded[0]), tuple(loaded[1]["grid"]))

    def _fit_basis(self, progress: Progress) -> tuple[Basis, tuple[int, int]]:
        """Encode the first training images, fit the basis on them, and keep their maps as the first records."""
        # Maps without their basis mean nothing.
        for path in self.folder.glob("*.maps"):
            path.unlink()
        # Whole batches, so that the stream goes on at a batch's edge; the basis itself sees the first 256 alone, so
        # that it is the same at any batch size.
        count = -(-BASIS_IMAGES // self._batch_size) * self._batch_size
        first = self.split.indices["train"][:count]
        encoded: dict[int, tuple[Tensor, Tensor]] = {}
        with progress("basis", len(first)) as advance:
            for read in batches(self.store, ("rgb",), first, self._batch_size):
                encoded[len(encoded) * self._batch_size] = self._encode(read["rgb"])
                advance(len(read["rgb"]))
        seen = ([maps[which][: BASIS_IMAGES - position] for position, maps in encoded.items()] for which in (0, 1))
        try:
            basis = Basis.fit(*seen, most=self._most)
        except ValueError as error:
            raise NoFeaturesError(f"encoder: {error}. Check its weights and its mean and std.") from error
        grid = (encoded[0][0].shape[2], encoded[0][0].shape[3])
        num_images = sum(len(indices) for indices in self.split.indices.values())
        cache.require_space(self.folder, 2 * num_images * grid[0] * grid[1] * basis.num_stored)
        file = cache.MapFile(self.folder / "train.maps", (*grid, basis.num_stored))
        on_device = basis.to(self.device)
        for position, (features, null) in encoded.items():
            file.write(position, self._projected(on_device, features, null, first[position:]).numpy())
        # The basis comes last: without it the maps are taken for leftovers.
        cache.write_tensors(self.folder / BASIS, vars(basis), grid=grid)
        return basis, grid
