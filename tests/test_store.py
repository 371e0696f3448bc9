"""The store reads what h5py reads, and says where a file is damaged."""

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import PlantedReader

from idl.data.preparation import prepare
from idl.data.store import Store, dataset_of
from idl.errors import InputError
from idl.protocol import Protocol

NUM_IMAGES = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(num_scenes=20), Protocol(resolution=64), tmp_path_factory.mktemp("store"))


@given(indices=st.lists(st.integers(0, NUM_IMAGES - 1), max_size=9))
def test_any_images_in_any_order_are_those_of_h5py(store: Store, indices: list[int]) -> None:
    read = store.read(store.layers, indices)
    with h5py.File(store.path, "r") as file:
        for layer in store.layers:
            expected = dataset_of(file, layer)[:][indices]
            np.testing.assert_array_equal(read[layer], expected)
            assert read[layer].dtype == expected.dtype


def test_a_file_cut_short_after_it_was_opened_is_said(tmp_path: Path) -> None:
    store = prepare(PlantedReader(num_scenes=20), Protocol(resolution=64), tmp_path)
    store.read(("rgb",), [0])
    os.truncate(store.path, store.path.stat().st_size // 20)
    with pytest.raises(InputError, match=r"damaged .*idl prepare"):
        store.read(("rgb",), range(NUM_IMAGES))


def test_a_store_that_was_read_goes_to_another_process(store: Store) -> None:
    store.read(("rgb",), [0])
    twin = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(twin.read(("rgb",), [3])["rgb"], store.read(("rgb",), [3])["rgb"])
