"""Figures: colours that mean what they say, fixed ranges, and nothing besides values in and pixels out."""

import math
from typing import Any

import matplotlib
import numpy as np
import pytest

from idl.errors import InputError
from idl.report import charts, tiles

SIDE = 256
RANGE_M = (0.0, 10.0)
RGB = np.full((SIDE, SIDE, 3), 77, np.uint8)
EVERYWHERE = np.ones((SIDE, SIDE), bool)
NOT_ABOVE = EVERYWHERE & (np.arange(SIDE) >= 64)[:, None]
TOWARDS_CAMERA = np.tile(np.array([0, 0, -1], np.float32), (SIDE, SIDE, 1))
BLUE, GREY, ORANGE = (0x31, 0x68, 0x8E), (0xAD, 0xB5, 0xBD), (0xD0, 0x8C, 0x60)
CURVE: dict[str, Any] = {"k": [1, 4, 16], "train_loss": [3, 2, 1], "cv_loss": [3, 2, 1.5], "chosen_k": 16}
CURVE |= {"test_loss_at_chosen": 1.4, "smallest_k_within": 16, "unit": "m", "arms": {"constant": 4.0, "null": 2.0}}


def flat(depth_m: float) -> np.ndarray:
    return np.full((SIDE, SIDE), depth_m, np.float32)


def colour(name: str, share: float) -> tuple[int, ...]:
    return tuple(int(each) for each in matplotlib.colormaps[name](share, bytes=True)[:3])


def count(image: np.ndarray, rgb: tuple[int, ...], slack: int = 3) -> int:
    """Pixels of a colour, up to the rounding of one step of the map."""
    return int((np.abs(image.astype(int) - rgb).max(axis=2) <= slack).sum())


def hatched(image: np.ndarray) -> int:
    return count(image, (226, 226, 226), 0) + count(image, (196, 196, 196), 0)


def depth_image(truth_m: Any, prediction_m: Any, valid: np.ndarray = EVERYWHERE) -> np.ndarray:
    return tiles.panel(RGB, flat(1) * truth_m, flat(1) * prediction_m, valid, RANGE_M, 1.0, "title", "caption")


def field_image(truth: float, prediction: float) -> np.ndarray:
    return tiles.panel(
        RGB, flat(truth), flat(prediction), EVERYWHERE, (-4.0, 8.0), 6.0, "t", "c", kind="field", unit="px"
    )


def normals_image(truth: np.ndarray, prediction: np.ndarray, range_deg: float) -> np.ndarray:
    return tiles.panel(RGB, truth, prediction, EVERYWHERE, RANGE_M, range_deg, "t", "c", kind="normals")


def three(image: np.ndarray) -> np.ndarray:
    return np.stack([image] * 3)


def every_figure() -> dict[str, np.ndarray]:
    depth = np.random.default_rng(0).uniform(0, 12, (SIDE, SIDE)).astype(np.float32)
    features = np.random.default_rng(1).normal(size=(30, 16, 16)).astype(np.float16)
    labels = np.eye(3, 4, dtype=bool)
    arrays = (RGB, depth, features, labels, TOWARDS_CAMERA, EVERYWHERE)
    for each in arrays:
        each.setflags(write=False)
    draw = tiles.trial_sheet(np.stack([RGB] * 2), np.stack([depth] * 2), np.stack([depth > 1] * 2), RANGE_M)
    edits, predictions = [np.stack([RGB] * 2)] * 3, [np.ones((2, 1, SIDE, SIDE), np.float32)] * 3
    return {
        "depth": tiles.panel(RGB, depth, depth[::-1], depth > 1, RANGE_M, 1.0, "t", "c"),
        "normals": normals_image(TOWARDS_CAMERA, -TOWARDS_CAMERA, 60.0),
        "field": tiles.panel(RGB, depth, depth[::-1], depth > 1, (-3.0, 9.0), 2.0, "t", "c", "field", "px"),
        "features": tiles.feature_panel(RGB, features, "t"),
        "sheet": tiles.contact_sheet(
            three(RGB), three(depth), three(EVERYWHERE), three(TOWARDS_CAMERA), RANGE_M, "abc"
        ),
        "cues": tiles.cue_strip(["a", "b"], list("abc"), edits, predictions, "field", (0.0, 2.0), "px", "t"),
        "trial": draw(np.ones((2, 112, 112), np.float32), "t"),
        "reconstructions": tiles.picture_rows({"image": [RGB] * 3, "reconstruction": [RGB] * 3}),
        "recognised": tiles.recognised([RGB] * 3, labels, labels[::-1], list("abcd")),
        "curve": charts.loss_over_k(**CURVE),
        "arms": charts.arms_chart({"constant": 2.0, "trained": 1.0}, "m", "trained"),
        "scenes": charts.per_scene_error({"a": 0.1, "b": 0.3, "c": 0.2}),
        "history": charts.search_history([2.0, 1.0, math.inf, 400.0], "loss", "t"),
        "plane": charts.search_plane([1, 4, 4], [0.1, 0.01, 1.0], [1.0, 2.0, math.inf], "loss"),
        "importance": charts.importance_chart(["lr", "k"], [0.7, 0.3]),
    }


