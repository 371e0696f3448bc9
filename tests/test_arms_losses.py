"""Errors of arms on the grid, as they are and after alignment, against all pixels written out."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted_losses import plain_solution
from torch import Tensor

from idl.arms.fits import FittedArm
from idl.arms.losses import SquaredErrors, squared_errors
from idl.features import MapBatch, MapSource
from idl.probes.basis import NUM_NULL, Columns
from idl.progress import silent
from idl.targets import target

GRID, SIZE, COMPONENTS, IMAGES = (5, 6), (40, 48), 4, 7
EMPTY, LONE = 2, 4


class Planted:
    """Maps and truth of seven images, in batches of three; one image has no valid pixel, and one a single one."""

    columns = Columns(COMPONENTS)
    device = torch.device("cpu")
    store = SimpleNamespace(path="planted.h5")

    def __init__(self, layer: str) -> None:
        generator = torch.Generator().manual_seed(3)
        self.maps = torch.randn(IMAGES, *GRID, NUM_NULL + COMPONENTS, generator=generator).half()
        self.valid = torch.rand(IMAGES, *SIZE, generator=generator) > 0.3
        self.valid[EMPTY] = False
        self.valid[LONE] = False
        self.valid[LONE, 7, 9] = True
        numbers = torch.rand(IMAGES, *SIZE, *([3] if layer == "normals" else []), generator=generator)
        # Depth is in metres; normals are of unit length.
        truth = F.normalize(numbers - 0.5, dim=-1) if layer == "normals" else numbers + 0.5
        self.layers = {layer: truth, "valid": self.valid}

    def share(self, name: str) -> range:
        return range(IMAGES)

    def stream(self, name: str, layers: tuple[str, ...]) -> Iterator[MapBatch]:
        for first in range(0, IMAGES, 3):
            part = slice(first, first + 3)
            yield MapBatch(first, self.maps[part], {layer: self.layers[layer][part] for layer in layers})


def arms(num_outputs: int) -> list[FittedArm]:
    """Arms of a bias and the first components: a constant, two of random weights, and one that is another rescaled."""
    generator = torch.Generator().manual_seed(4)
    weights = [torch.randn(1 + k, num_outputs, generator=generator, dtype=torch.float64) for k in (0, 2, COMPONENTS)]
    weights[0] += 30
    rescaled = 1e-3 * weights[2]
    rescaled[0] += 5
    read = [(0, *Columns(COMPONENTS).of_arm("probe")[1 : len(each)]) for each in (*weights, rescaled)]
    return [
        FittedArm("arm", columns, each, plain_solution(0))
        for columns, each in zip(read, (*weights, rescaled), strict=True)
    ]


def measured(name: str) -> tuple[Planted, list[FittedArm], SquaredErrors]:
    wanted = target(name)
    source, fitted = Planted(wanted.layer), arms(wanted.num_outputs)
    return source, fitted, squared_errors(cast(MapSource, source), "test", wanted, fitted, silent)


def predicted(source: Planted, arm: FittedArm) -> Tensor:
    """(image, out, H, W), by upsampling."""
    components = source.maps[..., NUM_NULL : NUM_NULL + len(arm.weights) - 1].double()
    cells = arm.weights[0] + components @ arm.weights[1:]
    return F.interpolate(cells.permute(0, 3, 1, 2), size=SIZE, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("name", ["depth", "normals"])
def test_errors_are_those_of_all_pixels(name: str) -> None:
    source, fitted, found = measured(name)
    truth = source.layers[target(name).layer].double().numpy().reshape(IMAGES, *SIZE, -1)
    for number, arm in enumerate(fitted):
        prediction = predicted(source, arm).permute(0, 2, 3, 1).numpy()
        for image in range(IMAGES):
            seen = source.valid[image].numpy()
            plain = aligned = 0.0
            for output in range(truth.shape[-1]):
                y, p = truth[image, ..., output][seen], prediction[image, ..., output][seen]
                plain += float(((p - y) ** 2).sum())
                # As many directions as the prediction has: one where it is constant or seen at one pixel alone.
                design = np.stack([p - p.mean() if len(p) else p, np.ones_like(p)], axis=1)
                best = design @ np.linalg.lstsq(design, y, rcond=1e-9)[0] if len(p) else p
                aligned += float(((best - y) ** 2).sum())
            assert found.plain[number, image] == pytest.approx(plain, rel=1e-6, abs=1e-9)
            assert found.aligned[number, image] == pytest.approx(aligned, rel=1e-6, abs=1e-9)
    assert found.num_valid.tolist() == source.valid.sum(dim=(1, 2)).tolist()


def test_scale_and_shift_of_a_prediction_do_not_count_after_alignment() -> None:
    _, _, found = measured("depth")
    constant, _, one, rescaled = found.aligned
    np.testing.assert_allclose(rescaled, one, rtol=1e-7, atol=1e-9)
    assert (np.abs(found.plain[3] - found.plain[2]) > 1).sum() == IMAGES - 1
    # A constant has nothing but its shift: the truth's own spread is left.
    assert (constant >= one).all()
    assert found.aligned[:, EMPTY].tolist() == [0, 0, 0, 0]
    assert found.aligned[:, LONE] == pytest.approx(0, abs=1e-9)
