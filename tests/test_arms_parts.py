"""Parts of the arms: column sets, patches, who lends truth to whom."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from idl.arms.columns import ARMS, feature_columns, pixel_columns
from idl.arms.derangement import derangement
from idl.encoders.patches import patches
from idl.probes.basis import Basis, Columns, null_map


@given(scenes=st.lists(st.integers(0, 5), min_size=2, max_size=40), seed=st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_no_image_gets_truth_of_its_own_scene(scenes: list[int], seed: int) -> None:
    lender = derangement(scenes, seed)
    possible = 2 * max(Counter(scenes).values()) <= len(scenes)
    assert (lender is not None) == possible
    if lender is not None:
        assert sorted(lender.tolist()) == list(range(len(scenes)))
        assert all(scenes[image] != scenes[other] for image, other in enumerate(lender))
        assert np.array_equal(lender, derangement(scenes, seed))  # pyright: ignore[reportArgumentType]


def test_images_of_a_scene_borrow_from_many_scenes() -> None:
    scenes = [f"room {image // 6}" for image in range(360)]
    lender = derangement(scenes, 0)
    other = derangement(scenes, 1)
    assert lender is not None
    assert other is not None
    assert (lender != other).mean() > 0.9
    lenders_of_first = {scenes[position] for position in lender[:6]}
    assert len(lenders_of_first) >= 4


def test_columns_of_arms() -> None:
    columns = Columns(num_components=4, num_patches=3)
    assert columns.total == 1 + 5 + 3 + 3 + 4
    read = {arm: (*pixel_columns(columns, arm, 2), *feature_columns(columns, arm, 2)) for arm in ARMS}
    # The solver leaves the first one unpenalised.
    assert {arm[0] for arm in read.values()} == {0}
    assert {name: tuple(sorted(arm)) for name, arm in read.items()} == {
        "constant": (0,),
        "position": (0, 1, 2, 3, 4, 5),
        "null": (0, 6, 7, 8),
        "null+position": (0, 1, 2, 3, 4, 5, 6, 7, 8),
        "patches": (0, 9, 10),
        "pixels": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
        "trained": (0, 12, 13),
        "trained+pixels": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13),
    }
    # No more than there are.
    assert pixel_columns(columns, "patches", 9) == (0, 9, 10, 11)
    assert feature_columns(columns, "trained", 9) == (12, 13, 14, 15)


@pytest.mark.parametrize("stride", [2, 4])
def test_patches_are_principal_components_of_cut_out_pixels(stride: int) -> None:
    rgb = torch.rand(6, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    rgb = torch.nn.functional.avg_pool2d(rgb, 3, 1, 1)
    encoder = patches(stride, torch.device("cpu"))
    features = encoder(rgb)
    null = null_map(rgb, 16 // stride, 24 // stride)
    most = 5
    basis = Basis.fit([features], [null], most)
    components = basis.project(features, null)[..., 3:].double().numpy().reshape(-1, most)
    cut = [
        rgb[image, :, top : top + stride, left : left + stride].flatten().double().numpy()
        for image in range(6)
        for top in range(0, 16, stride)
        for left in range(0, 24, stride)
    ]
    # Three dimensions of colour, which the null reads, are gone.
    by_colour = np.stack(cut).reshape(len(cut), 3, -1)
    rest = (by_colour - by_colour.mean(axis=2, keepdims=True)).reshape(len(cut), -1)
    centred = rest - rest.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :most] * np.sqrt(len(cut))
    # The sign of a component is free.
    agreement = np.abs((components * expected).mean(axis=0))
    np.testing.assert_allclose(agreement, 1.0, atol=1e-3)
    np.testing.assert_allclose(basis.eigenvalues.numpy(), (singular**2 / len(cut))[:most], rtol=1e-4)
    np.testing.assert_allclose(components.var(axis=0), 1.0, rtol=1e-3)
