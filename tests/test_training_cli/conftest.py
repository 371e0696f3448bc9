"""A working folder for each test, with its own cache and tracking store, and small stores that are made once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from planted import PlantedReader

from idl.data.preparation import prepare
from idl.data.rooms import RoomsReader, RoomsRecipe
from idl.protocol import Protocol
from idl.tracking.quiet import quiet
from idl.tracking.schema import create_schema


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small stores, of rooms, without labels and of 60 pixels, and an empty tracking store."""
    folder = tmp_path_factory.mktemp("templates")
    rooms = prepare(RoomsReader(RoomsRecipe(12, 2, 64, 0)), Protocol(resolution=64), folder / "made")
    rooms.path.rename(folder / "tiny.h5")
    planted = prepare(PlantedReader(num_scenes=12, views=2), Protocol(resolution=64), folder / "made")
    planted.path.rename(folder / "unlabelled.h5")
    odd = prepare(PlantedReader(num_scenes=12, views=2, resolution=60), Protocol(resolution=60), folder / "made")
    odd.path.rename(folder / "odd.h5")
    shutil.rmtree(folder / "made")
    with quiet():
        create_schema(f"sqlite:///{folder}/mlflow.db", f"sqlite:///{folder}/mlflow.db")
    return folder


@pytest.fixture
def folder(templates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with its own cache, tracking store and datasets."""
    for path in templates.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield tmp_path
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]
