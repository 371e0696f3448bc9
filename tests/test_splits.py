"""Splits are disjoint by scene, seeded, and refuse what leaks."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idl.data.splits import NUM_FOLDS, Split, folds, split_by_scene
from idl.data.store import Store
from idl.errors import InputError
from idl.protocol import Protocol

SCENES = [f"s{number:03d}" for number in range(320) for _ in range(6)]


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


def test_default_shares_of_rooms() -> None:
    split = split_by_scene(SCENES)
    assert {name: len(scenes) for name, scenes in split.scenes.items()} == {"train": 220, "val": 40, "test": 60}


def test_the_seed_decides() -> None:
    assert split_by_scene(SCENES, seed=1) == split_by_scene(SCENES, seed=1)
    assert split_by_scene(SCENES, seed=1).digest != split_by_scene(SCENES, seed=2).digest


def test_training_images_come_in_random_order() -> None:
    order = split_by_scene(SCENES).indices["train"]
    assert list(order) != sorted(order)
    first = {SCENES[index] for index in order[:100]}
    assert len(first) > 50


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
        with pytest.raises(InputError, match="one scene only"):
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


def test_shares_that_are_asked_for_divide_all_scenes() -> None:
    sides = ["train" if scene < "s240" else "test" for scene in SCENES]
    assert split_by_scene(SCENES, "11:2:3", sides=sides) == split_by_scene(SCENES)
    assert split_by_scene(SCENES, "auto", sides=sides).digest != split_by_scene(SCENES).digest


@pytest.mark.parametrize("side", ["train", "test"])
def test_one_side_alone_is_no_split(side: str) -> None:
    assert split_by_scene(SCENES, sides=[side] * len(SCENES)) == split_by_scene(SCENES)


def test_a_scene_on_both_sides_is_named() -> None:
    sides = ["train" if scene < "s240" else "test" for scene in SCENES]
    sides[SCENES.index("s007") + 2] = "test"
    with pytest.raises(InputError, match="'s007' is on both sides"):
        split_by_scene(SCENES, sides=sides)
    sides[SCENES.index("s007") + 2] = ""
    with pytest.raises(InputError, match="'s007' has an image on neither side"):
        split_by_scene(SCENES, sides=sides)


def test_a_file_decides(tmp_path: Path) -> None:
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["s001", "s002"], "val": ["s003"], "test": ["s004"]}))
    split = split_by_scene(SCENES, str(file))
    assert {SCENES[index] for index in split.indices["train"]} == {"s001", "s002"}
    assert [SCENES[index] for index in split.indices["test"]] == ["s004"] * 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["s001"], "val": ["s002"], "test": ["s001"]}, "'s001' is in 'train' and 'test'"),
        ({"train": ["s001"], "val": ["s002"], "test": ["nowhere"]}, "'nowhere' of 'test' is not in the dataset"),
        ({"train": ["s001"], "val": [], "test": ["s002"]}, "'val' is empty"),
        ({"train": ["s001"], "val": ["s002"]}, "expected JSON"),
        ("no object", "expected JSON"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: object, message: str) -> None:
    file = tmp_path / "split.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        split_by_scene(SCENES, str(file))


@pytest.mark.parametrize("rule", ["1:2", "a:b:c", "1:0:1", "", "1:nan:2", "inf:1:1"])
def test_a_bad_rule_is_refused(rule: str) -> None:
    with pytest.raises(InputError, match="expected shares"):
        split_by_scene(SCENES, rule)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.json"):
        split_by_scene(SCENES, str(tmp_path / "gone.json"))


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
