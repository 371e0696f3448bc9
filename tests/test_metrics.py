"""Metrics of depth, fields and normals against formulas over explicit lists of pixels, scikit-learn, and laws."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from idl.errors import InputError
from idl.metrics import Sums, align, depth_metrics, field_metrics, normals_metrics
from idl.protocol import Protocol
from idl.targets import target

TRAIN_MEAN_M = 2.7
TRAIN_MEANS = (0.7, -2.0)
Case = tuple[Tensor, Tensor, Tensor]


def drawn(seed: int, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Uniform and normal numbers, and a mask of seven in ten pixels of each map."""
    generator = torch.Generator().manual_seed(seed)
    uniform, normal = torch.rand(*shape, generator=generator), torch.randn(*shape, generator=generator)
    return uniform, normal, torch.rand(shape[0], *shape[-2:], generator=generator) < 0.7


def depths(seed: int = 0, batch: int = 3, side: int = 9) -> Case:
    """Prediction that leaves the protocol's range at times, truth inside it, and a mask."""
    uniform, normal, valid = drawn(seed, batch, side, side)
    truth = 0.5 + 7.5 * uniform
    return truth + 1.5 * normal, truth, valid


def fields(seed: int = 0, batch: int = 3, side: int = 9) -> Case:
    """Predictions around a truth with two outputs, and a mask."""
    uniform, normal, valid = drawn(seed, batch, 2, side, side)
    return 9 * uniform - 4 + normal, 9 * uniform - 4, valid


def directions(seed: int = 0, batch: int = 3, side: int = 12) -> Case:
    """Predictions around true unit normals, and a mask."""
    uniform, normal, valid = drawn(seed, batch, 3, side, side)
    truth = torch.nn.functional.normalize(normal, dim=1)
    return torch.nn.functional.normalize(truth + uniform - 0.5, dim=1), truth, valid


def of_depth(prediction: Tensor, truth: Tensor, valid: Tensor, alignment: str = "none") -> Sums:
    protocol = Protocol(min_depth_m=0.5, max_depth_m=8.0, alignment=alignment)  # pyright: ignore[reportArgumentType]
    return depth_metrics(prediction, truth, valid, protocol, TRAIN_MEAN_M)


def of_field(prediction: Tensor, truth: Tensor, valid: Tensor) -> Sums:
    return field_metrics(prediction, truth, valid, TRAIN_MEANS)


def depth_by_hand(p: np.ndarray, d: np.ndarray) -> dict[str, Any]:
    p = p.clip(0.5, 8.0)
    g = [math.log(a / b) for a, b in zip(p, d, strict=True)]
    worst = [max(a / b, b / a) for a, b in zip(p, d, strict=True)]
    return {
        "mse": np.mean((d - p) ** 2),
        "rmse": math.sqrt(np.mean((d - p) ** 2)),
        "mae": np.mean(abs(d - p)),
        "abs_rel": np.mean(abs(d - p) / d),
        "sq_rel": np.mean((d - p) ** 2 / d),
        "rmse_log": math.sqrt(sum(x * x for x in g) / len(g)),
        "log10": np.mean(abs(np.log10(d) - np.log10(p))),
        "silog": 100 * float(np.std(g)),
        **{f"delta{j}": sum(w < 1.25**j for w in worst) / len(g) for j in (1, 2, 3)},
    }


def field_by_hand(p: np.ndarray, t: np.ndarray) -> dict[str, Any]:
    return {"mse": np.mean((p - t) ** 2), "rmse": np.sqrt(np.mean((p - t) ** 2)), "mae": np.mean(np.abs(p - t))}


