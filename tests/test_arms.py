"""The arms of a verdict on planted data: against separate runs, and their laws."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import PlantedReader, SmallNetwork
from planted_features import Colours, FoldedReader, Folding, foreign
from torch import Tensor, nn

from idl.arms import ARMS, ArmsResult, Controls, measure, running
from idl.arms.columns import FIXED
from idl.data.loading import images_of
from idl.data.preparation import prepare
from idl.data.splits import split_by_scene
from idl.data.store import Store
from idl.encoders import Encoder, EncoderConfig, build
from idl.encoders.patches import patches
from idl.errors import InputError
from idl.pipeline import ProbeConfig, probe
from idl.protocol import Protocol
from idl.study.cells import Clustering, Question, cell
from idl.verdict import Gate, VerdictConfig
from idl.verdict.gates import gates

CONFIG = ProbeConfig(batch_size=4)
CPU = torch.device("cpu")
ONE_SEED = Controls(untrained_seeds=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(num_scenes=16), Protocol(resolution=64), tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Store:
    reader = FoldedReader(num_scenes=16, name="folded", source="made by the tests, folded")
    return prepare(reader, Protocol(resolution=64), tmp_path_factory.mktemp("folded"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def result(store: Store, folder: Path) -> ArmsResult:
    return measure(CONFIG, store, foreign(SmallNetwork(), 8), folder, ("3", "all"), ONE_SEED)


def test_arms_are_those_of_separate_runs(store: Store, result: ArmsResult, tmp_path: Path) -> None:
    """Each column set by itself, through `probe`, which predicts at full resolution."""
    own = {k: probe(replace(CONFIG, k=k), store, foreign(SmallNetwork(), 8), tmp_path) for k in ("3", "all")}
    image = {k: probe(replace(CONFIG, k=str(k)), store, patches(8, CPU), tmp_path) for k in (3, 8)}
    for text, run in own.items():
        k = result.ks[text]
        arms, metrics = result.at[k].arms, run.report.metrics
        assert arms["trained"].fitted.solution.val_loss == pytest.approx(metrics["val_loss"], rel=1e-6)
        assert result.mse(k, "trained") == pytest.approx(metrics["test_mse_pooled"], rel=1e-5)
        assert arms["patches"].fitted.solution.val_loss == pytest.approx(image[k].report.metrics["val_loss"], rel=1e-6)
        assert result.mse(k, "patches") == pytest.approx(image[k].report.metrics["test_mse_pooled"], rel=1e-5)
        for arm in ("constant", "position", "null", "null+position"):
            assert result.mse(k, arm) == pytest.approx(metrics[f"arms/{arm.replace('+', '_')}_test_loss"], rel=1e-5)


def test_errors_of_an_image_are_those_of_its_prediction(store: Store, result: ArmsResult, tmp_path: Path) -> None:
    run = probe(replace(CONFIG, k="all"), store, foreign(SmallNetwork(), 8), tmp_path)
    table = run.report.tables["per_image.json"]
    assert list(result.images) == table["image"]
    order = split_by_scene(store.scenes).indices["test"]
    np.testing.assert_array_equal(result.num_valid, store.read(("valid",), order)["valid"].sum(axis=(1, 2)))
    mean = result.at[8].arms["trained"].squared_error / result.num_valid
    np.testing.assert_allclose(np.sqrt(mean), np.array(table["rmse"], float), rtol=1e-4)


def gate_of(result: ArmsResult, k: int) -> Gate:
    """What a verdict makes of the fits on their own training split."""
    training = cell(Question("one", 0, k), result, Clustering(result.scenes, "scene"), ()).training
    (gate,) = (each for each in gates(training, 20, VerdictConfig()) if each.name == "no fit worse than constant")
    return gate


def lent_errors(result: ArmsResult, k: int) -> dict[str, float]:
    """Sums over all images of the errors on lent truth."""
    return {name: arm.squared_error.sum() for name, arm in result.at[k].shuffled.items()}


def test_joint_arms_lose_nothing_against_their_parts(result: ArmsResult) -> None:
    for at in result.at.values():
        for name, arm in at.arms.items():
            if name.endswith("+pixels"):
                for part in ("pixels", name.removesuffix("+pixels")):
                    joint, alone = arm.fitted.solution, at.arms[part].fitted.solution
                    # The largest penalty leaves 1e-8 of what it is laid on.
                    assert joint.cv_loss <= alone.cv_loss * (1 + 1e-7)
                    assert joint.plain_train_loss <= alone.plain_train_loss * (1 + 1e-9)
        assert gate_of(result, at.k).passed


def test_features_of_the_pixels_add_nothing(store: Store, tmp_path: Path) -> None:
    result = measure(CONFIG, store, foreign(Colours(), 3), tmp_path, ("all",), ONE_SEED)
    arms = result.at[3].arms
    pixels, both = (arms[name].fitted.solution for name in ("pixels", "trained+pixels"))
    # What is left of three columns more is their rounding to half precision.
    assert 0.999 * pixels.plain_train_loss < both.plain_train_loss <= pixels.plain_train_loss
    # With a penalty, what is there twice is penalised half as much.
    np.testing.assert_allclose(arms["trained+pixels"].squared_error, arms["pixels"].squared_error, rtol=0.03)
    # Alone they are the downsampled image in other coordinates, whose whitened components are the null's but for turns.
    for loss in ("plain_train_loss", "train_loss", "val_loss", "cv_loss"):
        trained, null = (getattr(arms[name].fitted.solution, loss) for name in ("trained", "null"))
        assert trained == pytest.approx(null, rel=1e-4)
    # Three directions of the features are the null's: that is no loss of rank.
    joint = arms["trained+pixels"].fitted
    assert joint.solution.num_columns - joint.solution.rank == 3
    assert joint.expected_rank == joint.solution.rank


def test_a_planted_feature_is_found_beyond_the_pixels(folded: Store, tmp_path: Path) -> None:
    encoder = foreign(Folding(), 3)
    result = measure(CONFIG, folded, encoder, tmp_path, ("all",), ONE_SEED)
    noise = PlantedReader.noise_m**2
    lent = lent_errors(result, 3)
    assert result.mse(3, "pixels") > 0.8 * result.mse(3, "constant")
    # Cells of 8 x 8 pixels leave out what varies within them.
    assert noise < result.mse(3, "trained+pixels") < 0.6 * result.mse(3, "pixels")
    assert lent["trained"] > 0.8 * lent["constant"]


def test_shuffled_truth_is_the_same_to_what_does_not_look(result: ArmsResult, store: Store) -> None:
    for at in result.at.values():
        assert set(at.shuffled) == {*FIXED, "trained"}
        for name in ("constant", "position"):
            own, lent = at.arms[name].fitted, at.shuffled[name].fitted
            assert lent.solution.plain_train_loss == pytest.approx(own.solution.plain_train_loss, rel=1e-5)
        # What a constant loses on lent truth it loses where that truth is at home.
        lent, own = at.shuffled["constant"].squared_error, at.arms["constant"].squared_error
        np.testing.assert_allclose(lent, own, rtol=1e-5)
        assert (np.abs(at.shuffled["null"].squared_error - at.arms["null"].squared_error) > 0.1 * own).any()
    # Depth is linear in red: of other images' depth red says nothing.
    assert result.mse(3, "null") < 0.5 * result.mse(3, "constant")
    lent_sums = lent_errors(result, 3)
    assert lent_sums["null"] > 0.9 * lent_sums["constant"]


def test_the_common_null_is_that_of_the_null_encoder(store: Store, tmp_path: Path) -> None:
    encoder = build(EncoderConfig("timm:convnext_atto", weights="random", encoder_args=TINY), CPU)
    result = measure(CONFIG, store, encoder, tmp_path, ("2",), ONE_SEED)
    null = probe(CONFIG, store, build(EncoderConfig("null", stride=8), CPU), tmp_path)
    assert result.common_null is not None
    mse = result.common_null.squared_error.sum() / result.num_valid.sum()
    assert mse == pytest.approx(null.report.metrics["arms/null_test_loss"], rel=1e-5)
    # Its own grid is coarser, and its null another.
    assert result.stride == 16
    assert result.mse(2, "null") > mse


TINY = '{"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}'


def test_twins_of_both_forms_are_there_and_different(store: Store, tmp_path: Path) -> None:
    encoder = build(EncoderConfig("encoder_contract:PatchMean", seed=5), CPU)
    result = measure(CONFIG, store, encoder, tmp_path, ("2", "4"), Controls(untrained_seeds=2))
    names = [twin.name for twin in result.twins]
    assert names == [f"untrained-{form}-{seed}" for form in ("random", "permuted") for seed in (0, 1)]
    assert len({twin.digest for twin in result.twins}) == 4
    assert result.missing == ()
    for at in result.at.values():
        assert set(at.arms) == {*ARMS, *names, *(f"{name}+pixels" for name in names)}
        assert len({at.arms[name].fitted.solution.val_loss for name in names}) == 4
    assert set(result.curves) == {"trained", *names}
    assert set(result.images_per_s) == {"patches", "trained", "common null", *names}


def test_controls_that_cannot_be_had_are_named(result: ArmsResult, tmp_path: Path) -> None:
    assert [twin.form for twin in result.twins] == ["permuted"]
    (sentence,) = result.missing
    assert sentence.startswith("untrained, random: encoder=foreign: cannot be built")
    few = prepare(PlantedReader(num_scenes=3, name="few"), Protocol(resolution=64), tmp_path / "store")
    null = build(EncoderConfig("null", stride=8), CPU)
    lone = measure(CONFIG, few, null, tmp_path / "cache", ("all",))
    assert lone.missing == ("shuffled: one scene has more than half of the images of a split.",)
    assert lone.twins == ()
    assert lone.at[3].shuffled == {}
    assert lone.mse(3, "trained") == pytest.approx(lone.mse(3, "null"), rel=1e-3)


class Fragile(nn.Module):
    """The downsampled image, unless its one weight that is not zero moves."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(16)[0])

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 8) * self.weight[0]


