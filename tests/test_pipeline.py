"""The main path on planted data: against brute force, and its laws."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dense import dense_losses, images_of
from planted import PlantedReader, SmallNetwork
from torch import Tensor

from idl import pipeline
from idl.data.preparation import prepare
from idl.data.splits import split_by_scene
from idl.data.store import Store
from idl.encoders import Encoder, EncoderConfig, Origin, build
from idl.errors import InputError
from idl.features import EncodedDataset
from idl.fitting import fit_statistics, training_set
from idl.pipeline import Run, describe, materialise, probe
from idl.probe_config import ProbeConfig
from idl.probes.linear_probe import LinearProbe
from idl.progress import silent
from idl.protocol import Protocol
from idl.targets import Target, target
from idl.targets.base import Depth

CONFIG = ProbeConfig(batch_size=4)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(num_scenes=12), Protocol(resolution=64), tmp_path_factory.mktemp("store"))


class CountingEncoder(Encoder):
    num_encoded = 0

    def require(self, height: int, width: int = 0) -> None:
        """It takes every size: no trial image is counted."""

    def forward(self, rgb: Tensor) -> Tensor:
        self.num_encoded += len(rgb)
        return super().forward(rgb)


def encoder(seed: int = 0) -> CountingEncoder:
    network = SmallNetwork(seed=seed)
    origin = Origin("small", "custom", f"digest{seed}", "none", seed, "tests")
    return CountingEncoder(network, name="small", stride=8, channels=8, origin=origin)


@pytest.mark.parametrize("name", ["depth", "log-depth", "inverse-depth", "normals"])
@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_losses_are_those_of_brute_force(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, penalty: float
) -> None:
    monkeypatch.setattr("idl.fitting.PENALTIES", (penalty,))
    run = probe(replace(CONFIG, target=name, k="all"), store, encoder(), tmp_path)
    split = split_by_scene(store.scenes)
    parts = {part: images_of(store, split.indices[part], target(name)) for part in ("train", "val", "test")}
    with torch.inference_mode():
        expected = dense_losses(encoder(), parts["train"], [*parts.values()], penalty)
    # Half precision moves a prediction by about 2.8e-4 of its spread; times a residual of a third of it and averaged
    # over the 384 cells of the smallest split, that is 1e-5 of the variance, 1e-4 of the loss.
    assert [run.report.metrics[f"{part}_loss"] for part in parts] == pytest.approx(expected, rel=2e-4)


def test_a_second_probe_encodes_nothing_and_gives_the_same_numbers(store: Store, tmp_path: Path) -> None:
    first, second, other = encoder(), encoder(), encoder()
    one = probe(CONFIG, store, first, tmp_path)
    two = probe(CONFIG, store, second, tmp_path)
    assert first.num_encoded == store.num_images
    assert second.num_encoded == 0
    assert same_figures(one, two)
    probe(replace(CONFIG, target="log-depth"), store, other, tmp_path)
    probe(replace(CONFIG, target="normals"), store, other, tmp_path)
    assert other.num_encoded == 0
    # Another split is other maps.
    probe(replace(CONFIG, split_seed=1), store, encoder(), tmp_path)
    assert len(list((tmp_path / "features").iterdir())) == 2


def same_figures(one: Run, two: Run) -> bool:
    """Bit for bit, apart from what depends on the clock."""
    timed = ("images_per_s", "encoded_images")
    a, b = ({k: v for k, v in run.report.metrics.items() if k not in timed} for run in (one, two))
    tables = all(
        np.array_equal(np.array(one.report.tables[path][column]), np.array(two.report.tables[path][column]))
        for path in ("per_image.json", "arms/arms.csv")
        for column in one.report.tables[path]
    )
    return a == b and tables and one.model.files == two.model.files


class InterruptedEncodingError(Exception):
    pass


@pytest.mark.parametrize("after", [0, 10, 33])
def test_an_interrupted_probe_goes_on_to_the_same_numbers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr("idl.features.BASIS_IMAGES", 8)
    whole = probe(CONFIG, store, encoder(), tmp_path / "whole")
    broken = encoder()
    forward = CountingEncoder.forward

    def interrupt(self: CountingEncoder, rgb: Tensor) -> Tensor:
        if self is broken and self.num_encoded + len(rgb) > after:
            raise InterruptedEncodingError
        return forward(self, rgb)

    monkeypatch.setattr(CountingEncoder, "forward", interrupt)
    with pytest.raises(InterruptedEncodingError):
        probe(CONFIG, store, broken, tmp_path / "parts")
    again = encoder()
    resumed = probe(CONFIG, store, again, tmp_path / "parts")
    assert same_figures(whole, resumed)
    # At most the basis's images, or one batch, are encoded twice.
    assert again.num_encoded <= store.num_images - after + 8


@pytest.mark.parametrize("kind", ["test.maps", "val.maps", "train.maps", "basis.safetensors", "*train*.statistics"])
@pytest.mark.parametrize("how", ["damaged", "truncated"])
def test_a_damaged_cache_is_found_out_and_rebuilt(store: Store, tmp_path: Path, kind: str, how: str) -> None:
    whole = probe(CONFIG, store, encoder(), tmp_path)
    (path,) = (tmp_path / "features").rglob(kind)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content if how == "damaged" else content[: len(content) * 2 // 3])
    # Statistics in the cache need no maps: they go too, so that the maps are read again.
    if kind != "*train*.statistics":
        for cached in (tmp_path / "features").rglob("*.statistics"):
            cached.unlink()
    again = encoder()
    assert same_figures(whole, probe(CONFIG, store, again, tmp_path))
    assert (again.num_encoded > 0) == (kind != "*train*.statistics")


def test_a_planted_cue_is_found_and_a_missing_one_is_not(store: Store, tmp_path: Path) -> None:
    """Depth is linear in red: the null arm reads it; position and a constant do not."""
    metrics = probe(CONFIG, store, encoder(), tmp_path).report.metrics
    assert metrics["arms/null_test_loss"] < 0.3 * metrics["arms/constant_test_loss"]
    assert metrics["arms/position_test_loss"] > 0.9 * metrics["arms/constant_test_loss"]
    assert metrics["test_loss"] < 0.5 * metrics["arms/constant_test_loss"]
    constant = metrics["arms/constant_test_loss"]
    assert metrics["test_r2"] == pytest.approx(1 - metrics["test_mse_pooled"] / constant, abs=1e-5)


def test_the_test_split_decides_nothing_and_is_read_last(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = split_by_scene(store.scenes)
    held_out = set(split.indices["test"])
    events: list[str] = []
    read, fit_arms = Store.read, pipeline.fit_arms

    def spy(self: Store, layers: Sequence[str], indices: Sequence[int]) -> Any:
        events.append("test" if held_out & set(indices) else "other")
        return read(self, layers, indices)

    def mark(*arguments: Any) -> Any:
        events.append("fit")
        return fit_arms(*arguments)

    monkeypatch.setattr(Store, "read", spy)
    monkeypatch.setattr("idl.pipeline.fit_arms", mark)
    probe(CONFIG, store, encoder(), tmp_path)
    assert events.count("fit") == 1
    assert "test" not in events[: events.index("fit")]
    assert "test" in events


class NoiseReader(PlantedReader):
    """Depth that has nothing to do with the picture."""

    def read(self, index: int) -> list:
        noise = np.random.default_rng(index)
        return [
            replace(sample, depth_m=np.where(sample.valid, 2 + noise.random((64, 64)), 0).astype(np.float32))
            for sample in super().read(index)
        ]


def test_noise_is_not_learned(tmp_path: Path) -> None:
    made = prepare(NoiseReader(num_scenes=12), Protocol(resolution=64), tmp_path / "store")
    metrics = probe(CONFIG, made, encoder(), tmp_path).report.metrics
    assert metrics["test_loss"] >= 0.998 * metrics["arms/constant_test_loss"]


def test_the_registered_model_predicts_what_was_measured(store: Store, tmp_path: Path) -> None:
    run = probe(CONFIG, store, encoder(), tmp_path)
    split = split_by_scene(store.scenes)
    read = store.read(("rgb", "depth", "valid"), split.indices["test"])
    rgb = torch.from_numpy(read["rgb"]).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        predicted = run.model.module(rgb)[:, 0].numpy()
    errors = (predicted - read["depth"]) ** 2
    per_image = [np.sqrt(error[valid].mean()) for error, valid in zip(errors, read["valid"], strict=True)]
    np.testing.assert_allclose(np.array(run.report.tables["per_image.json"]["rmse"]), per_image, rtol=1e-4)
    assert predicted.min() >= store.protocol.min_depth_m
    path = tmp_path / "probe.safetensors"
    path.write_bytes(run.model.files["probe.safetensors"])
    loaded = LinearProbe.load(str(path))
    features = encoder()(rgb)
    torch.testing.assert_close(loaded.predict(features, (64, 64)), run.model.module.probe.predict(features, (64, 64)))  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    assert loaded.card.target == "depth"


@pytest.mark.gpu
def test_cuda_gives_the_figures_of_the_cpu(store: Store, tmp_path: Path) -> None:
    """Its twin on the CPU is the comparison with brute force."""
    on_cpu = probe(CONFIG, store, encoder(), tmp_path / "cpu").report.metrics
    on_cuda = probe(CONFIG, store, encoder().to("cuda"), tmp_path / "cuda").report.metrics
    for name in ("train_loss", "val_loss", "test_loss", "test_rmse"):
        assert on_cuda[name] == pytest.approx(on_cpu[name], rel=1e-4)


def test_k_is_kept_and_the_curve_holds_the_chosen_one(store: Store, tmp_path: Path) -> None:
    run = probe(replace(CONFIG, k="3"), store, encoder(), tmp_path)
    table = run.report.tables["curves/loss_over_k.csv"]
    assert run.report.params["k_chosen"] == 3
    assert [k for k, loss in zip(table["k"], table["test_loss"], strict=True) if loss is not None] == [3]
    for loss in ("val_loss", "cv_loss"):
        assert table[loss][3] == pytest.approx(run.report.metrics[loss], rel=1e-9)
    automatic = probe(CONFIG, store, encoder(), tmp_path)
    assert automatic.report.metrics["cv_loss"] == min(table["cv_loss"])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["depth", "log-depth"])
@pytest.mark.parametrize("k", ["all", "auto"])
def test_all_of_the_null_encoder_is_the_null_arm(store: Store, tmp_path: Path, name: str, k: str) -> None:
    """The same numbers, in the same coordinates, under the same penalty."""
    null = build(EncoderConfig("null", stride=8), CPU)
    metrics = probe(replace(CONFIG, target=name, k=k), store, null, tmp_path).report.metrics
    if k == "all":
        assert metrics["loss_over_null"] == pytest.approx(1, rel=1e-6)
        assert metrics["val_loss"] == pytest.approx(metrics["arms/null_val_loss"], rel=1e-6)
    else:
        # Of any number of its components the best is taken, by cross-validation.
        whole = probe(replace(CONFIG, target=name, k="all"), store, null, tmp_path).report.metrics
        assert metrics["cv_loss"] <= whole["cv_loss"] * (1 + 1e-12)


def test_the_figures_are_the_same_at_any_batch_size(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last ones go on from the maps of the first, whose sums are lost: the first batch has another mean."""
    monkeypatch.setattr("idl.features.BASIS_IMAGES", 8)
    one, other = (
        probe(replace(CONFIG, batch_size=size), store, encoder(), tmp_path / str(size)).report.metrics
        for size in (4, 5)
    )
    for cached in (tmp_path / "4" / "features").rglob("*train*.statistics"):
        cached.unlink()
    others = (other, probe(replace(CONFIG, batch_size=7), store, encoder(), tmp_path / "4").report.metrics)
    for other in others:
        for name in ("train_loss", "val_loss", "test_loss", "test_rmse", "test_delta1"):
            assert other[name] == pytest.approx(one[name], rel=1e-5)
        assert other["rank"] == one["rank"]


