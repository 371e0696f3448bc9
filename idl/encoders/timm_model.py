"""Any timm model, cut behind one of its feature levels."""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from idl.encoders import arithmetic, hub, timm_loading, weights
from idl.encoders.base import Encoder, EncoderConfig, Origin, Triple, digest_of
from idl.errors import InputError

# Import timm in functions only: it takes 3.7 s, which `--help` need not pay.

DEEPEST_DEFAULT_STRIDE = 16
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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


def build_architecture(
    config: EncoderConfig, device: torch.device, tagged: str, *, is_any_of_family: bool = False
) -> Encoder:
    """Build timm's model `tagged`, from the weights of `config`.

    is_any_of_family: a file of weights may name another architecture of the same family, "convnext_atto" for
      "convnext_tiny", which is then built.
    What a file says about the arguments that its architecture was built with holds where `config` is silent.

    Raises InputError where timm has no such model, the arguments or the stage do not exist, or the weights
    cannot be had or do not fit.
    """
    card = _card(config, tagged)
    source = weights.locate(config, tagged.partition(".")[0], _hub_file(card))
    # timm itself reads what it has published.
    checkpoint = None if source.path is None or source.kind == "imagenet" else weights.read(source.path)
    if checkpoint is not None and is_any_of_family:
        named = checkpoint.metadata.get("architecture", tagged)
        if named.partition("_")[0] == tagged.partition("_")[0] and named != tagged:
            tagged, card = named, _card(config, named)
    architecture = tagged.partition(".")[0]
    arguments = json.loads(config.encoder_args)
    if checkpoint is not None:
        arguments = checkpoint.arguments(architecture) | arguments

    if source.path is not None and checkpoint is None:
        model, task = timm_loading.create_pretrained(config, tagged, card, arguments, source.path)
    else:
        model = timm_loading.create(config, architecture, arguments)
        task = "none" if checkpoint is None else checkpoint.metadata.get("task", "unknown")
    if source.kind == "random":
        timm_loading.open_layer_scales(model, arguments)
    elif checkpoint is not None and source.kind != "registry":
        _load_whole(config, source, model, checkpoint, card, architecture)
    stage = choose_stage(_levels(model, config.name), config.stage, config.name)
    level = _levels(model, config.name)[stage]
    network = FeatureLevel(model, stage)
    if checkpoint is not None and source.kind == "registry":
        timm_loading.load_cut(network.model, checkpoint, architecture)
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


def _card(config: EncoderConfig, tagged: str) -> Any:
    """Give timm's description of a model's pretrained weights, None where there are none."""
    import timm

    architecture = tagged.partition(".")[0]
    if architecture not in timm.list_models():
        near = get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else " `timm.list_models()` lists them."
        raise InputError(f"encoder={config.name}: timm has no model {architecture!r}.{hint}")
    try:
        return timm.models.get_pretrained_cfg(tagged)
    except RuntimeError as error:
        raise InputError(f"encoder={config.name}: {error} Leave the tag out for the default.") from error


def _hub_file(card: Any) -> hub.HubFile | None:
    if card is None or not card.hf_hub_id:
        return None
    if card.hf_hub_filename:
        return hub.HubFile(card.hf_hub_id, (card.hf_hub_filename,))
    return hub.HubFile(card.hf_hub_id, ("model.safetensors", "pytorch_model.bin"))


def _load_whole(
    config: EncoderConfig,
    source: weights.Source,
    model: nn.Module,
    checkpoint: weights.Checkpoint,
    card: Any,
    architecture: str,
) -> None:
    try:
        timm_loading.load_whole(model, checkpoint, card, architecture)
    except InputError as error:
        if source.kind != "shipped" or not json.loads(config.encoder_args):
            raise
        raise InputError(
            f"encoder_args={config.encoder_args}: do not fit {source.source}, which weights={config.weights} takes "
            "here. Leave them out, or pass weights=random or weights=PATH."
        ) from error


def _levels(model: nn.Module, name: str) -> Sequence[Mapping[str, Any]]:
    levels = getattr(model, "feature_info", None)
    cuts = hasattr(model, "forward_intermediates") and hasattr(model, "prune_intermediate_layers")
    if not levels or not cuts:
        raise InputError(f"encoder={name}: timm offers no feature maps of it. Pass another model.")
    return levels


def _triple(values: Sequence[float]) -> Triple:
    red, green, blue = values
    return float(red), float(green), float(blue)
