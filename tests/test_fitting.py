"""Gradient descent in the pipeline: the statistics it reads, the probe it gives, and what a run reports of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted import PlantedReader, SmallNetwork

from idl import fitting
from idl.data.preparation import prepare
from idl.data.splits import split_by_scene
from idl.data.store import Store
from idl.encoders import Encoder, Origin
from idl.errors import InputError
from idl.features import EncodedDataset
from idl.fitting import fit_statistics, training_set
from idl.pipeline import probe
from idl.probe_config import ProbeConfig
from idl.progress import silent
from idl.protocol import Protocol
from idl.targets import target

CONFIG = ProbeConfig(batch_size=4, solver="adam", k="all", lr=0.03, step_images=4, epochs=200, patience=200)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(num_scenes=12), Protocol(resolution=64), tmp_path_factory.mktemp("store"))


def encoder() -> Encoder:
    origin = Origin("small", "custom", "digest", "none", 0, "tests")
    return Encoder(SmallNetwork(seed=0), name="small", stride=8, channels=8, origin=origin)


@pytest.mark.parametrize("name", ["depth", "log-depth", "normals"])
@pytest.mark.parametrize("budget", [2**30, 1])
def test_images_add_up_to_the_split_in_memory_or_streamed(store: Store, tmp_path: Path, name: str, budget: int) -> None:
    encoded = EncodedDataset(store, split_by_scene(store.scenes), encoder(), tmp_path, 4, CPU)
    statistics = fit_statistics(encoded, target(name), silent)
    data = training_set(encoded, target(name), statistics, None, silent, budget)
    assert data.plan.is_streamed == (budget == 1)
    whole = data.statistics.whole_train
    # The gradient of one probe a column: the matrix itself.
    rows = torch.eye(data.images.num_columns).repeat_interleave(data.images.num_outputs, dim=0)
    (minibatch,) = data.images.minibatches(torch.arange(data.images.num_images), data.images.num_images)
    found = minibatch.gradient(rows, out=torch.empty_like(rows)).unflatten(0, (-1, data.images.num_outputs))
    expected = 2 * (whole.xtx[:, None] - whole.xty.T) / whole.num_terms
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_probe_comes_to_the_exact_one(store: Store, tmp_path: Path) -> None:
    descended = probe(CONFIG, store, encoder(), tmp_path).report
    assert 0 <= descended.metrics["excess_loss"] < 1e-2
    # The exact solver at penalty 0 and the same k, as its curve's first column of penalties would have it.
    exact = probe(replace(CONFIG, solver="exact"), store, encoder(), tmp_path).report
    assert descended.metrics["train_loss"] == pytest.approx(exact.metrics["train_loss"], rel=0.05)
    assert descended.metrics["test_loss"] == pytest.approx(exact.metrics["test_loss"], rel=0.1)
    for arm in ("constant", "position", "null"):
        name = f"arms/{arm}_test_loss"
        assert descended.metrics[name] == exact.metrics[name]
    assert "outcome" in descended.params
    assert "outcome" not in exact.params
    assert not exact.curves
    assert len(descended.curves["train_loss"]) == len(descended.curves["val_loss"]) <= CONFIG.epochs
    assert min(descended.curves["val_loss"]) == descended.metrics["val_loss"]


def test_a_second_training_takes_the_images_from_the_cache(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(CONFIG, epochs=2)
    first = probe(short, store, encoder(), tmp_path).report
    monkeypatch.setattr(fitting.ImageGrams, "of", None)
    assert probe(short, store, encoder(), tmp_path).report.metrics["test_loss"] == first.metrics["test_loss"]


def test_an_open_k_is_the_exact_solvers(store: Store, tmp_path: Path) -> None:
    chosen = [
        probe(replace(CONFIG, solver=solver, k="auto", epochs=2), store, encoder(), tmp_path).report.params["k_chosen"]
        for solver in ("exact", "sgd")
    ]
    assert chosen[0] == chosen[1]


def test_a_trial_that_diverges_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"solver=sgd: diverged with lr=1e\+06. Pass a lower lr"):
        probe(replace(CONFIG, solver="sgd", lr=1e6), store, encoder(), tmp_path)