def test_a_twin_that_is_dead_is_named(store: Store, tmp_path: Path) -> None:
    result = measure(CONFIG, store, foreign(Fragile(), 3), tmp_path, ("all",), ONE_SEED)
    assert result.twins == ()
    assert result.missing[1].startswith("untrained-permuted-0: encoder: the features are the same at every cell")
    assert set(result.at[3].arms) == set(ARMS)


class RunsAway(nn.Module):
    """Two numbers of the downsampled image; of images of some brightness `value`, once its weights have moved."""

    def __init__(self, brightness: Tensor, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(64.0))
        self.brightness, self.value = brightness, value

    def forward(self, x: Tensor) -> Tensor:
        maps = nn.functional.avg_pool2d(x, 8)[:, :2] * self.weight.sum()
        is_meant = torch.isin(x.mean(dim=(1, 2, 3)), self.brightness)
        if (self.weight.diff() > 0).all() or not is_meant.any():
            return maps
        # Differences between channels of such numbers are none.
        return torch.where(is_meant[:, None, None, None], self.value * maps.sign(), maps)


@pytest.mark.parametrize("name", ["train", "val", "test"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_twin_that_runs_away_on_later_images_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    # The basis has seen all training images but the last one.
    image = split_by_scene(store.scenes).indices[name][-1]
    network = RunsAway(images_of(torch.from_numpy(store.read(("rgb",), [image])["rgb"])).mean(dim=(1, 2, 3)), value)
    monkeypatch.setattr("idl.features.BASIS_IMAGES", 24)
    result = measure(CONFIG, store, foreign(network, 2), tmp_path, ("all",), ONE_SEED)
    with pytest.raises(InputError, match="no verdict without a control"):
        measure(CONFIG, store, foreign(network, 2), tmp_path, ("all",), replace(ONE_SEED, needs_twin=True))
    assert result.twins == ()
    sentence = f"untrained-permuted-0: encoder: the features of image {store.names[image]} are not finite"
    assert result.missing[1].startswith(sentence)
    assert set(result.at[2].arms) == set(ARMS)
    assert set(result.curves) == {"trained"}


def test_an_encoder_that_runs_away_on_an_image_ends_in_one_line(store: Store, tmp_path: Path) -> None:
    class Away(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(x, 8) / (x.mean(dim=(1, 2, 3)) != brightness)[:, None, None, None]

    image = split_by_scene(store.scenes).indices["test"][0]
    brightness = images_of(torch.from_numpy(store.read(("rgb",), [image])["rgb"])).mean()
    for run in (
        lambda: measure(CONFIG, store, foreign(Away(), 3), tmp_path, ("all",), ONE_SEED),
        lambda: probe(CONFIG, store, foreign(Away(), 3), tmp_path / "probe"),
    ):
        with pytest.raises(InputError, match=f"encoder: the features of image {store.names[image]} are not finite"):
            run()


def test_a_fit_that_is_worse_than_a_constant_is_named(result: ArmsResult) -> None:
    at = result.at[3]
    constant = at.arms["constant"].fitted.solution.plain_train_loss
    for loss in (1.01 * constant, float("nan")):
        arm = at.arms["trained"]
        solution = replace(arm.fitted.solution, plain_train_loss=loss)
        broken = replace(arm, fitted=replace(arm.fitted, solution=solution))
        spoilt = replace(result, at={3: replace(at, arms={**at.arms, "trained": broken})})
        gate = gate_of(spoilt, 3)
        assert not gate.passed
        assert gate.detail.endswith(f": trained {loss:.4g}")
    assert gate_of(result, 3).passed


def count_encoded(monkeypatch: pytest.MonkeyPatch, most: int | None = None) -> list[int]:
    """Count images that encoders see, and interrupt once `most` were seen."""
    seen = [0]
    forward = Encoder.forward

    def counting(self: Encoder, rgb: Tensor) -> Tensor:
        if most is not None and seen[0] + len(rgb) > most:
            raise KeyboardInterrupt
        seen[0] += len(rgb)
        return forward(self, rgb)

    monkeypatch.setattr(Encoder, "forward", counting)
    monkeypatch.setattr(Encoder, "require", lambda self, *size: None)
    return seen


def same(one: ArmsResult, two: ArmsResult) -> bool:
    """Bit for bit, apart from the clock."""
    return all(
        np.array_equal(one.at[k].arms[name].squared_error, two.at[k].arms[name].squared_error)
        and one.at[k].arms[name].fitted.solution.val_loss == two.at[k].arms[name].fitted.solution.val_loss
        for k in one.at
        for name in one.at[k].arms
    )


def test_interrupted_it_goes_on_to_the_same_numbers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idl.features.BASIS_IMAGES", 8)

    def run(folder: Path) -> ArmsResult:
        return measure(CONFIG, store, foreign(SmallNetwork(), 8), folder, ("2", "all"), ONE_SEED)

    with monkeypatch.context() as patch:
        everything = count_encoded(patch)
        whole = run(tmp_path / "whole")
    # Patches, the encoder, its permuted twin, and the common null.
    assert everything[0] == 4 * store.num_images
    spent = 0
    for most in (60, 30):
        spent += most
        with monkeypatch.context() as patch:
            count_encoded(patch, most)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "parts")
    with monkeypatch.context() as patch:
        left = count_encoded(patch)
        resumed = run(tmp_path / "parts")
    assert same(whole, resumed)
    # At most a basis's images are encoded twice at each interruption.
    assert 0 < left[0] <= everything[0] - spent + 2 * 8
    with monkeypatch.context() as patch:
        none = count_encoded(patch)
        assert same(run(tmp_path / "whole"), whole)
        assert none[0] == 0


def test_a_probe_pays_nothing_for_the_arms_and_lends_them_its_maps(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = foreign(SmallNetwork(), 8)
    before = probe(CONFIG, store, encoder, tmp_path / "alone").report.metrics
    seen = count_encoded(monkeypatch)
    measure(CONFIG, store, encoder, tmp_path / "alone", ("all",), ONE_SEED)
    # The common null, the patches and the permuted twin.
    assert seen[0] == 3 * store.num_images
    measure(CONFIG, store, encoder, tmp_path / "arms", ("all",), ONE_SEED)
    seen[0] = 0
    after = probe(CONFIG, store, encoder, tmp_path / "arms").report.metrics
    assert seen[0] == 0
    for name in ("train_loss", "val_loss", "test_loss", "test_rmse", "arms/null_test_loss"):
        assert after[name] == before[name]


def test_all_is_fitted_before_the_test_split_is_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = set(split_by_scene(store.scenes).indices["test"])
    events: list[str] = []
    read, fit_all = Store.read, running.fit_all

    def spy(self: Store, layers: Sequence[str], indices: Sequence[int]) -> Any:
        events.append("test" if held_out & set(indices) else "other")
        return read(self, layers, indices)

    def mark(*arguments: Any, **further: Any) -> Any:
        events.append("fit")
        return fit_all(*arguments, **further)

    monkeypatch.setattr(Store, "read", spy)
    monkeypatch.setattr(running, "fit_all", mark)
    measure(CONFIG, store, foreign(SmallNetwork(), 8), tmp_path, ("2", "all"), ONE_SEED)
    # The encoder, shuffled, a twin, and the common null.
    assert events.count("fit") == 4
    assert "fit" not in events[events.index("test") :]


def test_normals_are_measured_with_their_three_numbers(store: Store, tmp_path: Path) -> None:
    encoder = foreign(SmallNetwork(), 8)
    result = measure(replace(CONFIG, target="normals"), store, encoder, tmp_path, ("all",), ONE_SEED)
    metrics = probe(replace(CONFIG, target="normals", k="all"), store, encoder, tmp_path).report.metrics
    assert result.num_outputs == 3
    assert result.at[8].arms["trained"].fitted.solution.val_loss == pytest.approx(metrics["val_loss"], rel=1e-6)
    assert result.mse(8, "null+position") == pytest.approx(metrics["arms/null_position_test_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("config", "ks", "message"),
    [
        (CONFIG, ("3", "9"), "ks=3,9: 9 is no number from 1 to 8, the channels of foreign"),
        (CONFIG, ("3", "auto"), "ks=3,auto: auto is no number"),
        (CONFIG, ("0",), "ks=0: 0 is no number from 1"),
        (CONFIG, ("-3",), "ks=-3: -3 is no number from 1"),
        (CONFIG, (), "ks: none given"),
        (replace(CONFIG, solver="adam"), ("3",), "solver=adam"),
        (replace(CONFIG, target="dept"), ("3",), "did you mean 'depth'"),
    ],
)
def test_bad_settings_end_before_an_image_is_encoded(
    store: Store, tmp_path: Path, config: ProbeConfig, ks: Sequence[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        measure(config, store, foreign(SmallNetwork(), 8), tmp_path, ks)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "value"), [("untrained_seeds", 0), ("shuffle_seed", -1), ("common_stride", 0)])
def test_controls_that_cannot_be_are_named_as_their_options_are(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"^{name}={value}: expected"):
        Controls(**{name: value})  # pyright: ignore[reportArgumentType]
