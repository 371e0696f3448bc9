"""Figures: colours that mean what they say, fixed ranges, and nothing besides values in and pixels out."""

import subprocess
import sys
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idl.errors import InputError
from idl.figures import (
    arms_chart,
    contact_sheet,
    depth_panel,
    feature_panel,
    field_panel,
    loss_over_k,
    normals_panel,
    per_scene_error,
)
from idl.figures.canvas import ticks
from idl.figures.chart import spread, squared

SIDE = 256
RANGE_M = (0.0, 10.0)
RGB = np.full((SIDE, SIDE, 3), 77, np.uint8)
EVERYWHERE = np.ones((SIDE, SIDE), bool)
TOWARDS_CAMERA = np.tile(np.array([0, 0, -1], np.float32), (SIDE, SIDE, 1))


def flat(depth_m: float) -> np.ndarray:
    return np.full((SIDE, SIDE), depth_m, np.float32)


def colour(name: str, share: float) -> tuple[int, ...]:
    return tuple(int(each) for each in matplotlib.colormaps[name](share, bytes=True)[:3])


def count(image: np.ndarray, rgb: tuple[int, ...], slack: int = 3) -> int:
    """Pixels of a colour, up to the rounding of one step of the map."""
    return int((np.abs(image.astype(int) - rgb).max(axis=2) <= slack).sum())


def depth_image(truth_m: float, prediction_m: float, valid: np.ndarray = EVERYWHERE) -> np.ndarray:
    return depth_panel(RGB, flat(truth_m), flat(prediction_m), valid, RANGE_M, 1.0, "title", "caption")


def every_figure() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    depth = generator.uniform(0, 12, (SIDE, SIDE)).astype(np.float32)
    features = generator.normal(size=(30, 16, 16)).astype(np.float16)
    return {
        "depth": depth_panel(RGB, depth, depth[::-1], depth > 1, RANGE_M, 1.0, "t", "c"),
        "normals": normals_panel(RGB, TOWARDS_CAMERA, -TOWARDS_CAMERA, EVERYWHERE, 60.0, "t", "c"),
        "field": field_panel(RGB, depth, depth[::-1], depth > 1, (-3.0, 9.0), 2.0, "px", "t", "c"),
        "features": feature_panel(RGB, features, "t"),
        "sheet": contact_sheet([RGB] * 3, [depth] * 3, [EVERYWHERE] * 3, [TOWARDS_CAMERA] * 3, RANGE_M, 2),
        "curve": loss_over_k([1, 4, 16], [3, 2, 1], [3, 2, 1.5], 16, 1.4, {"constant": 4}, 16, "m"),
        "arms": arms_chart(["constant", "trained"], [2.0, 1.0], "m"),
        "scenes": per_scene_error(["a", "b", "c"], [0.1, 0.3, 0.2]),
    }


def test_images_are_rgb_and_the_same_each_time():
    first, second = every_figure(), every_figure()
    for name, image in first.items():
        assert image.dtype == np.uint8, name
        assert image.ndim == 3, name
        assert image.shape[2] == 3, name
        assert np.array_equal(image, second[name]), name


@pytest.mark.parametrize("depth_m", [0.0, 2.5, 7.0, 10.0])
def test_a_depth_has_the_colour_of_its_place_in_the_range(depth_m):
    image = depth_image(depth_m, depth_m)
    assert count(image, colour("viridis_r", depth_m / 10)) >= 2 * SIDE * SIDE


