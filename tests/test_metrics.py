"""Metrics against formulas over explicit lists of pixels, scikit-learn, and laws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from idl.errors import InputError
from idl.metrics import DepthSums, align, depth_metrics
from idl.protocol import Protocol
from idl.targets import target

PROTOCOL = Protocol(min_depth_m=0.5, max_depth_m=8.0)
TRAIN_MEAN_M = 2.7
ERROR_NAMES = ("mse", "rmse", "mae", "abs_rel", "sq_rel", "rmse_log", "log10", "silog")
DEPTH_NAMES = (*ERROR_NAMES, "delta1", "delta2", "delta3")


def scene(seed: int = 0, batch: int = 3, side: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth inside the protocol's range, a prediction that leaves it at times, and a mask."""
    generator = torch.Generator().manual_seed(seed)
    truth = 0.5 + 7.5 * torch.rand(batch, side, side, generator=generator)
    prediction = truth + 1.5 * torch.randn(batch, side, side, generator=generator)
    valid = torch.rand(batch, side, side, generator=generator) < 0.7
    return prediction, truth, valid


def by_hand(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """All depth metrics over explicit (truth, prediction) pairs, prediction clamped here."""
    pairs = [(d, min(max(p, 0.5), 8.0)) for d, p in pairs]
    n = len(pairs)
    g = [math.log(p / d) for d, p in pairs]
    worst = [max(d / p, p / d) for d, p in pairs]
    mse = sum((d - p) ** 2 for d, p in pairs) / n
    return {
        "mse": mse,
        "rmse": math.sqrt(mse),
        "mae": sum(abs(d - p) for d, p in pairs) / n,
        "abs_rel": sum(abs(d - p) / d for d, p in pairs) / n,
        "sq_rel": sum((d - p) ** 2 / d for d, p in pairs) / n,
        "rmse_log": math.sqrt(sum(x * x for x in g) / n),
        "log10": sum(abs(math.log10(d) - math.log10(p)) for d, p in pairs) / n,
        "silog": 100 * float(np.std(g)),
        **{f"delta{j}": sum(w < 1.25**j for w in worst) / n for j in (1, 2, 3)},
    }


def pixels(prediction: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor) -> list[tuple[float, float]]:
    return [
        (float(d), float(p))
        for p, d, v in zip(prediction.flatten(), truth.flatten(), valid.flatten(), strict=True)
        if v
    ]


def test_both_averages_by_hand():
    prediction, truth, valid = scene()
    valid[1, 2:] = False  # an image with few pixels: the two averages come apart
    summary = depth_metrics(prediction, truth, valid, PROTOCOL, TRAIN_MEAN_M).summary()
    images = [by_hand(pixels(p, d, v)) for p, d, v in zip(prediction, truth, valid, strict=True)]
    everything = by_hand(pixels(prediction, truth, valid))
    for name in DEPTH_NAMES:
        assert summary[name] == pytest.approx(np.mean([image[name] for image in images]), rel=2e-6)
        assert summary[f"{name}_pooled"] == pytest.approx(everything[name], rel=2e-6)
    assert summary["mse"] != pytest.approx(summary["mse_pooled"], rel=1e-3)


def test_against_sklearn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    prediction, truth, valid = scene(5)
    d, p = truth[valid].double().numpy(), prediction[valid].double().clamp(0.5, 8.0).numpy()
    mean = float(d.mean())
    summary = depth_metrics(prediction, truth, valid, PROTOCOL, mean).summary()
    assert summary["rmse_pooled"] == pytest.approx(sklearn_metrics.root_mean_squared_error(d, p))
    assert summary["mae_pooled"] == pytest.approx(sklearn_metrics.mean_absolute_error(d, p))
    assert summary["abs_rel_pooled"] == pytest.approx(sklearn_metrics.mean_absolute_percentage_error(d, p))
    # scikit-learn measures from the mean of the truth itself: the same where that is the training mean.
    assert summary["r2"] == pytest.approx(sklearn_metrics.r2_score(d, p))


def test_r2_is_measured_from_the_training_mean():
    _, truth, valid = scene(6)
    constant = torch.full_like(truth, TRAIN_MEAN_M)
    assert depth_metrics(constant, truth, valid, PROTOCOL, TRAIN_MEAN_M).summary()["r2"] == pytest.approx(0, abs=1e-6)
    assert math.isnan(depth_metrics(constant, constant, valid, PROTOCOL, TRAIN_MEAN_M).summary()["r2"])


@pytest.mark.parametrize("alignment", ["none", "median", "affine"])
def test_perfect_prediction(alignment):
    _, truth, valid = scene(1)
    protocol = Protocol(min_depth_m=0.5, max_depth_m=8.0, alignment=alignment)
    summary = depth_metrics(truth, truth, valid, protocol, TRAIN_MEAN_M).summary()
    for name in ERROR_NAMES:
        assert summary[name] == pytest.approx(0, abs=2e-5)
        assert summary[f"{name}_pooled"] == pytest.approx(0, abs=2e-5)
    assert summary["delta1"] == summary["delta1_pooled"] == 1
    assert summary["r2"] == pytest.approx(1)


@pytest.mark.parametrize("alignment", ["none", "median", "affine"])
@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -1.0, 0.0, 5.0])
def test_masked_pixel_is_a_deleted_pixel(alignment, rubbish):
    prediction, truth, _ = scene(2, batch=2, side=6)
    protocol = Protocol(min_depth_m=0.5, max_depth_m=8.0, alignment=alignment)
    kept = torch.ones(2, 6, 6, dtype=torch.bool)
    kept[:, :, 4:] = False
    spoiled, spoiled_truth = prediction.clone(), truth.clone()
    spoiled[~kept], spoiled_truth[~kept] = rubbish, rubbish
    masked = depth_metrics(spoiled, spoiled_truth, kept, protocol, TRAIN_MEAN_M)
    deleted = depth_metrics(prediction[:, :, :4], truth[:, :, :4], kept[:, :, :4], protocol, TRAIN_MEAN_M)
    for name, values in deleted.per_image().items():
        np.testing.assert_allclose(masked.per_image()[name], values, rtol=1e-12, err_msg=name)
    assert masked.summary() == pytest.approx(deleted.summary())


