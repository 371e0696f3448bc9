"""An encoder from outside: "package.module:factory"."""

import torch
from torch import Tensor, nn

from idl import plugins
from idl.encoders import weights
from idl.encoders.base import Encoder, EncoderConfig, seeded
from idl.errors import InputError
from idl.plugins import reason

# What many networks of one fixed size take, where the user names none and they do not take the first.
DRY_RUN_SIDES = (64, 224, 256, 384, 518)


def build(config: EncoderConfig, device: torch.device) -> Encoder:
    """Call the factory with `encoder_args` as keywords, and find stride and channels by a dry run.

    The module that it returns maps (batch, 3, H, W) RGB in [0, 1], normalised where the config has a mean or a standard
    deviation, to one map (batch, channels, h, w). A text attribute `task` names what it was trained for. A path or a
    registry URI as weights is loaded into it.

    Raises InputError where the factory, its arguments, its result or the weights are not as they must be.
    """
    factory = plugins.load("encoder", config.name)
    try:
        with seeded(config.seed):
            network = factory(**config.arguments)
    except TypeError as error:
        raise InputError(
            f"encoder={config.name}: called with encoder_args={config.encoder_args}: {error}. Change them."
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"encoder={config.name}: gives a {type(network).__name__}. Return a torch.nn.Module.")
    network.eval()
    source = weights.Source("custom", config.name)
    if config.weights not in ("auto", "custom"):
        source = weights.from_file(config, ("auto (what the factory gives)",))
        source.load(network, config.name)
    side, stride, channels = _dry_run(network, config)
    return Encoder(
        network,
        name=config.name,
        stride=stride,
        channels=channels,
        origin=source.origin(config.name, network, str(getattr(network, "task", "unknown")), config.seed),
        encoder_args=config.arguments,
        mean=config.mean,
        std=config.std,
        arithmetic=config.arithmetic,
        made_for=(side, side),
    ).to(device)


@torch.no_grad()
def _dry_run(network: nn.Module, config: EncoderConfig) -> tuple[int, int, int]:
    """Return the side of the image that the network took, stride and channels."""
    name, sides = config.name, (config.size,) if config.size else DRY_RUN_SIDES
    failures = []
    for side in sides:
        try:
            features = network(torch.zeros(1, 3, side, side))
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a user's network may do
            failures.append(reason(error))
            continue
        if not isinstance(features, Tensor) or features.ndim != 4:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise InputError(f"encoder={name}: gives {got} for one image. Return one tensor (batch, channels, h, w).")
        _, channels, height, width = features.shape
        if height == width and 0 < height <= side and side % height == 0:
            return side, side // height, channels
        failures.append(f"gives a grid of {height} x {width} for {side} x {side} pixels")
    raise InputError(
        f"encoder={name}: {failures[0]}. Return a map whose sides divide the image's, or pass the encoder_size that "
        "it takes."
    )
