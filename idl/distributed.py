"""Several processes that share the work of one run, as torchrun starts them: one a GPU, or one a machine.

Each runs the same command, and takes its part by its rank. Rank 0 talks to the user and to MLflow. A rank that fails
leaves its error where the others look while they wait, so that all end at once and rank 0 can log why.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from idl.errors import InputError

T = TypeVar("T")

# Of one exchange of numbers. Ranks meet before it, and there they wait for as long as it takes: preparing a dataset
# is an hour's work, and one machine may be three times as fast as the other.
EXCHANGE_TIMEOUT = timedelta(minutes=30)
# torchrun starts all ranks at once; until they meet, rank 0 opens its run, and the others import torch.
ENTRY_TIMEOUT_S = 600.0
# A machine that swaps is slow to answer; one that is gone never does.
SILENCE_TIMEOUT_S = 120.0
BEAT_S = 2.0


class OtherRankError(InputError):
    """Another rank failed; the text says which, and its error."""


class OtherRankInterruptedError(OtherRankError):
    """Another rank got Ctrl-C or SIGTERM."""


@dataclass(frozen=True)
class _Signs:
    """What ranks leave for each other in torchrun's store: who is there, who has failed and how, who has left."""

    store: Store
    rank: int
    size: int
    # By rank: the last beat that was seen, and when.
    _beats: dict[int, tuple[int, float]] = field(default_factory=dict)

    def enter(self) -> None:
        self.store.set(f"process/{self.rank}", f"{_machine()} {os.getpid()}")
        self.store.add(f"beat/{self.rank}", 1)

    def leave(self) -> None:
        self.store.set(f"left/{self.rank}", "")

    def arrive(self, place: str, count: int) -> int:
        """Add to those who arrived at `place`; return how many they are now."""
        return self.store.add(f"arrived/{place}", count)

    def tell(self, rank: int, line: str, *, is_interruption: bool = False) -> None:
        """Leave the failure of `rank`, unless there is one: what comes after the first follows from it."""
        kind = "interruption" if is_interruption else "failure"
        self.store.compare_set("failure", "", f"{rank} {kind} {' '.join(line.split())}")

    def raise_of_other(self) -> None:
        if self.store.check(["failure"]):
            rank, kind, line = self.store.get("failure").decode().split(" ", 2)
            if int(rank) != self.rank:
                error = OtherRankInterruptedError if kind == "interruption" else OtherRankError
                raise error(f"rank {rank}: {line}")

    def tell_killed(self) -> None:
        """Tell of ranks of this machine that are gone without a word."""
        for rank in range(self.size):
            if self.store.check([f"process/{rank}"]):
                machine, process = self.store.get(f"process/{rank}").decode().split()
                # In this order: a rank says that it leaves before it is gone.
                if machine == _machine() and not _is_alive(int(process)) and not self.store.check([f"left/{rank}"]):
                    self.tell(rank, "killed. Was there too little memory?")

    def beat(self) -> None:
        """Show that this rank is alive, and tell of those that have not done so for long: rank 0 looks at all."""
        self.store.add(f"beat/{self.rank}", 1)
        now = time.monotonic()
        for rank in range(self.size) if self.rank == 0 else (0,):
            number = self.store.add(f"beat/{rank}", 0)
            before, since = self._beats.get(rank, (0, now))
            if number != before or self.store.check([f"left/{rank}"]):
                self._beats[rank] = (number, now)
            elif now - since > SILENCE_TIMEOUT_S:
                self.tell(rank, f"no sign of life for {SILENCE_TIMEOUT_S:g} s. Was its machine cut off?")


@dataclass(frozen=True)
class World:
    """This process among all that share the work of one run; `World()` is one that has it for itself.

    Every method below `share` is called by all ranks, in the same order. Each waits for the others for as long as it
    takes, and raises OtherRankError where one of them has failed.

    rank: 0 to size - 1.
    """

    rank: int = 0
    size: int = 1
    _signs: _Signs | None = field(default=None, repr=False, compare=False)
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


