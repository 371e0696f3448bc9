"""The worked example of a target from outside: its contract, brute force, and the whole main path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from planted import SmallNetwork
from planted_features import foreign
from target_contract import TargetContract

from examples.edge_distance import EdgeDistance
from idl.data.preparation import prepare
from idl.data.rooms import RoomsReader, RoomsRecipe
from idl.pipeline import probe
from idl.probe_config import ProbeConfig
from idl.protocol import Protocol
from idl.targets import target

NAME = "examples.edge_distance:target"


class TestEdgeDistance(TargetContract):
    instance = target(NAME)


def brute_force(objects: np.ndarray, valid: np.ndarray, cap: int) -> np.ndarray:
    """Every pixel against every edge pixel."""
    height, width = objects.shape
    edges = [
        (y, x)
        for y in range(height)
        for x in range(width)
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        if 0 <= v < height and 0 <= u < width and valid[y, x] and valid[v, u] and objects[y, x] != objects[v, u]
    ]
    result = np.full((height, width), float(cap))
    for y in range(height):
        for x in range(width):
            result[y, x] = min([float(cap), *(np.hypot(y - v, x - u) for v, u in edges)])
    return np.where(valid, result, 0.0)


@pytest.mark.parametrize("cap", [1, 7, 200])
@pytest.mark.parametrize("block", [1, 4, 9])
def test_equals_brute_force(cap: int, block: int) -> None:
    generator = np.random.default_rng(block)
    objects = np.kron(generator.integers(1, 4, (4, 4)), np.ones((block, block)))[:17, :23].astype(np.float32)
    valid = generator.random(objects.shape) < 0.9
    found, defined = EdgeDistance(cap).encode(torch.from_numpy(objects)[None], torch.from_numpy(valid)[None])
    np.testing.assert_allclose(found[0, 0].numpy(), brute_force(objects, valid, cap), rtol=1e-6)
    assert torch.equal(defined[0], torch.from_numpy(valid))


def test_a_run_is_measured_in_pixels_and_gives_a_model_of_them(tmp_path: Path) -> None:
    """R2 by its definition, from the losses of the constant arm, whose weights are the training mean."""
    reader = RoomsReader(RoomsRecipe(num_scenes=8, views=2, resolution=64))
    store = prepare(reader, Protocol(resolution=64), tmp_path / "rooms")
    config = ProbeConfig(target=NAME, split="4:2:2", batch_size=4)
    run = probe(config, store, foreign(SmallNetwork(), 8, "small"), tmp_path / "cache")
    metrics = run.report.metrics
    # What cannot occur is clamped; equal but for rounding where nothing was.
    assert metrics["test_mse_pooled"] <= metrics["test_loss"] * (1 + 1e-6)
    expected = 1 - metrics["test_mse_pooled"] / metrics["arms/constant_test_loss"]
    assert metrics["test_r2"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert all(unit in run.report.description for unit in ("px an image", "px²"))
    assert all(key.startswith("edge-distance/") for key in run.report.panels)
    assert run.model.name == "idl-edge-distance-small"
    prediction = run.model.module(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert prediction.shape == (2, 1, 64, 64)
    assert 0 <= prediction.min() <= prediction.max() <= 32
