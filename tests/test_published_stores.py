"""Stores of datasets with a published split and native truth, and what is asked of a dataset by its protocol."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from planted import PlantedReader, SmallNetwork, write_pairs
from planted_frames import FramesReader

from idl.data import datasets, preparation
from idl.data.datasets import DatasetConfig
from idl.data.preparation import prepare
from idl.data.reader import Sample
from idl.data.store import Store
from idl.encoders import Encoder, Origin
from idl.encoders.autoencoder import AutoencoderConfig
from idl.errors import InputError
from idl.protocol import NATIVE, Protocol
from idl.training import Reconstruction, TrainingConfig
from idl.training.checks import require_size

SMALL = Protocol(name="small", resolution=24, width=32, is_native=True, max_depth_m=3.0)


def frames(**changes: Any) -> FramesReader:
    return FramesReader(**{"num_scenes": 6, "views": 2, "protocol": SMALL, **changes})


def test_a_store_knows_sides_and_native_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "IMAGES_PER_SEGMENT", 4)
    reader = frames(num_test=2)
    store = prepare(reader, SMALL, tmp_path)
    assert store.sides == ("train",) * 8 + ("test",) * 4
    assert store.layers == ("depth", NATIVE, "rgb", "valid")
    samples = [sample for index in range(6) for sample in reader.read(index)]
    read = store.read(("rgb", NATIVE), range(12))
    for row, sample in enumerate(samples):
        truth = sample.layers[NATIVE]
        assert truth.max() > 3.0
        np.testing.assert_array_equal(read[NATIVE][row], np.where(truth <= 3.0, truth, 0))
        np.testing.assert_array_equal(read["rgb"][row], sample.rgb)


def test_sides_are_part_of_the_content_and_absent_where_there_are_none(tmp_path: Path) -> None:
    with_sides, without = (prepare(frames(num_test=num), SMALL, tmp_path / str(num)) for num in (2, 0))
    assert with_sides.digest != without.digest
    assert without.sides == ()
    with h5py.File(without.path, "r") as file:
        assert "side" not in file


def test_sides_of_another_length_are_damage(tmp_path: Path) -> None:
    store = prepare(frames(num_test=2), SMALL, tmp_path)
    with h5py.File(store.path, "r+") as file:
        del file["side"]
        file.create_dataset("side", data=["train", "test"], dtype=h5py.string_dtype())
    with pytest.raises(InputError, match="side has another length"):
        Store.open(store.path)


def test_a_reader_without_native_truth_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scene_00_0 has no native depth, which small is measured on"):
        prepare(frames(has_native=False), SMALL, tmp_path)
    assert not list(tmp_path.glob("*.h5"))


@pytest.mark.parametrize("images_per_segment", [2, 48])
def test_frames_of_two_sizes_are_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images_per_segment: int
) -> None:
    class Mixed(FramesReader):
        def read(self, index: int) -> list[Sample]:
            other = replace(frames(), frame=(48, 64))
            return other.read(index) if index == 3 else super().read(index)

    monkeypatch.setattr(preparation, "IMAGES_PER_SEGMENT", images_per_segment)
    reader = Mixed(num_scenes=6, views=2, protocol=SMALL)
    with pytest.raises(InputError, match="native_depth has 96 x 128 pixels in one image, 48 x 64 in another"):
        prepare(reader, SMALL, tmp_path)
    assert not list(tmp_path.glob("*.h5"))


@pytest.mark.parametrize("dataset", ["rooms", "folder"])
def test_datasets_without_native_truth_refuse_native_protocols(tmp_path: Path, dataset: str) -> None:
    write_pairs(tmp_path / "walk", num=3)
    config = DatasetConfig(dataset=dataset, data=str(tmp_path / "walk"), protocol_name="nyu-eigen")
    with pytest.raises(InputError, match=f"nyu-eigen: .* dataset={dataset} does not have. Pass protocol=idl"):
        datasets.require(config)
    datasets.require(replace(config, protocol_name="idl"))


def test_the_range_is_the_protocols_unless_it_is_given() -> None:
    outdoor = DatasetConfig(protocol_name="diode-outdoor").protocol
    assert (outdoor.min_depth_m, outdoor.max_depth_m) == (1e-3, 80.0)
    near = DatasetConfig(protocol_name="diode-outdoor", max_depth_m=20.0).protocol
    assert (near.min_depth_m, near.max_depth_m) == (1e-3, 20.0)
    assert DatasetConfig().protocol == Protocol()


def test_a_store_of_another_protocol_is_refused(tmp_path: Path) -> None:
    path = prepare(PlantedReader(num_scenes=3), Protocol(resolution=64, max_depth_m=5.0), tmp_path).path
    config = DatasetConfig(dataset=str(path))
    for asked in (config, replace(config, max_depth_m=5.0), replace(config, protocol_name="idl", max_depth_m=5.0)):
        datasets.require(asked)
    with pytest.raises(InputError, match=r"another protocol \(name is idl, not diode-outdoor, max_depth_m is 5.0"):
        datasets.require(replace(config, protocol_name="diode-outdoor"))
    with pytest.raises(InputError, match=r"\(max_depth_m is 5.0, not 4.0\)"):
        datasets.require(replace(config, max_depth_m=4.0))
    with pytest.raises(InputError, match="no such protocol"):
        datasets.require(replace(config, protocol_name="eigen"))


def test_a_training_refuses_rectangles(tmp_path: Path) -> None:
    objective = Reconstruction(AutoencoderConfig(n_hid=4, latent_channels=2), 0)
    require_size(objective, TrainingConfig(crop=16), Protocol(resolution=32))
    with pytest.raises(InputError, match="takes square images, and these have 32 x 64 pixels"):
        require_size(objective, TrainingConfig(crop=16), Protocol(resolution=32, width=64))


def test_an_encoder_is_asked_for_both_sides() -> None:
    origin = Origin("small", "custom", "digest", "none", 0, "tests")
    encoder = Encoder(SmallNetwork(), name="small", stride=8, channels=8, origin=origin)
    encoder.require(24, 32)
    with pytest.raises(InputError, match="24 x 36 pixels"):
        encoder.require(24, 36)
