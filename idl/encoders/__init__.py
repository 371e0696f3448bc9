"""Encoders: one file a kind, one line each in `ENCODERS`, one contract test."""

from difflib import get_close_matches

import torch

from idl import plugins
from idl.encoders import autoencoder, custom, null, sizes, timm
from idl.encoders.base import Arithmetic, Builder, Encoder, EncoderConfig, Origin, Size, digest_of
from idl.errors import InputError

ENCODERS: dict[str, Builder] = {
    "null": null.build,
    "autoencoder": autoencoder.build,
    "convnext": timm.build,
    "timm": timm.build,
}

__all__ = ["ENCODERS", "Arithmetic", "Encoder", "EncoderConfig", "Origin", "build", "digest_of"]


def build(config: EncoderConfig, device: torch.device, image_size: Size | None = None) -> Encoder:
    """Build the encoder that `config` names, on `device`.

    image_size: (height, width) of the images that it is for, as of `sizes.fitted`; None: whatever it takes.
    The global random state is left as it was. Raises InputError for anything in `config` that cannot be had.
    """
    kind, colon, _ = config.name.partition(":")
    builder = ENCODERS.get(kind) if bool(colon) == (kind == "timm") else None
    if builder is None and plugins.is_named(config.name):
        builder = custom.build
    if builder is None:
        names = {name: "timm:NAME" if name == "timm" else name for name in ENCODERS}
        near = get_close_matches(kind, ENCODERS, n=1, cutoff=0.4)
        hint = f" Did you mean {names[near[0]]}?" if near else ""
        raise InputError(
            f"encoder={config.name}: no such encoder.{hint} "
            f"Pass one of {', '.join(names.values())}, package.module:factory."
        )
    if config.stage is not None and builder is not timm.build:
        raise InputError(f"stage={config.stage}: {config.name} has one level only. Leave the stage at auto.")
    return builder(config, device) if image_size is None else sizes.fitted(builder, config, device, image_size)