def test_an_encoder_is_described_without_the_test_split(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = set(split_by_scene(store.scenes).indices["test"])
    read = Store.read

    def guard(self: Store, layers: Sequence[str], indices: Sequence[int]) -> Any:
        assert not held_out & set(indices)
        return read(self, layers, indices)

    monkeypatch.setattr(Store, "read", guard)
    run = materialise(CONFIG, store, encoder())
    depth = [images_of(store, split_by_scene(store.scenes).indices[part], target("depth")) for part in ("train", "val")]
    mean = depth[0].target[:, 0][depth[0].valid].double().mean()
    expected = (depth[1].target[:, 0][depth[1].valid].double() - mean).square().mean()
    assert run.report.metrics["val_loss"] == pytest.approx(float(expected), rel=1e-5)
    assert run.model.name == "idl-encoder-small"
    assert set(run.model.files) == {"encoder.safetensors", "origin.json"}
    sheet = describe(CONFIG, store)
    assert sheet.metrics["val_loss"] == run.report.metrics["val_loss"]


DESCENT = ProbeConfig(batch_size=4, solver="adam", k="all", lr=0.03, step_images=4, epochs=200, patience=200)


@pytest.mark.parametrize("name", ["depth", "log-depth", "normals"])
@pytest.mark.parametrize("budget", [2**30, 1])
def test_images_add_up_to_the_split_in_memory_or_streamed(store: Store, tmp_path: Path, name: str, budget: int) -> None:
    encoded = EncodedDataset(store, split_by_scene(store.scenes), encoder(), tmp_path, 4, CPU)
    (statistics,) = fit_statistics(encoded, [target(name)], silent)
    data = training_set(encoded, target(name), statistics, None, silent, budget)
    assert data.plan.is_streamed == (budget == 1)
    whole = data.statistics.whole_train
    # The gradient of one probe a column: the matrix itself.
    rows = torch.eye(data.images.num_columns).repeat_interleave(data.images.num_outputs, dim=0)
    (minibatch,) = data.images.minibatches(torch.arange(data.images.num_images), data.images.num_images)
    found = minibatch.gradient(rows, out=torch.empty_like(rows)).unflatten(0, (-1, data.images.num_outputs))
    expected = 2 * (whole.xtx[:, None] - whole.xty.T) / whole.num_terms
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


class NearDepth(Depth):
    """Depth as far as the mean of what is valid in the image: another mask than depth's."""

    name = "near-depth"

    def encode(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        mean = (values * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)
        return super().encode(values, valid & (values < mean[:, None, None]))


def test_targets_accumulated_together_have_the_statistics_of_each_alone(store: Store, tmp_path: Path) -> None:
    targets: list[Target] = [NearDepth(), *map(target, ("normals", "depth", "log-depth"))]

    def encoded(folder: str) -> EncodedDataset:
        return EncodedDataset(store, split_by_scene(store.scenes), encoder(), tmp_path / folder, 4, CPU)

    fit_statistics(encoded("together"), [target("depth")], silent)
    # One of them is in the cache already.
    together = fit_statistics(encoded("together"), targets, silent)
    for each, joint in zip(targets, together, strict=True):
        (alone,) = fit_statistics(encoded("alone"), [each], silent)
        assert joint.offset == alone.offset
        assert joint.mean_depth_m == alone.mean_depth_m
        for one, two in zip((*joint.train, *joint.val), (*alone.train, *alone.val), strict=True):
            assert (one.num_valid, one.num_images) == (two.num_valid, two.num_images)
            for sums in ("xtx", "xty", "yty"):
                torch.testing.assert_close(getattr(one, sums), getattr(two, sums), rtol=1e-11, atol=1e-9)
    assert together[0].whole_train.num_valid < together[1].whole_train.num_valid


def test_the_probe_comes_to_the_exact_one(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descended = probe(DESCENT, store, encoder(), tmp_path).report
    assert 0 <= descended.metrics["excess_loss"] < 1e-2
    # The exact solver at penalty 0 and the same k, as its curve's first column of penalties would have it.
    exact = probe(replace(DESCENT, solver="exact"), store, encoder(), tmp_path).report
    assert descended.metrics["train_loss"] == pytest.approx(exact.metrics["train_loss"], rel=0.05)
    assert descended.metrics["test_loss"] == pytest.approx(exact.metrics["test_loss"], rel=0.1)
    for arm in ("constant", "position", "null"):
        name = f"arms/{arm}_test_loss"
        assert descended.metrics[name] == exact.metrics[name]
    assert "outcome" in descended.params
    assert "outcome" not in exact.params
    assert not exact.curves
    assert len(descended.curves["train_loss"]) == len(descended.curves["val_loss"]) <= DESCENT.epochs
    assert min(descended.curves["val_loss"]) == descended.metrics["val_loss"]
    # An open k is the exact solver's; the images are taken from the cache.
    short = replace(DESCENT, epochs=2)
    again = probe(short, store, encoder(), tmp_path).report
    monkeypatch.setattr("idl.fitting.ImageGrams.of", None)
    assert probe(short, store, encoder(), tmp_path).report.metrics["test_loss"] == again.metrics["test_loss"]
    monkeypatch.undo()
    chosen = (probe(replace(short, solver=each, k="auto"), store, encoder(), tmp_path) for each in ("exact", "sgd"))
    assert len({run.report.params["k_chosen"] for run in chosen}) == 1


def test_a_trial_that_diverges_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"solver=sgd: diverged with lr=1e\+06. Pass a lower lr"):
        probe(replace(DESCENT, solver="sgd", lr=1e6), store, encoder(), tmp_path)
