"""Any timm model, cut behind one of its feature levels."""

import json
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from idl.encoders import arithmetic, hub, weights
from idl.encoders.base import Encoder, EncoderConfig, Origin, Triple, digest_of
from idl.errors import InputError

# Import timm in functions only: it takes 3.7 s, which `--help` need not pay.

DEEPEST_DEFAULT_STRIDE = 16
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Classes of ImageNet-1k, -12k, -21k in its several editions: a classifier with as many was trained on it.
IMAGENET_CLASSES = (1000, 11221, 11821, 21841, 21842, 21843)
SET_BY_US = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "features_only",
    "out_indices",
    "in_chans",
)


class FeatureLevel(nn.Module):
    """One feature level of a timm model; what lies behind it is removed, and hence never computed."""

    def __init__(self, model: nn.Module, stage: int) -> None:
        super().__init__()
        self.model = model
        # Some models count from another start once they are cut.
        (self.index,) = model.prune_intermediate_layers([stage], prune_norm=True)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch channels h w"]:
        """Compute that level's map."""
        levels: list[Tensor] = self.model.forward_intermediates(  # pyright: ignore[reportCallIssue]
            x, indices=[self.index], output_fmt="NCHW", intermediates_only=True
        )
        return levels[0]


def build(config: EncoderConfig, device: torch.device) -> Encoder:
    """Build "timm:NAME"; NAME may carry timm's tag of the weights ("convnext_tiny.fb_in1k")."""
    return build_architecture(config, device, config.name.partition(":")[2])


def build_architecture(config: EncoderConfig, device: torch.device, tagged: str) -> Encoder:
    """Build timm's model `tagged`, from the weights of `config`.

    Raises InputError where timm has no such model, the arguments or the stage do not exist, or the weights
    cannot be had or do not fit.
    """
    import timm

    architecture = tagged.partition(".")[0]
    if architecture not in timm.list_models():
        near = get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else " `timm.list_models()` lists them."
        raise InputError(f"encoder={config.name}: timm has no model {architecture!r}.{hint}")
    try:
        card = timm.models.get_pretrained_cfg(tagged)
    except RuntimeError as error:
        raise InputError(f"encoder={config.name}: {error} Leave the tag out for the default.") from error
    arguments = json.loads(config.encoder_args)
    source = weights.locate(config, architecture, _hub_file(card))

    model, task = _load(config, tagged, card, arguments, source)
    stage = choose_stage(_levels(model, config.name), config.stage, config.name)
    level = _levels(model, config.name)[stage]
    network = FeatureLevel(model, stage)
    if source.kind == "registry":
        task = _load_cut(network.model, source, architecture)
    origin = Origin(
        architecture=architecture,
        weights=source.kind,
        weights_digest=digest_of(network.state_dict()),
        task=task,
        seed=config.seed if source.kind == "random" else None,
        source=source.source,
        warning=source.warning,
    )
    encoder = Encoder(
        network,
        name=config.name,
        stride=level["reduction"],
        channels=level["num_chs"],
        origin=origin,
        stage=stage,
        encoder_args=arguments,
        mean=config.mean or (_triple(card.mean) if card else IMAGENET_MEAN),
        std=config.std or (_triple(card.std) if card else IMAGENET_STD),
        arithmetic=arithmetic.choose(config, device),
    )
    return encoder.to(device)


def choose_stage(levels: Sequence[Mapping[str, Any]], wanted: int | None, name: str) -> int:
    """Resolve the stage: `wanted`, or the deepest level whose stride is at most 16 (else the finest).

    Raises InputError, listing the levels, where `wanted` is none of them.
    """
    strides = [level["reduction"] for level in levels]
    if wanted is None:
        most = max(DEEPEST_DEFAULT_STRIDE, min(strides))
        return max(index for index, stride in enumerate(strides) if stride <= most)
    if not -len(levels) <= wanted < len(levels):
        told = ", ".join(f"{i} (stride {s}, {levels[i]['num_chs']} channels)" for i, s in enumerate(strides))
        raise InputError(f"stage={wanted}: {name} has no such feature level. Pass one of {told}.")
    return wanted % len(levels)


def _hub_file(card: Any) -> hub.HubFile | None:
    if card is None or not card.hf_hub_id:
        return None
    if card.hf_hub_filename:
        return hub.HubFile(card.hf_hub_id, (card.hf_hub_filename,))
    return hub.HubFile(card.hf_hub_id, ("model.safetensors", "pytorch_model.bin"))


