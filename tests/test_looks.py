"""Scenes keep their names in every store of the same data, so that a look at them is known again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from diode_files import write_tree
from nyu_files import SMALL_SIZE, plant, write_mat
from planted import PlantedReader, write_pairs

from idl.data.crops import CroppedStore
from idl.data.diode import DiodeReader
from idl.data.folder import FolderReader
from idl.data.looks import are_shared, scene_sketch
from idl.data.nyu import NyuReader
from idl.data.preparation import prepare
from idl.data.reader import Archive, Reader
from idl.data.rooms import RoomsReader, RoomsRecipe
from idl.data.splits import split_by_scene, split_store
from idl.data.store import Store
from idl.protocol import Protocol

SMALL = Protocol(resolution=32)
OTHER = Protocol(resolution=48, max_depth_m=9.5, erosion=1)
SCENES = tuple(f"s{number:03d}" for number in range(112))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(resolution=32), SMALL, tmp_path_factory.mktemp("store"))


def rooms(store: Store, recipe: RoomsRecipe) -> Store:
    """A store of rooms, by what preparation keeps of its reader."""
    return replace(store, name="rooms", recipe=json.dumps(RoomsReader(recipe).recipe))


def test_rooms_are_the_same_at_any_resolution_and_number_and_others_under_another_seed(store: Store) -> None:
    base = scene_sketch(rooms(store, RoomsRecipe()), SCENES)
    assert len(set(base.split())) == len(SCENES)
    for same in (RoomsRecipe(resolution=64), RoomsRecipe(num_scenes=900, views=2)):
        assert scene_sketch(rooms(store, same), SCENES) == base
    assert not are_shared(scene_sketch(rooms(store, RoomsRecipe(seed=1)), SCENES), base)
    # The name of a folder makes no rooms of it.
    pairs = json.dumps({"reader": "folder", "root": "/data/rooms", "scene": "folder"})
    assert not are_shared(scene_sketch(replace(store, name="rooms", recipe=pairs), SCENES), base)


def prepared(reader: Reader | Archive, protocol: Protocol, folder: Path) -> tuple[Store, str]:
    store = prepare(reader, protocol, folder)
    return store, scene_sketch(store, store.scenes)


def test_a_folder_is_known_again_under_another_protocol(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        write_pairs(tmp_path / name, num=6, size=(64, 64), seed=seed)
    made = [
        prepared(FolderReader(tmp_path / root, protocol, scale, scene=scene), protocol, tmp_path / "stores")
        for root, protocol, scale, scene in (
            ("one", SMALL, 1000.0, "block:2"),
            ("one", OTHER, 500.0, "block:2"),
            ("one", SMALL, 1000.0, "block:3"),
            ("two", SMALL, 1000.0, "block:2"),
        )
    ]
    assert len({store.digest for store, _ in made}) == 4
    (_, one), (_, again), (_, otherwise), (_, elsewhere) = made
    assert again == one
    # Blocks of another length are other images under the same name.
    assert not are_shared(otherwise, one)
    assert not are_shared(elsewhere, one)


def test_published_scenes_are_the_same_wherever_the_files_lie(tmp_path: Path) -> None:
    scenes = ("den_01", "den_01", "hall_02", "hall_02", "attic_03", "attic_03")
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        write_mat(tmp_path / place / "nyu_depth_v2_labeled.mat", plant(scenes=scenes))
    nyu = [
        prepared(
            NyuReader(tmp_path / place / "nyu_depth_v2_labeled.mat", protocol, depths, size=SMALL_SIZE),
            protocol,
            tmp_path / "stores",
        )[1]
        for place, protocol, depths in (
            ("here", SMALL, "sensor"),
            ("there", replace(SMALL, max_depth_m=9), "inpainted"),
        )
    ]
    assert nyu[0] == nyu[1]
    assert len(nyu[0].split()) == 3

    write_tree(tmp_path / "diode", per_scan=1)
    shutil.copytree(tmp_path / "diode", tmp_path / "moved")
    far = replace(SMALL, max_depth_m=80.0)
    whole, part = (
        prepared(DiodeReader(tmp_path / root, protocol, subset), protocol, tmp_path / "stores")[1]
        for root, protocol, subset in (("diode", far, "all"), ("moved", replace(far, erosion=1), "indoors"))
    )
    assert set(part.split()) < set(whole.split())


def test_splits_that_overlap_share_and_those_that_do_not_do_not(store: Store) -> None:
    of_three, of_one, other = (
        split_by_scene(SCENES, rule, seed=seed) for rule, seed in (("11:2:3", 0), ("8:1:1", 0), ("11:2:3", 1))
    )
    wide, narrow, moved = (split.looks(store)["test_scenes"] for split in (of_three, of_one, other))
    assert set(narrow.split()) < set(wide.split())
    assert of_three.test_digest != of_one.test_digest
    assert are_shared(moved, wide) == bool(set(other.scenes["test"]) & set(of_three.scenes["test"]))
    assert not are_shared(scene_sketch(store, of_three.scenes["train"]), wide)


def test_many_scenes_are_a_sample_that_fits_a_tag_and_is_the_same_of_every_set(store: Store) -> None:
    def sketch(*numbers: range) -> str:
        return scene_sketch(store, (f"s{number}" for part in numbers for number in part))

    many = sketch(range(30_000))
    assert 7000 < len(many) <= 8000
    assert sketch(range(29_999, -1, -1)) == many
    # 2 % of all scenes of both are shared.
    assert are_shared(many, sketch(range(29_000, 50_000)))
    single = [sketch(range(number, number + 1)) for number in range(1000)]
    found = sum(are_shared(each, many) for each in single)
    assert found == pytest.approx(1000 / 30, abs=20)


def test_a_store_without_a_recipe_goes_by_its_source(tmp_path: Path) -> None:
    made = prepare(PlantedReader(resolution=32), SMALL, tmp_path)
    assert json.loads(made.recipe)["seed"] == 0
    with h5py.File(made.path, "r+") as file:
        del file.attrs["recipe"]
    older = Store.open(made.path)
    assert scene_sketch(older, SCENES) == scene_sketch(replace(older, digest="another"), SCENES)
    assert not are_shared(scene_sketch(older, SCENES), scene_sketch(replace(older, source="elsewhere"), SCENES))


def test_crops_of_a_scene_are_that_scene(store: Store) -> None:
    known = {name: getattr(store, name) for name in store.__dataclass_fields__}
    names = {"names": (*store.names, "crop"), "scenes": (*store.scenes, store.scenes[0])}
    crops = CroppedStore(**{**known, **names}, reader=None, recipes=(None,), groups={})  # pyright: ignore[reportArgumentType]
    assert scene_sketch(crops, crops.scenes) == scene_sketch(store, store.scenes)
    assert split_store(store, "auto", 0).looks(store).keys() == {"test_digest", "test_scenes"}
