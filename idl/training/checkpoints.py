"""What is left of an interrupted training: its state on disk, whole or not there, after the step that was running."""

import io
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from idl import cache
from idl.errors import InputError

NUM_KEPT = 2
_NAME = re.compile(r"step-(\d+)\.checkpoint")


@dataclass
class TrainingState:
    """How far a training is, beside weights and optimiser.

    validations_without_gain: since the last that was a gain, whose loss was `gained`.
    untrained: metrics before the first step; best: of the lowest validation loss, of the weights `best_state`.
    """

    step: int = 0
    validations_without_gain: int = 0
    gained: float = float("inf")
    untrained: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_state: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training, in a folder of their own."""

    folder: Path

    def save(self, step: int, content: Mapping[str, Any]) -> Path:
        """Write what is there after `step` steps; only the last two are kept. Raises InputError on a full disk."""
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        path = self.folder / f"step-{step:08d}.checkpoint"
        try:
            cache.write(path, buffer.getvalue())
        except InputError as error:
            raise InputError(
                f"{self.folder}: no space left for a checkpoint. Free some, and go on from the one before with resume=."
            ) from error
        for old in self.paths()[:-NUM_KEPT]:
            old.unlink(missing_ok=True)
        return path

    def newest(self, settings: Mapping[str, object]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return the newest content that is not damaged, and a note for each damaged file, now gone.

        Tensors come on the CPU; nothing that a file may hold is run.
        settings: as far as they are known; the training must have been begun with the same.
        Raises InputError, naming each setting with both values, where they differ, or there is no checkpoint.
        """
        notes: list[str] = []
        for path in reversed(self.paths()):
            written = cache.read(path)
            if written is None:
                notes.append(f"{path}: damaged; the training goes on from the checkpoint before.")
                continue
            content = torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
            saved = content["settings"]
            differing = [
                f"{name} was {saved.get(name)}, is {value}"
                for name, value in settings.items()
                if saved.get(name) != value
            ]
            if differing:
                raise InputError(
                    f"resume: the run has other settings ({', '.join(differing)}). Pass the same ones, or train anew."
                )
            return content, tuple(notes)
        if notes:
            raise InputError(f"{self.folder}: every checkpoint was damaged, and is gone. Train anew.")
        raise InputError(
            f"{self.folder}: no checkpoint to resume from. It is kept where the training ran: pass the id of its run "
            "and the same cache=, or train anew."
        )

    def paths(self) -> list[Path]:
        """Return the files, the oldest first."""
        return sorted(path for path in self.folder.glob("*.checkpoint") if _NAME.fullmatch(path.name))


@dataclass
class Interruption:
    """The signal that arrived, here or at another rank; None as long as there was none."""

    number: int | None = None


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Note the first SIGINT or SIGTERM inside the block instead of acting on it; the caller ends the block soon.

    When the block ends the signal is raised again for whoever handled it before; SystemExit is raised where that
    handler lets the run go on, for the work of the block is not done. A second SIGINT acts at once; a second SIGTERM
    does not: mlflow sends it after each Ctrl-C. A signal that was ignored before (nohup) stays ignored. Outside of
    the main thread nothing is noted.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def note(number: int, frame: FrameType | None) -> None:
        if interruption.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        interruption.number = interruption.number or number

    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if interruption.number is not None:
        signal.raise_signal(interruption.number)
        raise SystemExit(128 + interruption.number)