def _load(
    config: EncoderConfig, tagged: str, card: Any, arguments: Mapping[str, Any], source: weights.Source
) -> tuple[nn.Module, str]:
    """Build the whole model with its weights, on the CPU; second, the task that a file names.

    Weights of the registry are loaded when the model is cut.
    """
    architecture = tagged.partition(".")[0]
    if source.path is None or source.kind == "registry":
        model = _create(config, architecture, arguments)
        _open_layer_scales(model, arguments)
        return model, "none"
    if source.kind == "imagenet":
        # timm's own loader knows how each of its checkpoints differs from the model, and is strict about it.
        # Reading the file before tells a damaged one by its name.
        weights.read(source.path)
        overlay = {"file": str(source.path)}
        model = _create(config, tagged, arguments, pretrained=True, pretrained_cfg_overlay=overlay)
        return model, _task_of(card)
    model = _create(config, architecture, arguments)
    checkpoint = weights.read(source.path)
    tensors = _translated(checkpoint.tensors, model, source.path, architecture)
    weights.load(model, tensors, _head(card), source.path, architecture)
    return model, checkpoint.metadata.get("task", "unknown")


def _load_cut(model: nn.Module, source: weights.Source, architecture: str) -> str:
    """Load a registered encoder into the cut model, and return the task that it names.

    It may hold the network as it was cut, or all of it: what lies behind this stage is passed over.
    """
    assert source.path is not None
    checkpoint = weights.read(source.path)
    needed = model.state_dict()
    tensors = _translated(checkpoint.tensors, model, source.path, architecture)
    kept = {name: tensor for name, tensor in tensors.items() if name in needed}
    weights.load(model, kept, (), source.path, architecture)
    return checkpoint.metadata.get("task", "unknown")


def _create(config: EncoderConfig, tagged: str, arguments: Mapping[str, Any], **loading: Any) -> nn.Module:
    import timm

    ours = [name for name in arguments if name in SET_BY_US]
    if ours:
        raise InputError(f"encoder_args: {ours[0]} is not yours to set. Leave it out.")
    try:
        # The CPU generator alone: torch.manual_seed would seed those of the GPUs too, which are not forked.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            return timm.create_model(tagged, **arguments, **loading)
    except MemoryError:
        raise
    except Exception as error:  # each model checks its arguments in its own way
        message = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"timm cannot build {tagged} with encoder_args={config.encoder_args}, weights={config.weights}: "
            f"{message}. Change the arguments or the weights."
        ) from error


def _open_layer_scales(model: nn.Module, arguments: Mapping[str, Any]) -> None:
    # timm starts ConvNeXt's layer scale at 1e-6, at which a random network's blocks are the identity: as a
    # control it would be a straw man.
    from timm.models.convnext import ConvNeXtBlock

    if "ls_init_value" in arguments:
        return
    for module in model.modules():
        if isinstance(module, ConvNeXtBlock) and module.gamma is not None:
            nn.init.ones_(module.gamma)


def _levels(model: nn.Module, name: str) -> Sequence[Mapping[str, Any]]:
    levels = getattr(model, "feature_info", None)
    cuts = hasattr(model, "forward_intermediates") and hasattr(model, "prune_intermediate_layers")
    if not levels or not cuts:
        raise InputError(f"encoder={name}: timm offers no feature maps of it. Pass another model.")
    return levels


def _head(card: Any) -> tuple[str, ...]:
    classifiers = getattr(card, "classifier", None) or ()
    names = (classifiers,) if isinstance(classifiers, str) else classifiers
    return tuple(name.split(".")[0] for name in names)


def _translated(tensors: Mapping[str, Tensor], model: nn.Module, path: Path, architecture: str) -> Mapping[str, Tensor]:
    """Bring names of an architecture's original publication to timm's, where timm knows them."""
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return tensors
    try:
        return translate(dict(tensors), model)
    except Exception as error:  # it is written for its own checkpoints, and trips over others in any way
        raise InputError(
            f"{path}: not weights of {architecture} ({type(error).__name__} while its names were read). "
            "Pass the encoder that they belong to, with its encoder_args."
        ) from error


def _task_of(card: Any) -> str:
    return "imagenet" if card is not None and card.num_classes in IMAGENET_CLASSES else "unknown"


def _triple(values: Sequence[float]) -> Triple:
    red, green, blue = values
    return float(red), float(green), float(blue)
