"""Loading gives every image once, in order, and passes errors on."""

import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from planted import PlantedReader

from idl.data.loading import batches
from idl.data.preparation import prepare
from idl.data.store import Store
from idl.errors import InputError
from idl.protocol import Protocol


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return prepare(PlantedReader(), Protocol(resolution=64), tmp_path)


@pytest.mark.parametrize(("batch_size", "first"), [(1, 0), (5, 0), (5, 10), (24, 0), (100, 0)])
def test_batches_are_the_images_in_order(store: Store, batch_size: int, first: int) -> None:
    order = list(np.random.default_rng(0).permutation(24))
    read = list(batches(store, ("rgb", "valid"), order, batch_size, first))
    assert all(len(batch["rgb"]) == batch_size for batch in read[:-1])
    np.testing.assert_array_equal(
        np.concatenate([batch["rgb"].numpy() for batch in read]), store.read(("rgb",), order[first:])["rgb"]
    )


def test_leaving_early_ends_the_thread(store: Store) -> None:
    stream = batches(store, ("rgb",), range(24), 1)
    next(stream)
    stream.close()
    assert "idl-loading" not in {thread.name for thread in threading.enumerate()}


def test_an_error_in_the_thread_is_raised_where_it_is_read(store: Store) -> None:
    with h5py.File(store.path, "r+") as file:
        del file["valid"]
    with pytest.raises(InputError, match="damaged"):
        list(batches(store, ("valid",), range(24), 4))