def test_the_range_does_not_follow_the_image():
    """Half of two images shows the same depth; what the other half shows does not change its colour."""
    shades = []
    for other in (0.5, 9.5):
        depth = flat(3.0)
        depth[:, SIDE // 2 :] = other
        image = depth_panel(RGB, depth, depth, EVERYWHERE, RANGE_M, 1.0, "", "")
        shades.append(count(image, colour("viridis_r", 0.3), slack=2))
    assert min(shades) >= SIDE * SIDE


def test_beyond_the_range_is_the_end_of_the_range():
    assert count(depth_image(5.0, np.inf), colour("viridis_r", 1.0)) >= SIDE * SIDE
    assert count(depth_image(5.0, -3.0), colour("viridis_r", 0.0)) >= SIDE * SIDE


def test_the_sign_of_the_error():
    """Too far is red, too near is blue, right is white."""
    assert count(depth_image(5.0, 5.8), colour("RdBu_r", 0.9)) >= SIDE * SIDE
    assert count(depth_image(5.0, 4.2), colour("RdBu_r", 0.1)) >= SIDE * SIDE
    red, _, blue = colour("RdBu_r", 0.9)
    assert red > blue
    assert count(depth_image(5.0, 5.0), colour("RdBu_r", 0.5)) >= SIDE * SIDE


@pytest.mark.parametrize(("value", "share"), [(-4.0, 0.0), (-1.0, 0.25), (8.0, 1.0), (20.0, 1.0)])
def test_a_field_has_the_colour_of_its_place_in_a_range_from_below_zero(value, share):
    image = field_panel(RGB, flat(value), flat(value), EVERYWHERE, (-4.0, 8.0), 6.0, "px", "title")
    assert count(image, colour("cividis", share)) >= 2 * SIDE * SIDE
    assert count(image, colour("RdBu_r", 0.5)) >= SIDE * SIDE


def test_a_field_too_high_is_red_and_too_low_is_blue():
    for error, share in ((4.8, 0.9), (-4.8, 0.1)):
        image = field_panel(RGB, flat(1.0), flat(1.0 + error), EVERYWHERE, (-4.0, 8.0), 6.0, "", "title")
        assert count(image, colour("RdBu_r", share)) >= SIDE * SIDE


def is_grey(image: np.ndarray) -> int:
    """Pixels of either hatching grey."""
    return count(image, (226, 226, 226), 0) + count(image, (196, 196, 196), 0)


def test_invalid_pixels_are_hatched_in_truth_and_error():
    valid = EVERYWHERE.copy()
    valid[:64] = False
    added = is_grey(depth_image(5.0, 5.5, valid)) - is_grey(depth_image(5.0, 5.5))
    assert added == 2 * 64 * SIDE
    both = depth_image(5.0, 5.5, valid)
    assert count(both, (226, 226, 226), 0) > 0
    assert count(both, (196, 196, 196), 0) > 0


def test_what_is_stored_at_invalid_pixels_is_not_seen():
    valid = EVERYWHERE.copy()
    valid[:64] = False
    spoiled = flat(5.0)
    spoiled[:64] = np.nan
    image = depth_panel(RGB, spoiled, flat(5.5), valid, RANGE_M, 1.0, "title", "caption")
    assert np.array_equal(image, depth_image(5.0, 5.5, valid))


def test_a_prediction_that_is_no_number_is_hatched():
    added = is_grey(depth_image(5.0, np.nan)) - is_grey(depth_image(5.0, 5.5))
    assert added == 2 * SIDE * SIDE


@pytest.mark.parametrize(
    ("normal", "expected"),
    [((0, 0, -1), (128, 128, 255)), ((1, 0, 0), (255, 128, 128)), ((0, -1, 0), (128, 255, 128))],
)
def test_normals_have_the_usual_colours(normal, expected):
    """To the camera blue, to the right red, up green; of any length."""
    normals = np.tile(np.array(normal, np.float32), (SIDE, SIDE, 1))
    image = normals_panel(RGB, normals, 3 * normals, EVERYWHERE, 60.0, "", "")
    assert count(image, expected, 1) >= 2 * SIDE * SIDE
    assert count(image, colour("magma_r", 0.0)) >= SIDE * SIDE


def test_a_right_angle_and_a_missing_normal():
    right = np.tile(np.array([1, 0, 0], np.float32), (SIDE, SIDE, 1))
    image = normals_panel(RGB, TOWARDS_CAMERA, right, EVERYWHERE, 180.0, "", "")
    assert count(image, colour("magma_r", 0.5)) >= SIDE * SIDE
    missing = normals_panel(RGB, 0 * TOWARDS_CAMERA, right, EVERYWHERE, 180.0, "", "")
    assert is_grey(missing) - is_grey(image) == 2 * SIDE * SIDE


def test_features_have_a_scale_of_their_own():
    """Scaling or shifting a map leaves its picture as it was; an outlier does not flatten the rest."""
    values = np.random.default_rng(1).normal(size=(2, 16, 16))
    plain = feature_panel(RGB, values, "")
    assert np.array_equal(plain, feature_panel(RGB, 64 * values + 128, ""))
    spiked = values.copy()
    spiked[:, 0, 0] = 1e6
    assert (np.abs(feature_panel(RGB, spiked, "").astype(int) - plain) > 24).mean() < 0.01


def test_a_constant_feature_is_drawn_in_the_middle_colour():
    image = feature_panel(RGB, np.full((1, 8, 8), 3.0), "")
    assert count(image, colour("PuOr_r", 0.5)) >= 0.99 * 160 * 160


def test_tiles_of_the_sheet_have_the_shape_of_the_images():
    def sheet(width: int) -> tuple[int, ...]:
        rgb, depth = np.zeros((48, width, 3), np.uint8), np.ones((48, width), np.float32)
        return contact_sheet([rgb] * 4, [depth] * 4, [depth > 0] * 4, None, RANGE_M, 4).shape

    square, wide = sheet(48), sheet(96)
    assert wide[0] == square[0]
    # Four tiles twice as wide as they are high, of 96 pixels or more.
    assert wide[1] - square[1] >= 4 * 96


def test_the_sheet_grows_by_bands():
    def height(images: int) -> int:
        maps = [flat(2.0)] * images
        return contact_sheet([RGB] * images, maps, [EVERYWHERE] * images, None, RANGE_M, 3).shape[0]

    assert height(1) == height(3)
    assert height(6) - height(3) == height(9) - height(6) > 0
    with pytest.raises(InputError, match="no image"):
        contact_sheet([], [], [], None, RANGE_M)


def test_long_words_do_not_grow_a_panel():
    long = "kitchen " * 60
    image = depth_panel(RGB, flat(1), flat(1), EVERYWHERE, RANGE_M, 1.0, long, long)
    assert image.shape == depth_image(1, 1).shape
    assert (image[:, -8:] == 255).all()


@pytest.mark.parametrize("side", [32, 100, 512])
def test_panels_of_any_resolution_have_one_size(side):
    maps = np.full((side, side), 2.5, np.float32)
    rgb = np.full((side, side, 3), 77, np.uint8)
    image = depth_panel(rgb, maps, maps, maps > 0, RANGE_M, 1.0, "title", "caption")
    assert np.array_equal(image, depth_image(2.5, 2.5))


def test_arguments_are_left_alone():
    depth, prediction, valid = flat(5.0), flat(5.5), EVERYWHERE.copy()
    valid[:9], depth[:9] = False, np.nan
    features, normals = np.ones((3, 8, 8)), TOWARDS_CAMERA.copy()
    arguments = (RGB, depth, prediction, valid, features, normals)
    for each in arguments:
        each.setflags(write=False)
    copies = [each.copy() for each in arguments]
    depth_panel(RGB, depth, prediction, valid, RANGE_M, 1.0, "", "")
    normals_panel(RGB, normals, normals, valid, 60.0, "", "")
    feature_panel(RGB, features, "")
    contact_sheet([RGB], [depth], [valid], [normals], RANGE_M)
    for each, copy in zip(arguments, copies, strict=True):
        np.testing.assert_equal(each, copy)
        each.setflags(write=True)


def test_an_empty_range_is_refused():
    with pytest.raises(InputError, match="is empty"):
        depth_panel(RGB, flat(1), flat(1), EVERYWHERE, (10.0, 0.0), 1.0, "", "")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.08))
