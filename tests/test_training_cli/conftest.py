"""A working folder for each test, with small stores in it that are made once."""

import shutil
from pathlib import Path

import pytest
from planted import PlantedReader

from idl.data.preparation import prepare
from idl.data.rooms import RoomsReader, RoomsRecipe
from idl.protocol import Protocol


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small stores: of rooms, without labels, of 60 pixels."""
    folder = tmp_path_factory.mktemp("templates")
    rooms = prepare(RoomsReader(RoomsRecipe(12, 2, 64, 0)), Protocol(resolution=64), folder / "made")
    rooms.path.rename(folder / "tiny.h5")
    planted = prepare(PlantedReader(num_scenes=12, views=2), Protocol(resolution=64), folder / "made")
    planted.path.rename(folder / "unlabelled.h5")
    odd = prepare(PlantedReader(num_scenes=12, views=2, resolution=60), Protocol(resolution=60), folder / "made")
    odd.path.rename(folder / "odd.h5")
    shutil.rmtree(folder / "made")
    return folder


@pytest.fixture
def folder(templates: Path, workplace: Path) -> Path:
    """A working folder with datasets."""
    for path in templates.iterdir():
        shutil.copy(path, workplace)
    return workplace
