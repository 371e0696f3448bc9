"""Names of tasks, the encoders that they mean, and encoders of no known task."""

import pytest
from encoder_contract import CPU

from idl.encoders import ALIASES, TASKS, build, encoder_for_task, task_name, task_of
from idl.encoders.weights import SHIPPED, shipped_for
from idl.training.objectives import OBJECTIVES, Autoencoding


def test_what_trainings_write_is_known() -> None:
    written = {*OBJECTIVES, Autoencoding.task}
    cards = {(name, task): shipped_for(name, task) for name, tasks in SHIPPED.items() for task in tasks}
    shipped = {task for _, task in cards}
    assert all(file is not None and file[1]["task"] == task for (_, task), file in cards.items())
    assert shipped <= written
    assert shipped < TASKS.keys()


@pytest.mark.parametrize("name", [name for name in TASKS if name != "imagenet"])
def test_a_task_s_encoder_was_trained_for_it(name: str) -> None:
    encoder = build(encoder_for_task(name), CPU)
    assert encoder.origin.warning is None
    assert encoder.origin.task == task_of(encoder.origin) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Autoencoding", "reconstruction"),
        ("rooms_kinds and Materials", "rooms-recognition"),
        (" IMAGENET_1k ", "imagenet"),
        ("", "unknown"),
        ("depth estimation", "depth-estimation"),
    ],
)
def test_case_and_other_names_do_not_matter(text: str, name: str) -> None:
    assert task_name(text) == task_name(task_name(text)) == name
    assert set(ALIASES.values()) <= TASKS.keys()
    assert not ALIASES.keys() & TASKS.keys()
