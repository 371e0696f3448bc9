"""Any timm model, cut behind one of its feature levels; "convnext" is ConvNeXt-T (Liu et al. 2022).

timm is imported in functions only: it takes 3.7 s, which `--help` need not pay.
"""

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from idl.encoders import weights
from idl.encoders.base import Encoder, EncoderConfig, Size, Triple, open_layer_scales, seeded
from idl.errors import InputError
from idl.plugins import reason

CONVNEXT = "convnext_tiny"
DEEPEST_DEFAULT_STRIDE = 16
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Classes of ImageNet-1k, -12k, -21k in its several editions: a classifier with as many was trained on it.
IMAGENET_CLASSES = (1000, 11221, 11821, 21841, 21842, 21843)
SET_HERE = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "features_only", "out_indices", "in_chans")


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
    """Build "convnext" or "timm:NAME"; NAME may carry timm's tag of the weights ("convnext_tiny.fb_in1k").

    A file of weights that names another ConvNeXt makes "convnext" that one: what ships with the package is a
    convnext_atto, and what `pretrain` registers may be of any size. Where `config` is silent the arguments are those
    that a file records. Raises InputError where model, arguments, stage or weights cannot be had, or do not fit.
    """
    tagged = config.name.partition(":")[2] or CONVNEXT
    card = _card(config, tagged)
    repository, file = (card.hf_hub_id or "", card.hf_hub_filename) if card else ("", None)
    files = (file,) if file else ("model.safetensors", "pytorch_model.bin")
    names = ("imagenet", "shipped", "random", "auto")
    source = weights.locate(config, tagged.partition(".")[0], names, repository, files)
    if config.name == "convnext":
        named = source.metadata.get("architecture", tagged)
        if named.startswith("convnext_") and named != tagged:
            tagged, card = named, _card(config, named)
    architecture = tagged.partition(".")[0]
    arguments = source.arguments(architecture) | config.arguments
    is_random, task = source.kind == "random", ""
    if source.kind == "imagenet":
        # timm's own loader knows how each of its checkpoints differs from the model, and is strict about it.
        overlay = {"file": str(source.path)}
        model = _create(config, tagged, arguments, pretrained=True, pretrained_cfg_overlay=overlay)
        task = "imagenet" if card.num_classes in IMAGENET_CLASSES else "unknown"
    else:
        model = _create(config, architecture, arguments)
    if is_random and "ls_init_value" not in arguments and "convnext" in architecture:
        open_layer_scales(model)
    if source.kind in ("file", "shipped"):
        _load(model, source, architecture, getattr(card, "classifier", None) or ())
    if not all(hasattr(model, name) for name in ("feature_info", "forward_intermediates", "prune_intermediate_layers")):
        raise InputError(f"encoder={config.name}: timm offers no feature maps of it. Pass another model.")
    levels: Any = model.feature_info
    stage = _choose_stage(levels, config.stage, config.name)
    network = FeatureLevel(model, stage)
    if source.kind == "registry":
        # Of a cut model, or of a whole one: what lies behind the stage is passed over.
        _load(model, source, architecture, None)
    return Encoder(
        network,
        name=config.name,
        stride=levels[stage]["reduction"],
        channels=levels[stage]["num_chs"],
        origin=source.origin(architecture, network, task, config.seed if is_random else None),
        stage=stage,
        encoder_args=arguments,
        mean=config.mean or (_triple(card.mean) if card else IMAGENET_MEAN),
        std=config.std or (_triple(card.std) if card else IMAGENET_STD),
        arithmetic=config.arithmetic,
        made_for=_made_for(arguments, card),
    ).to(device)


def _choose_stage(levels: Sequence[Mapping[str, Any]], requested: int | None, name: str) -> int:
    """Return the stage: `requested`, or the deepest level whose stride is at most 16 (else the finest).

    Raises InputError, listing the levels, where `requested` is none of them.
    """
    strides = [level["reduction"] for level in levels]
    if requested is None:
        most = max(DEEPEST_DEFAULT_STRIDE, min(strides))
        return max(index for index, stride in enumerate(strides) if stride <= most)
    if not -len(levels) <= requested < len(levels):
        known = ", ".join(f"{i} (stride {s}, {levels[i]['num_chs']} channels)" for i, s in enumerate(strides))
        raise InputError(f"stage={requested}: {name} has no such feature level. Pass one of {known}.")
    return requested % len(levels)


def _card(config: EncoderConfig, tagged: str) -> Any:
    """Return timm's description of a model's pretrained weights, None where there are none."""
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


def _create(config: EncoderConfig, tagged: str, arguments: Mapping[str, Any], **loading: Any) -> nn.Module:
    """Make a model with the random weights of `config.seed`, or with timm's own ones as `loading` tells it."""
    import timm

    for name in arguments.keys() & set(SET_HERE):
        raise InputError(f"encoder_args: {name} is not yours to set. Leave it out.")
    try:
        with seeded(config.seed):
            return timm.create_model(tagged, **arguments, **loading)
    except MemoryError:
        raise
    except Exception as error:  # each model checks its arguments in its own way
        raise InputError(
            f"timm cannot build {tagged} with encoder_args={config.encoder_args}, weights={config.weights}: "
            f"{reason(error)}. Change the arguments or the weights."
        ) from error


def _load(model: nn.Module, source: weights.Source, architecture: str, classifier: str | Sequence[str] | None) -> None:
    """Load a file, whose names may be those of the architecture's original publication.

    classifier: modules that the file may lack; None: the model is cut, and what it lacks is passed over.
    """
    tensors, head = source.tensors, [classifier] if isinstance(classifier, str) else classifier or ()
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if translate is not None:
        try:
            tensors = translate(dict(tensors), model)
        except Exception as error:  # it is written for its own checkpoints, and trips over others in any way
            raise InputError(
                f"{source.path}: not weights of {architecture} ({type(error).__name__} while its names were read). "
                "Pass the encoder that they belong to, with its encoder_args."
            ) from error
    if classifier is None:
        needed = model.state_dict()
        tensors = {name: tensor for name, tensor in tensors.items() if name in needed}
    source.load(model, architecture, tensors, [name.partition(".")[0] for name in head])


def _made_for(arguments: Mapping[str, Any], card: Any) -> Size | None:
    """Return the size of image that a model is built for; networks of convolutions take others too."""
    side = arguments.get("img_size") or (card and card.input_size and card.input_size[1:])
    return (side, side) if isinstance(side, int) else tuple(side) if side else None


def _triple(values: Sequence[float]) -> Triple:
    red, green, blue = map(float, values)
    return red, green, blue
