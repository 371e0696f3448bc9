"""The autoencoder's two losses against their laws, and what training on them does."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from encoder_contract import images
from torch.distributions import Laplace, SigmoidTransform, TransformedDistribution

from idl.encoders.autoencoder import Autoencoder, AutoencoderConfig, Loss, likelihood

TINY = AutoencoderConfig(n_hid=4, latent_channels=3, n_init=6)


def test_the_squared_error_is_that_of_the_picture() -> None:
    rgb, output = images(2, 16, 24), torch.randn(2, 6, 16, 24, generator=torch.Generator().manual_seed(1))
    sigmoid = 1 / (1 + np.exp(-output[:, :3].double().numpy()))
    unclamped = (sigmoid - 0.1) / 0.8
    assert float(likelihood.loss("l2", output, rgb)) == pytest.approx(np.mean((unclamped - rgb.numpy()) ** 2), rel=1e-5)
    np.testing.assert_allclose(likelihood.picture(output), np.clip(unclamped, 0, 1), atol=1e-6)


def test_logits_of_the_image_give_the_image_back() -> None:
    rgb = images(2, 16, 24)
    rgb[0, :, 0, :2] = torch.tensor([0.0, 1.0])
    output = torch.cat([torch.logit(0.8 * rgb + 0.1), torch.zeros_like(rgb)], dim=1)
    torch.testing.assert_close(likelihood.picture(output), rgb, rtol=0, atol=1e-6)
    assert float(likelihood.loss("l2", output, rgb)) < 1e-12


def test_the_likelihood_is_that_of_a_laplace_distribution_through_a_sigmoid() -> None:
    generator = torch.Generator().manual_seed(2)
    mean, log_scale = torch.randn(2, 2, 3, 16, 24, generator=generator).double()
    rgb = images(2, 16, 24).double()
    scale = log_scale.exp() + likelihood.LEAST_SCALE
    density = TransformedDistribution(Laplace(mean, scale), [SigmoidTransform()])
    expected = -density.log_prob(0.8 * rgb + 0.1)
    got = likelihood.negative_log_likelihood(mean, log_scale, 0.8 * rgb + 0.1)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)

    output = torch.cat([mean, log_scale], dim=1)
    assert float(likelihood.loss("logit-laplace", output, rgb)) == pytest.approx(float(expected.mean()), rel=1e-5)


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, 0.0), (1.5, -1.0), (-2.0, 0.5), (0.3, -3.0), (0.0, -20.0)])
def test_the_density_integrates_to_one(mean: float, log_scale: float) -> None:
    # In logits the peak keeps its width wherever it lies; dx = x (1 - x) dlogit.
    logits = torch.linspace(-40, 40, 2_000_001, dtype=torch.float64)
    x = torch.sigmoid(logits)
    inside = (x > 0) & (x < 1)
    logits, x = logits[inside], x[inside]
    terms = likelihood.negative_log_likelihood(torch.full_like(x, mean), torch.full_like(x, log_scale), x)
    assert float(torch.trapezoid(torch.exp(-terms) * x * (1 - x), logits)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", get_args(Loss))
@pytest.mark.parametrize("level", [0.0, 1.0])
@pytest.mark.parametrize("extreme", [0.0, 200.0, -200.0])
def test_gradients_are_finite_where_numbers_are_extreme(kind: Loss, level: float, extreme: float) -> None:
    output = torch.full((1, 6, 8, 8), extreme, requires_grad=True)
    loss = likelihood.loss(kind, output, torch.full((1, 3, 8, 8), level))
    (gradient,) = torch.autograd.grad(loss, output)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", get_args(Loss))
def test_black_and_white_images_train_every_weight(kind: Loss) -> None:
    # Wide enough that no layer's units are all behind a closed ReLU.
    model = Autoencoder(replace(TINY, n_hid=16, loss=kind))
    rgb = (images(2, 16, 24) > 0.5).float()
    loss = model.loss(rgb)
    assert torch.equal(loss, model.loss_of(model(rgb), rgb))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", get_args(Loss))
def test_a_few_steps_lower_the_loss_and_the_picture_comes_nearer(kind: Loss) -> None:
    model = Autoencoder(replace(TINY, loss=kind))
    # Two plain images, well away from the grey of a new network.
    rgb = torch.tensor([[0.1, 0.4, 0.9], [0.8, 0.9, 0.2]]).view(2, 3, 1, 1).expand(2, 3, 32, 32)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)

    def distance() -> float:
        with torch.no_grad():
            return float((model.reconstruct(rgb) - rgb).abs().mean())

    before, first = distance(), model.loss(rgb).item()
    for _ in range(60):
        optimiser.zero_grad()
        model.loss(rgb).backward()
        optimiser.step()
    assert model.loss(rgb).item() < first
    assert distance() < before / 3
