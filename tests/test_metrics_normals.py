"""Metrics of normals against acos over explicit lists of pixels, and laws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from idl.errors import InputError
from idl.metrics import NormalsSums, normals_metrics


def directions(seed: int, batch: int = 3, side: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """True unit normals, predictions around them, and a mask."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(batch, 3, side, side, generator=generator)
    truth /= torch.linalg.vector_norm(truth, dim=1, keepdim=True)
    prediction = truth + 0.3 * torch.randn(batch, 3, side, side, generator=generator)
    prediction /= torch.linalg.vector_norm(prediction, dim=1, keepdim=True)
    return prediction, truth, torch.rand(batch, side, side, generator=generator) < 0.7


def angles_by_hand(prediction: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor) -> np.ndarray:
    dot = (prediction.double() * truth.double()).sum(dim=1)[valid].numpy()
    return np.degrees(np.arccos(np.clip(dot, -1, 1)))


def angle_metrics_by_hand(angles: np.ndarray) -> dict[str, float]:
    shares = {
        f"under_{limit}_deg": float(np.mean(angles < float(limit))) for limit in ("5", "7.5", "11.25", "22.5", "30")
    }
    return shares | {
        "angle_mean_deg": float(np.mean(angles)),
        "angle_median_deg": float(np.median(angles)),
        "angle_rmse_deg": float(np.sqrt(np.mean(angles**2))),
    }


def test_normals_by_hand():
    prediction, truth, valid = directions(0)
    sums = normals_metrics(prediction, truth, valid)
    images = [
        angle_metrics_by_hand(angles_by_hand(prediction[i : i + 1], truth[i : i + 1], valid[i : i + 1]))
        for i in range(3)
    ]
    pooled = angle_metrics_by_hand(angles_by_hand(prediction, truth, valid))
    for name, expected in pooled.items():
        for i in range(3):
            assert sums.per_image()[name][i] == pytest.approx(images[i][name], rel=1e-5)
        assert sums.summary()[name] == pytest.approx(np.mean([image[name] for image in images]), rel=1e-5)
        bound = 0.005 + 1e-4 if name == "angle_median_deg" else 1e-4
        assert sums.summary()[f"{name}_pooled"] == pytest.approx(expected, abs=bound)


def test_known_angles():
    """Rotations in a plane by known angles, exact at 0 and at 180 degrees."""
    degrees = [0.0, 5.1, 60.0, 90.0, 180.0]
    prediction = torch.tensor([[math.sin(math.radians(a)), 0.0, math.cos(math.radians(a))] for a in degrees])
    prediction = prediction.T.reshape(1, 3, 1, 5)
    truth = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 1, 5)
    for i, angle in enumerate(degrees):
        only = torch.zeros(1, 1, 5, dtype=torch.bool)
        only[..., i] = True
        summary = normals_metrics(prediction, truth, only).summary()
        assert summary["angle_median_deg"] == pytest.approx(angle, abs=1e-5)
        assert summary["angle_median_deg_pooled"] == pytest.approx(angle, abs=0.00501)


@given(st.lists(st.floats(0, 180), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_pooled_median_keeps_its_bound(degrees):
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad().reshape(1, 1, -1)
    prediction = torch.stack([radians.sin(), torch.zeros_like(radians), radians.cos()], dim=1)
    truth = torch.stack([torch.zeros_like(radians)] * 2 + [torch.ones_like(radians)], dim=1)
    sums = normals_metrics(prediction, truth, torch.ones_like(radians, dtype=torch.bool))
    assert sums.pooled().per_image()["angle_median_deg"][0] == pytest.approx(np.median(degrees), abs=0.005 + 1e-9)


def test_small_angles_survive_single_precision():
    """Under the 0.03 degrees that acos of a float32 product can tell."""
    small = math.radians(0.004)
    truth = torch.tensor([0.36, -0.48, 0.8]).reshape(1, 3, 1, 1)
    tangent = torch.tensor([0.8, 0.6, 0.0]).reshape(1, 3, 1, 1)
    summary = normals_metrics(truth + math.tan(small) * tangent, truth, torch.ones(1, 1, 1).bool()).summary()
    assert summary["angle_mean_deg"] == pytest.approx(0.004, rel=1e-2)


def test_length_does_not_matter():
    prediction, truth, valid = directions(1)
    scaled = normals_metrics(prediction * 7, truth / 3, valid).summary()
    assert scaled == pytest.approx(normals_metrics(prediction, truth, valid).summary(), abs=1e-4)


@pytest.mark.parametrize("nothing", [0.0, math.nan])
def test_zero_vectors(nothing):
    """A zero truth does not count; a prediction without direction is as good as a right angle."""
    prediction, truth, valid = directions(2)
    gone = truth.clone()
    gone[:, :, :3] = 0
    rows = valid.clone()
    rows[:, :3] = False
    np.testing.assert_equal(
        normals_metrics(prediction, gone, valid).summary(), normals_metrics(prediction, truth, rows).summary()
    )
    nowhere = normals_metrics(torch.full_like(truth, nothing), truth, valid).summary()
    assert nowhere["angle_mean_deg"] == nowhere["angle_median_deg"] == 90


def test_normals_batching_and_masking():
    prediction, truth, valid = directions(3)
    valid[1] = False
    whole = normals_metrics(prediction, truth, valid)
    parts = [normals_metrics(prediction[i : i + 1], truth[i : i + 1], valid[i : i + 1]) for i in range(3)]
    joined = NormalsSums.concatenate(parts)
    np.testing.assert_equal(joined.per_image(), whole.per_image())
    np.testing.assert_equal(joined.histogram, whole.histogram)
    assert joined.summary() == whole.summary()
    assert whole.summary()["num_images_without_truth"] == 1
    spoiled = prediction.clone()
    spoiled.movedim(1, -1)[~valid] = math.nan
    assert normals_metrics(spoiled, truth, valid).summary() == whole.summary()
    with pytest.raises(InputError, match="none of 1 images"):
        parts[1].summary()
    with pytest.raises(ValueError, match="expected"):
        normals_metrics(prediction, truth, valid[:, :4])
