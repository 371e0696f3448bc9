"""Ctrl-C and SIGTERM wait until a step is whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Interruption:
    """The signal that arrived, here or at another rank; None as long as there was none."""

    number: int | None = None


@contextmanager
def noticed() -> Iterator[Interruption]:
    """Note the first SIGINT or SIGTERM inside the block instead of acting on it; the caller ends the block soon.

    When the block ends the signal is raised again for whoever handled it before, so that it ends the run as it
    would have without this; SystemExit is raised where that handler lets the run go on, for the work of the block is
    not done. A second SIGINT is not waited for: it acts at once. A second SIGTERM says nothing new: mlflow sends it
    after each Ctrl-C. A signal that was ignored before (nohup) stays ignored. In another than the main thread signals
    cannot be had, and nothing is noticed.
    """
    noted = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

    def restore() -> None:
        for number, handler in before.items():
            # None: a handler that Python did not install cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, frame: FrameType | None) -> None:
        noted.number = number
        restore()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    for number in before:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()
    if noted.number is not None:
        signal.raise_signal(noted.number)
        raise SystemExit(128 + noted.number)
