"""The curves of a training: losses and rates of every step, throughput, and the looks at the validation split."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from idl.report import Image

# Steps whose points go out in one request: it takes a tracking server 10 ms, a step of a small network 100.
STEPS_A_LINE = 10
TRAIN_LOSS, VAL_LOSS = "train_loss", "val_loss"


class Recorder(Protocol):
    """What a training logs with."""

    def log_curves(self, curves: Mapping[str, Mapping[int, float]]) -> None:
        """Write points of curves, in one request: by name and step."""
        ...

    def log_panels(self, panels: Mapping[str, Image], step: int) -> None:
        """Write one step of pictures."""
        ...

    def last_step(self, name: str) -> int:
        """Return the highest step that a curve has a point of; -1 where it has none."""
        ...


class Curves:
    """Where the points of a training go.

    recorder: None on ranks that log nothing. is_resumed: the run may have points behind the checkpoint that is gone on
    from, where it was killed between the two; these steps are done again and not written again.
    """

    def __init__(self, recorder: Recorder | None, is_resumed: bool = False) -> None:
        self._recorder = recorder
        written = recorder if is_resumed else None
        self._last_line = -1 if written is None else written.last_step(TRAIN_LOSS)
        self._last_look = -1 if written is None else written.last_step(VAL_LOSS)

    def line(self, losses: Sequence[float], rates: Sequence[float], images_per_s: float, step: int) -> None:
        """Write training losses and learning rates of the steps up to `step`, and the throughput over them."""
        if self._recorder is None or step <= self._last_line:
            return
        first = step - len(losses) + 1
        curves = {
            name: {at: value for at, value in enumerate(values, first) if at > self._last_line}
            for name, values in ((TRAIN_LOSS, losses), ("lr", rates))
        }
        self._recorder.log_curves({**curves, "images_per_s": {step: images_per_s}})

    def look(self, metrics: Mapping[str, float], panels: Callable[[], Mapping[str, Image]], step: int) -> None:
        """Write what was measured on the validation split, and pictures of it."""
        if self._recorder is None or step <= self._last_look:
            return
        # Pictures first: a run that is killed between the two has its point, and pictures, once it went on.
        self._recorder.log_panels(panels(), step)
        self._recorder.log_curves({f"val_{name}": {step: value} for name, value in metrics.items()})