@pytest.mark.parametrize("alignment", ["none", "median", "affine"])
def test_batching_changes_nothing(alignment):
    prediction, truth, valid = scene(3, batch=19)
    protocol = Protocol(min_depth_m=0.5, max_depth_m=8.0, alignment=alignment)
    whole = depth_metrics(prediction, truth, valid, protocol, TRAIN_MEAN_M)
    parts = [
        depth_metrics(prediction[i:j], truth[i:j], valid[i:j], protocol, TRAIN_MEAN_M)
        for i, j in ((0, 1), (1, 11), (11, 19))
    ]
    joined = DepthSums.concatenate(parts)
    for name, values in whole.per_image().items():
        np.testing.assert_allclose(joined.per_image()[name], values, rtol=1e-12, err_msg=name)
    assert joined.summary() == pytest.approx(whole.summary(), rel=1e-12)


@given(st.integers(0, 2**16), st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_jensen(seed, batch):
    """The root is concave: the mean of the images' RMSE is at most the pooled one, if all weigh alike."""
    prediction, truth, _ = scene(seed, batch, side=4)
    summary = depth_metrics(prediction, truth, torch.ones(batch, 4, 4).bool(), PROTOCOL, TRAIN_MEAN_M).summary()
    assert summary["rmse"] <= summary["rmse_pooled"] * (1 + 1e-9)
    assert summary["mse"] == pytest.approx(summary["mse_pooled"])


@given(st.floats(0.5, 2.0))
@settings(max_examples=20, deadline=None)
def test_silog_ignores_scale(factor):
    wide = Protocol(min_depth_m=1e-3, max_depth_m=1e3)
    prediction, truth, valid = scene(4)
    prediction = prediction.clamp(0.5, 8.0)
    plain = depth_metrics(prediction, truth, valid, wide, TRAIN_MEAN_M).per_image()["silog"]
    scaled = depth_metrics(prediction * factor, truth, valid, wide, TRAIN_MEAN_M).per_image()["silog"]
    np.testing.assert_allclose(scaled, plain, rtol=1e-4)


def test_silog_of_a_pure_scale_is_zero():
    _, truth, valid = scene(4)
    silog = depth_metrics(truth / 2, truth, valid, Protocol(max_depth_m=100), TRAIN_MEAN_M).per_image()["silog"]
    np.testing.assert_allclose(silog, 0, atol=1e-4)


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 2.0, 0.015625, 3.0])
def test_delta_is_strict(power, scale):
    """A ratio of exactly 1.25^j is not within it, the next smaller number is, in both directions."""
    ratio = torch.tensor(1.25**power)
    wide = Protocol(min_depth_m=1e-3, max_depth_m=100)
    base = torch.full((1, 1, 1), scale)
    for truth, edge, within in (
        (base, base * ratio, torch.nextafter(base * ratio, base)),
        (base * ratio, base, torch.nextafter(base, base * ratio)),
    ):
        valid = torch.ones(1, 1, 1, dtype=torch.bool)
        assert depth_metrics(edge, truth, valid, wide, 1.0).summary()[f"delta{power}"] == 0
        assert depth_metrics(within, truth, valid, wide, 1.0).summary()[f"delta{power}"] == 1


def test_clamping_comes_before_metres_and_is_counted():
    """Four wrong inverse depths of six: past infinity means the far end, too large means the near end."""
    inverse = torch.tensor([-0.5, 0.0, math.nan, 1e-9, 0.25, 100.0]).reshape(1, 1, 1, 6)
    predicted = target("inverse-depth").decode(inverse)[:, 0]
    truth = torch.tensor([8.0, 8.0, 8.0, 8.0, 4.0, 0.5]).reshape(1, 1, 6)
    summary = depth_metrics(predicted, truth, truth > 0, PROTOCOL, TRAIN_MEAN_M).summary()
    assert summary["mae"] == 0
    assert summary["clamped_share"] == pytest.approx(5 / 6)


