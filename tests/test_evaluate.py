"""How predictions are measured: by any batches and ranks, for whole models, for many probes at once, in pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted import PlantedReader, SmallNetwork
from planted_features import foreign
from torch import Tensor

from idl.data.preparation import prepare
from idl.data.splits import Split, split_by_scene
from idl.data.store import Store
from idl.evaluate import Evaluation, ShownImages, evaluate_model, predict_whole
from idl.features import EncodedDataset
from idl.fitting import fit_statistics
from idl.progress import silent
from idl.protocol import Protocol
from idl.report import views
from idl.targets import Target, target

NUM_IMAGES, SIDE, CELLS = 7, 16, 4
# 56 pixels are no multiple of 16: what pads an image must be gone.
STRIDE = 16
ORDER = (20, 3, 7, 11, 2, 15, 9, 1, 0, 22)
REFERENCE = (4, 5, 6, 12)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(num_scenes=12), Protocol(resolution=64), tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def odd_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(resolution=56), Protocol(resolution=56), tmp_path_factory.mktemp("odd"))


@pytest.fixture
def split(store: Store) -> Split:
    return split_by_scene(store.scenes)


class Smooth(Target):
    """Depth as a field of metres."""

    name, layer, unit, num_outputs, kind = "smooth", "depth", "m", 1, "field"

    def encode(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(valid, values, 0.0)[:, None], valid

    def decode(self, prediction: Tensor) -> Tensor:
        return prediction


def by_red(rgb: Tensor) -> Tensor:
    """A prediction with no rule but the red channel, which leaves the range at both ends."""
    return (rgb[:, :1] * 6 - 0.5).clamp(0.001, 4.2)


def measured(store: Store, protocol: Protocol | None = None) -> Evaluation:
    return evaluate_model(by_red, store, ORDER, REFERENCE, target("depth"), protocol or store.protocol, STRIDE)


def test_a_model_s_averages_are_those_of_the_pixels(odd_store: Store) -> None:
    read = odd_store.read(("rgb", "depth", "valid"), ORDER)
    depth, valid = read["depth"].astype(np.float64), read["valid"]
    prediction = np.clip(read["rgb"][..., 0] / 255 * 6 - 0.5, 0.001, 4.2)
    squared = [np.mean((p - d)[m] ** 2) for p, d, m in zip(prediction, depth, valid, strict=True)]
    reference = odd_store.read(("depth", "valid"), REFERENCE)
    mean_m = reference["depth"][reference["valid"]].mean(dtype=np.float64)
    pooled = np.mean((prediction - depth)[valid] ** 2)
    result = measured(odd_store)
    summary = result.sums.summary()
    assert summary["rmse"] == pytest.approx(np.mean(np.sqrt(squared)), rel=1e-5)
    assert summary["rmse_pooled"] == pytest.approx(np.sqrt(pooled), rel=1e-5)
    assert summary["r2"] == pytest.approx(1 - pooled / np.mean((depth[valid] - mean_m) ** 2), rel=1e-5)
    assert summary["num_images"] == len(ORDER)
    assert result.num_valid.tolist() == valid.sum(axis=(1, 2)).tolist()
    aligned = measured(odd_store, protocol=replace(odd_store.protocol, alignment="affine")).sums.summary()
    assert aligned["mse_pooled"] < summary["mse_pooled"]
    single = [
        evaluate_model(by_red, odd_store, [index], REFERENCE, target("depth"), odd_store.protocol, STRIDE).sums
        for index in ORDER
    ]
    np.testing.assert_allclose([each.per_image()["mse"][0] for each in single], squared, rtol=1e-5)


def test_panels_show_the_images_that_they_are_named_after_and_keep_no_batch(odd_store: Store) -> None:
    result = measured(odd_store)
    assert [panel.name for panel in result.panels] == [odd_store.names[index] for index in ORDER]
    for panel, index in zip(result.panels, ORDER, strict=True):
        read = odd_store.read(("rgb", "depth"), [index])
        np.testing.assert_array_equal(panel.rgb, read["rgb"][0])
        np.testing.assert_array_equal(panel.truth, read["depth"][0])
        # Views of a batch would let memory grow with the test split, by 30 MB a panel at 256 x 256.
        for array in (panel.rgb, panel.truth, panel.prediction, panel.valid):
            assert array.base is None or array.base.nbytes == array.nbytes


def test_normals_of_two_windows_are_measured_at_unit_length(tmp_path: Path) -> None:
    def turning(rgb: Tensor) -> Tensor:
        assert rgb.shape[2:] == (48, 36)
        unit = F.normalize(torch.stack([torch.linspace(-2, 2, 36), torch.zeros(36), -torch.ones(36)]), dim=0)
        return unit[None, :, None].expand(len(rgb), -1, 48, -1)

    store = prepare(PlantedReader(resolution=48), Protocol(resolution=48), tmp_path)
    blended = predict_whole(turning, torch.zeros(1, 3, 48, 48), STRIDE, (48, 36))
    assert float(blended.square().sum(dim=1).min()) < 0.9
    result = evaluate_model(turning, store, (1,), (0,), target("normals"), store.protocol, STRIDE, window=(48, 36))
    read = store.read(("normals", "valid"), (1,))
    truth, unit = read["normals"][0].astype(np.float64), F.normalize(blended, dim=1)[0].permute(1, 2, 0).numpy()
    truth /= np.linalg.norm(truth, axis=-1, keepdims=True)
    # Of unit vectors: |a - b|^2 = 2 - 2 cos.
    expected = np.mean((2 - 2 * (truth * unit).sum(axis=-1))[read["valid"][0]]) / 3
    np.testing.assert_allclose(result.losses["model"], [expected], rtol=1e-4)


def red_in_cells(rgb: Tensor) -> Tensor:
    """A model of stride 8 that refuses what is no whole number of cells."""
    assert rgb.shape[2] % 8 == rgb.shape[3] % 8 == 0
    return F.interpolate(F.avg_pool2d(rgb[:, :1], 8), size=rgb.shape[2:], mode="bilinear", align_corners=False)


def test_padding_does_not_reach_cells_that_are_whole() -> None:
    image = torch.rand(2, 3, 64, 72, generator=torch.Generator().manual_seed(0))
    cut = predict_whole(red_in_cells, image[:, :, :61, :67], 8)
    assert cut.shape == (2, 1, 61, 67)
    # Half a cell before the first incomplete one, upsampling begins to read it.
    torch.testing.assert_close(cut[:, :, :52, :60], red_in_cells(image)[:, :, :52, :60])


@pytest.fixture
def encoded(store: Store, split: Split, tmp_path: Path) -> EncodedDataset:
    encoded = EncodedDataset(store, split, foreign(SmallNetwork(), 8), tmp_path, 4, torch.device("cpu"))
    # Puts every map into the cache.
    fit_statistics(encoded, target("depth"), silent)
    return encoded


def weights(num_probes: int, num_columns: int, outputs: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    drawn = 0.3 * torch.randn(num_columns, num_probes * outputs, generator=generator, dtype=torch.float64)
    drawn[0] += 0.7
    return drawn


def one_by_one(encoded: EncodedDataset, name: str, of_probe: Tensor, index: int) -> Tensor:
    """What one probe predicts for one image of the store, through the encoder."""
    read = encoded.store.read(("rgb",), [index])
    image = torch.from_numpy(read["rgb"]).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        features = encoded._encoder(image)
    basis = encoded.basis
    components = ((features.permute(0, 2, 3, 1) - basis.feature_mean) @ basis.projection)[..., : len(of_probe) - 1]
    grid = components.double() @ of_probe[1:] + of_probe[0]
    upsampled = F.interpolate(grid.permute(0, 3, 1, 2), size=(64, 64), mode="bilinear", align_corners=False)
    return target(name).decode(upsampled)[0]


@pytest.mark.parametrize("name", ["log-depth", "normals"])
def test_pictures_are_those_of_each_probe_alone(encoded: EncodedDataset, name: str) -> None:
    outputs = target(name).num_outputs
    shown = ShownImages.of(encoded, target(name), 3)
    given = [weights(1, 6, outputs), weights(1, 6, outputs).flip(0), torch.zeros(6, outputs, dtype=torch.float64)]
    together = shown.predicted(given, 64)
    for each, prediction in zip(given, together, strict=True):
        for position, image in enumerate(shown.names):
            found = one_by_one(encoded, name, each, encoded.store.names.index(image))
            expected = found.movedim(0, -1) if name == "normals" else found[0]
            # Maps are kept in half precision.
            np.testing.assert_allclose(prediction[position], expected.numpy(), rtol=5e-3, atol=1e-2)


def test_the_range_holds_98_percent_of_the_training_truth_and_is_kept(
    store: Store, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = first = views.shown_range(store, split, Smooth(), tmp_path)
    read = store.read(("depth", "valid"), split.indices["train"])
    truth = read["depth"][read["valid"]]
    assert np.mean((truth >= low) & (truth <= high)) == pytest.approx(0.98, abs=0.005)
    assert np.mean(truth < low) == pytest.approx(0.01, abs=0.003)
    (kept,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(views, "_percentiles", None)
        assert views.shown_range(store, split, Smooth(), tmp_path) == first
    kept.write_bytes(kept.read_bytes()[:-1])
    assert views.shown_range(store, split, Smooth(), tmp_path) == first


class Planted(Smooth):
    """A field of one value, of a rare one or of none."""

    def __init__(self, name: str, values: float, share: float, is_defined: bool = True) -> None:
        self.name, self.values, self.share, self.is_defined = name, values, share, is_defined

    def encode(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        defined = valid & self.is_defined
        return self.values * (values.frac() < self.share).float()[:, None] * defined[:, None], defined


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(Planted("rare", 1, 1e-3), (0, 1)), (Planted("flat", 3, 2), (2.5, 3.5)), (Planted("none", 1, 1, False), (0, 1))],
)
def test_a_range_is_never_empty(
    store: Store, split: Split, tmp_path: Path, wanted: Target, expected: tuple[float, float]
) -> None:
    assert views.shown_range(store, split, wanted, tmp_path) == expected
