"""The reports of a prepared dataset and of an encoder by itself, and an encoder's version in the registry."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Literal

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
from idl.protocol import Protocol
from idl.report import DatasetInput, ModelVersion, Run, RunReport, charts, tiles
from idl.targets import Target

NUM_SHEET_IMAGES = 18
CONTEXTS: dict[str, Literal["training", "validation", "testing"]] = {
    "train": "training",
    "val": "validation",
    "test": "testing",
}


def dataset_inputs(store: Store, split: Split, names: tuple[str, ...] = tuple(CONTEXTS)) -> tuple[DatasetInput, ...]:
    """Return the splits that a run read."""
    return tuple(
        DatasetInput(store.name, store.digest, store.source, CONTEXTS[name], len(indices), len(split.scenes[name]))
        for name, indices in ((name, split.indices[name]) for name in names)
    )


def dataset_tags(store: Store, split: Split, protocol: Protocol) -> dict[str, str]:
    """Return the tags that tell on what a run was made."""
    digests = {"dataset_digest": store.digest, "split_digest": split.digest, "protocol_digest": protocol.digest}
    return {"dataset": store.name, **digests, "idl.version": __version__}


def prepare_report(store: Store, split: Split, target: Target, constant: Solution) -> RunReport:
    """Return what a dataset looks like: a contact sheet, its numbers, and the losses of a constant prediction."""
    order = split.indices["train"][:NUM_SHEET_IMAGES]
    has_normals = "normals" in store.layers
    shown = store.read(("rgb", "depth", "valid", *(("normals",) if has_normals else ())), order)
    normals = shown["normals"].astype(np.float32) if has_normals else None
    names, limits = [store.names[index] for index in order], (0.0, store.shown_depth_m)
    sheet = tiles.contact_sheet(shown["rgb"], shown["depth"], shown["valid"], normals, limits, names)
    counts = {f"num_{name}": len(indices) for name, indices in split.indices.items()}
    description = (
        f"**{store.name}**: {store.num_images} images from {len(set(store.scenes))} scenes ({store.source}), split "
        f"by scene into {counts['num_train']} / {counts['num_val']} / {counts['num_test']}. "
        f"A constant {target.name} has a validation loss of {constant.val_loss:.4g} {charts.squared(target.unit)}: "
        f"what every probe has to fall below. Layers: {', '.join(store.layers)}."
    )
    return RunReport(
        params={**counts, **{f"num_{name}_scenes": len(scenes) for name, scenes in split.scenes.items()}},
        metrics={"train_loss": constant.train_loss, "val_loss": constant.val_loss, "num_images": store.num_images},
        figures={"contact_sheet.png": sheet},
        panels={"contact_sheet": sheet},
        datasets=dataset_inputs(store, split),
        description=description + "".join(f"\n\n> {note}" for note in store.notes),
        tags=dataset_tags(store, split, store.protocol) | {"store": str(store.path)},
    )


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
    return described_run(store, split, encoder, description, metrics, {"target": target.name})


def described_run(
    store: Store,
    split: Split,
    encoder: Encoder,
    description: str,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    config: Mapping[str, object] = MappingProxyType({}),
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> Run:
    """Return a report with the feature maps of the first validation image, and the encoder's version with `files`."""
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
