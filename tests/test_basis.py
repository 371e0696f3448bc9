"""Principal components against numpy's SVD, and the columns of the arms."""

import numpy as np
import pytest
import torch
from torch import Tensor

from idl.probes.basis import ARMS, Basis, Columns, null_map


def maps(num: int = 5, channels: int = 6, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, generator=generator)
    return [
        torch.einsum("nchw,cd->ndhw", torch.randn(2, channels, 4, 5, generator=generator), mix) + 30 for _ in range(num)
    ]


def pixels(num: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.rand(2, 3, 4, 5, generator=generator) for _ in range(num)]


def cells(parts: list[Tensor]) -> np.ndarray:
    return torch.cat(parts).permute(0, 2, 3, 1).flatten(0, 2).double().numpy()


def test_components_are_those_of_an_svd() -> None:
    basis = Basis.fit(maps(), pixels())
    rows = cells(maps())
    centred = rows - rows.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(basis.eigenvalues.numpy(), singular**2 / len(rows), rtol=1e-9)
    projected = torch.cat([basis.project(f, n) for f, n in zip(maps(), pixels(), strict=True)])
    components = projected[..., 3:].flatten(0, 2).double().numpy()
    expected = centred @ directions.T / (singular / np.sqrt(len(rows)))
    signs = np.sign((components * expected).sum(axis=0))
    spread = projected[..., :3].flatten(0, 2).double().std(dim=0, correction=0)
    assert spread.tolist() == pytest.approx([1, 1, 1], abs=2e-3)
    # Half precision rounds by 2^-11 of each number.
    np.testing.assert_allclose(components, expected * signs, atol=4e-3)


def test_dependent_and_constant_channels_have_no_component() -> None:
    parts = [torch.cat([part, part[:, :1] * 2, torch.full_like(part[:, :1], 5e3)], dim=1) for part in maps()]
    assert Basis.fit(parts, pixels()).num_components == 6


def test_the_basis_depends_on_no_more_than_its_maps() -> None:
    assert Basis.fit(maps(), pixels()).digest == Basis.fit(maps(), pixels()).digest
    assert Basis.fit(maps(), pixels()).digest != Basis.fit(maps(seed=1), pixels()).digest


@pytest.mark.parametrize(("value", "message"), [(1.0, "same at every cell"), (float("nan"), "not finite")])
def test_features_without_content_are_refused(value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Basis.fit([torch.full((2, 4, 3, 3), value)], [torch.rand(2, 3, 3, 3)])


def test_an_outlier_stays_finite_in_half_precision() -> None:
    basis = Basis.fit(maps(), pixels())
    assert bool(torch.isfinite(basis.project(maps()[0] * 1e9, pixels()[0])).all())


def test_null_map_is_the_mean_of_each_square() -> None:
    rgb = torch.rand(2, 3, 8, 12)
    expected = rgb.reshape(2, 3, 2, 4, 3, 4).mean(dim=(3, 5))
    torch.testing.assert_close(null_map(rgb, 2, 3), expected)


def test_arms_read_what_they_are_named_for() -> None:
    columns = Columns(num_components=4)
    stored = torch.arange(2 * 3 * 2 * 7, dtype=torch.float16).reshape(2, 3, 2, 7)
    assembled = columns.assemble(stored)
    assert assembled.shape == (2, columns.total, 3, 2)
    assert bool((assembled[:, columns.of_arm("constant")] == 1).all())
    assert torch.equal(assembled[:, columns.of_arm("null")[1:]], stored[..., :3].permute(0, 3, 1, 2).float())
    assert torch.equal(assembled[:, columns.of_arm("probe")[1:]], stored[..., 3:].permute(0, 3, 1, 2).float())
    both = {*columns.of_arm("null"), *columns.of_arm("position")}
    assert set(columns.of_arm("null+position")) == both
    assert all(columns.of_arm(arm)[0] == 0 for arm in (*ARMS, "probe"))