def normals_by_hand(p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    angles = np.degrees(np.arccos(np.clip((p.reshape(3, -1) * t.reshape(3, -1)).sum(axis=0), -1, 1)))
    limits = ("5", "7.5", "11.25", "22.5", "30")
    return {f"under_{limit}_deg": float(np.mean(angles < float(limit))) for limit in limits} | {
        "angle_mean_deg": float(np.mean(angles)),
        "angle_median_deg": float(np.median(angles)),
        "angle_rmse_deg": float(np.sqrt(np.mean(angles**2))),
    }


Measured = Callable[[Tensor, Tensor, Tensor], Sums]
# An arctangent may be rounded in another way in a vector of another length.
KINDS = {
    "depth": (depths, of_depth, 1e-12),
    "field": (fields, of_field, 1e-12),
    "normals": (directions, normals_metrics, 1e-7),
}
every_kind = pytest.mark.parametrize(("make", "measure", "rounding"), KINDS.values(), ids=KINDS)


def listed(values: Tensor, valid: Tensor) -> np.ndarray:
    """The values of the valid pixels, one output after the other."""
    by_output = values[:, None] if values.ndim == 3 else values
    return np.concatenate([by_output[:, output][valid].double().numpy() for output in range(by_output.shape[1])])


@pytest.mark.parametrize(
    ("kind", "by_hand"), [("depth", depth_by_hand), ("field", field_by_hand), ("normals", normals_by_hand)]
)
def test_both_averages_by_hand(kind: str, by_hand: Callable[[np.ndarray, np.ndarray], dict[str, float]]) -> None:
    make, measure, _ = KINDS[kind]
    prediction, truth, valid = make()
    valid[1, 2:] = False  # an image with few pixels: the two averages come apart
    sums = measure(prediction, truth, valid)
    summary = sums.summary()
    images = [
        by_hand(listed(prediction[i : i + 1], valid[i : i + 1]), listed(truth[i : i + 1], valid[i : i + 1]))
        for i in range(3)
    ]
    for name, pooled in by_hand(listed(prediction, valid), listed(truth, valid)).items():
        expected = [image[name] for image in images]
        np.testing.assert_allclose(sums.per_image()[name], expected, rtol=1e-5)
        assert summary[name] == pytest.approx(np.mean(expected), rel=1e-5)
        # The median of all pixels comes from a histogram.
        bound = 0.005 + 1e-4 if name == "angle_median_deg" else 1e-5 * pooled
        assert summary[f"{name}_pooled"] == pytest.approx(pooled, abs=bound)
    assert set(sums.per_image()) == set(images[0])


def test_r2_is_measured_from_the_training_mean() -> None:
    _, truth, valid = depths(6)
    constant = torch.full_like(truth, TRAIN_MEAN_M)
    assert of_depth(constant, truth, valid).summary()["r2"] == pytest.approx(0, abs=1e-6)
    assert math.isnan(of_depth(constant, constant, valid).summary()["r2"])
    _, truth, valid = fields(1)
    mean = torch.tensor(TRAIN_MEANS)[:, None, None].expand_as(truth)
    # Half-way from the mean to the truth a quarter of the squared error is left.
    for share, expected in ((0, 0), (0.5, 0.75), (1, 1)):
        found = of_field(mean + share * (truth - mean), truth, valid).summary()["r2"]
        assert found == pytest.approx(expected, abs=1e-6)


@every_kind
def test_batching_changes_nothing(make: Callable[..., Case], measure: Measured, rounding: float) -> None:
    case = make(3, batch=19)
    case[2][4] = False
    whole = measure(*case)
    parts = [measure(*(each[i:j] for each in case)) for i, j in ((0, 1), (1, 11), (11, 19))]
    joined = type(whole).concatenate(parts)
    for name, values in whole.per_image().items():
        np.testing.assert_allclose(joined.per_image()[name], values, rtol=rounding, err_msg=name)
    assert joined.summary() == pytest.approx(whole.summary(), rel=rounding)


@every_kind
@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -1.0, 0.0, 5.0])
def test_a_masked_pixel_is_a_deleted_pixel(
    make: Callable[..., Case], measure: Measured, rounding: float, rubbish: float
) -> None:
    prediction, truth, _ = make(2, batch=2, side=6)
    valid = torch.ones(2, 6, 6, dtype=torch.bool)
    valid[:, :, 4:] = False
    deleted = measure(prediction[..., :4], truth[..., :4], valid[..., :4])
    prediction[..., 4:], truth[..., 4:] = rubbish, rubbish
    masked = measure(prediction, truth, valid)
    for name, values in deleted.per_image().items():
        np.testing.assert_allclose(masked.per_image()[name], values, rtol=rounding, err_msg=name)
    assert masked.summary() == pytest.approx(deleted.summary(), rel=1e-6)


