"""Metrics of a field against explicit lists of pixels, and laws."""

import numpy as np
import pytest
import torch

from idl.errors import InputError
from idl.metrics import FieldSums, field_metrics

MEAN = (0.7, -2.0)


def maps(seed: int, batch: int = 4, side: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth with two outputs, predictions around it, and a mask; the last image has no valid pixel."""
    generator = torch.Generator().manual_seed(seed)
    truth = 3 * torch.randn(batch, 2, side, side, generator=generator)
    prediction = truth + torch.randn(batch, 2, side, side, generator=generator)
    valid = torch.rand(batch, side, side, generator=generator) < 0.6
    valid[-1] = False
    return prediction, truth, valid


def by_hand(prediction: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor) -> dict[str, float]:
    """Over a list of all values."""
    p, t = (np.array([each[:, o][valid].double().numpy() for o in (0, 1)]).ravel() for each in (prediction, truth))
    return {
        "mse": float(np.mean((p - t) ** 2)),
        "rmse": float(np.sqrt(np.mean((p - t) ** 2))),
        "mae": float(np.mean(np.abs(p - t))),
    }


def test_both_averages_are_those_of_explicit_lists() -> None:
    prediction, truth, valid = maps(0)
    found = field_metrics(prediction, truth, valid, MEAN).summary()
    each = [by_hand(prediction[i : i + 1], truth[i : i + 1], valid[i : i + 1]) for i in range(3)]
    whole = by_hand(prediction, truth, valid)
    for name in ("mse", "rmse", "mae"):
        assert found[name] == pytest.approx(np.mean([one[name] for one in each]), rel=1e-6)
        assert found[f"{name}_pooled"] == pytest.approx(whole[name], rel=1e-6)
    assert (found["num_images"], found["num_images_without_truth"]) == (3, 1)


def test_r2_is_one_for_the_truth_and_nothing_for_the_training_mean() -> None:
    _, truth, valid = maps(1)
    mean = torch.tensor(MEAN)[:, None, None].expand_as(truth)
    assert field_metrics(truth, truth, valid, MEAN).summary()["r2"] == 1.0
    assert field_metrics(mean, truth, valid, MEAN).summary()["r2"] == pytest.approx(0.0, abs=1e-6)
    # Half-way from the mean to the truth: a quarter of the squared error is left.
    assert field_metrics((mean + truth) / 2, truth, valid, MEAN).summary()["r2"] == pytest.approx(0.75, abs=1e-6)


def test_a_field_without_spread_has_no_r2() -> None:
    flat = torch.full((1, 1, 3, 3), 2.0)
    assert np.isnan(field_metrics(flat, flat, torch.ones(1, 3, 3, dtype=torch.bool), (2.0,)).summary()["r2"])


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 1e30])
def test_a_masked_pixel_is_no_pixel(odd: float) -> None:
    prediction, truth, valid = maps(2)
    spoiled = prediction.clone()
    spoiled[~valid[:, None].expand_as(spoiled)] = odd
    plain = field_metrics(prediction, truth, valid, MEAN)
    assert field_metrics(spoiled, truth, valid, MEAN).summary() == plain.summary()


def test_batches_join_to_the_whole() -> None:
    prediction, truth, valid = maps(3)
    whole = field_metrics(prediction, truth, valid, MEAN)
    parts = [
        field_metrics(prediction[i : i + 2], truth[i : i + 2], valid[i : i + 2], MEAN) for i in range(0, len(valid), 2)
    ]
    assert FieldSums.concatenate(parts).summary() == whole.summary()
    assert np.isnan(whole.per_image()["rmse"][-1])


def test_another_unit_scales_what_has_a_unit() -> None:
    prediction, truth, valid = maps(4)
    one = field_metrics(prediction, truth, valid, MEAN).summary()
    tenfold = field_metrics(10 * prediction, 10 * truth, valid, (7.0, -20.0)).summary()
    for name, power in (("mse", 100), ("rmse", 10), ("mae", 10), ("r2", 1)):
        assert tenfold[name] == pytest.approx(power * one[name], rel=1e-5)


def test_nothing_valid_is_said() -> None:
    prediction, truth, valid = maps(5)
    with pytest.raises(InputError, match="none of 4 images has a valid pixel"):
        field_metrics(prediction, truth, torch.zeros_like(valid), MEAN).summary()


def test_shapes_that_differ_are_refused() -> None:
    prediction, truth, valid = maps(6)
    for wrong in (
        (prediction[:, :1], truth, valid, MEAN),
        (prediction, truth, valid[:, 1:], MEAN),
        (prediction, truth, valid, (0.0,)),
    ):
        with pytest.raises(ValueError, match="expected"):
            field_metrics(*wrong)
