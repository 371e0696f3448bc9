"""The store reads what h5py reads, gives every image once in batches, and says where a file is damaged."""

import os
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import PlantedReader
from planted_training import wide_store

from idl.data.loading import batches
from idl.data.preparation import prepare
from idl.data.store import Store, dataset_of
from idl.errors import InputError
from idl.protocol import Protocol

NUM_IMAGES = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(num_scenes=20), Protocol(resolution=64), tmp_path_factory.mktemp("store"))


@settings(deadline=None)
@given(indices=st.lists(st.integers(0, NUM_IMAGES - 1), max_size=9))
def test_any_images_in_any_order_are_those_of_h5py(store: Store, indices: list[int]) -> None:
    read = store.read(store.layers, indices)
    with h5py.File(store.path, "r") as file:
        for layer in store.layers:
            expected = dataset_of(file, layer)[:][indices]
            np.testing.assert_array_equal(read[layer], expected)
            assert read[layer].dtype == expected.dtype


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return wide_store(tmp_path_factory.mktemp("wide"))


@settings(deadline=None)
@given(data=st.data(), height=st.integers(0, 24))
def test_strips_are_rows_of_the_images(wide: Store, data: st.DataObject, height: int) -> None:
    tops = data.draw(st.lists(st.integers(0, 24 - height), max_size=5))
    indices = data.draw(st.permutations(range(wide.num_images)))[: len(tops)]
    strips = wide.read(wide.layers, indices, tops, height)
    with h5py.File(wide.path, "r") as file:
        assert {dataset_of(file, layer).compression for layer in wide.layers} == {None, "lzf"}
        for layer in wide.layers:
            stored = dataset_of(file, layer)[:]
            expected = [stored[index, top : top + height] for index, top in zip(indices, tops, strict=True)]
            assert strips[layer].shape == (len(tops), height, *stored.shape[2:])
            np.testing.assert_array_equal(strips[layer], np.reshape(expected, strips[layer].shape))


def test_a_layer_of_another_height_is_read_whole(wide: Store) -> None:
    read = wide.read(("rgb", "tall"), [5, 2])
    with h5py.File(wide.path, "r") as file:
        for layer, shape in (("rgb", (2, 24, 40, 3)), ("tall", (2, 48, 6))):
            assert read[layer].shape == shape
            np.testing.assert_array_equal(read[layer], dataset_of(file, layer)[:][[5, 2]])


@pytest.mark.parametrize("layer", ["rgb", "red"])
@pytest.mark.parametrize(("top", "height"), [(-1, 5), (20, 5), (0, 25)])
def test_a_strip_beyond_its_image_is_refused(wide: Store, layer: str, top: int, height: int) -> None:
    """The next image would begin there."""
    with pytest.raises(ValueError, match=f"rows {top} to {top + height} of images of 24 rows"):
        wide.read((layer,), [0, 1], [0, top], height)


def test_a_file_cut_short_after_it_was_opened_is_said(tmp_path: Path) -> None:
    store = prepare(PlantedReader(num_scenes=20), Protocol(resolution=64), tmp_path)
    store.read(("rgb",), [0])
    os.truncate(store.path, store.path.stat().st_size // 20)
    with pytest.raises(InputError, match=r"damaged .*idl prepare"):
        store.read(("rgb",), range(NUM_IMAGES))


@pytest.mark.parametrize(("batch_size", "first"), [(1, 0), (5, 0), (5, 10), (60, 0), (100, 0)])
def test_batches_are_the_images_in_order(store: Store, batch_size: int, first: int) -> None:
    order = list(np.random.default_rng(0).permutation(NUM_IMAGES))
    read = list(batches(store, ("rgb", "valid"), order, batch_size, first))
    assert all(len(batch["rgb"]) == batch_size for batch in read[:-1])
    np.testing.assert_array_equal(
        np.concatenate([batch["rgb"].numpy() for batch in read]), store.read(("rgb",), order[first:])["rgb"]
    )


def test_leaving_early_ends_the_thread(store: Store) -> None:
    stream = batches(store, ("rgb",), range(NUM_IMAGES), 1)
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if "idl-loading" in thread.name]


def test_an_error_in_the_thread_is_raised_where_it_is_read(tmp_path: Path) -> None:
    store = prepare(PlantedReader(), Protocol(resolution=64), tmp_path)
    with h5py.File(store.path, "r+") as file:
        del file["valid"]
    with pytest.raises(InputError, match="damaged"):
        list(batches(store, ("valid",), range(24), 4))
