"""Batches of a store, read ahead in a thread so that reading overlaps encoding."""

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from idl.data.store import Store

BATCHES_AHEAD = 3


def images_of(rgb: Tensor) -> Tensor:
    """Return stored RGB, uint8 (batch, H, W, 3), as networks read it: float32 (batch, 3, H, W) in [0, 1].

    Channels last: a view of the stored order.
    """
    return rgb.permute(0, 3, 1, 2).float().div_(255)


def batches(
    store: Store, layers: Sequence[str], indices: Sequence[int], batch_size: int, first: int = 0
) -> Generator[Mapping[str, Tensor]]:
    """Yield layers of `indices` as stored, in order, `batch_size` images at a time, from position `first` on.

    Raises and ends as `ahead`.
    """
    starts = range(first, len(indices), batch_size)
    return ahead(store.read(layers, indices[start : start + batch_size]) for start in starts)


def ahead(made: Iterator[Mapping[str, np.ndarray]]) -> Generator[Mapping[str, Tensor]]:
    """Yield the batches of `made`, which a thread runs through a few batches ahead.

    An error of the thread is raised here. Closing the iterator ends the thread.
    """
    pool = ThreadPoolExecutor(1, "idl-loading")
    try:
        waiting = deque(pool.submit(next, made, None) for _ in range(BATCHES_AHEAD))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, made, None))
            yield {layer: torch.from_numpy(values) for layer, values in batch.items()}
    finally:
        pool.shutdown(cancel_futures=True)
