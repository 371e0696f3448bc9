"""Splits are disjoint by scene, seeded, and refuse what leaks; tested scenes are known again in every store of them."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nyu_files import SMALL_SIZE, plant, write_mat
from planted import PlantedReader, write_pairs

from idl.data.folder import FolderReader
from idl.data.nyu import NyuReader
from idl.data.preparation import prepare
from idl.data.reader import Reader
from idl.data.rooms import RoomsReader, RoomsRecipe
from idl.data.splits import NUM_FOLDS, Split, are_shared, folds, require_rule, scene_sketch, split_by_scene
from idl.data.store import Store
from idl.errors import InputError
from idl.protocol import Protocol

SCENES = [f"s{number:03d}" for number in range(320) for _ in range(6)]
PLACES = tuple(f"s{number:03d}" for number in range(112))
SMALL = Protocol(resolution=32)
OTHER = Protocol(resolution=48, max_depth_m=9.5, erosion=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(resolution=32), SMALL, tmp_path_factory.mktemp("store"))


@given(st.lists(st.integers(0, 30), min_size=3, max_size=200), st.integers(0, 5), st.booleans())
def test_every_image_is_in_one_split_and_no_scene_in_two(numbers: list[int], seed: int, is_sequential: bool) -> None:
    scenes = [f"s{number}" for number in numbers]
    if len(set(scenes)) < 3:
        with pytest.raises(InputError, match="scenes"):
            split_by_scene(scenes, seed=seed)
        return
    split = split_by_scene(scenes, seed=seed, is_sequential=is_sequential)
    assert sorted(index for indices in split.indices.values() for index in indices) == list(range(len(scenes)))
    sides = [{scenes[index] for index in indices} for indices in split.indices.values()]
    assert all(sides)
    assert len(set.union(*sides)) == sum(len(side) for side in sides)


def test_rooms_are_split_by_default_shares_and_in_an_order_that_the_seed_decides() -> None:
    split = split_by_scene(SCENES)
    assert {name: len(scenes) for name, scenes in split.scenes.items()} == {"train": 220, "val": 40, "test": 60}
    assert len({SCENES[index] for index in split.indices["train"][:100]}) > 50
    assert split_by_scene(SCENES) == split
    assert split_by_scene(SCENES, seed=2).digest != split.digest


def test_the_digest_of_what_is_tested_does_not_hang_on_the_rest(tmp_path: Path) -> None:
    scenes = [f"scene_{number:02d}" for number in range(20) for _ in range(2)]
    path = tmp_path / "split.json"

    def of(train: range, val: range, test: range, seed: int = 0) -> Split:
        named = {"train": train, "val": val, "test": test}
        path.write_text(json.dumps({name: [f"scene_{number:02d}" for number in each] for name, each in named.items()}))
        return split_by_scene(scenes, str(path), seed=seed)

    first = of(range(10), range(10, 14), range(14, 20))
    again = [
        of(range(10), range(10, 14), range(14, 20), seed=1),
        of(range(3), range(3, 14), range(14, 20)),
        of(range(10), range(10, 14), range(19, 13, -1)),
    ]
    assert len({split.digest for split in (first, *again)}) >= 3
    assert {split.test_digest for split in again} == {first.test_digest}
    assert of(range(10), range(10, 14), range(14, 19)).test_digest != first.test_digest
    # The published test side stays, whatever the seed.
    sides = ["test" if scene >= "scene_15" else "train" for scene in scenes]
    published = [split_by_scene(scenes, seed=seed, sides=sides) for seed in (0, 1)]
    assert published[0].digest != published[1].digest
    assert published[0].test_digest == published[1].test_digest


def test_pieces_of_a_recording_stay_in_order() -> None:
    split = split_by_scene(SCENES, is_sequential=True)
    assert max(split.scenes["train"]) < min(split.scenes["val"])
    assert max(split.scenes["val"]) < min(split.scenes["test"])


def test_digests_without_a_published_split_are_those_of_earlier_versions() -> None:
    assert split_by_scene(SCENES).digest == "ea26040a4bac5ffa"
    assert split_by_scene(SCENES, "11:2:3").digest == "ea26040a4bac5ffa"
    assert split_by_scene(SCENES, is_sequential=True, seed=3).digest == "4cfc2ae91b847ad1"


@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=150),
    st.sets(st.integers(0, 30), min_size=1),
    st.integers(0, 5),
    st.booleans(),
)
def test_the_published_test_side_is_the_test_split(
    numbers: list[int], tested: set[int], seed: int, is_sequential: bool
) -> None:
    numbers = [number for number in numbers if number not in tested] + sorted(tested)
    scenes = [f"s{number}" for number in numbers]
    sides = ["test" if number in tested else "train" for number in numbers]
    num_trained = len(set(scenes)) - len(tested)
    if num_trained == 1:
        with pytest.raises(InputError, match="only 1 scenes for train, val, which"):
            split_by_scene(scenes, seed=seed, sides=sides)
    if num_trained < 2:
        return
    split = split_by_scene(scenes, seed=seed, is_sequential=is_sequential, sides=sides)
    assert [sides[index] for index in split.indices["test"]] == ["test"] * sides.count("test")
    fitted = sorted((*split.indices["train"], *split.indices["val"]))
    assert fitted == [index for index, side in enumerate(sides) if side == "train"]
    train, val = set(split.scenes["train"]), set(split.scenes["val"])
    assert not train & val
    assert abs(len(val) - num_trained * 2 / 13) <= 1
    if is_sequential:
        order = list(dict.fromkeys(scenes))
        assert max(map(order.index, train)) < min(map(order.index, val))


@pytest.mark.parametrize("side", ["train", "test"])
def test_one_side_alone_is_no_split(side: str) -> None:
    assert split_by_scene(SCENES, sides=[side] * len(SCENES)) == split_by_scene(SCENES)


def test_a_scene_on_both_sides_is_named() -> None:
    sides = ["train" if scene < "s240" else "test" for scene in SCENES]
    for other in ("test", ""):
        sides[SCENES.index("s007") + 2] = other
        with pytest.raises(InputError, match="not all images of scene 's007' are on one side"):
            split_by_scene(SCENES, sides=sides)


def test_a_file_decides(tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["s001", "s002"], "val": ["s003"], "test": ["s004"]}))
    split = split_by_scene(SCENES, str(file))
    assert {SCENES[index] for index in split.indices["train"]} == {"s001", "s002"}
    assert [SCENES[index] for index in split.indices["test"]] == ["s004"] * 6


def test_a_bad_rule_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    for content, message in (
        ({"train": ["s001"], "val": ["s002"], "test": ["s001"]}, "'s001' is in 'train' and 'test'"),
        ({"train": ["s001"], "val": [], "test": ["s002"]}, "'val' is empty"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            split_by_scene(SCENES, str(file))
    for rule in ("a:b:c", "1:0:1", "", "inf:1:1"):
        with pytest.raises(InputError, match="expected shares"):
            require_rule(rule)


def store_of(scenes: list[str], is_sequential: bool = False) -> Store:
    names = tuple(str(number) for number in range(len(scenes)))
    return Store(
        Path("a.h5"), "planted", "digest", Protocol(), "drawn", names, tuple(scenes), (), is_sequential, 8.0, ()
    )


def by_fold(store: Store, groups: tuple[str, ...]) -> list[list[str]]:
    """Groups of each fold, in the store's order; every training and validation image is in one."""
    split = split_by_scene(store.scenes, is_sequential=store.is_sequential)
    found: list[dict[str, None]] = [{} for _ in range(NUM_FOLDS)]
    images = folds(store, split)
    assert {name: len(each) for name, each in images.items()} == {
        name: len(split.indices[name]) for name in ("train", "val")
    }
    for index, fold in sorted(
        pair for name in ("train", "val") for pair in zip(split.indices[name], images[name], strict=True)
    ):
        found[fold][groups[index]] = None
    return [list(each) for each in found]


