"""The autoencoder against its description, written out a second time in NumPy; its two losses against their laws."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from encoder_contract import images
from numpy.lib.stride_tricks import sliding_window_view
from torch.distributions import Laplace, SigmoidTransform, TransformedDistribution

from idl.encoders.autoencoder import (
    LEAST_SCALE,
    Autoencoder,
    AutoencoderConfig,
    Loss,
    negative_log_likelihood,
    picture,
    reconstruction_loss,
)

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
        latents, output = model.encoder(rgb), model(rgb)
    assert (latents.shape, output.shape) == ((2, 3, 2, 3), (2, 6, 16, 24))
    expected = encoded(rgb.numpy(), weights, num_blocks)
    np.testing.assert_allclose(latents.numpy(), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(output.numpy(), decoded(expected, weights, num_blocks), rtol=1e-10, atol=1e-10)


def test_weights_are_drawn_as_the_description_says_of_the_seed_alone() -> None:
    model = Autoencoder(AutoencoderConfig(), seed=3)
    other = Autoencoder(AutoencoderConfig(), seed=2).state_dict()
    for name, tensor in model.state_dict().items():
        if name.endswith("bias"):
            assert not tensor.any(), name
        else:
            unit = tensor * math.sqrt(tensor[0].numel())
            # Four standard errors, 1 / sqrt(2 n) of the deviation.
            assert abs(float(unit.std()) - 1) < 4 / math.sqrt(2 * unit.numel()), name
            assert abs(float(unit.mean())) < 4 / math.sqrt(unit.numel()), name
            assert not torch.equal(tensor, other[name])


def test_the_squared_error_is_that_of_the_picture() -> None:
    rgb, output = images(2, 16, 24), torch.randn(2, 6, 16, 24, generator=torch.Generator().manual_seed(1))
    sigmoid = 1 / (1 + np.exp(-output[:, :3].double().numpy()))
    unclamped = (sigmoid - 0.1) / 0.8
    error = np.mean((unclamped - rgb.numpy()) ** 2)
    assert float(reconstruction_loss("l2", output, rgb)) == pytest.approx(error, rel=1e-5)
    np.testing.assert_allclose(picture(output), np.clip(unclamped, 0, 1), atol=1e-6)


def test_the_likelihood_is_that_of_a_laplace_distribution_through_a_sigmoid() -> None:
    generator = torch.Generator().manual_seed(2)
    mean, log_scale = torch.randn(2, 2, 3, 16, 24, generator=generator).double()
    rgb = images(2, 16, 24).double()
    density = TransformedDistribution(Laplace(mean, log_scale.exp() + LEAST_SCALE), [SigmoidTransform()])
    expected = -density.log_prob(0.8 * rgb + 0.1)
    torch.testing.assert_close(
        negative_log_likelihood(mean, log_scale, 0.8 * rgb + 0.1), expected, rtol=1e-9, atol=1e-9
    )
    output = torch.cat([mean, log_scale], dim=1)
    assert float(reconstruction_loss("logit-laplace", output, rgb)) == pytest.approx(float(expected.mean()), rel=1e-5)


@pytest.mark.parametrize("kind", get_args(Loss))
@pytest.mark.parametrize("extreme", [0.0, 200.0, -200.0])
def test_gradients_are_finite_where_numbers_are_extreme(kind: Loss, extreme: float) -> None:
    for level in (0.0, 1.0):
        output = torch.full((1, 6, 8, 8), extreme, requires_grad=True)
        loss = reconstruction_loss(kind, output, torch.full((1, 3, 8, 8), level))
        (gradient,) = torch.autograd.grad(loss, output)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", get_args(Loss))
def test_black_and_white_images_train_every_weight(kind: Loss) -> None:
    # Wide enough that no layer's units are all behind a closed ReLU.
    model = Autoencoder(replace(TINY, n_hid=16))
    rgb = (images(2, 16, 24) > 0.5).float()
    reconstruction_loss(kind, model(rgb), rgb).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all(), name
        # The squared error does not read the scales, whose convolution is half of the last one.
        assert parameter.grad.abs().sum() > 0, name
