"""Encoders: one file a kind, one line each in `ENCODERS`, one contract test."""

import json
import math
from difflib import get_close_matches

import torch

from idl import plugins
from idl.encoders import convnext, custom, null, timm_model
from idl.encoders.autoencoder import encoder as autoencoder
from idl.encoders.base import Arithmetic, Builder, Encoder, EncoderConfig, Origin, digest_of
from idl.errors import InputError

ENCODERS: dict[str, Builder] = {
    "null": null.build,
    "autoencoder": autoencoder.build,
    "convnext": convnext.build,
    "timm": timm_model.build,
}

__all__ = ["ENCODERS", "Arithmetic", "Encoder", "EncoderConfig", "Origin", "build", "digest_of"]


def build(config: EncoderConfig, device: torch.device) -> Encoder:
    """Build the encoder that `config` names, on `device`.

    The global random state is left as it was. Raises InputError for anything in `config` that cannot be had.
    """
    _check(config)
    kind, colon, _ = config.name.partition(":")
    if kind in ENCODERS and bool(colon) == (kind == "timm"):
        return ENCODERS[kind](config, device)
    if plugins.is_named(config.name):
        return custom.build(config, device)
    names = {name: "timm:NAME" if name == "timm" else name for name in ENCODERS}
    near = get_close_matches(kind, ENCODERS, n=1, cutoff=0.4)
    hint = f" Did you mean {names[near[0]]}?" if near else ""
    raise InputError(
        f"encoder={config.name}: no such encoder.{hint} "
        f"Pass one of {', '.join(names.values())}, package.module:factory."
    )


def _check(config: EncoderConfig) -> None:
    try:
        is_object = isinstance(json.loads(config.encoder_args), dict)
    except json.JSONDecodeError:
        is_object = False
    if not is_object:
        raise InputError(
            f'encoder_args={config.encoder_args}: not a JSON object. Pass e.g. \'{{"pad_type": "same"}}\'.'
        )
    for name, values in (("mean", config.mean), ("std", config.std)):
        if values is not None and not (len(values) == 3 and all(math.isfinite(value) for value in values)):
            raise InputError(f"{name}={values}: not three finite numbers. Pass one a colour, for RGB in [0, 1].")
    if config.std is not None and min(config.std) <= 0:
        raise InputError(f"std={config.std}: a standard deviation must be above 0. Pass e.g. 0.5,0.5,0.5.")
