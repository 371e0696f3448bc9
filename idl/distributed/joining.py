"""From the ranks that torchrun started to one world, and to the one reason that ended it."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from idl.distributed.launched import announced
from idl.distributed.signs import OtherRankError, OtherRankInterruptedError, Signs
from idl.distributed.world import ALONE, World
from idl.errors import InputError

# Of one exchange of numbers. Ranks meet before it, and there they wait for as long as it takes: preparing a dataset
# is an hour's work, and one machine may be three times as fast as the other.
EXCHANGE_TIMEOUT = timedelta(minutes=30)
# torchrun starts all ranks at once; until they meet, rank 0 opens its run, and the others import torch.
ENTRY_TIMEOUT_S = 600.0
BEAT_S = 2.0


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
    signs = Signs(PrefixStore("idl", store), rank, size)
    world = World(rank, size, signs)
    with _termination_exits():
        signs.enter()
        try:
            # Before the group: its own waiting for a rank that never came could not be interrupted.
            world.barrier(ENTRY_TIMEOUT_S)
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=EXCHANGE_TIMEOUT)
            # A connection of its own: what waits on the other one would hold up the beats.
            with _watched(Signs(PrefixStore("idl", store.clone()), rank, size), device):
                yield world
                world.barrier()
        except BaseException as error:
            cause = cause_of(signs, error)
            # Not where a second Ctrl-C cut that off: a rank that is gone and has not left counts as killed.
            with suppress(Exception):
                signs.leave()
            if cause is error:
                raise
            raise cause from error
        with suppress(Exception):
            signs.leave()
    dist.destroy_process_group()


def cause_of(signs: Signs, error: BaseException) -> BaseException:
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
def _watched(signs: Signs, device: torch.device) -> Iterator[None]:
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
