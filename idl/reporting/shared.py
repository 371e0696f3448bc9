"""What all reports share: names, tags, dataset inputs, provenance."""

import json
from dataclasses import asdict
from typing import Literal

import numpy as np

from idl import __version__
from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import Encoder
from idl.report import DatasetInput

CONTEXTS: dict[str, Literal["training", "validation", "testing"]] = {
    "train": "training",
    "val": "validation",
    "test": "testing",
}


def model_slug(encoder_name: str) -> str:
    """An encoder's name in the letters that a registered model may have: "timm:resnet18" is "resnet18"."""
    return encoder_name.removeprefix("timm:").replace(":", "-").replace("/", "-")


def example() -> np.ndarray:
    """Input that a model is exported with: (2, 3, 64, 64), RGB in [0, 1]."""
    # Batch 2 and 64 x 64: torch.export would fix a batch of 1, and a 480 x 640 example adds 93 MB of JSON.
    return np.random.default_rng(0).random((2, 3, 64, 64), dtype=np.float32)


def origin_json(encoder: Encoder) -> bytes:
    """Where an encoder came from and how it is set, for the registry."""
    described = {"digest": encoder.digest, "origin": asdict(encoder.origin), **encoder.describe()}
    return json.dumps(described, indent=1, default=str).encode()


def run_tags(store: Store, encoder: Encoder) -> dict[str, str]:
    """Tags by which runs are found again."""
    return {
        "encoder": encoder.name,
        "encoder_digest": encoder.digest,
        "weights": encoder.origin.weights,
        "task": encoder.origin.task,
        "dataset": store.name,
        "dataset_digest": store.digest,
        "idl.version": __version__,
    }


def dataset_inputs(store: Store, split: Split, names: tuple[str, ...]) -> tuple[DatasetInput, ...]:
    """The splits that a run read."""
    return tuple(
        DatasetInput(
            store.name,
            store.digest,
            store.source,
            CONTEXTS[name],
            len(split.indices[name]),
            len(split.scenes[name]),
        )
        for name in names
    )
