"""Laws of the edits that remove a cue."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from idl.cues import edits

SIZE = (48, 80)


@pytest.fixture
def rgb() -> Tensor:
    return torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def _level(rgb: Tensor) -> Tensor:
    return 0.2126 * rgb[:, 0] + 0.7152 * rgb[:, 1] + 0.0722 * rgb[:, 2]


def test_grey_has_equal_channels_and_the_same_luminance(rgb: Tensor) -> None:
    grey = edits.grey(rgb)
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])
    torch.testing.assert_close(_level(grey), _level(rgb), atol=1e-6, rtol=0)
    torch.testing.assert_close(edits.grey(grey), grey, atol=1e-6, rtol=0)


@pytest.mark.parametrize("degrees", [30.0, 120.0, 180.0])
def test_hue_rotation_keeps_luminance_and_chroma_and_is_undone(rgb: Tensor, degrees: float) -> None:
    rotated = edits.hue_rotated(rgb, degrees)
    torch.testing.assert_close(_level(rotated), _level(rgb), atol=1e-6, rtol=0)
    length, before = ((each - _level(each)[:, None]).norm(dim=1) for each in (rotated, rgb))
    torch.testing.assert_close(length, before, atol=1e-5, rtol=0)
    torch.testing.assert_close(edits.hue_rotated(rotated, -degrees), rgb, atol=1e-5, rtol=0)
    angle = torch.cosine_similarity(rotated - _level(rotated)[:, None], rgb - _level(rgb)[:, None], dim=1)
    torch.testing.assert_close(angle, torch.full_like(angle, np.cos(np.radians(degrees))), atol=1e-2, rtol=0)


def test_a_flat_luminance_is_that_of_the_image_and_chroma_stays(rgb: Tensor) -> None:
    flat = edits.luminance_flattened(rgb)
    mean = _level(rgb).mean(dim=(1, 2))
    torch.testing.assert_close(_level(flat), mean[:, None, None].expand(-1, *SIZE), atol=1e-6, rtol=0)
    torch.testing.assert_close(flat - _level(flat)[:, None], rgb - _level(rgb)[:, None], atol=1e-6, rtol=0)


def test_fitting_keeps_luminance_and_leaves_alone_what_fits(rgb: Tensor) -> None:
    outside = edits.hue_rotated(rgb, 180.0)
    assert ((outside < 0) | (outside > 1)).any()
    fitted = edits.fitted(outside)
    assert fitted.min() >= 0
    assert fitted.max() <= 1
    torch.testing.assert_close(_level(fitted), _level(rgb), atol=1e-5, rtol=0)
    inside = ((outside >= 0) & (outside <= 1)).all(dim=1, keepdim=True).expand_as(rgb)
    torch.testing.assert_close(fitted[inside], outside[inside], atol=1e-6, rtol=0)
    black_and_white = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    torch.testing.assert_close(edits.fitted(black_and_white), black_and_white, atol=1e-6, rtol=0)


def test_the_low_pass_keeps_means_and_is_a_mirrored_gaussian(rgb: Tensor) -> None:
    blurred = edits.low_passed(rgb, 4.0)
    torch.testing.assert_close(blurred.mean(dim=(2, 3)), rgb.mean(dim=(2, 3)), atol=1e-6, rtol=0)
    expected = gaussian_filter(rgb.double().numpy(), (0, 0, 4.0, 4.0), mode="reflect", truncate=4.0)
    np.testing.assert_allclose(blurred.numpy(), expected, atol=1e-5)


def test_tiles_are_permuted_and_put_back(rgb: Tensor) -> None:
    orders = edits.tile_orders(edits.num_tiles(*SIZE, 16), [1, 2, 1])
    shuffled = edits.shuffled(rgb, orders, 16)
    assert torch.equal(edits.unshuffled(shuffled, orders, 16), rgb)
    assert not torch.equal(shuffled[0], rgb[0])

    def tiles(image: Tensor) -> list[bytes]:
        return [
            image[:, row : row + 16, column : column + 16].numpy().tobytes()
            for row in range(0, SIZE[0], 16)
            for column in range(0, SIZE[1], 16)
        ]

    for before, after in zip(rgb, shuffled, strict=True):
        assert sorted(tiles(before)) == sorted(tiles(after))
        # No tile stays.
        assert all(one != other for one, other in zip(tiles(before), tiles(after), strict=True))
    # The same seed, the same order; another one, another.
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])


def test_what_is_no_whole_tile_stays(rgb: Tensor) -> None:
    orders = edits.tile_orders(edits.num_tiles(*SIZE, 20), [3, 4, 5])
    shuffled = edits.shuffled(rgb, orders, 20)
    assert torch.equal(shuffled[:, :, 40:], rgb[:, :, 40:])
    assert torch.equal(edits.unshuffled(shuffled, orders, 20), rgb)
    # An image without a second tile.
    assert torch.equal(edits.shuffled(rgb, edits.tile_orders(1, [1, 2, 3]), 48), rgb)
    assert torch.equal(edits.shuffled(rgb, edits.tile_orders(0, [1, 2, 3]), 64), rgb)


def test_tiles_of_the_grid_move_as_those_of_the_image(rgb: Tensor) -> None:
    orders = edits.tile_orders(15, [1, 2, 3])
    cells = torch.nn.functional.avg_pool2d(rgb, 8)
    of_shuffled = torch.nn.functional.avg_pool2d(edits.shuffled(rgb, orders, 16), 8)
    torch.testing.assert_close(edits.unshuffled(of_shuffled, orders, 2), cells)


def test_turning_twice_is_nothing(rgb: Tensor) -> None:
    turned = edits.upside_down(rgb)
    assert torch.equal(turned[:, :, 0], rgb[:, :, -1])
    assert torch.equal(edits.upside_down(turned), rgb)
