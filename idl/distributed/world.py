"""This process among all that share the work of one run."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from idl.distributed.signs import Signs
from idl.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all that share the work of one run; `World()` is one that has it for itself.

    Every method below `share` is called by all ranks, in the same order. Each waits for the others for as long as it
    takes, and raises OtherRankError where one of them has failed.

    rank: 0 to size - 1.
    """

    rank: int = 0
    size: int = 1
    _signs: Signs | None = field(default=None, repr=False, compare=False)
    _meetings: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    @property
    def is_first(self) -> bool:
        """Rank 0 prepares, prints and logs."""
        return self.rank == 0

    def share(self, num_images: int, batch_size: int) -> range:
        """Positions of this rank in an order of `num_images`: consecutive, in whole batches of that order."""
        num_batches = -(-num_images // batch_size)
        # Rounded up: rank 0 has the first batch, however few there are.
        edges = (-(-num_batches * rank // self.size) * batch_size for rank in (self.rank, self.rank + 1))
        first, last = (min(edge, num_images) for edge in edges)
        return range(first, last)

    def barrier(self, timeout_s: float = float("inf")) -> None:
        """Wait until all ranks are here."""
        if self._signs is None:
            return
        place = str(next(self._meetings))
        begin = time.monotonic()
        arrived = self._signs.arrive(place, 1)
        # Asked for again and again: a blocking call would keep SIGTERM from being heard until its timeout.
        while arrived < self.size:
            self._signs.raise_of_other()
            waited = time.monotonic() - begin
            if waited > timeout_s:
                raise InputError(f"{arrived} of {self.size} ranks are here after {waited:.0f} s. See what each says.")
            time.sleep(min(0.5, 0.0002 + waited / 20))
            arrived = self._signs.arrive(place, 0)

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up the ranks' tensors of one shape, in float64: the same bits on every rank. One rank: as it is."""
        if self.size == 1:
            return tensor
        self.barrier()
        total = tensor.detach().to("cpu", torch.float64, copy=True)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def gather(self, value: T) -> list[T]:
        """Return the ranks' values, by rank, on every rank. Tensors in them: on the CPU."""
        if self.size == 1:
            return [value]
        self.barrier()
        values = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """Return rank 0's `value` on every rank; what the others pass is not looked at."""
        if self.size == 1:
            return value
        self.barrier()
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def once(self, make: Callable[[], T]) -> T:
        """Return on every rank what `make` returns on rank 0, which alone calls it."""
        made = make() if self.is_first else None
        return self.broadcast(made)  # pyright: ignore[reportReturnType]

    def after_first(self, make: Callable[[], T]) -> T:
        """Call `make` on rank 0, then on the others: what it leaves on a shared disk is made once."""
        if not self.is_first:
            self.barrier()
        made = make()
        if self.is_first:
            self.barrier()
        return made


ALONE = World()
