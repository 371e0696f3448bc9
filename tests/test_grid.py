"""The loss on the grid against explicit upsampling by torch, in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from idl.probes.grid import UpsampledGram, position_columns, upsample, upsample_adjoint, upsampling


def explicit(grid: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)


sizes = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(0, 20), st.integers(0, 20), st.integers(0, 2**31))


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_quadratic_form_is_the_full_resolution_loss(drawn: tuple[int, int, int, int, int]) -> None:
    height, width, more_rows, more_columns, seed = drawn
    generator = torch.Generator().manual_seed(seed)
    pixels = (height + more_rows, width + more_columns)
    grid = torch.randn(2, 1, height, width, generator=generator, dtype=torch.float64)
    target = torch.randn(2, 1, *pixels, generator=generator, dtype=torch.float64)
    valid = torch.rand(2, *pixels, generator=generator) > 0.4
    mask = valid.double()

    coupled = UpsampledGram.of_mask(mask, height, width).apply(grid.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    gathered = upsample_adjoint(target, mask, height, width)
    energy = (target[:, 0][valid] ** 2).sum()
    loss = (grid * coupled).sum() - 2 * (grid * gathered).sum() + energy

    residual = (explicit(grid, *pixels) - target)[:, 0][valid]
    torch.testing.assert_close(loss, residual.square().sum(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("cells", "pixels"), [(1, 1), (1, 9), (3, 3), (4, 256), (7, 50), (18, 256)])
def test_upsampling_is_that_of_torch(cells: int, pixels: int) -> None:
    line = torch.randn(1, 1, 1, cells, dtype=torch.float64)
    expected = explicit(line, 1, pixels)[0, 0, 0]
    torch.testing.assert_close(upsampling(cells, pixels, torch.float64) @ line[0, 0, 0], expected)
    grid = torch.randn(2, 3, cells, 2, dtype=torch.float64)
    torch.testing.assert_close(upsample(grid, pixels, 11), explicit(grid, pixels, 11))


def test_a_grid_finer_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="finer"):
        upsampling(5, 4)


def test_position_columns_are_quadratic_in_the_centre_and_standardised() -> None:
    columns = position_columns(5, 8).double()
    x = torch.linspace(-1, 1, 8).repeat(5, 1).double()
    y = torch.linspace(-1, 1, 5).repeat(8, 1).T.double()
    for column, expected in zip(columns, (x, y, x * x, x * y, y * y), strict=True):
        torch.testing.assert_close(column.mean(), torch.zeros((), dtype=torch.float64), atol=1e-6, rtol=0)
        torch.testing.assert_close(column.square().mean().sqrt(), torch.ones((), dtype=torch.float64))
        correlation = torch.corrcoef(torch.stack([column.flatten(), expected.flatten()]))[0, 1]
        torch.testing.assert_close(correlation, torch.ones((), dtype=torch.float64), rtol=1e-6, atol=0)
    assert torch.equal(position_columns(1, 1), torch.zeros(5, 1, 1))
