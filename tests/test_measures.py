"""How the test split is measured: images may come in any batches, over any ranks; and the range of pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from planted import PlantedReader

from idl import ranges
from idl.data.preparation import prepare
from idl.data.splits import Split, split_by_scene
from idl.data.store import Store
from idl.distributed import ALONE, World
from idl.evaluation import Evaluation, _Collected
from idl.fitting import PROBE
from idl.measures import Truth, measure_of
from idl.protocol import Protocol
from idl.targets import Target, target

ARMS = ("constant", "null+position", PROBE)
NUM_IMAGES, SIDE, CELLS = 7, 16, 4


class Smooth(Target):
    """Depth as a field of metres."""

    name, layer, unit, num_outputs, kind = "smooth", "depth", "m", 1, "field"

    def encode(self, values: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.where(valid, values, 0.0)[:, None], valid

    def decode(self, prediction: torch.Tensor) -> torch.Tensor:
        return prediction


TARGETS = (target("depth"), target("log-depth"), target("normals"), Smooth())


class Gathering(World):
    """A world whose ranks have collected `parts`."""

    def __init__(self, parts: list[_Collected]) -> None:
        super().__init__()
        object.__setattr__(self, "parts", parts)

    def gather(self, value: object) -> list:  # pyright: ignore[reportIncompatibleMethodOverride]
        return [(part._rows, part._totals) for part in self.parts]  # pyright: ignore[reportAttributeAccessIssue]


def truth_of(wanted: Target) -> Truth:
    generator = torch.Generator().manual_seed(5)
    shape = (NUM_IMAGES, SIDE, SIDE)
    layer = 1 + 3 * torch.rand(shape, generator=generator)
    if wanted.layer == "normals":
        layer = torch.randn(*shape, 3, generator=generator)
    valid = torch.rand(shape, generator=generator) < 0.8
    valid[2] = False
    encoded, defined = wanted.encode(layer, valid)
    return Truth(encoded, layer, defined)


def collected(wanted: Target, sizes: list[int], first: int = 0) -> _Collected:
    """Measure images from `first` on, in batches of these sizes."""
    truth = truth_of(wanted)
    generator = torch.Generator().manual_seed(6)
    grid = 1 + torch.rand(NUM_IMAGES, len(ARMS) * wanted.num_outputs, CELLS, CELLS, generator=generator)
    measure = measure_of(wanted, Protocol(resolution=SIDE), 2.5, (2.5,) * wanted.num_outputs)
    result = _Collected(measure, ARMS, sum(sizes))
    for size in sizes:
        part = slice(first, first + size)
        result.add(grid[part], Truth(truth.target[part], truth.layer[part], truth.valid[part]))
        first += size
    return result


def same(one: Evaluation, other: Evaluation) -> None:
    for arm in ARMS:
        np.testing.assert_array_equal(one.losses[arm], other.losses[arm])
        assert one.arm_errors[arm] == other.arm_errors[arm]
    assert repr(one.sums.summary()) == repr(other.sums.summary())
    for name, values in one.sums.per_image().items():
        np.testing.assert_array_equal(values, other.sums.per_image()[name])


@pytest.mark.parametrize("wanted", TARGETS, ids=lambda each: each.name)
@pytest.mark.parametrize("shares", [[[3, 4]], [[2, 1], [4]], [[7], []], [[], [7]]])
def test_batches_and_ranks_change_nothing(wanted: Target, shares: list[list[int]]) -> None:
    whole = collected(wanted, [NUM_IMAGES])
    whole.add_up(ALONE)
    parts, first = [], 0
    for sizes in shares:
        parts.append(collected(wanted, sizes, first))
        first += sum(sizes)
    parts[0].add_up(Gathering(parts))
    same(whole.evaluation(()), parts[0].evaluation(()))


@pytest.mark.parametrize("wanted", TARGETS, ids=lambda each: each.name)
def test_the_probe_s_error_is_the_same_as_an_arm_and_in_its_metrics(wanted: Target) -> None:
    whole = collected(wanted, [NUM_IMAGES])
    found = whole.evaluation(())
    summary = found.sums.summary()
    for name, value in found.arm_errors[PROBE].items():
        assert summary[name] == pytest.approx(value, rel=1e-6)


def test_a_depth_as_a_field_has_the_error_of_depth() -> None:
    """Predictions of 1 to 2 m are inside the range, so that nothing is clamped."""
    depth, field = (collected(wanted, [NUM_IMAGES]).evaluation(()) for wanted in (target("depth"), Smooth()))
    for name in ("mse", "rmse", "mae", "mse_pooled", "rmse_pooled", "mae_pooled", "r2"):
        assert field.sums.summary()[name] == pytest.approx(depth.sums.summary()[name], rel=1e-6)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(num_scenes=12), Protocol(resolution=64), tmp_path_factory.mktemp("store"))


@pytest.fixture
def split(store: Store) -> Split:
    return split_by_scene(store.scenes)


def test_the_range_holds_98_percent_of_the_training_truth(store: Store, split: Split, tmp_path: Path) -> None:
    low, high = ranges.shown_range(store, split, Smooth(), tmp_path)
    read = store.read(("depth", "valid"), split.indices["train"])
    truth = read["depth"][read["valid"]]
    assert np.mean((truth >= low) & (truth <= high)) == pytest.approx(0.98, abs=0.005)
    assert np.mean(truth < low) == pytest.approx(0.01, abs=0.003)


def test_the_range_is_kept_and_found_again(
    store: Store, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ranges.shown_range(store, split, Smooth(), tmp_path)
    (kept,) = tmp_path.iterdir()
    monkeypatch.setattr(ranges, "_percentiles", None)
    assert ranges.shown_range(store, split, Smooth(), tmp_path) == first
    kept.write_bytes(kept.read_bytes()[:-1])
    monkeypatch.undo()
    assert ranges.shown_range(store, split, Smooth(), tmp_path) == first


def test_kinds_that_have_a_range_need_none(store: Store, split: Split, tmp_path: Path) -> None:
    for name in ("depth", "log-depth", "inverse-depth"):
        assert ranges.shown_range(store, split, target(name), tmp_path) == (0.0, store.shown_depth_m)
    assert ranges.shown_range(store, split, target("normals"), tmp_path) == (0.0, 90.0)
    assert not list(tmp_path.iterdir())


class Rare(Smooth):
    """One pixel in a thousand is not zero."""

    name = "rare"
    share = 1e-3

    def encode(self, values: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (values.frac() < self.share).float()[:, None] * valid[:, None], valid


class Nowhere(Smooth):
    name = "nowhere"

    def encode(self, values: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros_like(values)[:, None], torch.zeros_like(valid)


class Constant(Smooth):
    name = "constant-3"

    def encode(self, values: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 3.0 * valid[:, None].float(), valid


@pytest.mark.parametrize(("wanted", "expected"), [(Rare(), (0, 1)), (Constant(), (2.5, 3.5)), (Nowhere(), (0, 1))])
def test_a_range_is_never_empty(
    store: Store, split: Split, tmp_path: Path, wanted: Target, expected: tuple[float, float]
) -> None:
    assert ranges.shown_range(store, split, wanted, tmp_path) == expected
