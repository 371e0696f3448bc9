"""The autoencoder against its description, written out a second time in NumPy."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from encoder_contract import images
from numpy.lib.stride_tricks import sliding_window_view

from idl.encoders.autoencoder import (
    PRESETS,
    Autoencoder,
    AutoencoderConfig,
    DecoderHalf,
    EncoderHalf,
    require_size,
)
from idl.errors import InputError

TINY = AutoencoderConfig(n_hid=4, latent_channels=3, n_init=6)
Arrays = Mapping[str, np.ndarray]


def stirred(config: AutoencoderConfig = TINY) -> Autoencoder:
    """An autoencoder whose biases are away from 0, so that none can be forgotten."""
    model = Autoencoder(config, seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def convolved(x: np.ndarray, weights: Arrays, name: str, kernel: int) -> np.ndarray:
    """A convolution of stride 1 that keeps the sides, zeros around; x: (batch, channels, h, w)."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    assert weight.shape[2:] == (kernel, kernel)
    around = kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (around, around), (around, around)))
    windows = sliding_window_view(padded, (kernel, kernel), axis=(2, 3))
    return np.einsum("bihwyx,oiyx->bohw", windows, weight) + bias[:, None, None]


def group(x: np.ndarray, weights: Arrays, name: str, kernels: tuple[int, ...], num_blocks: int) -> np.ndarray:
    gain = 1 / (4 * num_blocks) ** 2
    for block in range(num_blocks):
        y, short = x, x
        for index, kernel in enumerate(kernels):
            y = convolved(np.maximum(y, 0), weights, f"{name}.{block}.residual.{index}", kernel)
        if f"{name}.{block}.identity.weight" in weights:
            short = convolved(x, weights, f"{name}.{block}.identity", 1)
        x = short + gain * y
    return x


