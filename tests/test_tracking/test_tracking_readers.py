"""Who has read test scenes: counted by what was read, in all experiments."""

from collections.abc import Mapping

import mlflow
import pytest

from idl.tracking import count_test_readers, start
from idl.tracking.runs import child

DATA, SPLIT, TEST = "da" * 8, "5b" * 8, "7e" * 8
LOOKS = {"test_digest": TEST, "test_scenes": "0000001 0000002 0000003"}


def leave(entry_point: str, tags: Mapping[str, str], part: str = "", experiment: str = "one") -> str:
    """A run as it was logged, and its id."""
    with start(entry_point, experiment) as recorder:
        for name, value in tags.items():
            recorder.tag(name, value)
        if part:
            mlflow.MlflowClient().log_param(recorder.run_id, "part", part)
        return recorder.run_id


def of(test: str = TEST, split: str = SPLIT, data: str = DATA) -> dict[str, str]:
    return {"dataset_digest": data, "split_digest": split, "test_digest": test}


def old(split: str = SPLIT, data: str = DATA) -> dict[str, str]:
    """Tags of a run that was logged before test digests were."""
    return {"dataset_digest": data, "split_digest": split}


@pytest.mark.parametrize(
    ("entry_point", "tags", "part", "is_reader"),
    [
        ("probe", of(), "", True),
        ("sweep", of(), "", True),
        ("verdict", of(split="0a" * 8), "", True),
        ("compare", of(split="0a" * 8), "", True),
        ("evaluate", of(split="0a" * 8), "test", True),
        ("evaluate", of("all", "all"), "all", True),
        ("probe", of("0b" * 8, "0a" * 8), "", False),
        ("probe", of(data="0c" * 8), "", False),
        ("evaluate", of("all", "all", data="0c" * 8), "all", False),
        # It measured the other images of the same split.
        ("evaluate", old(), "val", False),
        ("evaluate", old(), "train", False),
        ("prepare", old(), "", False),
        ("probe", old(), "", True),
        ("evaluate", old(), "test", True),
        ("evaluate", old("all"), "all", True),
        ("probe", old("0a" * 8), "", False),
    ],
)
def test_whoever_read_these_images_counts(
    store: str, entry_point: str, tags: Mapping[str, str], part: str, is_reader: bool
) -> None:
    leave(entry_point, tags, part)
    assert count_test_readers(DATA, SPLIT, LOOKS) == int(is_reader)


@pytest.mark.parametrize(
    ("entry_point", "scenes", "is_reader"),
    [
        # Under another protocol the prepared dataset has another digest, and a part of the scenes another test digest.
        ("probe", "0000001 0000002 0000003", True),
        ("evaluate", "0000000 0000003 0000009", True),
        ("verdict", "0000002", True),
        ("probe", "0000004 0000005", False),
        # A hash is a word.
        ("probe", "000000", False),
        ("probe", "00000010 00000020", False),
        ("prepare", "0000001", False),
    ],
)
def test_whoever_tested_one_of_these_scenes_counts(store: str, entry_point: str, scenes: str, is_reader: bool) -> None:
    leave(entry_point, of("0b" * 8, "0a" * 8, "0c" * 8) | {"test_scenes": scenes})
    assert count_test_readers(DATA, SPLIT, LOOKS) == int(is_reader)


def test_a_run_counts_once_wherever_it_is_and_its_children_do_not(store: str) -> None:
    assert count_test_readers(DATA, SPLIT, LOOKS) == 0
    leave("probe", of())
    gone = leave("probe", of(), experiment="two")
    mlflow.MlflowClient().delete_run(gone)
    with start("compare") as recorder, child(recorder, "null") as inside:
        for each in (recorder, inside):
            for name, value in (of() | LOOKS).items():
                each.tag(name, value)
    assert count_test_readers(DATA, SPLIT, LOOKS) == 3
