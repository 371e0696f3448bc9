"""Depth at native size: every preset's figures computed again by hand, and rectangles through the main path."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dense import dense_losses, images_of
from planted import SmallNetwork
from planted_features import foreign
from planted_frames import FramesReader, metrics_by_hand, upsampled

from idl.data.preparation import prepare
from idl.data.reader import Sample
from idl.data.splits import split_store
from idl.data.store import Store
from idl.encoders import Encoder
from idl.errors import InputError
from idl.evaluate import Measure, evaluate_model, is_native
from idl.pipeline import probe
from idl.probe_config import ProbeConfig
from idl.probes.linear_probe import LinearProbe
from idl.progress import silent
from idl.protocol import NATIVE, PRESETS, Protocol
from idl.targets import target

# Name: frame, crop, range in metres, scale of the planted depths, written down apart from the package.
PUBLISHED = {
    "nyu-eigen": ((480, 640), (45, 471, 41, 601), (1e-3, 10.0), 9.5),
    "diode-devkit": ((768, 1024), (0, 768, 0, 1024), (0.6, 350.0), 2.0),
    "diode-indoor": ((768, 1024), (0, 768, 0, 1024), (1e-3, 10.0), 9.5),
    "diode-outdoor": ((768, 1024), (0, 768, 0, 1024), (1e-3, 80.0), 70.0),
}
SMALL = Protocol(name="small", resolution=48, width=64, is_native=True, native_crop=(6, 90, 11, 117), max_depth_m=3.0)
CONFIG = ProbeConfig(batch_size=4)
INVERSE = {"depth": lambda p: p, "inverse-depth": lambda p: np.where(p > 0, 1 / np.where(p > 0, p, 1), np.inf)}


def encoder() -> Encoder:
    return foreign(SmallNetwork(), 8, "small")


def close(found: Mapping[str, float], expected: Mapping[str, float], rel: float, share: float) -> None:
    """Shares of pixels jump where a pixel crosses a limit; everything else is smooth."""
    for name, value in expected.items():
        is_share = name.startswith("delta")
        assert found[name] == pytest.approx(value, rel=None if is_share else rel, abs=share if is_share else None), name


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("space", ["depth", "inverse-depth"])
def test_figures_of_a_preset_are_those_by_hand(tmp_path: Path, name: str, space: str) -> None:
    frame, crop, range_m, scale_m = PUBLISHED[name]
    protocol = PRESETS[name]
    reader = FramesReader(num_scenes=2, views=1, protocol=protocol, frame=frame, scale_m=scale_m)
    store = prepare(reader, protocol, tmp_path)
    generator = np.random.default_rng(5)
    # Three arms on a coarse grid, some of it beyond the range, and below zero.
    metres = scale_m * generator.uniform(-0.1, 1.3, (2, 3, 9, 12))
    grid = metres if space == "depth" else 1 / np.where(np.abs(metres) < 0.05, 0.05, metres)
    measure = Measure(target(space), protocol, 3.0, (3.0,))
    errors, sums = measure.native(store, torch.from_numpy(grid).float(), (1, 0), probe=2)

    # The reader's own frames, whatever the store made of them.
    groups = [reader.read(index)[0] for index in (1, 0)]
    truth = [np.nan_to_num(sample.layers[NATIVE]) for sample in groups]
    for number in range(3):
        fitted = [upsampled(cells, 288, 384) for cells in grid[:, number]]
        predicted = [INVERSE[space](upsampled(each, *frame)) for each in fitted]
        expected = metrics_by_hand(predicted, truth, crop, range_m)
        if number == 2:
            close(sums.summary(), expected, rel=1e-5, share=1e-4)
        for average, value in measure.averaged(errors[:, number], sums.num_valid).items():
            assert value == pytest.approx(expected[average], rel=1e-5)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Store:
    reader = FramesReader(num_scenes=8, views=2, protocol=SMALL, num_test=3)
    return prepare(reader, SMALL, tmp_path_factory.mktemp("frames"))


@pytest.mark.parametrize("space", ["depth", "log-depth"])
def test_a_rectangle_goes_through_the_main_path(
    frames: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: str
) -> None:
    """Losses are those of brute force at the size of the fit; metrics are those by hand at native size."""
    monkeypatch.setattr("idl.fitting.PENALTIES", (0.1,))
    run = probe(replace(CONFIG, target=space, k="all"), frames, encoder(), tmp_path)
    split = split_store(frames, "auto", 0)
    assert set(split.scenes["test"]) == {"scene_05", "scene_06", "scene_07"}

    with torch.inference_mode():
        parts = {part: images_of(frames, split.indices[part], target(space)) for part in ("train", "val", "test")}
        expected = dense_losses(encoder(), parts["train"], [*parts.values()], 0.1)
        assert [run.report.metrics[f"{part}_loss"] for part in parts] == pytest.approx(expected, rel=1e-3)
        path = tmp_path / "probe.safetensors"
        path.write_bytes(run.model.files["probe.safetensors"])
        fitted = LinearProbe.load(str(path))
        grids = fitted(encoder()(parts["test"].rgb))[:, 0].numpy()
    assert (fitted.card.resolution, fitted.card.width) == (48, 64)
    back = np.exp if space == "log-depth" else INVERSE["depth"]
    predicted = [back(upsampled(upsampled(cells, 48, 64), 96, 128)) for cells in grids]
    truth = list(frames.read((NATIVE,), split.indices["test"])[NATIVE])
    expected = metrics_by_hand(predicted, truth, (6, 90, 11, 117), (1e-3, 3.0))
    found = {name.removeprefix("test_"): value for name, value in run.report.metrics.items()}
    # The maps that were kept are in half precision.
    close(found, expected, rel=2e-3, share=3e-3)
    table = run.report.tables["arms/arms.csv"]
    at = list(table["arm"]).index("probe")
    assert table["test_rmse"][at] == pytest.approx(found["rmse"], rel=1e-6)
    assert "m an image" in run.report.description
    assert "at native size, crop 6:90,11:117" in run.report.description


@pytest.mark.parametrize("space", ["depth", "log-depth"])
def test_a_registered_probe_is_measured_as_in_its_own_run(tmp_path: Path, space: str) -> None:
    # Nothing lies near an end of the range, where a whole model clamps before it is upsampled. From inverse depth some
    # is predicted near infinity: there the error differs by 0.6 %.
    wide = replace(SMALL, max_depth_m=6.0)
    frames = prepare(FramesReader(num_scenes=8, views=2, protocol=wide, num_test=3), wide, tmp_path / "store")
    run = probe(replace(CONFIG, target=space, k="all"), frames, encoder(), tmp_path)
    order, reference = (split_store(frames, "auto", 0).indices[name] for name in ("test", "train"))
    sums = evaluate_model(run.model.module, frames, order, reference, target(space), wide, 8, silent).sums
    own = {name.removeprefix("test_"): value for name, value in run.report.metrics.items()}
    names = ("rmse", "rmse_pooled", "abs_rel", "abs_rel_pooled", "r2", "delta1", "delta1_pooled")
    # The maps of its own run were kept in half precision.
    close(sums.summary(), {name: own[name] for name in names}, rel=2e-3, share=3e-3)
    truth = frames.read((NATIVE,), order)[NATIVE][:, 6:90, 11:117]
    np.testing.assert_array_equal(sums.num_valid, (truth > 0).sum(axis=(1, 2)))


def test_tested_images_without_native_depth_are_named_before_one_is_encoded(tmp_path: Path) -> None:
    class TestSideOnly(FramesReader):
        """As DIODE's training side, whose native maps would be a hundred gigabytes."""

        def _sample(self, scene: str, name: str, generator: np.random.Generator) -> Sample:
            sample = super()._sample(scene, name, generator)
            if sample.side == "test":
                return sample
            return replace(sample, layers={name: each for name, each in sample.layers.items() if name != NATIVE})

    reader = TestSideOnly(num_scenes=8, views=2, protocol=SMALL, num_test=3)
    store = prepare(reader, SMALL, tmp_path / "store")
    assert store.lacking(NATIVE, range(16)) == tuple(range(10))
    assert store.lacking("rgb", range(16)) == ()
    probe(CONFIG, store, encoder(), tmp_path / "auto")
    other = replace(CONFIG, split="3:1:4")
    with pytest.raises(InputError, match=r"^split: \d of 8 images that are tested .* have no native depth"):
        probe(other, store, encoder(), tmp_path / "other")
    assert not list((tmp_path / "other").rglob("*"))


def test_normals_have_no_native_truth() -> None:
    assert is_native(target("depth"), SMALL)
    assert not is_native(target("normals"), SMALL)
    assert not is_native(target("depth"), Protocol())
