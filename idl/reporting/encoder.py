"""The report of an encoder by itself, and its version in the registry."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from safetensors.torch import save
from torch import Tensor

from idl import figures
from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import Encoder
from idl.probes.exact import Solution
from idl.report import Image, ModelVersion, RunReport
from idl.reporting.shared import dataset_inputs, example, model_slug, origin_json, run_tags
from idl.targets import Target


@dataclass(frozen=True)
class EncoderFindings:
    """What is known of an encoder by itself, with the constant arm's fit. features: (channels, h, w)."""

    store: Store
    split: Split
    target: Target
    encoder: Encoder
    constant: Solution
    image_name: str
    rgb: Image
    features: Tensor


def encoder_report(findings: EncoderFindings) -> RunReport:
    """Origin, the constant arm's losses and a panel of feature maps."""
    encoder, constant = findings.encoder, findings.constant
    panel = figures.feature_panel(
        findings.rgb, findings.features.numpy(), title=f"{encoder.name}: {findings.image_name}"
    )
    return RunReport(
        params=dict(encoder.describe()) | {"dataset": findings.store.name, "target": findings.target.name},
        metrics={"train_loss": constant.train_loss, "val_loss": constant.val_loss},
        figures={"features.png": panel},
        panels={f"features/{findings.image_name}": panel},
        datasets=dataset_inputs(findings.store, findings.split, ("train", "val")),
        description=_encoder_description(findings),
        tags=run_tags(findings.store, encoder) | {"target": findings.target.name},
    )


def encoder_version(findings: EncoderFindings) -> ModelVersion:
    """The encoder on its way to the registry as `idl-encoder-<name>`, with its weights and origin."""
    return version_of(findings.encoder, _encoder_description(findings))


def version_of(encoder: Encoder, description: str, files: Mapping[str, bytes] | None = None) -> ModelVersion:
    """The same for any description; files: further ones, by name."""
    tags = {
        "encoder": encoder.name,
        "encoder_digest": encoder.digest,
        "architecture": encoder.origin.architecture,
        "weights": encoder.origin.weights,
        "weights_digest": encoder.origin.weights_digest,
        "task": encoder.origin.task,
        "stride": str(encoder.stride),
        "channels": str(encoder.channels),
    }
    return ModelVersion(
        name=f"idl-encoder-{model_slug(encoder.name)}",
        module=encoder.exportable(),
        example=example(),
        description=description,
        tags=tags,
        files={
            "encoder.safetensors": save(
                # Of timm's models the names that timm gives, so that the file is a checkpoint of the architecture.
                {name.removeprefix("model."): t.contiguous() for name, t in encoder.network.state_dict().items()},
                metadata={
                    "task": encoder.origin.task,
                    "architecture": encoder.origin.architecture,
                    # With these the weights need no encoder_args where they are loaded again.
                    "config": json.dumps(encoder.encoder_args, sort_keys=True),
                },
            ),
            "origin.json": origin_json(encoder),
            **(files or {}),
        },
    )


def _encoder_description(findings: EncoderFindings) -> str:
    encoder, origin = findings.encoder, findings.encoder.origin
    sentences = [
        f"The frozen encoder **{encoder.name}**: {origin.architecture}, weights: {origin.weights} ({origin.source}, "
        f"digest `{origin.weights_digest}`), trained for: {origin.task}.",
        f"It gives {encoder.channels} channels at stride {encoder.stride}.",
        f"The losses are those of a constant {findings.target.name} on {findings.store.name}, the line that a "
        "probe on this encoder has to fall below.",
    ]
    return " ".join(sentences) + (f"\n\n> {origin.warning}" if origin.warning else "")
