"""Makes timm's models, and gets weights into them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from idl.encoders import weights
from idl.encoders.base import EncoderConfig
from idl.encoders.seeding import seeded
from idl.errors import InputError

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


def create(config: EncoderConfig, tagged: str, arguments: Mapping[str, Any], **loading: Any) -> nn.Module:
    """Make a model with the random weights of `config.seed`, or with timm's own ones where `loading` says so.

    Raises InputError where `arguments` set what is set here, or timm cannot build the model with them.
    """
    import timm

    ours = [name for name in arguments if name in SET_BY_US]
    if ours:
        raise InputError(f"encoder_args: {ours[0]} is not yours to set. Leave it out.")
    try:
        with seeded(config.seed):
            return timm.create_model(tagged, **arguments, **loading)
    except MemoryError:
        raise
    except Exception as error:  # each model checks its arguments in its own way
        message = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"timm cannot build {tagged} with encoder_args={config.encoder_args}, weights={config.weights}: "
            f"{message}. Change the arguments or the weights."
        ) from error


def create_pretrained(
    config: EncoderConfig, tagged: str, card: Any, arguments: Mapping[str, Any], path: Path
) -> tuple[nn.Module, str]:
    """Make a model with timm's weights, out of the file that the hub gave; second, their task."""
    # timm's own loader knows how each of its checkpoints differs from the model, and is strict about it.
    # Reading the file before tells a damaged one by its name.
    weights.read(path)
    overlay = {"file": str(path)}
    model = create(config, tagged, arguments, pretrained=True, pretrained_cfg_overlay=overlay)
    return model, "imagenet" if card is not None and card.num_classes in IMAGENET_CLASSES else "unknown"


def open_layer_scales(model: nn.Module, arguments: Mapping[str, Any]) -> None:
    """Set ConvNeXt's layer scales of a random model to 1, in place, unless `arguments` say what they are.

    timm starts them at 1e-6, at which a random network's blocks are the identity: as a control it would be a
    straw man.
    """
    from timm.models.convnext import ConvNeXtBlock

    if "ls_init_value" in arguments:
        return
    for module in model.modules():
        if isinstance(module, ConvNeXtBlock) and module.gamma is not None:
            nn.init.ones_(module.gamma)


def load_whole(model: nn.Module, checkpoint: weights.Checkpoint, card: Any, architecture: str) -> None:
    """Load a file into an uncut model, whatever its classifier; `weights.load` says what it raises."""
    classifiers: Sequence[str] | str = getattr(card, "classifier", None) or ()
    names = (classifiers,) if isinstance(classifiers, str) else classifiers
    head = tuple(name.split(".")[0] for name in names)
    weights.load(model, _translated(checkpoint, model, architecture), head, checkpoint.path, architecture)


def load_cut(model: nn.Module, checkpoint: weights.Checkpoint, architecture: str) -> None:
    """Load a registered encoder into a cut model.

    It may hold the network as it was cut, or all of it: what lies behind this stage is passed over.
    """
    needed = model.state_dict()
    tensors = _translated(checkpoint, model, architecture)
    kept = {name: tensor for name, tensor in tensors.items() if name in needed}
    weights.load(model, kept, (), checkpoint.path, architecture)


def _translated(checkpoint: weights.Checkpoint, model: nn.Module, architecture: str) -> Mapping[str, Tensor]:
    """Bring names of an architecture's original publication to timm's, where timm knows them."""
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return checkpoint.tensors
    try:
        return translate(dict(checkpoint.tensors), model)
    except Exception as error:  # it is written for its own checkpoints, and trips over others in any way
        raise InputError(
            f"{checkpoint.path}: not weights of {architecture} ({type(error).__name__} while its names were read). "
            "Pass the encoder that they belong to, with its encoder_args."
        ) from error