@given(st.lists(st.integers(0, 30), min_size=3, max_size=200).filter(lambda numbers: len(set(numbers)) >= 3))
def test_a_scene_is_in_one_fold_and_folds_are_of_equal_size(numbers: list[int]) -> None:
    store = store_of([f"s{number}" for number in numbers])
    found = by_fold(store, store.scenes)
    sizes = [len(each) for each in found]
    assert len({scene for each in found for scene in each}) == sum(sizes)
    assert max(sizes) - min(sizes) <= 1


def test_blocks_of_many_recordings_stay_with_their_recording() -> None:
    store = store_of([f"walk{walk}/block_{block:05d}" for walk in range(12) for block in range(8)], True)
    found = by_fold(store, store.recordings)
    assert len({walk for each in found for walk in each}) == sum(len(each) for each in found)


def test_blocks_of_one_recording_are_cut_in_order() -> None:
    store = store_of([f"block_{block:05d}" for block in range(32) for _ in range(3)], True)
    found = by_fold(store, store.scenes)
    assert [block for each in found for block in each] == [f"block_{block:05d}" for block in range(26)]
    assert [len(each) for each in found] == [6, 5, 5, 5, 5]


def rooms(store: Store, recipe: RoomsRecipe) -> Store:
    """A store of rooms, by what preparation keeps of its reader."""
    return replace(store, name="rooms", recipe=json.dumps(RoomsReader(recipe).recipe))


def test_rooms_are_the_same_at_any_resolution_and_number_and_others_under_another_seed(store: Store) -> None:
    base = scene_sketch(rooms(store, RoomsRecipe()), PLACES)
    assert len(set(base.split())) == len(PLACES)
    for same in (RoomsRecipe(resolution=64), RoomsRecipe(num_scenes=900, views=2)):
        assert scene_sketch(rooms(store, same), PLACES) == base
    assert not are_shared(scene_sketch(rooms(store, RoomsRecipe(seed=1)), PLACES), base)
    # The name of a folder makes no rooms of it.
    pairs = json.dumps({"reader": "folder", "root": "/data/rooms", "scene": "folder"})
    assert not are_shared(scene_sketch(replace(store, name="rooms", recipe=pairs), PLACES), base)


def prepared(reader: Reader, protocol: Protocol, folder: Path) -> tuple[Store, str]:
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


def test_splits_that_overlap_share_and_those_that_do_not_do_not(store: Store) -> None:
    of_three, of_one, other = (
        split_by_scene(PLACES, rule, seed=seed) for rule, seed in (("11:2:3", 0), ("8:1:1", 0), ("11:2:3", 1))
    )
    wide, narrow, moved = (split.test_tags(store)["test_scenes"] for split in (of_three, of_one, other))
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
    assert scene_sketch(older, PLACES) == scene_sketch(replace(older, digest="another"), PLACES)
    assert not are_shared(scene_sketch(older, PLACES), scene_sketch(replace(older, source="elsewhere"), PLACES))
