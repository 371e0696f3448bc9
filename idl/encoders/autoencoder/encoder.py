"""The encode half as an encoder: its latents, at stride 8, are what a probe reads."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor

from idl.encoders import arithmetic, weights
from idl.encoders.autoencoder.config import PRESETS, STRIDE, AutoencoderConfig
from idl.encoders.autoencoder.network import Autoencoder
from idl.encoders.base import Encoder, EncoderConfig, Origin, digest_of
from idl.errors import InputError

ARCHITECTURE = "dvae"
PRESET = "preset"


def build(config: EncoderConfig, device: torch.device) -> Encoder:
    """Build it, by default with the weights that come with the package.

    A file of weights may hold the whole autoencoder, or the encode half alone, as the registry does. What its
    metadata say about the network holds; `encoder_args` may only repeat it. For a file that says nothing, and for
    random weights, `encoder_args` decide: fields of `AutoencoderConfig`, and "preset" for its width.

    Raises InputError where a setting is given that it does not have, or the weights cannot be had or do not fit.
    """
    if config.stage is not None:
        raise InputError(f"stage={config.stage}: the autoencoder has one level only. Leave the stage at auto.")
    wanted = _wanted(config)
    source = _locate(config)
    checkpoint = None if source.path is None else weights.read(source.path)
    size = AutoencoderConfig(**wanted) if checkpoint is None else _size_of(checkpoint, wanted)
    network = Autoencoder(size, config.seed).encoder
    if checkpoint is not None:
        told = f"an autoencoder of n_hid={size.n_hid}, num_blocks={size.num_blocks}"
        weights.load(network, _encode_half(checkpoint.tensors), (), checkpoint.path, told)
    origin = Origin(
        architecture=ARCHITECTURE,
        weights=source.kind,
        weights_digest=digest_of(network.state_dict()),
        task="none" if checkpoint is None else checkpoint.metadata.get("task", "unknown"),
        seed=config.seed if checkpoint is None else None,
        source=source.source,
        warning=source.warning,
    )
    encoder = Encoder(
        network,
        name=config.name,
        stride=STRIDE,
        channels=size.latent_channels,
        origin=origin,
        encoder_args=asdict(size),
        mean=config.mean or (0.0, 0.0, 0.0),
        std=config.std or (1.0, 1.0, 1.0),
        arithmetic=arithmetic.choose(config, device),
    )
    return encoder.to(device)


def _locate(config: EncoderConfig) -> weights.Source:
    if config.weights == "imagenet":
        raise InputError("weights=imagenet: an autoencoder has none. Pass weights=auto, shipped, random or a PATH.")
    if config.weights != "auto":
        return weights.locate_local(config, "shipped, random, auto, ")
    return weights.locate_shipped(config) or weights.random_instead(
        config, "autoencoder", "the weights that come with the package are missing"
    )


def _wanted(config: EncoderConfig) -> dict[str, Any]:
    """Give the fields that `encoder_args` set."""
    arguments: dict[str, Any] = json.loads(config.encoder_args)
    known = [field.name for field in fields(AutoencoderConfig)]
    unknown = [name for name in arguments if name not in (*known, PRESET)]
    if unknown:
        raise InputError(f"encoder_args: the autoencoder has no {unknown[0]}. It has {', '.join((PRESET, *known))}.")
    preset = arguments.pop(PRESET, None)
    if preset is None:
        return arguments
    if preset not in PRESETS:
        raise InputError(f"encoder_args: no preset {preset!r}. Pass one of {', '.join(PRESETS)}.")
    return {"n_hid": PRESETS[preset].n_hid, **arguments}


def _size_of(checkpoint: weights.Checkpoint, wanted: Mapping[str, Any]) -> AutoencoderConfig:
    """Give the size of the network in a file. Raises InputError where `wanted` is another."""
    path = checkpoint.path
    architecture = checkpoint.metadata.get("architecture", ARCHITECTURE)
    if architecture != ARCHITECTURE:
        raise InputError(f"{path}: weights of {architecture}, not of an autoencoder. Pass encoder=timm:{architecture}.")
    told = checkpoint.arguments(ARCHITECTURE)
    if not told:
        return AutoencoderConfig(**wanted)
    try:
        size = AutoencoderConfig(**told)
    except TypeError as error:
        raise InputError(f"{path}: its metadata's config is of no autoencoder: {error}. Save it again.") from error
    for name, value in wanted.items():
        if value != getattr(size, name):
            raise InputError(
                f"encoder_args: {name}={value!r}, but {path} holds an autoencoder of {name}={getattr(size, name)!r}. "
                "Leave it out, or pass other weights."
            )
    return size


def _encode_half(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Give the encode half's tensors out of a whole autoencoder's, or of its own."""
    prefix = "encoder."
    if not any(name.startswith(prefix) for name in tensors):
        return tensors
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if not name.startswith("decoder.")}
