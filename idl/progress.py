"""Progress of long work: a bar on a terminal, plain lines in a log, nothing in a library."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Protocol

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0

Advance = Callable[[int], None]


class Progress(Protocol):
    """Opens one piece of long work; what it yields is called with the number of items just done."""

    def __call__(self, label: str, total: int, done: int = 0, unit: str = "img") -> AbstractContextManager[Advance]:
        """Show `label`, of whose `total` items `done` were there already."""
        ...


@contextmanager
def silent(label: str, total: int, done: int = 0, unit: str = "img") -> Iterator[Advance]:
    """Show nothing: for libraries and tests."""
    yield lambda count: None


def prefixed(progress: Progress, name: str) -> Progress:
    """Return a progress whose labels begin with `name`."""
    return lambda label, total, done=0, unit="img": progress(f"{name}: {label}", total, done, unit)


@contextmanager
def terminal(label: str, total: int, done: int = 0, unit: str = "img") -> Iterator[Advance]:
    """Show a bar with the rate and the time left on standard error, or a line every ten seconds in a log."""
    if sys.stderr.isatty():
        with tqdm(desc=label, total=total, initial=done, unit=unit, leave=True, dynamic_ncols=True) as bar:
            yield lambda count: (bar.update(count), None)[1]
        return

    start = last = time.monotonic()
    current = done

    def advance(count: int, ends: bool = False) -> None:
        nonlocal current, last
        current += count
        now = time.monotonic()
        if ends or (now - last >= SECONDS_BETWEEN_LINES and current < total):
            last, rate = now, (current - done) / max(now - start, 1e-9)
            left = "" if ends or rate == 0 else f", {timedelta(seconds=round((total - current) / rate))} left"
            print(f"{label}: {current}/{total} {unit}, {rate:.1f} {unit}/s{left}", file=sys.stderr, flush=True)  # noqa: T201

    yield advance
    advance(0, ends=True)
