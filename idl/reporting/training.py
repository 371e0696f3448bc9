"""The report of a training, and the trained encoder's version in the registry."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from idl import figures
from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import Encoder
from idl.report import Image, ModelVersion, RunReport
from idl.reporting.encoder import version_of
from idl.reporting.shared import dataset_inputs, run_tags


@dataclass(frozen=True)
class TrainingFindings:
    """What is known when a training has ended.

    settings: resolved configuration, by name.
    encoder: of the trained weights; features: (channels, h, w) that it makes of the image `rgb`.
    step, num_steps: steps done, and those that were planned. is_converged: it ended before its last step.
    metrics: of the kept weights on the validation images, by name; untrained: the same before the first step.
    images_per_s: training throughput; None where nothing was left to train.
    files: weights and their card, by name.
    """

    store: Store
    split: Split
    settings: Mapping[str, object]
    encoder: Encoder
    step: int
    num_steps: int
    is_converged: bool
    metrics: Mapping[str, float]
    untrained: Mapping[str, float]
    images_per_s: float | None
    image_name: str
    rgb: Image
    features: Tensor
    files: Mapping[str, bytes]


def training_report(findings: TrainingFindings) -> RunReport:
    """Settings, the kept weights' figures beside the untrained network's, and a panel of feature maps.

    The curves were logged while it trained.
    """
    encoder = findings.encoder
    panel = figures.feature_panel(
        findings.rgb, findings.features.numpy(), title=f"{encoder.name}: {findings.image_name}"
    )
    metrics = {f"best_val_{name}": value for name, value in findings.metrics.items()}
    metrics |= {f"untrained_val_{name}": value for name, value in findings.untrained.items()}
    metrics["num_steps"] = findings.step
    if findings.images_per_s is not None:
        metrics["images_per_s_overall"] = findings.images_per_s
    return RunReport(
        params={**findings.settings, **encoder.describe(), "dataset": findings.store.name},
        metrics=metrics,
        figures={"features.png": panel},
        panels={f"features/{findings.image_name}": panel},
        datasets=dataset_inputs(findings.store, findings.split, ("train", "val")),
        description=_description(findings),
        tags=run_tags(findings.store, encoder) | {"converged": str(findings.is_converged).lower()},
    )


def training_version(findings: TrainingFindings) -> ModelVersion:
    """The trained encoder as `idl-encoder-<name>`, with all weights (a decoder's, a classifier's) and their card."""
    return version_of(findings.encoder, _description(findings), findings.files)


def _description(findings: TrainingFindings) -> str:
    encoder, store = findings.encoder, findings.store
    end = (
        f"It had converged after {findings.step} of {findings.num_steps} steps"
        if findings.is_converged
        else f"It ended after all of its {findings.step} steps"
    )
    named = ", ".join(
        f"{name.replace('_', ' ')} {value:.4g} (untrained {findings.untrained[name]:.4g})"
        for name, value in findings.metrics.items()
    )
    return (
        f"**{encoder.name}** ({encoder.origin.architecture}), trained for {encoder.origin.task} on "
        f"{len(findings.split.indices['train'])} images of {store.name} ({store.source}). {end}. "
        f"On {len(findings.split.scenes['val'])} validation scenes: {named}."
    )
