"""The arms of a verdict on planted data: against separate runs, and their laws."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import PlantedReader, SmallNetwork
from planted_features import foreign
from torch import Tensor, nn

from idl.data.loading import images_of
from idl.data.preparation import prepare
from idl.data.splits import split_by_scene
from idl.data.store import Store
from idl.encoders import EncoderConfig, build
from idl.encoders.null import patches
from idl.errors import InputError
from idl.features import MapBatch, MapSource
from idl.pipeline import probe
from idl.probe_config import ProbeConfig
from idl.probes.basis import NUM_NULL, Basis, Columns, null_map
from idl.progress import silent
from idl.protocol import Protocol
from idl.targets import target
from idl.verdict import baselines
from idl.verdict.baselines import ARMS, FIXED, ArmsResult, measure
from idl.verdict.maps import derangement, squared_errors
from idl.verdict.settings import StudyConfig

PROBE = ProbeConfig(batch_size=4)
CPU = torch.device("cpu")
ALL = StudyConfig(ks="all", untrained_seeds=1)
TWO_AND_ALL = replace(ALL, ks="2,all")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(num_scenes=16), Protocol(resolution=64), tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def result(store: Store, tmp_path_factory: pytest.TempPathFactory) -> ArmsResult:
    config = replace(ALL, ks="3,all")
    return measure(PROBE, config, store, foreign(SmallNetwork(), 8), tmp_path_factory.mktemp("cache"))


def mse(result: ArmsResult, k: int, arm: str) -> float:
    return float(result.arms[k][arm].squared_error.sum() / result.num_valid.sum())


def image_of(store: Store, index: int) -> Tensor:
    return images_of(torch.from_numpy(store.read(("rgb",), [index])["rgb"]))


def test_arms_are_those_of_separate_runs(store: Store, result: ArmsResult, tmp_path: Path) -> None:
    """Each column set by itself, through `probe`, which predicts at full resolution."""
    own = {k: probe(replace(PROBE, k=k), store, foreign(SmallNetwork(), 8), tmp_path) for k in ("3", "all")}
    image = {k: probe(replace(PROBE, k=str(k)), store, patches(8, CPU), tmp_path) for k in (3, 8)}
    for text, run in own.items():
        k = result.ks[text]
        arms, metrics = result.arms[k], run.report.metrics
        assert arms["trained"].solution.val_loss == pytest.approx(metrics["val_loss"], rel=1e-6)
        assert mse(result, k, "trained") == pytest.approx(metrics["test_mse_pooled"], rel=1e-5)
        assert arms["patches"].solution.val_loss == pytest.approx(image[k].report.metrics["val_loss"], rel=1e-6)
        assert mse(result, k, "patches") == pytest.approx(image[k].report.metrics["test_mse_pooled"], rel=1e-5)
        for arm in FIXED:
            assert mse(result, k, arm) == pytest.approx(metrics[f"arms/{arm.replace('+', '_')}_test_loss"], rel=1e-5)
    table = own["all"].report.tables["per_image.json"]
    assert list(result.images) == table["image"]
    order = split_by_scene(store.scenes).indices["test"]
    np.testing.assert_array_equal(result.num_valid, store.read(("valid",), order)["valid"].sum(axis=(1, 2)))
    mean = result.arms[8]["trained"].squared_error / result.num_valid
    np.testing.assert_allclose(np.sqrt(mean), np.array(table["rmse"], float), rtol=1e-4)


def test_shuffled_truth_is_the_same_to_what_does_not_look(result: ArmsResult) -> None:
    for k, arms in result.arms.items():
        shuffled = result.shuffled[k]
        assert set(shuffled) == {*FIXED, "trained"}
        for name in ("constant", "position"):
            own, lent = arms[name].solution.plain_train_loss, shuffled[name].solution.plain_train_loss
            assert lent == pytest.approx(own, rel=1e-5)
        # What a constant loses on lent truth it loses where that truth is at home.
        own, lent = arms["constant"].squared_error, shuffled["constant"].squared_error
        np.testing.assert_allclose(lent, own, rtol=1e-5)
        assert (np.abs(shuffled["null"].squared_error - arms["null"].squared_error) > 0.1 * own).any()
        # Depth is linear in red: of other images' depth red says nothing.
        assert mse(result, k, "null") < 0.5 * mse(result, k, "constant")
        assert shuffled["null"].squared_error.sum() > 0.9 * lent.sum()


def test_the_common_null_is_that_of_the_null_encoder(store: Store, tmp_path: Path) -> None:
    tiny = '{"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}'
    encoder = build(EncoderConfig("timm:convnext_atto", weights="random", encoder_args=tiny), CPU)
    result = measure(PROBE, replace(ALL, ks="2"), store, encoder, tmp_path)
    null = probe(PROBE, store, build(EncoderConfig("null", stride=8), CPU), tmp_path)
    assert mse(result, 2, "common null") == pytest.approx(null.report.metrics["arms/null_test_loss"], rel=1e-5)
    # Its own grid is coarser, and its null another.
    assert encoder.stride == 16
    assert mse(result, 2, "null") > mse(result, 2, "common null")


def test_twins_of_both_forms_are_there_and_different(store: Store, tmp_path: Path) -> None:
    encoder = build(EncoderConfig("encoder_contract:PatchMean", seed=5), CPU)
    result = measure(PROBE, StudyConfig(ks="2,4", untrained_seeds=2), store, encoder, tmp_path)
    names = [f"untrained-{form}-{seed}" for form in ("random", "permuted") for seed in (0, 1)]
    assert list(result.curves) == ["trained", *names]
    assert result.missing == ()
    for arms in result.arms.values():
        assert set(arms) == {*ARMS, *names, *(f"{name}+pixels" for name in names), "common null"}
        assert len({arms[name].solution.val_loss for name in names}) == 4


def test_controls_that_cannot_be_had_are_named(result: ArmsResult, tmp_path: Path) -> None:
    assert list(result.curves) == ["trained", "untrained-permuted-0"]
    (sentence,) = result.missing
    assert sentence.startswith("untrained, random: encoder=foreign: cannot be built")
    few = prepare(PlantedReader(num_scenes=3, name="few"), Protocol(resolution=64), tmp_path / "store")
    lone = measure(PROBE, ALL, few, foreign(SmallNetwork(), 8), tmp_path / "cache")
    assert lone.missing[0] == "shuffled: one scene has more than half of the images of a split."
    assert lone.shuffled[8] == {}


class RunsAway(nn.Module):
    """Two numbers of the downsampled image; of images of some brightness `value`, once its weights have moved."""

    def __init__(self, brightness: Tensor, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(64.0))
        self.brightness, self.value = brightness, value

    def forward(self, x: Tensor) -> Tensor:
        maps = nn.functional.avg_pool2d(x, 8)[:, :2] * self.weight.sum()
        is_meant = torch.isin(x.mean(dim=(1, 2, 3)), self.brightness)
        # Differences between some numbers of the first permutation and of no other one.
        if (self.weight.diff() > 0).all() or self.weight[0] != FIRST_OF_PERMUTED or not is_meant.any():
            return maps
        return torch.where(is_meant[:, None, None, None], self.value * maps.sign(), maps)


FIRST_OF_PERMUTED = float(torch.arange(64.0)[torch.randperm(64, generator=torch.Generator().manual_seed(0))[0]])


@pytest.mark.parametrize(("name", "value"), [("train", np.inf), ("val", np.nan), ("test", np.inf)])
def test_a_twin_that_runs_away_on_later_images_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    # The basis has seen all training images but the last one.
    image = split_by_scene(store.scenes).indices[name][-1]
    network = RunsAway(image_of(store, image).mean(dim=(1, 2, 3)), value)
    monkeypatch.setattr("idl.features.BASIS_IMAGES", 24)
    sentence = f"untrained-permuted-0: encoder: the features of image {store.names[image]} are not finite"
    read, seen = Store.read, set[int]()
    monkeypatch.setattr(Store, "read", lambda *arguments: seen.update(arguments[2]) or read(*arguments))
    with pytest.raises(InputError, match="no verdict without a control") as refused:
        measure(PROBE, ALL, store, foreign(network, 2), tmp_path)
    assert sentence in str(refused.value)
    # Before the test images are read, if it shows before.
    assert bool(seen & set(split_by_scene(store.scenes).indices["test"])) is (name == "test")
    result = measure(PROBE, replace(ALL, untrained_seeds=2), store, foreign(network, 2), tmp_path)
    assert result.missing[1].startswith(sentence)
    assert set(result.arms[2]) == {*ARMS, "untrained-permuted-1", "untrained-permuted-1+pixels", "common null"}
    assert set(result.curves) == {"trained", "untrained-permuted-1"}


def test_all_is_fitted_before_the_test_split_is_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = set(split_by_scene(store.scenes).indices["test"])
    events: list[str] = []
    read, fit_all = Store.read, baselines.fit_all

    def spy(self: Store, layers: Sequence[str], indices: Sequence[int]) -> Any:
        events.append("test" if held_out & set(indices) else "other")
        return read(self, layers, indices)

    def mark(*arguments: Any, **further: Any) -> Any:
        events.append("fit")
        return fit_all(*arguments, **further)

    monkeypatch.setattr(Store, "read", spy)
    monkeypatch.setattr(baselines, "fit_all", mark)
    measure(PROBE, TWO_AND_ALL, store, foreign(SmallNetwork(), 8), tmp_path)
    # The encoder, shuffled, a twin, and the common null.
    assert events.count("fit") == 4
    assert "fit" not in events[events.index("test") :]


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


def test_a_scene_borrows_from_many_scenes() -> None:
    scenes = [f"room {image // 6}" for image in range(360)]
    lender = derangement(scenes, 0)
    assert lender is not None
    assert len({scenes[position] for position in lender[:6]}) >= 4


def test_patches_are_principal_components_of_cut_out_pixels() -> None:
    stride = 4
    rgb = torch.rand(6, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    rgb = F.avg_pool2d(rgb, 3, 1, 1)
    features = patches(stride, CPU)(rgb)
    null = null_map(rgb, 16 // stride, 24 // stride)
    most = 5
    basis = Basis.fit([features], [null], most)
    components = basis.project(features, null)[..., 3:].double().numpy().reshape(-1, most)
    cut = F.unfold(rgb, stride, stride=stride).permute(0, 2, 1).reshape(-1, 3, stride**2).double().numpy()
    # Three dimensions of colour, which the null reads, are gone.
    rest = (cut - cut.mean(axis=2, keepdims=True)).reshape(len(cut), -1)
    left, singular, _ = np.linalg.svd(rest - rest.mean(axis=0), full_matrices=False)
    # The sign of a component is free.
    agreement = np.abs((components * left[:, :most] * np.sqrt(len(cut))).mean(axis=0))
    np.testing.assert_allclose(agreement, 1.0, atol=1e-3)
    np.testing.assert_allclose(basis.eigenvalues.numpy(), (singular**2 / len(cut))[:most], rtol=1e-4)
    np.testing.assert_allclose(components.var(axis=0), 1.0, rtol=1e-3)


GRID, SIZE, COMPONENTS, IMAGES = (5, 6), (40, 48), 4, 7
EMPTY, LONE = 2, 4


class PlantedMaps:
    """Maps and truth of seven images, in batches of three; one image has no valid pixel, and one a single one."""

    columns = Columns(COMPONENTS)
    device = CPU
    store = SimpleNamespace(path="planted.h5")

    def __init__(self, layer: str) -> None:
        generator = torch.Generator().manual_seed(3)
        self.maps = torch.randn(IMAGES, *GRID, NUM_NULL + COMPONENTS, generator=generator).half()
        self.valid = torch.rand(IMAGES, *SIZE, generator=generator) > 0.3
        self.valid[[EMPTY, LONE]] = False
        self.valid[LONE, 7, 9] = True
        values = torch.rand(IMAGES, *SIZE, *([3] if layer == "normals" else []), generator=generator)
        # Depth is in metres; normals are of unit length.
        truth = F.normalize(values - 0.5, dim=-1) if layer == "normals" else values + 0.5
        self.layers = {layer: truth, "valid": self.valid}

    def share(self, name: str) -> range:
        return range(IMAGES)

    def stream(self, name: str, layers: tuple[str, ...]) -> Iterator[MapBatch]:
        for first in range(0, IMAGES, 3):
            part = slice(first, first + 3)
            yield MapBatch(first, self.maps[part], {layer: self.layers[layer][part] for layer in layers})


@pytest.mark.parametrize("name", ["depth", "normals"])
def test_errors_are_those_of_all_pixels(name: str) -> None:
    """Of a constant, of two arms of random weights, and of one that is another rescaled."""
    wanted = target(name)
    source = PlantedMaps(wanted.layer)
    generator = torch.Generator().manual_seed(4)
    shapes = [(1 + k, wanted.num_outputs) for k in (0, 2, COMPONENTS)]
    weights = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    weights[0] += 30
    weights.append(1e-3 * weights[2])
    weights[3][0] += 5
    components = Columns(COMPONENTS).of_arm("probe")
    arms = [(components[: len(each)], each) for each in weights]
    num_valid, plain, aligned = squared_errors(cast(MapSource, source), "test", wanted, arms, silent)
    truth = source.layers[wanted.layer].double().numpy().reshape(IMAGES, *SIZE, -1)
    for number, each in enumerate(weights):
        cells = each[0] + source.maps[..., NUM_NULL : NUM_NULL + len(each) - 1].double() @ each[1:]
        upsampled = F.interpolate(cells.permute(0, 3, 1, 2), size=SIZE, mode="bilinear", align_corners=False)
        prediction = upsampled.permute(0, 2, 3, 1).numpy()
        for image in range(IMAGES):
            seen = source.valid[image].numpy()
            sums = np.zeros(2)
            for output in range(truth.shape[-1]):
                y, p = truth[image, ..., output][seen], prediction[image, ..., output][seen]
                # As many directions as the prediction has: one where it is constant or seen at one pixel alone.
                design = np.stack([p - p.mean() if len(p) else p, np.ones_like(p)], axis=1)
                best = design @ np.linalg.lstsq(design, y, rcond=1e-9)[0] if len(p) else p
                sums += ((p - y) ** 2).sum(), ((best - y) ** 2).sum()
            assert (plain[number, image], aligned[number, image]) == pytest.approx(sums, rel=1e-6, abs=1e-9)
    assert num_valid.tolist() == source.valid.sum(dim=(1, 2)).tolist()
    # Scale and shift do not count after alignment.
    np.testing.assert_allclose(aligned[3], aligned[2], rtol=1e-7, atol=1e-9)
    assert (np.abs(plain[3] - plain[2]) > 0.1).sum() == IMAGES - 1