def test_negative_depth_becomes_the_nearest():
    truth = torch.full((1, 1, 4), 0.5)
    predicted = torch.tensor([-1.0, -math.inf, 0.0, 0.5]).reshape(1, 1, 4)
    summary = depth_metrics(predicted, truth, truth > 0, PROTOCOL, TRAIN_MEAN_M).summary()
    assert summary["rmse"] == 0
    assert summary["clamped_share"] == 0.75


def test_truth_outside_the_range_does_not_count():
    prediction, truth, valid = scene(7)
    low, high = truth.clone(), valid.clone()
    low[0, 0], low[1, 1] = 0.4, 8.1
    high[0, 0], high[1, 1] = False, False
    outside = depth_metrics(prediction, low, valid, PROTOCOL, TRAIN_MEAN_M).summary()
    assert outside == depth_metrics(prediction, truth, high, PROTOCOL, TRAIN_MEAN_M).summary()


def test_images_without_truth_are_left_out_and_counted():
    prediction, truth, valid = scene(8)
    alone = depth_metrics(prediction[:2], truth[:2], valid[:2], PROTOCOL, TRAIN_MEAN_M).summary()
    valid[2] = False
    sums = depth_metrics(prediction, truth, valid, PROTOCOL, TRAIN_MEAN_M)
    assert np.isnan(sums.per_image()["rmse"][2])
    assert sums.summary() == alone | {"num_images_without_truth": 1}
    with pytest.raises(InputError, match="none of 3 images"):
        depth_metrics(prediction, truth, valid & False, PROTOCOL, TRAIN_MEAN_M).summary()


@given(st.floats(0.1, 5), st.floats(-20, 20))
@settings(max_examples=30, deadline=None)
def test_affine_undoes_any_affine_distortion(scale, shift):
    _, truth, valid = scene(9)
    for sign in (1, -1):
        aligned = align(sign * scale * truth + shift, truth, valid, "affine")
        torch.testing.assert_close(aligned, truth, atol=2e-4, rtol=2e-4)


def test_affine_is_the_least_squares_of_numpy():
    prediction, truth, valid = scene(10)
    aligned = align(prediction, truth, valid, "affine")
    for p, d, v, a in zip(prediction, truth, valid, aligned, strict=True):
        design = np.stack([p[v].double(), np.ones(int(v.sum()))], axis=1)
        scale, shift = np.linalg.lstsq(design, d[v].double().numpy(), rcond=None)[0]
        np.testing.assert_allclose(a, scale * p.double() + shift, rtol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 3.3, -7.0, 1e4])
def test_affine_of_a_constant_is_the_mean(constant):
    _, truth, valid = scene(11)
    aligned = align(torch.full_like(truth, constant), truth, valid, "affine")
    for a, d, v in zip(aligned, truth, valid, strict=True):
        torch.testing.assert_close(a, torch.full_like(a, float(d[v].double().mean())))


@pytest.mark.parametrize("factor", [0.1, 1.0, 7.0])
def test_median_undoes_a_scale_only(factor):
    _, truth, valid = scene(12)
    torch.testing.assert_close(align(factor * truth, truth, valid, "median"), truth)
    shifted = align(truth + 1, truth, valid, "median")
    for a, d, v in zip(shifted, truth, valid, strict=True):
        assert np.median(a[v]) == pytest.approx(np.median(d[v]))
        assert not torch.allclose(a, d, atol=1e-2)


def test_median_leaves_what_has_no_positive_median():
    _, truth, valid = scene(13)
    torch.testing.assert_close(align(-truth, truth, valid, "median"), -truth)


@pytest.mark.parametrize("alignment", ["median", "affine"])
def test_alignment_is_fitted_on_finite_predictions(alignment):
    _, truth, _ = scene(14, batch=1)
    prediction = 2 * truth
    prediction[0, 0, :3] = torch.tensor([math.inf, math.nan, -math.inf])
    valid = torch.ones_like(truth, dtype=torch.bool)
    without = valid.clone()
    without[0, 0, :3] = False
    aligned = align(prediction, truth, valid, alignment)
    reference = align(2 * truth, truth, without, alignment)
    torch.testing.assert_close(aligned[without], reference[without])
    assert not aligned[0, 0, :3].isfinite().any()


@pytest.mark.parametrize("near_far", [(0.0, 10.0), (2.0, 1.0), (1.0, math.inf)])
def test_a_range_without_logarithms_is_refused(near_far):
    prediction, truth, valid = scene()
    protocol = Protocol(min_depth_m=near_far[0], max_depth_m=near_far[1])
    with pytest.raises(InputError, match="depth range"):
        depth_metrics(prediction, truth, valid, protocol, TRAIN_MEAN_M)


def test_shapes_are_not_broadcast():
    prediction, truth, valid = scene()
    with pytest.raises(ValueError, match="expected"):
        depth_metrics(prediction[:, None], truth, valid, PROTOCOL, TRAIN_MEAN_M)
    with pytest.raises(InputError, match="mean depth"):
        depth_metrics(prediction, truth, valid, PROTOCOL, math.nan)
