"""The worked example of a target from outside: its contract, and brute force."""

import numpy as np
import pytest
import torch
from target_contract import TargetContract

from examples.edge_distance import EdgeDistance
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
