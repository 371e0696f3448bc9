"""What a run leaves behind: plain values that the tracking package writes and nobody else needs to know how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8
from torch import nn

Image = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class DatasetInput:
    """A split that a run read.

    digest: of the store's content or recipe, shared by its splits.
    source: path or recipe in words.
    """

    name: str
    digest: str
    source: str
    context: Literal["training", "validation", "testing"]
    num_images: int
    num_scenes: int


@dataclass(frozen=True)
class RunReport:
    """All that one run shows.

    params: what the run came to, by names that no option has; the command line adds what was asked for.
    metrics: final figures, by name (`test_loss`, ...).
    curves: figures epoch by epoch, from epoch 1, by name; a name that is in `metrics` too ends with that value.
    figures, texts: pictures and documents by artifact path ("curves/loss_over_k.png", "verdict.html").
    panels: pictures for MLflow's image grid, by key ("depth/kitchen_0012"), the same in every run of a dataset.
    tables: columns by artifact path; ".csv" is written as CSV, ".json" as an MLflow table.
    description: Markdown for the run's page.
    config: the whole resolved configuration, by name; it becomes `config.json`.
    """

    params: Mapping[str, object]
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    figures: Mapping[str, Image] = field(default_factory=dict)
    panels: Mapping[str, Image] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Sequence[object]]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    datasets: tuple[DatasetInput, ...] = ()
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Championship:
    """What versions of one registered model compete for: the lowest `val_loss` under equal conditions.

    dataset: name for the alias `champion-<dataset>`.
    conditions: tags that two versions must share to be compared: digests of dataset, split and protocol, target.
    val_loss: this version's, in target units.
    """

    dataset: str
    conditions: Mapping[str, str]
    val_loss: float


@dataclass(frozen=True)
class ModelVersion:
    """A model on its way to the registry. name: registered name, "idl-depth-convnext".

    module: in eval mode on the CPU; (batch, 3, H, W) RGB in [0, 1] in, one tensor out.
    example: input that it is exported with; batch 2 so that the batch size stays dynamic.
    files: further artifacts by name.
    """

    name: str
    module: nn.Module
    example: Float32[np.ndarray, "batch 3 H W"]
    description: str
    tags: Mapping[str, str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    championship: Championship | None = None


@dataclass(frozen=True)
class Run:
    """What an entry point gives to tracking: the report, and the model to register."""

    report: RunReport
    model: ModelVersion