def announced() -> World:
    """Return who this process is by torchrun's environment, before it has met the others."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "LOCAL_RANK" not in os.environ:
        return ALONE
    return World(int(os.environ["RANK"]), size)


def local_device(device: torch.device) -> torch.device:
    """Return the GPU of the machine's that is this rank's; with one rank, or on the CPU, `device` as it is."""
    world = announced()
    if world.size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise InputError(f"device={device}: one GPU for {world.size} ranks. Pass device=cuda: each takes its own.")
    ranks, present = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if ranks > present:
        raise InputError(
            f"device=cuda: {ranks} ranks on a machine with {present} GPUs. "
            f"Pass torchrun --nproc-per-node {present}, or device=cpu."
        )
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Run the block together with the ranks that torchrun started; alone where it started none.

    device: what this rank computes on. Ranks exchange what is on the CPU by gloo, what is on a GPU by NCCL.

    An exception in the block ends every rank: on rank 0 as an OtherRankError where another rank failed first. A
    further rank that did not fail itself ends without a word, with exit code 1. Where Ctrl-C or SIGTERM came first,
    each rank that got it raises its own. SystemExit with code 0 is no failure, and ends no other rank.
    """
    if announced().size == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(iter(rendezvous("env://", timeout=EXCHANGE_TIMEOUT)))
    signs = _Signs(PrefixStore("idl", store), rank, size)
    world = World(rank, size, signs)
    with _termination_exits():
        signs.enter()
        try:
            # Before the group: its own waiting for a rank that never came could not be interrupted.
            world.barrier(ENTRY_TIMEOUT_S)
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=EXCHANGE_TIMEOUT)
            # A connection of its own: what waits on the other one would hold up the beats.
            with _watched(_Signs(PrefixStore("idl", store.clone()), rank, size), device):
                yield world
                world.barrier()
        except BaseException as error:
            cause = _cause(signs, error)
            # Not where a second Ctrl-C cut that off: a rank that is gone and has not left counts as killed.
            with suppress(Exception):
                signs.leave()
            if cause is error:
                raise
            raise cause from error
        with suppress(Exception):
            signs.leave()
    dist.destroy_process_group()


def _cause(signs: _Signs, error: BaseException) -> BaseException:
    """Return what ended the run: `error`, which the others are told of, or what another rank was first to tell."""
    if isinstance(error, OtherRankInterruptedError):
        # A signal to all may get to this rank a moment later: it is raised here then, and goes on as the rank's own.
        time.sleep(1)
    if threading.current_thread() is threading.main_thread():
        # torchrun sends it as soon as one rank has ended: it must not cut off what rank 0 has yet to log.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        if any(library in str(error).lower() for library in ("gloo", "nccl")):
            # A connection was lost. Its other end tells why, or torchrun takes a moment to clear it away.
            time.sleep(1)
        signs.tell_killed()
        line = _line(error)
        if line:
            signs.tell(signs.rank, line, is_interruption=_is_interruption(error))
        signs.raise_of_other()
    except OtherRankError as other:
        if isinstance(other, OtherRankInterruptedError) and _is_interruption(error):
            return error
        if signs.rank > 0:
            return SystemExit(1)
        return error if isinstance(error, OtherRankError) else other
    except Exception:
        # torchrun is gone, and with it all that the ranks told each other.
        return error
    return error


def _line(error: BaseException) -> str:
    """Return what the others are told of `error`; nothing where it is no failure."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, SystemExit):
        if not isinstance(error.code, int):
            return str(error.code or "")
        if _is_interruption(error):
            return f"ended by signal {error.code - 128}"
        return f"ended with exit code {error.code}" if error.code else ""
    return f"{type(error).__name__}: {error}" if isinstance(error, Exception) else ""


def _is_interruption(error: BaseException) -> bool:
    """Tell whether Ctrl-C or a signal raised it: a shell reports signal N as exit code 128 + N."""
    if isinstance(error, SystemExit):
        return isinstance(error.code, int) and error.code - 128 in signal.valid_signals()
    return isinstance(error, KeyboardInterrupt)


@contextmanager
def _termination_exits() -> Iterator[None]:
    """Turn SIGTERM into SystemExit where nobody listens to it yet, so that this rank is not taken for killed."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _watched(signs: _Signs, device: torch.device) -> Iterator[None]:
    """Beat in a thread, and free this rank from an exchange on the GPU that another one has left for good."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(BEAT_S):
            try:
                signs.beat()
                signs.tell_killed()
                signs.raise_of_other()
            except OtherRankError:
                # By gloo, a lost connection is an error. A GPU would wait for ever, and this rank for the GPU.
                if device.type == "cuda" and not ended.wait(5) and dist.group.WORLD is not None:
                    dist.group.WORLD.abort()
                return
            except Exception:
                # torchrun is gone; the rank finds that out by itself.
                return

    threading.Thread(target=watch, name="idl-watch", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _machine() -> str:
    return os.environ.get("GROUP_RANK", "0")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