def test_labels_never_touch_and_keep_their_order(positions, gap):
    moved = spread(positions, gap, 0.0, 1.0)
    ordered = [moved[i] for i in np.argsort(positions, kind="stable")]
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(ordered))
    assert min(moved) >= -1e-9
    assert max(moved) <= 1 + 1e-9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_move_as_little_as_they_must(positions):
    """What is free already stays; what is crowded keeps its mean."""
    apart = [i + 0.5 * each for i, each in enumerate(positions)]
    assert spread(apart, 0.4, -99, 99) == pytest.approx(apart)
    assert np.mean(spread(positions, 0.1, -99, 99)) == pytest.approx(np.mean(positions))


@given(st.floats(-100, 100), st.floats(1e-3, 1e3), st.integers(3, 8))
def test_ticks_are_few_and_inside(low, span, at_most):
    high = low + span
    places = ticks(low, high, at_most)
    assert 1 <= len(places) <= at_most
    slack = 1.1e-3 * span + 1e-5 * max(abs(low), abs(high))
    assert all(low - slack <= each <= high + slack for each in places)


def test_ticks_of_a_protocol_begin_at_zero():
    assert ticks(1e-3, 10.0) == [0, 2, 4, 6, 8, 10]
    assert not np.signbit(ticks(-1.0, 1.0)).tolist()[2]


def test_units_are_squared():
    assert [squared(unit) for unit in ("m", "ln m", "1/m", "1")] == ["m²", "(ln m)²", "(1/m)²", ""]


def test_charts_show_their_values():
    """Whatever changes, the picture changes, and its size does not."""
    base: dict[str, Any] = {"k": [1, 4, 16], "train_loss": [3, 2, 1], "cv_loss": [3, 2, 1.5], "chosen_k": 16}
    base |= {"test_loss_at_chosen": 1.4, "smallest_k_within": 16, "unit": "m"}
    base |= {"arms": {"constant": 4.0, "null": 2.0}}
    plain = loss_over_k(**base)
    changes: dict[str, Any] = {
        "train_loss": [3, 2, 0.5],
        "cv_loss": [3, 2.5, 1.5],
        "chosen_k": 4,
        "test_loss_at_chosen": 0.2,
        "arms": {"constant": 4.0, "null": 3.0},
        "smallest_k_within": None,
        "unit": "1",
    }
    for name, value in changes.items():
        changed = loss_over_k(**{**base, name: value})
        assert changed.shape == plain.shape
        assert not np.array_equal(changed, plain), name


def test_bars_are_as_long_as_their_losses():
    image = arms_chart(["constant", "trained"], [4.0, 1.0], "m")
    grey, accent = count(image, (0xAD, 0xB5, 0xBD), 0), count(image, (0x31, 0x68, 0x8E), 0)
    assert grey / accent == pytest.approx(4, rel=0.05)
    assert count(arms_chart(["constant", "trained"], [4.0, np.nan], "m"), (0x31, 0x68, 0x8E), 0) == 0


def test_one_k_one_scene_one_image():
    """The smallest inputs draw without a warning."""
    assert loss_over_k([1], [1.0], [1.0], 1, 1.0, {}, None, "1").any()
    assert per_scene_error(["only"], [0.3]).any()
    assert contact_sheet([RGB], [flat(1)], [EVERYWHERE], None, RANGE_M).any()


def test_no_state_is_shared_through_pyplot():
    code = "import sys, idl.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
