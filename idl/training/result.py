"""What a training leaves: weights in half precision, and the card that tells how to make them again."""

import json
import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save
from torch import Tensor

from idl import __version__
from idl.data.splits import Split
from idl.data.store import Store
from idl.errors import InputError
from idl.training.config import TrainingConfig
from idl.training.loop import Trained
from idl.training.objective import Objective


@dataclass(frozen=True)
class TrainedWeights:
    """Weights and card, as bytes of `NAME.safetensors` and `NAME.json`."""

    safetensors: bytes
    card: bytes


def weights_of(
    objective: Objective, trained: Trained, config: TrainingConfig, store: Store, split: Split, command: str
) -> TrainedWeights:
    """Pack what was trained. command: that makes it again.

    Raises InputError where a weight is too large for half precision.
    """
    tensors = {objective.published(name): _half(name, tensor) for name, tensor in trained.state.items()}
    metadata = {
        "format": "pt",
        "task": objective.task,
        "architecture": objective.architecture,
        "config": json.dumps(objective.arguments, sort_keys=True),
        "dataset": store.name,
        "dataset_digest": store.digest,
        "seed": str(config.seed),
    }
    card = {
        "summary": f"{objective.architecture}, {objective.purpose}",
        "task": objective.task,
        "command": command,
        "dataset": store.source,
        "dataset_digest": store.digest,
        "split_digest": split.digest,
        "num_images": len(split.indices["train"]),
        "seed": config.seed,
        "steps": trained.step,
        "validation": {name: float(f"{value:.6g}") for name, value in trained.metrics.items()},
        "validation_untrained": {name: float(f"{value:.6g}") for name, value in trained.untrained.items()},
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "idl": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__.partition("+")[0],
            "timm": timm.__version__,
            "numpy": np.__version__,
        },
    }
    return TrainedWeights(save(tensors, metadata), (json.dumps(card, indent=1) + "\n").encode())


def command_line(name: str, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Write `idl NAME` with the options that are not at their defaults, as a shell takes it."""
    words = ["idl", name]
    for key, value in options.items():
        if str(value) != str(defaults[key]):
            words += [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _half(name: str, tensor: Tensor) -> Tensor:
    half = tensor.half()
    if not bool(half.isfinite().all()):
        raise InputError(f"{name}: a weight is too large for half precision. Train with more weight_decay.")
    return half.contiguous()