@every_kind
def test_images_without_truth_are_left_out_and_counted(
    make: Callable[..., Case], measure: Measured, rounding: float
) -> None:
    prediction, truth, valid = make(8)
    alone = measure(prediction[:2], truth[:2], valid[:2]).summary()
    valid[2] = False
    sums = measure(prediction, truth, valid)
    assert all(np.isnan(values[2]) for values in sums.per_image().values())
    assert sums.summary() == pytest.approx(alone | {"num_images_without_truth": 1}, rel=1e-12)
    with pytest.raises(InputError, match="none of 3 images"):
        measure(prediction, truth, valid & False).summary()
    with pytest.raises(ValueError, match="expected"):
        measure(prediction, truth, valid[:, 1:])


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 2.0, 0.015625, 3.0])
def test_delta_is_strict(power: int, scale: float) -> None:
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


def test_clamping_comes_before_metres_and_is_counted() -> None:
    """Four wrong inverse depths of six: past infinity means the far end, too large means the near end."""
    inverse = torch.tensor([-0.5, 0.0, math.nan, 1e-9, 0.25, 100.0]).reshape(1, 1, 1, 6)
    truth = torch.tensor([8.0, 8.0, 8.0, 8.0, 4.0, 0.5]).reshape(1, 1, 6)
    summary = of_depth(target("inverse-depth").decode(inverse)[:, 0], truth, truth > 0).summary()
    assert summary["mae"] == 0
    assert summary["clamped_share"] == pytest.approx(5 / 6)
    # A negative depth becomes the nearest.
    truth = torch.full((1, 1, 4), 0.5)
    summary = of_depth(torch.tensor([[[-1.0, -math.inf, 0.0, 0.5]]]), truth, truth > 0).summary()
    assert (summary["rmse"], summary["clamped_share"]) == (0, 0.75)


def test_truth_outside_the_range_does_not_count() -> None:
    prediction, truth, valid = depths(7)
    outside, masked = truth.clone(), valid.clone()
    outside[0, 0], outside[1, 1] = 0.4, 8.1
    masked[0, 0], masked[1, 1] = False, False
    assert of_depth(prediction, outside, valid).summary() == of_depth(prediction, truth, masked).summary()


@pytest.mark.parametrize("near_far", [(0.0, 10.0), (2.0, 1.0), (1.0, math.inf)])
def test_a_range_without_logarithms_is_refused(near_far: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="depth range"):
        depth_metrics(*depths(), Protocol(min_depth_m=near_far[0], max_depth_m=near_far[1]), TRAIN_MEAN_M)
    with pytest.raises(InputError, match="mean depth"):
        depth_metrics(*depths(), Protocol(), math.nan)


def test_affine_is_the_least_squares_of_numpy() -> None:
    prediction, truth, valid = depths(10)
    aligned = align(prediction, truth, valid, "affine")
    for p, d, v, a in zip(prediction, truth, valid, aligned, strict=True):
        design = np.stack([p[v].double(), np.ones(int(v.sum()))], axis=1)
        scale, shift = np.linalg.lstsq(design, d[v].double().numpy(), rcond=None)[0]
        np.testing.assert_allclose(a, scale * p.double() + shift, rtol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 3.3, -7.0, 1e4])
def test_affine_of_a_constant_is_the_mean(constant: float) -> None:
    _, truth, valid = depths(11)
    aligned = align(torch.full_like(truth, constant), truth, valid, "affine")
    for a, d, v in zip(aligned, truth, valid, strict=True):
        torch.testing.assert_close(a, torch.full_like(a, float(d[v].double().mean())))


