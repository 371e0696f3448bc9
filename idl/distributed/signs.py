"""What ranks leave for each other in torchrun's store."""

import os
import time
from dataclasses import dataclass, field

from torch.distributed.distributed_c10d import Store

from idl.errors import InputError

# A machine that swaps is slow to answer; one that is gone never does.
SILENCE_TIMEOUT_S = 120.0


class OtherRankError(InputError):
    """Another rank failed; the text says which, and its error."""


class OtherRankInterruptedError(OtherRankError):
    """Another rank got Ctrl-C or SIGTERM."""


@dataclass(frozen=True)
class Signs:
    """Who is there, who has failed and how, who has left."""

    store: Store
    rank: int
    size: int
    # By rank: the last beat that was seen, and when.
    _beats: dict[int, tuple[int, float]] = field(default_factory=dict)

    def enter(self) -> None:
        """Say that this rank is there, and which process it is."""
        self.store.set(f"process/{self.rank}", f"{_machine()} {os.getpid()}")
        self.store.add(f"beat/{self.rank}", 1)

    def leave(self) -> None:
        """Say that this rank goes, so that nobody takes it for killed."""
        self.store.set(f"left/{self.rank}", "")

    def arrive(self, place: str, count: int) -> int:
        """Add to those who arrived at `place`; return how many they are now."""
        return self.store.add(f"arrived/{place}", count)

    def tell(self, rank: int, line: str, *, is_interruption: bool = False) -> None:
        """Leave the failure of `rank`, unless there is one: what comes after the first follows from it."""
        kind = "interruption" if is_interruption else "failure"
        self.store.compare_set("failure", "", f"{rank} {kind} {' '.join(line.split())}")

    def raise_of_other(self) -> None:
        """Raise OtherRankError where another rank has failed."""
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


def _machine() -> str:
    return os.environ.get("GROUP_RANK", "0")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
