"""Several processes that share the work of one run, as torchrun starts them: one a GPU, or one a machine.

Each runs the same command and takes its part by its rank; rank 0 talks to the user and to MLflow. When one rank fails,
torchrun ends the others; its error is kept in torchrun's store, so that rank 0 can log it.
"""

import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from idl.errors import InputError

T = TypeVar("T")
# Preparing a dataset is hours of work for one rank, while the others wait. A lost connection is noticed at once.
EXCHANGE_TIMEOUT = timedelta(days=2)
FAILURE_KEY = "idl/failure"


class OtherRankError(InputError):
    """Another rank failed; the text says which, and its error where it left one."""


@dataclass(frozen=True)
class World:
    """This process among all that share the work of one run; `World()` has it for itself.

    Every method below `share` is called by all ranks, in the same order, and waits for the others. Raises
    OtherRankError where one of them has ended.
    """

    rank: int = 0
    size: int = 1

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

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.sum(torch.zeros(1))

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up the ranks' tensors of one shape, in float64: the same bits on every rank. One rank: as it is."""
        if self.size == 1:
            return tensor
        total = tensor.detach().to("cpu", torch.float64, copy=True)
        _exchange(dist.all_reduce, total)
        return total.to(tensor.device)

    def gather(self, value: T) -> list[T]:
        """Return the ranks' values, by rank, on every rank. Tensors in them: on the CPU."""
        values = [value] * self.size
        if self.size > 1:
            _exchange(dist.all_gather_object, values, value)
        return values

    def broadcast(self, value: T) -> T:
        """Return rank 0's `value` on every rank, whatever the others pass."""
        values = [value]
        if self.size > 1:
            _exchange(dist.broadcast_object_list, values)
        return values[0]

    def once(self, make: Callable[[], T]) -> T:
        """Return on every rank what `make` returns on rank 0, which alone calls it."""
        return self.broadcast(make() if self.is_first else None)  # pyright: ignore[reportReturnType]

    def after_first(self, make: Callable[[], T]) -> T:
        """Call `make` on rank 0, then on the others: what it leaves on a shared disk is made once."""
        if not self.is_first:
            self.barrier()
        made = make()
        if self.is_first:
            self.barrier()
        return made


ALONE = World()


def this_process() -> World:
    """Return who this process is by torchrun's environment, before it has met the others."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "LOCAL_RANK" not in os.environ:
        return ALONE
    return World(int(os.environ["RANK"]), size)


def local_device(device: torch.device) -> torch.device:
    """Return the GPU of the machine's that is this rank's, which may not exist; on the CPU, or alone, `device`."""
    world = this_process()
    if world.size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise InputError(f"device={device}: one GPU for {world.size} ranks. Pass device=cuda: each takes its own.")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Run the block together with the ranks that torchrun started; alone where it started none.

    device: what this rank computes on. Ranks exchange what is on the CPU by gloo, what is on a GPU by NCCL.

    The first rank to fail keeps its exception; on rank 0 that of another one is an OtherRankError, and a further rank
    ends without a word, with exit code 1.
    """
    if this_process().size == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Before there is a group: where DDP imports it later, its functions keep the group of that moment as the default
    # of an argument. The group's threads then outlive `destroy_process_group`, into the interpreter's end: SIGABRT.
    importlib.import_module("torch.distributed.nn.functional")
    store, rank, size = next(iter(rendezvous("env://", timeout=EXCHANGE_TIMEOUT)))
    try:
        # In Python: the group's own waiting for all ranks could not be interrupted.
        arrived = store.add("idl/arrived", 1)
        while arrived < size:
            time.sleep(0.05)
            arrived = store.add("idl/arrived", 0)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=EXCHANGE_TIMEOUT)
        yield World(rank, size)
        World(rank, size).barrier()
    except BaseException as error:
        if threading.current_thread() is threading.main_thread():
            # torchrun sends it once a rank has ended: it must not cut off what rank 0 has yet to log.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        first, _, line = _first_failure(store, rank, error).partition(" ")
        if first in ("", str(rank)) or isinstance(error, KeyboardInterrupt):
            raise
        if rank > 0:
            raise SystemExit(1) from error
        raise OtherRankError(f"rank {first}: {line}") from error
    dist.destroy_process_group()


def _first_failure(store: Store, rank: int, error: BaseException) -> str:
    """Return the rank that failed first and its error, in one line; "" where none has: signals are no failures."""
    note = ""
    if isinstance(error, OtherRankError):
        # The other end of a lost connection may be about to say why.
        time.sleep(0.5)
    if isinstance(error, Exception):
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        note = " ".join(f"{rank} {text}".split())
    try:
        # What is there already, else the note.
        return store.compare_set(FAILURE_KEY, "", note).decode()
    except Exception:
        return ""  # torchrun is gone, and its store with it


def _exchange(collective: Callable[..., object], *arguments: object) -> None:
    try:
        collective(*arguments)
    except RuntimeError as error:
        raise OtherRankError("another rank has ended. See its error, and torchrun's report.") from error
