"""The reports of an encoder by itself and of a training, and an encoder's version in the registry."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

import numpy as np
import torch
from safetensors.torch import save

from idl import __version__
from idl.data.loading import images_of
from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import Encoder
from idl.encoders.sizes import example_shape
from idl.probes.exact import Solution
from idl.report import ModelVersion, Run, RunReport, tiles
from idl.report.dataset import dataset_inputs
from idl.targets import Target


def model_slug(encoder_name: str) -> str:
    """Return an encoder's name in the letters that a registered model may have: "timm:resnet18" is "resnet18"."""
    return encoder_name.removeprefix("timm:").replace(":", "-").replace("/", "-")


def example(encoder: Encoder) -> np.ndarray:
    """Return the input that a model is exported with: RGB in [0, 1], of `example_shape`."""
    return np.random.default_rng(0).random(example_shape(encoder), dtype=np.float32)


def origin_json(encoder: Encoder) -> bytes:
    """Return where an encoder came from and how it is set, for the registry."""
    described = {"digest": encoder.digest, "origin": asdict(encoder.origin), **encoder.describe()}
    return json.dumps(described, indent=1, default=str).encode()


def encoder_params(encoder: Encoder) -> dict[str, object]:
    """Return what an encoder came to, by names that no option has."""
    return {
        "architecture": encoder.origin.architecture,
        "weights_loaded": encoder.origin.weights,
        "weights_digest": encoder.origin.weights_digest,
        **({} if encoder.stage is None else {"encoder_level": encoder.stage}),
        "encoder_stride": encoder.stride,
        "encoder_channels": encoder.channels,
        **({} if encoder.size is None else {"encoder_input": " x ".join(map(str, encoder.size))}),
    }


def encoder_tags(encoder: Encoder) -> dict[str, str]:
    """Return the tags that tell what an encoder is."""
    origin = encoder.origin
    named = {"encoder": encoder.name, "encoder_digest": encoder.digest}
    return {**named, "weights": origin.weights, "task": origin.task}


def run_tags(store: Store, encoder: Encoder) -> dict[str, str]:
    """Return the tags by which runs are found again."""
    dataset = {"dataset": store.name, "dataset_digest": store.digest}
    return encoder_tags(encoder) | dataset | {"idl.version": __version__}


def encoder_run(store: Store, split: Split, target: Target, encoder: Encoder, constant: Solution) -> Run:
    """Return an encoder's origin, a panel of its feature maps and the losses of a constant; and its version."""
    origin = encoder.origin
    description = (
        f"The frozen encoder **{encoder.name}**: {origin.architecture}, weights: {origin.weights} ({origin.source}, "
        f"digest `{origin.weights_digest}`), trained for: {origin.task}. It gives {encoder.channels} channels at "
        f"stride {encoder.stride}. The losses are those of a constant {target.name} on {store.name}, the line that a "
        "probe on this encoder has to fall below."
    ) + (f"\n\n> {origin.warning}" if origin.warning else "")
    metrics = {"train_loss": constant.train_loss, "val_loss": constant.val_loss}
    return _run(store, split, encoder, description, metrics, {"target": target.name})


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to. encoder: of the kept weights. step, num_steps: done, and planned.

    metrics: on the validation images, by name; untrained: the same before the first step. images_per_s: None where
    nothing was left to train. files: weights and their card, by name.
    """

    encoder: Encoder
    step: int
    num_steps: int
    is_converged: bool
    metrics: Mapping[str, float]
    untrained: Mapping[str, float]
    images_per_s: float | None
    files: Mapping[str, bytes]


def training_run(store: Store, split: Split, config: Mapping[str, object], result: TrainingResult) -> Run:
    """Return the kept weights' figures beside the untrained network's and a panel of feature maps; and the version.

    The curves were logged while it trained. config: its settings as they were resolved.
    """
    encoder, untrained = result.encoder, result.untrained
    metrics = {f"best_val_{name}": value for name, value in result.metrics.items()}
    metrics |= {f"untrained_val_{name}": value for name, value in untrained.items()}
    metrics["num_steps"] = result.step
    if result.images_per_s is not None:
        metrics["images_per_s_overall"] = result.images_per_s
    end = f"It ended after all of its {result.step} steps"
    if result.is_converged:
        end = f"It had converged after {result.step} of {result.num_steps} steps"
    pairs = ((name, value, untrained[name]) for name, value in result.metrics.items())
    named = ", ".join(f"{name.replace('_', ' ')} {kept:.4g} (untrained {first:.4g})" for name, kept, first in pairs)
    description = (
        f"**{encoder.name}** ({encoder.origin.architecture}), trained for {encoder.origin.task} on "
        f"{len(split.indices['train'])} images of {store.name} ({store.source}). {end}. "
        f"On {len(split.scenes['val'])} validation scenes: {named}."
    )
    tags = {"converged": str(result.is_converged).lower()}
    return _run(store, split, encoder, description, metrics, tags, config, result.files)


def _run(
    store: Store,
    split: Split,
    encoder: Encoder,
    description: str,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    config: Mapping[str, object] = MappingProxyType({}),
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> Run:
    """Return a report with the feature maps of the first validation image, and the encoder's version."""
    index = split.indices["val"][0]
    rgb, name = store.read(("rgb",), [index])["rgb"], store.names[index]
    with torch.inference_mode():
        features = encoder(images_of(torch.from_numpy(rgb).to(encoder.device)))[0].cpu().numpy()
    panel = tiles.feature_panel(rgb[0], features, title=f"{encoder.name}: {name}")
    report = RunReport(
        params=encoder_params(encoder),
        metrics=metrics,
        figures={"features.png": panel},
        panels={f"features/{name}": panel},
        datasets=dataset_inputs(store, split, ("train", "val")),
        description=description,
        tags={**run_tags(store, encoder), **tags},
        config=config,
    )
    return Run(report, encoder_version(encoder, description, files))


def encoder_version(
    encoder: Encoder, description: str = "", files: Mapping[str, bytes] = MappingProxyType({})
) -> ModelVersion:
    """Return the encoder as `idl-encoder-<name>`, with its weights and origin. files: further ones, by name."""
    origin = encoder.origin
    # Of timm's models the names that timm gives, so that the file is a checkpoint of the architecture.
    state = {name.removeprefix("model."): t.contiguous() for name, t in encoder.network.state_dict().items()}
    # With these the weights need no encoder_args where they are loaded again.
    config = json.dumps(encoder.encoder_args, sort_keys=True)
    metadata = {"task": origin.task, "architecture": origin.architecture, "config": config}
    return ModelVersion(
        name=f"idl-encoder-{model_slug(encoder.name)}",
        module=encoder.exportable(),
        example=example(encoder),
        description=description,
        tags={
            **encoder_tags(encoder),
            "architecture": origin.architecture,
            "weights_digest": origin.weights_digest,
            "stride": str(encoder.stride),
            "channels": str(encoder.channels),
        },
        files={"origin.json": origin_json(encoder), "encoder.safetensors": save(state, metadata=metadata), **files},
    )
