"""Figures of a search: every trial is seen, whatever became of it, and a sheet shows depth by its colours."""

import math

import matplotlib
import numpy as np
import pytest

from idl.figures import TILE_SIDE, importance_chart, search_history, search_plane, trial_sheet, with_predictions

RANGE_M = (0.0, 10.0)
BLUE, GREY = (0x31, 0x68, 0x8E), (0xAD, 0xB5, 0xBD)


def count(image: np.ndarray, rgb: tuple[int, ...], slack: int = 3) -> int:
    return int((np.abs(image.astype(int) - rgb).max(axis=2) <= slack).sum())


def test_history_shows_sound_trials_and_the_others() -> None:
    none = search_history([1.0, 1.2, 1.1], [True] * 3, "loss")
    ended = search_history([1.0, 1.2, 1.1, 1.15], [True, True, True, False], "loss")
    assert count(ended, GREY) > count(none, GREY)
    more = search_history([1.0, 1.2, 1.1, 1.15], [True] * 4, "loss")
    assert count(more, BLUE) > count(none, BLUE)


@pytest.mark.parametrize("losses", [[1.0], [1.0, math.inf], [0.0, 2.0], [1e-6, 1e6, math.inf], [3.0, 3.0]])
def test_any_losses_can_be_drawn(losses: list[float]) -> None:
    sound = [math.isfinite(loss) for loss in losses]
    history = search_history(losses, sound, "loss")
    plane = search_plane(range(1, 1 + len(losses)), [0.1] * len(losses), losses, sound, "loss")
    assert history.dtype == plane.dtype == np.uint8
    assert history.shape == plane.shape


def test_a_search_without_a_sound_trial_is_drawn() -> None:
    assert search_history([math.inf], [False], "loss").shape[2] == 3
    assert search_plane([1], [0.1], [math.inf], [False], "loss").shape[2] == 3


def test_the_best_trial_is_dark_in_the_plane() -> None:
    image = search_plane([2, 8, 32], [1e-3, 1e-2, 1e-1], [1.0, 2.0, 3.0], [True] * 3, "loss")
    low, high = (
        tuple(int(each) for each in matplotlib.colormaps["viridis"](end, bytes=True)[:3]) for end in (0.0, 1.0)
    )
    assert count(image, low) > 50
    assert count(image, high) > 50


def test_bars_are_as_long_as_their_shares() -> None:
    image = importance_chart(["lr", "k"], [0.75, 0.25])
    blue = (np.abs(image.astype(int) - BLUE).max(axis=2) <= 3).sum(axis=1)
    longest, shortest = blue.max(), blue[blue > 20].min()
    assert longest == pytest.approx(3 * shortest, rel=0.02)


def test_predictions_have_the_colours_of_the_truth_and_leave_the_sheet_alone() -> None:
    rgb = np.full((2, 64, 64, 3), 77, np.uint8)
    truth = np.full((2, 64, 64), 4.0, np.float32)
    sheet = trial_sheet(rgb, truth, np.ones((2, 64, 64), bool), RANGE_M)
    colour = tuple(int(each) for each in matplotlib.colormaps["viridis_r"](0.4, bytes=True)[:3])
    assert count(sheet, colour) == 2 * TILE_SIDE**2
    before = sheet.copy()
    filled = with_predictions(sheet, np.full((2, TILE_SIDE, TILE_SIDE), 4.0, np.float32), RANGE_M, "trial 1")
    assert count(filled, colour) == 4 * TILE_SIDE**2
    assert np.array_equal(sheet, before)


def test_normals_have_a_sheet_too() -> None:
    rgb = np.full((1, 64, 64, 3), 77, np.uint8)
    normals = np.tile(np.array([0, 0, -1], np.float32), (1, 64, 64, 1))
    sheet = trial_sheet(rgb, normals, np.ones((1, 64, 64), bool), RANGE_M)
    prediction = np.tile(np.array([0, 0, -1], np.float32), (1, TILE_SIDE, TILE_SIDE, 1))
    filled = with_predictions(sheet, prediction, RANGE_M, "trial 1")
    assert count(filled, (128, 128, 255), slack=1) == 2 * TILE_SIDE**2
