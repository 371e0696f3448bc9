"""Twins of an encoder without its training: random weights, or the trained ones permuted within each tensor.

Both keep architecture, stage, normalisation and arithmetic. A control must not be a straw man: layer scales of a
random twin are 1, and batch norms of either kind get running statistics that fit its weights.
"""

import copy
import json
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from idl.encoders import EncoderConfig, build
from idl.encoders.base import Encoder, digest_of, open_layer_scales
from idl.errors import InputError

UntrainedKind = Literal["random", "permuted"]
KINDS: tuple[UntrainedKind, ...] = ("random", "permuted")
Images = Callable[[], Iterable[Float[Tensor, "batch 3 H W"]]]

# Different numbers in a tensor that make its permutations differ for certain, among the first of them.
_NUM_DIFFERENT, _NUM_SAMPLED = 32, 4096


class NoTwinError(InputError):
    """An encoder has no twin of this kind."""


def twins(encoder: Encoder, kind: UntrainedKind, count: int, images: Images) -> tuple[Encoder, ...]:
    """Return `count` twins that differ from each other and from `encoder`; `origin.seed` tells them apart.

    images: RGB in [0, 1] of the training split; called only where there are batch norms to calibrate.
    Raises NoTwinError where they cannot be had: an encoder without weights, one that no name builds again, a factory
    that gives the same weights whatever the seed.
    """
    if not any(True for _ in encoder.network.parameters()):
        raise NoTwinError(f"encoder={encoder.name}: has no weights, and hence no {kind} twin.")
    source = "random weights" if kind == "random" else f"{encoder.origin.source}, permuted within each tensor"
    # By what training changes: statistics of batch norms are apart.
    made = {digest_of(dict(encoder.network.named_parameters())): encoder}
    # One more than asked for: an encoder that is random itself is the twin of its own seed.
    for seed in range(count + 1):
        if len(made) > count:
            break
        network = _random(encoder, seed) if kind == "random" else _permuted(encoder, seed)
        digest = digest_of(dict(network.named_parameters()))
        if digest not in made:
            if kind == "random":
                open_layer_scales(network)
            calibrate(network, encoder, images)
            made[digest] = encoder.with_network(network, "random", "none", source, seed)
    if len(made) <= count:
        raise NoTwinError(
            f"encoder={encoder.name}: only {len(made) - 1} of {count} {kind} twins have weights of their own. Let its "
            "weights follow torch's seed, and load trained ones only where an argument or weights=PATH asks for them."
        )
    return tuple(made.values())[1:]


def require_twins(encoder: Encoder, count: int) -> None:
    """Raise NoTwinError, before an image is read, where `count` twins of one kind at least cannot be had."""
    # So many numbers of one tensor have more orders than any two seeds share one of; nothing needs to be made.
    parameters = encoder.network.parameters()
    if any(len(each.flatten()[:_NUM_SAMPLED].unique()) >= _NUM_DIFFERENT for each in parameters):
        return
    reasons = []
    for kind in KINDS:
        try:
            twins(encoder, kind, count, tuple)
        except NoTwinError as error:
            reasons.append(f"{kind}: {str(error).removeprefix(f'encoder={encoder.name}: ')}")
        else:
            return
    raise NoTwinError(f"encoder={encoder.name}: no verdict without an untrained twin. {' '.join(reasons)}")


@torch.no_grad()
def calibrate(network: nn.Module, encoder: Encoder, images: Images) -> None:
    """Estimate the running statistics of all batch norms anew, in place, as the mean over batches of `images`.

    While it runs, every layer sees what the layers before it make of the batch's own statistics.
    encoder: whose size and normalisation the images go through.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    for rgb in images():
        network(encoder.prepared(rgb.to(encoder.device)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@torch.no_grad()
def _random(encoder: Encoder, seed: int) -> nn.Module:
    """Build the architecture again. Raises NoTwinError where that gives another one."""
    architecture = encoder.origin.architecture
    is_custom = ":" in architecture
    mean, std = encoder.normalisation
    config = EncoderConfig(
        name=architecture if is_custom else "autoencoder" if architecture == "dvae" else f"timm:{architecture}",
        stage=encoder.stage,
        # What a factory gives; a path that was loaded into it is left out.
        weights="auto" if is_custom else "random",
        encoder_args=json.dumps(encoder.encoder_args),
        mean=mean,
        std=std,
        size=encoder.made_for[0] if is_custom and encoder.made_for else None,
        seed=seed,
        arithmetic="float32",
    )
    try:
        network = build(config, encoder.device).network
    except InputError as error:
        raise NoTwinError(f"encoder={encoder.name}: cannot be built with random weights ({error})") from error
    shapes = [{name: each.shape for name, each in made.named_parameters()} for made in (network, encoder.network)]
    if shapes[0] != shapes[1]:
        raise NoTwinError(f"encoder={encoder.name}: built again as {config.name} it is another network.")
    return network


@torch.no_grad()
def _permuted(encoder: Encoder, seed: int) -> nn.Module:
    """Permute each parameter's numbers among themselves; buffers, such as tables of indices, stay."""
    network = copy.deepcopy(encoder.network)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return network