def encoded(rgb: np.ndarray, weights: Arrays, num_blocks: int) -> np.ndarray:
    x = convolved(0.8 * rgb + 0.1, weights, "encoder.input", 7)
    for index in range(4):
        x = group(x, weights, f"encoder.groups.{index}", (3, 3, 3, 1), num_blocks)
        if index < 3:
            batch, channels, height, width = x.shape
            x = x.reshape(batch, channels, height // 2, 2, width // 2, 2).max(axis=(3, 5))
    return convolved(np.maximum(x, 0), weights, "encoder.output", 1)


def decoded(latents: np.ndarray, weights: Arrays, num_blocks: int) -> np.ndarray:
    x = convolved(latents, weights, "decoder.input", 1)
    for index in range(4):
        x = group(x, weights, f"decoder.groups.{index}", (1, 3, 3, 3), num_blocks)
        if index < 3:
            x = x.repeat(2, axis=2).repeat(2, axis=3)
    return convolved(np.maximum(x, 0), weights, "decoder.output", 1)


@pytest.mark.parametrize("num_blocks", [1, 2, 3])
def test_both_halves_compute_what_the_description_says(num_blocks: int) -> None:
    model = stirred(replace(TINY, num_blocks=num_blocks)).double()
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    rgb = images(2, 16, 24).double()
    with torch.no_grad():
        latents, output = model.encode(rgb), model(rgb)
    assert (latents.shape, output.shape) == ((2, 3, 2, 3), (2, 6, 16, 24))
    expected = encoded(rgb.numpy(), weights, num_blocks)
    np.testing.assert_allclose(latents.numpy(), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(output.numpy(), decoded(expected, weights, num_blocks), rtol=1e-10, atol=1e-10)


def test_a_block_without_its_residual_hands_through_what_comes_in() -> None:
    block: Any = stirred().encoder.groups[2]
    unchanged, x = block[1], torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        unchanged.residual[-1].weight.zero_()
        unchanged.residual[-1].bias.fill_(64.0)
        assert torch.equal(unchanged(x), x + 1)


@pytest.mark.parametrize("name", PRESETS)
def test_as_many_parameters_as_the_description_has(name: str) -> None:
    n_hid = {"small": 32, "medium": 128, "paper": 256}[name]

    def convolution(into: int, out: int, kernel: int) -> int:
        return into * out * kernel**2 + out

    def block(into: int, out: int, kernels: tuple[int, ...]) -> int:
        quarter = out // 4
        sides = zip((into, quarter, quarter, quarter), (quarter, quarter, quarter, out), kernels, strict=True)
        return sum(convolution(*side) for side in sides) + (convolution(into, out, 1) if into != out else 0)

    def groups(widths: tuple[int, ...], kernels: tuple[int, ...]) -> int:
        return sum(block(into, out, kernels) + block(out, out, kernels) for into, out in pairwise(widths))

    up, down = (n_hid, n_hid, 2 * n_hid, 4 * n_hid, 8 * n_hid), (128, 8 * n_hid, 4 * n_hid, 2 * n_hid, n_hid)
    encoder = convolution(3, n_hid, 7) + groups(up, (3, 3, 3, 1)) + convolution(8 * n_hid, 10, 1)
    decoder = convolution(10, 128, 1) + groups(down, (1, 3, 3, 3)) + convolution(n_hid, 6, 1)
    with torch.device("meta"):
        halves = (EncoderHalf(PRESETS[name]), DecoderHalf(PRESETS[name]))
    assert [sum(p.numel() for p in half.parameters()) for half in halves] == [encoder, decoder]


def test_nothing_normalises() -> None:
    kinds = {type(module).__name__ for module in Autoencoder(TINY).modules()}
    assert kinds == {
        "Autoencoder",
        "EncoderHalf",
        "DecoderHalf",
        "ModuleList",
        "Sequential",
        "Block",
        "Conv2d",
        "Identity",
    }


def test_weights_are_drawn_as_the_description_says() -> None:
    model = Autoencoder(PRESETS["small"], seed=3)
    for name, tensor in model.state_dict().items():
        if name.endswith("bias"):
            assert not tensor.any(), name
        else:
            unit = tensor * math.sqrt(tensor[0].numel())
            # Four standard errors, 1 / sqrt(2 n) of the deviation.
            assert abs(float(unit.std()) - 1) < 4 / math.sqrt(2 * unit.numel()), name
            assert abs(float(unit.mean())) < 4 / math.sqrt(unit.numel()), name


def test_a_seed_decides_the_weights_and_nothing_else_does() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = Autoencoder(TINY, seed=1).state_dict()
    assert torch.equal(torch.rand(4), expected)
    again, other = Autoencoder(TINY, seed=1).state_dict(), Autoencoder(TINY, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("weight"))


def test_memory_order_changes_nothing() -> None:
    model = stirred()
    expected = model(images(2, 16, 24))
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    rgb = images(2, 16, 24).contiguous(memory_format=torch.channels_last)
    output = model(rgb)
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_a_reconstruction_is_a_picture_in_float32() -> None:
    model = stirred()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        picture, loss = model.reconstruct(images(2, 16, 24)), model.loss(images(2, 16, 24))
    assert (picture.shape, picture.dtype, loss.dtype) == (images(2, 16, 24).shape, torch.float32, torch.float32)
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: AutoencoderConfig(latent_channels=0), "latent_channels=0"),
        (lambda: AutoencoderConfig(n_hid=8, latent_channels=65), "the 64 channels"),
        (lambda: AutoencoderConfig(n_hid=2), "Pass 4"),
        (lambda: AutoencoderConfig(n_hid=30), "Pass 32"),
        (lambda: AutoencoderConfig(n_hid=0), "n_hid=0"),
        (lambda: AutoencoderConfig(num_blocks=0), "num_blocks=0"),
        (lambda: AutoencoderConfig(n_init=-1), "n_init=-1"),
        (lambda: AutoencoderConfig(n_hid=32.0), "whole number"),  # pyright: ignore[reportArgumentType]
        (lambda: AutoencoderConfig(num_blocks=True), "whole number"),
        (lambda: AutoencoderConfig(loss="l1"), "l2, logit-laplace"),  # pyright: ignore[reportArgumentType]
        (lambda: require_size(0), "such as 8"),
        (lambda: require_size(60), "such as 64"),
        (lambda: require_size(257), "such as 256"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(make: Callable[[], object], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_largest_latent_and_every_multiple_of_the_stride_are_taken() -> None:
    config = AutoencoderConfig(n_hid=4, latent_channels=32)
    assert Autoencoder(config).encode(images(1, 8, 40)).shape == (1, 32, 1, 5)
    require_size(8)
    require_size(256)


def test_images_that_the_stride_does_not_divide_are_refused() -> None:
    model = Autoencoder(TINY)
    for shape in ((1, 16, 20), (1, 4, 16)):
        with pytest.raises(ValueError, match="multiples of 8"):
            model.encode(images(*shape))
