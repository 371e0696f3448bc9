"""Batches of a store, read ahead in a thread so that reading overlaps encoding."""

import queue
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from idl.data.store import Store

BATCHES_AHEAD = 3


def images_of(rgb: Tensor) -> Tensor:
    """Bring stored RGB, uint8 (batch, H, W, 3), to what networks read: float32 (batch, 3, H, W) in [0, 1].

    A view of the stored order: the batch is channels_last without a copy.
    """
    return rgb.permute(0, 3, 1, 2).float().div_(255)


def batches(
    store: Store, layers: Sequence[str], indices: Sequence[int], batch_size: int, first: int = 0
) -> Generator[Mapping[str, Tensor]]:
    """Yield layers of `indices`, in order, `batch_size` images at a time, beginning at position `first`.

    Each layer comes as stored: "rgb" uint8 (batch, H, W, 3), "depth" float32 metres, "valid" bool (batch, H, W).
    Raises and ends as `ahead`.
    """
    starts = range(first, len(indices), batch_size)
    return ahead(store.read(layers, indices[start : start + batch_size]) for start in starts)


def ahead(made: Iterator[Mapping[str, np.ndarray]]) -> Generator[Mapping[str, Tensor]]:
    """Yield the batches of `made`, which a thread runs through a few batches ahead.

    An error of the thread is raised here. Closing the iterator ends the thread.
    """
    waiting: queue.Queue[Mapping[str, Tensor] | BaseException | None] = queue.Queue(BATCHES_AHEAD)
    stopped = threading.Event()

    def put(item: Mapping[str, Tensor] | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for batch in made:
                put({layer: torch.from_numpy(values) for layer, values in batch.items()})
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="idl-loading", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
