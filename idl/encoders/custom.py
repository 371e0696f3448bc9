"""An encoder from outside: "package.module:factory"."""

import json

import torch
from torch import Tensor, nn

from idl import plugins
from idl.encoders import weights
from idl.encoders.base import Encoder, EncoderConfig, Origin, Weights, digest_of
from idl.encoders.seeding import seeded
from idl.errors import InputError

DRY_RUN_SIDE = 64


def build(config: EncoderConfig, device: torch.device) -> Encoder:
    """Call the factory with `encoder_args` as keywords, and find stride and channels by a dry run.

    The module that it returns maps (batch, 3, H, W) RGB to one map (batch, channels, h, w). It gets RGB in
    [0, 1], normalised where the config says a mean or a standard deviation. A text attribute `task` says what
    it was trained for. A path or a registry URI as weights is loaded into it. "auto" is float32: whether a
    foreign network survives bfloat16 is not known.

    Raises InputError where the factory, its arguments, its result or the weights are not as they must be.
    """
    if config.stage is not None:
        raise InputError(f"stage={config.stage}: {config.name} has one level only. Choose it by encoder_args.")
    arguments = json.loads(config.encoder_args)
    with seeded(config.seed):
        network = _call(config.name, arguments)
    network.eval()
    kind: Weights = "custom"
    source, task = config.name, str(getattr(network, "task", "unknown"))
    if config.weights not in ("auto", "custom"):
        found = weights.locate_file(config, "auto (what the factory gives), ")
        assert found.path is not None
        checkpoint = weights.read(found.path)
        weights.load(network, checkpoint.tensors, (), found.path, config.name)
        kind, source, task = found.kind, found.source, checkpoint.metadata.get("task", task)

    stride, channels = _dry_run(network, config.name)
    digest = digest_of(network.state_dict())
    encoder = Encoder(
        network,
        name=config.name,
        stride=stride,
        channels=channels,
        origin=Origin(config.name, kind, digest, task, config.seed, source),
        encoder_args=arguments,
        mean=config.mean or (0.0, 0.0, 0.0),
        std=config.std or (1.0, 1.0, 1.0),
        arithmetic="bfloat16" if config.arithmetic == "bfloat16" else "float32",
    )
    return encoder.to(device)


def _call(name: str, arguments: dict[str, object]) -> nn.Module:
    factory = plugins.load("encoder", name)
    try:
        network = factory(**arguments)
    except TypeError as error:
        raise InputError(f"encoder={name}: called with encoder_args={arguments}: {error}. Change them.") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"encoder={name}: gives a {type(network).__name__}. Return a torch.nn.Module.")
    return network


@torch.no_grad()
def _dry_run(network: nn.Module, name: str) -> tuple[int, int]:
    side = DRY_RUN_SIDE
    features = network(torch.zeros(1, 3, side, side))
    if not isinstance(features, Tensor) or features.ndim != 4:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"encoder={name}: gives {got} for one image. Return one tensor (batch, channels, h, w).")
    _, channels, height, width = features.shape
    if height != width or not 0 < height <= side or side % height:
        raise InputError(
            f"encoder={name}: gives a grid of {height} x {width} for {side} x {side} pixels. "
            "Return a map whose sides divide the image's."
        )
    return side // height, channels
