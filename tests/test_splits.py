"""Splits are disjoint by scene, seeded, and refuse what leaks."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idl.data.splits import split_by_scene
from idl.errors import InputError

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


def test_pieces_of_a_recording_stay_in_order() -> None:
    split = split_by_scene(SCENES, is_sequential=True)
    assert max(split.scenes["train"]) < min(split.scenes["val"])
    assert max(split.scenes["val"]) < min(split.scenes["test"])


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
