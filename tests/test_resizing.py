"""Resizing with holes: an average of valid pixels, never of invented ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from idl.data.resizing import centred_box, eroded, native_truth, resize_depth, resize_rgb
from idl.protocol import Protocol


@pytest.mark.parametrize(("height", "width", "factor"), [(32, 32, 4), (32, 48, 4), (20, 16, 2)])
def test_whole_factors_average_blocks_of_the_centre(height: int, width: int, factor: int) -> None:
    generator = np.random.default_rng(0)
    depth = generator.random((height, width)).astype(np.float32) + 1
    valid = generator.random((height, width)) > 0.3
    side = min(height, width)
    out = side // factor
    resized, kept = resize_depth(depth, valid, Protocol(resolution=out))
    top, left = (height - side) // 2, (width - side) // 2
    for row in range(out):
        for column in range(out):
            block = np.s_[
                top + row * factor : top + (row + 1) * factor, left + column * factor : left + (column + 1) * factor
            ]
            assert kept[row, column] == (valid[block].mean() >= 0.5)
            expected = depth[block][valid[block]].mean() if kept[row, column] else 0
            assert resized[row, column] == pytest.approx(expected, rel=1e-6)


@settings(deadline=None)
@given(st.integers(5, 40), st.integers(5, 40), st.integers(1, 50), st.floats(0, 1), st.integers(0, 99))
def test_averages_stay_inside_what_was_measured(height: int, width: int, side: int, share: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    depth = (generator.random((height, width)) * 5 + 1).astype(np.float32)
    valid = generator.random((height, width)) < share
    poisoned = np.where(valid, depth, np.nan).astype(np.float32)
    resized, kept = resize_depth(poisoned, valid, Protocol(resolution=side))
    assert np.isfinite(resized).all()
    assert not resized[~kept].any()
    if kept.any():
        assert resized[kept].min() >= depth[valid].min() - 1e-5
        assert resized[kept].max() <= depth[valid].max() + 1e-5


def test_a_constant_stays_constant_at_any_size() -> None:
    for size in (7, 64, 100):
        resized, kept = resize_depth(
            np.full((37, 53), 2.5, np.float32), np.ones((37, 53), bool), Protocol(resolution=size)
        )
        assert kept.all()
        np.testing.assert_allclose(resized, 2.5, rtol=1e-6)


def test_the_crop_is_cut_first() -> None:
    assert centred_box(480, 640, (45, 471, 41, 601)) == (41 + (560 - 426) / 2, 45, 41 + (560 + 426) / 2, 471)
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[5:15, 10:20] = 200
    resized = resize_rgb(Image.fromarray(rgb), Protocol(resolution=5, crop=(5, 15, 10, 20)))
    assert (resized == 200).all()


def test_rgb_and_depth_show_the_same_place() -> None:
    ramp = np.tile(np.arange(64, dtype=np.float32), (48, 1))
    rgb = np.repeat(ramp[..., None].astype(np.uint8), 3, axis=2)
    colours = resize_rgb(Image.fromarray(rgb), Protocol(resolution=12))[..., 0]
    depth, _ = resize_depth(ramp + 1, np.ones(ramp.shape, bool), Protocol(resolution=12))
    np.testing.assert_allclose(depth[:, 1:-1] - 1, colours[:, 1:-1], atol=1)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (768, 1024), (288, 384), (3, 4)])
def test_the_whole_of_a_frame_of_the_same_shape_is_kept(height: int, width: int) -> None:
    assert centred_box(height, width, None, (288, 384)) == (0, 0, width, height)


def test_a_frame_of_another_shape_is_cut_in_the_middle() -> None:
    assert centred_box(100, 300, None, (2, 4)) == (50, 0, 250, 100)
    assert centred_box(300, 100, None, (2, 4)) == (0, 125, 100, 175)
    assert centred_box(100, 300, (10, 60, 0, 300), (2, 4)) == (100, 10, 200, 60)


@given(st.integers(8, 40), st.integers(8, 40), st.integers(4, 12), st.integers(4, 12), st.integers(0, 9))
@settings(deadline=None)
def test_a_rectangle_is_the_average_under_each_cell(height: int, width: int, out: int, wide: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    depth = generator.uniform(1, 5, (height, width)).astype(np.float32)
    resized, kept = resize_depth(depth, np.ones(depth.shape, bool), Protocol(resolution=out, width=wide))
    assert resized.shape == kept.shape == (out, wide)
    assert kept.all()
    left, top, right, bottom = centred_box(height, width, None, (out, wide))
    # Fine samples of the box, cell by cell.
    rows = (top + (np.arange(out * 60) + 0.5) * (bottom - top) / (out * 60)).astype(int)
    columns = (left + (np.arange(wide * 60) + 0.5) * (right - left) / (wide * 60)).astype(int)
    sampled = depth[np.ix_(rows, columns)].reshape(out, 60, wide, 60).mean(axis=(1, 3))
    np.testing.assert_allclose(resized, sampled, atol=0.1)
    image = Image.fromarray(np.full((height, width, 3), 77, np.uint8))
    rgb = resize_rgb(image, Protocol(resolution=out, width=wide))
    assert rgb.shape == (out, wide, 3)
    assert (rgb == 77).all()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 12), st.integers(0, 20))
@settings(deadline=None)
def test_erosion_takes_what_is_near_a_hole(height: int, width: int, reach: int, seed: int) -> None:
    valid = np.random.default_rng(seed).random((height, width)) > 0.1
    kept = eroded(valid, reach)
    for y in range(height):
        for x in range(width):
            near = valid[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            assert kept[y, x] == near.all()


def test_both_truths_are_eroded_alike() -> None:
    depth, valid = np.full((12, 16), 2.0, np.float32), np.ones((12, 16), bool)
    depth[5, 7], valid[5, 7] = np.nan, False
    protocol = Protocol(resolution=12, width=16, erosion=2, is_native=True)
    resized, kept = resize_depth(depth, valid, protocol)
    native = native_truth(depth, valid, protocol)
    assert kept.sum() == 12 * 16 - 25
    np.testing.assert_array_equal(native, resized)
