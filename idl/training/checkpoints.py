"""Where a training stands, on disk: the last two states, each whole or not there."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from idl import cache
from idl.errors import InputError

KEPT = 2
_NAME = re.compile(r"step-(\d+)\.checkpoint")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training, in a folder of their own."""

    folder: Path

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the state after `step` steps; older ones than the last two go. Raises InputError on a full disk."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        path = self.folder / f"step-{step:08d}.checkpoint"
        try:
            cache.write(path, buffer.getvalue())
        except InputError as error:
            raise InputError(
                f"{self.folder}: no space left for a checkpoint. Free some, and go on from the one before with resume=."
            ) from error
        for old in self._paths()[:-KEPT]:
            old.unlink(missing_ok=True)
        return path

    def load(self) -> tuple[dict[str, Any] | None, tuple[Path, ...]]:
        """Return the newest state that is not damaged, None where there is none, and the damaged files, now gone.

        Tensors come on the CPU; nothing that a file may hold is run.
        """
        damaged = []
        for path in reversed(self._paths()):
            content = cache.read(path)
            if content is not None:
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), tuple(damaged)
            damaged.append(path)
        return None, tuple(damaged)

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.checkpoint") if _NAME.fullmatch(path.name))