def test_images_are_rgb_and_the_same_each_time() -> None:
    """Arguments are left alone: they are read-only."""
    first, second = every_figure(), every_figure()
    for name, image in first.items():
        assert image.dtype == np.uint8, name
        assert image.shape[2:] == (3,), name
        assert np.array_equal(image, second[name]), name


@pytest.mark.parametrize(("depth_m", "share"), [(-3.0, 0.0), (0.0, 0.0), (2.5, 0.25), (10.0, 1.0), (math.inf, 1.0)])
def test_a_depth_has_the_colour_of_its_place_in_the_range(depth_m: float, share: float) -> None:
    """Whatever else the image shows; what lies beyond the range has the colour of its end."""
    beside = np.where(np.arange(SIDE) < SIDE // 2, depth_m, 4.0)
    assert count(depth_image(depth_m, 5.0), colour("viridis_r", share)) >= SIDE * SIDE
    assert count(depth_image(beside, beside), colour("viridis_r", share)) >= SIDE * SIDE


@pytest.mark.parametrize(("value", "share"), [(-4.0, 0.0), (-1.0, 0.25), (8.0, 1.0), (20.0, 1.0)])
def test_a_field_has_the_colour_of_its_place_in_a_range_from_below_zero(value: float, share: float) -> None:
    image = field_image(value, value)
    assert count(image, colour("cividis", share)) >= 2 * SIDE * SIDE


@pytest.mark.parametrize(("error", "share"), [(0.8, 0.9), (-0.8, 0.1), (0.0, 0.5)])
def test_too_far_is_red_too_near_is_blue_and_right_is_white(error: float, share: float) -> None:
    red, green, blue = colour("RdBu_r", share)
    assert np.sign(red - blue) == np.sign(error) or min(red, green, blue) > 240
    assert count(depth_image(5.0, 5.0 + error), (red, green, blue)) >= SIDE * SIDE
    field = field_image(1, 1 + 6 * error)
    assert count(field, (red, green, blue)) >= SIDE * SIDE


def test_what_is_not_known_is_hatched_and_an_empty_range_refused() -> None:
    """Truth and error where not valid, whatever is stored there; a prediction that is no number, and its error."""
    plain, invalid = depth_image(5.0, 5.5), depth_image(5.0, 5.5, NOT_ABOVE)
    assert hatched(invalid) - hatched(plain) == 2 * 64 * SIDE
    assert np.array_equal(depth_image(np.where(NOT_ABOVE, 5.0, np.nan), 5.5, NOT_ABOVE), invalid)
    assert hatched(depth_image(5.0, np.nan)) - hatched(plain) == 2 * SIDE * SIDE
    with pytest.raises(InputError, match="is empty"):
        tiles.panel(RGB, flat(1), flat(1), EVERYWHERE, (10.0, 0.0), 1.0, "", "")


@pytest.mark.parametrize(
    ("normal", "expected"),
    [((0, 0, -1), (128, 128, 255)), ((1, 0, 0), (255, 128, 128)), ((0, -1, 0), (128, 255, 128))],
)
def test_normals_have_the_usual_colours(normal: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """To the camera blue, to the right red, up green; of any length. A missing one is hatched."""
    normals = np.tile(np.array(normal, np.float32), (SIDE, SIDE, 1))
    image = normals_image(normals, 3 * normals, 60.0)
    assert count(image, expected, 1) >= 2 * SIDE * SIDE
    assert count(image, colour("magma_r", 0.0)) >= SIDE * SIDE
    across = normals_image(normals, np.roll(normals, 1, 2), 180.0)
    assert count(across, colour("magma_r", 0.5)) >= SIDE * SIDE
    missing = normals_image(0 * normals, normals, 180.0)
    assert hatched(missing) - hatched(across) == 2 * SIDE * SIDE


def test_the_parts_of_a_panel_are_its_tiles() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    right = tiles.panel_parts(tiles.panel(rgb, flat(2), flat(2), EVERYWHERE, RANGE_M, 2.0, "name", "caption"))
    wrong = tiles.panel_parts(tiles.panel(RGB, flat(2), flat(3), EVERYWHERE, RANGE_M, 2.0, "other", ""))
    np.testing.assert_array_equal(right.rgb, rgb)
    np.testing.assert_array_equal(right.prediction, right.truth)
    np.testing.assert_array_equal(right.truth, wrong.truth)
    assert len(np.unique(wrong.prediction.reshape(-1, 3), axis=0)) == 1
    assert right.error.min() > 240
    np.testing.assert_array_equal(right.value_key, wrong.value_key)
    np.testing.assert_array_equal(right.error_key, wrong.error_key)


@pytest.mark.parametrize("side", [32, 512])
def test_panels_of_any_resolution_and_long_words_have_one_size(side: int) -> None:
    maps, rgb = np.full((side, side), 2.5, np.float32), np.full((side, side, 3), 77, np.uint8)
    image = tiles.panel(rgb, maps, maps, maps > 0, RANGE_M, 1.0, "title", "caption")
    assert np.array_equal(image, depth_image(2.5, 2.5))
    worded = tiles.panel(rgb, maps, maps, maps > 0, RANGE_M, 1.0, "kitchen " * 60, "w " * 200)
    assert worded.shape == image.shape
    assert (worded[:, -8:] == 255).all()


def test_features_have_a_scale_of_their_own() -> None:
    """Scaling or shifting a map leaves its picture as it was; an outlier does not flatten the rest."""
    values = np.random.default_rng(1).normal(size=(2, 16, 16))
    plain = tiles.feature_panel(RGB, values, "")
    assert np.array_equal(plain, tiles.feature_panel(RGB, 64 * values + 128, ""))
    spiked = values.copy()
    spiked[:, 0, 0] = 1e6
    assert (np.abs(tiles.feature_panel(RGB, spiked, "").astype(int) - plain) > 24).mean() < 0.01
    constant = tiles.feature_panel(RGB, np.full((1, 8, 8), 3.0), "")
    assert count(constant, colour("PuOr_r", 0.5)) >= 0.99 * 160 * 160


@pytest.mark.parametrize(
    ("value", "expected"), [(4.0, colour("viridis_r", 0.4)), (np.array([0, 0, -1]), (128, 128, 255))]
)
def test_predictions_of_a_trial_have_the_colours_of_the_truth(value: Any, expected: tuple[int, ...]) -> None:
    truth, side = np.full((2, 64, 64, *np.shape(value)), value, np.float32), tiles.TILE_SIDE
    draw = tiles.trial_sheet(np.full((2, 64, 64, 3), 77, np.uint8), truth, np.ones((2, 64, 64), bool), RANGE_M)
    made = np.full((2, side, side, *np.shape(value)), value, np.float32)
    assert count(draw(made, "trial 1"), expected) == 4 * side**2
    assert count(draw(-made, "trial 2"), expected) == 2 * side**2


def test_the_smallest_inputs_can_be_drawn() -> None:
    one: dict[str, Any] = {"k": [1], "train_loss": [1.0], "cv_loss": [1.0], "chosen_k": 1}
    one |= {"arms": {}, "smallest_k_within": 1}
    assert charts.loss_over_k(**CURVE | one).any()
    assert charts.per_scene_error({"only": 0.3}).any()


def test_bars_are_as_long_as_their_values() -> None:
    image = charts.arms_chart({"constant": 4.0, "trained": 1.0}, "m", "trained")
    assert count(image, GREY, 0) / count(image, BLUE, 0) == pytest.approx(4, rel=0.05)
    assert count(charts.arms_chart({"constant": 4.0, "trained": np.nan}, "m", "trained"), BLUE, 0) == 0
    lengths = (np.abs(charts.importance_chart(["k", "lr"], [0.25, 0.75]).astype(int) - BLUE).max(axis=2) <= 3).sum(1)
    assert lengths.max() == pytest.approx(3 * lengths[lengths > 20].min(), rel=0.02)


@pytest.mark.parametrize("losses", [[1.0], [1.0, math.inf], [0.0, 2.0], [1e-6, 1e6, math.inf], [3.0, 3.0], [math.inf]])
def test_any_losses_of_a_search_can_be_drawn(losses: list[float]) -> None:
    assert charts.search_history(losses, "loss", "t").any()
    assert charts.search_plane(range(1, 1 + len(losses)), [0.1] * len(losses), losses, "loss").any()


def test_every_trial_of_a_search_is_seen() -> None:
    few, more, diverged = (charts.search_history([1.0, 1.2, *each], "loss", "t") for each in ((), (1.1,), (math.inf,)))
    assert count(more, BLUE) > count(few, BLUE)
    assert count(diverged, GREY) > count(few, GREY)
    plane = charts.search_plane([2, 8, 32, 4], [1e-3, 1e-2, 1e-1, 1.0], [1.0, 2.0, 3.0, math.inf], "loss")
    # The best is dark.
    assert min(count(plane, each) for each in (colour("viridis", 0.0), colour("viridis", 1.0), GREY)) > 10
