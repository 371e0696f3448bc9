"""The size of image that an encoder is fed, and whether it can be written as a model: found before work starts.

Truth and loss stay at the images' own size: only what the network sees is resized, inside of the encoder.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace

import torch

from idl.encoders.base import Builder, Encoder, EncoderConfig, Size
from idl.errors import InputError
from idl.plugins import reason

# A network made for a larger size is costly: DINOv2's 518 has four times the cells of 252.
LARGEST_RATIO = 1.5
# Of what a model is exported with; a 480 x 640 example adds 93 MB of JSON.
EXAMPLE_SIDE = 64
# Modules of timm's whose models are known to be exported with free sizes, by benchmarks/encoder_families.py.
EXPORTED = ("convnext", "efficientnet", "mobilenetv3", "regnet", "resnet", "vgg")


def fitted(builder: Builder, config: EncoderConfig, device: torch.device, image_size: Size) -> Encoder:
    """Return the encoder for images of `image_size`: as it is, or with them resized to the nearest size it takes.

    Where the size that a Vision Transformer takes is an argument of its own, `img_size`, it is built with that.
    Raises InputError where it takes none that is near, or cannot be written as a model.
    """
    encoder = builder(config, device)
    if config.name in ("null", "autoencoder") and config.size is None:
        if fault := encoder.fault(*image_size):
            multiple = _multiple(image_size[0], encoder.stride)
            other = "a stride that divides both sides, or " if config.name == "null" else ""
            raise InputError(f"encoder={config.name}: {fault}. Pass {other}encoder_size={multiple}.")
        return encoder
    for each in _candidates(encoder, builder, config, image_size):
        if not each.fault(*image_size):
            return _exported(each, image_size)
    raise InputError(f"encoder={config.name}: {_refusal(encoder, config, image_size)}")


def _candidates(encoder: Encoder, builder: Builder, config: EncoderConfig, image_size: Size) -> Iterator[Encoder]:
    """Yield the encoder for each size that is tried, the best first: as it is, resized, built anew, far away."""
    sizes = list(dict.fromkeys(_sizes(encoder, config.size, image_size)))
    far = [size for size in sizes if config.size is None and _is_far(size, image_size)]
    if sizes[0] == image_size:
        yield encoder.sized(None, image_size)
    yield from (encoder.sized(size, image_size) for size in sizes if size not in far)
    for size in sizes if config.name.startswith("timm:") else ():
        if size in far and min(size) > min(image_size):
            continue
        given = {**config.arguments, "img_size": size[0] if size[0] == size[1] else size}
        try:
            made = builder(replace(config, encoder_args=json.dumps(given)), encoder.device)
        except InputError as error:
            if "unexpected keyword" in str(error):
                break
        else:
            yield made.sized(size, image_size)
    yield from (encoder.sized(size, image_size) for size in far)


def _sizes(encoder: Encoder, side: int | None, image_size: Size) -> Iterator[Size]:
    """Yield the sizes that are tried, the best first. side: of the short side, where the user names one."""
    stride, short = encoder.stride, min(image_size)
    if side is not None:
        tall, wide = (side if each == short else _multiple(each * side / short, stride) for each in image_size)
        yield tall, wide
        return
    yield image_size
    if encoder.made_for:
        yield encoder.made_for
    (tall, wide), (rows, columns) = image_size, (max(1, each // stride) for each in image_size)
    below = rows * stride, columns * stride
    above = -(-tall // stride) * stride, -(-wide // stride) * stride
    yield from sorted({below, above}, key=lambda size: abs(size[0] - tall))


def _multiple(side: float, stride: int) -> int:
    """Return the multiple of the stride next to `side`."""
    return max(1, round(side / stride)) * stride


def _is_far(size: Size, image_size: Size) -> bool:
    """Return whether a size is of another shape than the images', or much larger."""
    return size[0] * image_size[1] != size[1] * image_size[0] or size[0] > LARGEST_RATIO * image_size[0]


def _refusal(encoder: Encoder, config: EncoderConfig, image_size: Size) -> str:
    """Return why an encoder cannot be used, and what helps."""
    if config.size is None:
        return (
            f"{encoder.fault(*image_size)}, and takes no size near that. Pass another encoder, or a factory of your "
            "own (package.module:factory) that gives a map whose sides divide the image's."
        )
    multiple = _multiple(config.size, encoder.stride)
    helps = f"a multiple of its stride, {multiple}, or auto" if multiple != config.size else "auto"
    fault = encoder.sized((config.size, config.size), image_size).fault(*image_size)
    return f"{fault or encoder.fault(*image_size)}. Pass as encoder_size {helps}, or another encoder."


def _exported(encoder: Encoder, image_size: Size) -> Encoder:
    """Return the encoder, of a fixed size where it cannot be exported without. Raises InputError where it never can."""
    if encoder.size is None and not encoder.sized(None, None).fault(EXAMPLE_SIDE, EXAMPLE_SIDE):
        family = type(getattr(encoder.network, "model", None)).__module__.rpartition(".")[2]
        if family in EXPORTED or not export_fault(encoder):
            return encoder
    fixed = encoder.sized(encoder.size or image_size, image_size)
    if fault := export_fault(fixed):
        raise InputError(
            f"encoder={encoder.name}: cannot be written as a model by torch.export ({fault}). Pass another encoder."
        )
    return fixed


def example_shape(encoder: Encoder) -> tuple[int, int, int, int]:
    """Return (batch, channels, height, width) of the images that an encoder, and a probe of it, is exported with."""
    # A side that is the fixed one already would be tied to it, and torch.export would fix a batch of 1.
    side = EXAMPLE_SIDE + 8 if encoder.size and EXAMPLE_SIDE in encoder.size else EXAMPLE_SIDE
    return 2, 3, side, side


@torch.no_grad()
def export_fault(encoder: Encoder) -> str:
    """Return why torch.export does not give a program with free batch, height and width; "" where it does.

    It is traced on tensors without numbers: a second for most networks.
    """
    auto = torch.export.Dim.AUTO
    # It prints a traceback for each bound of a size that sympy cannot solve. What came of the sizes is asked below.
    bounds = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = bounds.level
    bounds.setLevel(logging.ERROR)
    try:
        program = torch.export.export(
            encoder.exportable(),
            (torch.zeros(example_shape(encoder)),),
            dynamic_shapes=({0: auto, 2: auto, 3: auto},),
            strict=False,
        )
    except Exception as error:  # whatever tracing may meet in a network
        return reason(error)
    finally:
        bounds.setLevel(level)
    (given,) = program.graph_signature.user_inputs
    (sides,) = (node.meta["val"].shape for node in program.graph.nodes if node.name == given)
    free = {str(side) for side in sides if not isinstance(side, int)}
    return "" if len(free) == 3 else f"batch, height and width are tied: {tuple(map(str, sides))}"