@pytest.mark.parametrize("factor", [0.1, 1.0, 7.0])
def test_median_undoes_a_positive_scale_only(factor: float) -> None:
    _, truth, valid = depths(12)
    torch.testing.assert_close(align(factor * truth, truth, valid, "median"), truth)
    torch.testing.assert_close(align(-factor * truth, truth, valid, "median"), -factor * truth)
    shifted = align(truth + 1, truth, valid, "median")
    for a, d, v in zip(shifted, truth, valid, strict=True):
        assert np.median(a[v]) == pytest.approx(np.median(d[v]))
        assert not torch.allclose(a, d, atol=1e-2)


@pytest.mark.parametrize("alignment", ["median", "affine"])
def test_alignment_is_fitted_on_valid_pixels_with_a_finite_prediction(alignment: str) -> None:
    prediction, truth, valid = depths(2)
    plain = of_depth(prediction, truth, valid, alignment).summary()
    assert of_depth(prediction.where(valid, 77.0), truth.where(valid, 3.0), valid, alignment).summary() == plain
    prediction, valid = 2 * truth, torch.ones_like(valid)
    prediction[0, 0, :3] = torch.tensor([math.inf, math.nan, -math.inf])
    without = prediction.isfinite()
    aligned = align(prediction, truth, valid, alignment)  # pyright: ignore[reportArgumentType]
    reference = align(2 * truth, truth, without, alignment)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(aligned[without], reference[without])
    assert not aligned[0, 0, :3].isfinite().any()


def test_known_angles() -> None:
    """Rotations in a plane by known angles, exact at 0 and at 180 degrees."""
    for angle in (0.0, 5.1, 60.0, 90.0, 180.0):
        turned = torch.tensor([math.sin(math.radians(angle)), 0.0, math.cos(math.radians(angle))]).reshape(1, 3, 1, 1)
        truth = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1)
        summary = normals_metrics(turned, truth, torch.ones(1, 1, 1, dtype=torch.bool)).summary()
        assert summary["angle_median_deg"] == pytest.approx(angle, abs=1e-5)
        assert summary["angle_median_deg_pooled"] == pytest.approx(angle, abs=0.00501)


@given(st.lists(st.floats(0, 180), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_the_pooled_median_keeps_its_bound(degrees: list[float]) -> None:
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad().reshape(1, 1, -1)
    prediction = torch.stack([radians.sin(), torch.zeros_like(radians), radians.cos()], dim=1)
    truth = torch.stack([torch.zeros_like(radians)] * 2 + [torch.ones_like(radians)], dim=1)
    sums = normals_metrics(prediction, truth, torch.ones_like(radians, dtype=torch.bool))
    assert sums.pooled().per_image()["angle_median_deg"][0] == pytest.approx(np.median(degrees), abs=0.005 + 1e-9)


def test_small_angles_survive_single_precision() -> None:
    """Under the 0.03 degrees that acos of a float32 product can tell."""
    small = math.radians(0.004)
    truth = torch.tensor([0.36, -0.48, 0.8]).reshape(1, 3, 1, 1)
    tangent = torch.tensor([0.8, 0.6, 0.0]).reshape(1, 3, 1, 1)
    summary = normals_metrics(truth + math.tan(small) * tangent, truth, torch.ones(1, 1, 1).bool()).summary()
    assert summary["angle_mean_deg"] == pytest.approx(0.004, rel=1e-2)


@pytest.mark.parametrize("nothing", [0.0, math.nan])
def test_length_does_not_matter_unless_it_is_zero(nothing: float) -> None:
    """A zero truth does not count; a prediction without direction is as good as a right angle."""
    prediction, truth, valid = directions(2)
    plain = normals_metrics(prediction, truth, valid).summary()
    assert normals_metrics(prediction * 7, truth / 3, valid).summary() == pytest.approx(plain, abs=1e-4)
    gone, rows = truth.clone(), valid.clone()
    gone[:, :, :3], rows[:, :3] = 0, False
    found, expected = normals_metrics(prediction, gone, valid), normals_metrics(prediction, truth, rows)
    np.testing.assert_equal(found.summary(), expected.summary())
    nowhere = normals_metrics(torch.full_like(truth, nothing), truth, valid).summary()
    assert nowhere["angle_mean_deg"] == nowhere["angle_median_deg"] == 90
