"""Names of tasks, the encoders that they mean, and encoders of no known task."""

from dataclasses import replace

import pytest
from encoder_contract import CPU

from idl.encoders import ALIASES, TASKS, build, encoder_for_task, task_name, task_of
from idl.encoders.weights import SHIPPED, shipped_for
from idl.training.objectives import OBJECTIVES, Autoencoding


def test_what_trainings_write_is_known() -> None:
    written = {*OBJECTIVES, Autoencoding.task}
    cards = [shipped_for(name) for name in SHIPPED]
    shipped = {str(card[1]["task"]) for card in cards if card is not None}
    assert shipped <= written
    assert shipped < TASKS.keys()


@pytest.mark.parametrize("name", [name for name in TASKS if name != "imagenet"])
def test_a_task_s_encoder_was_trained_for_it(name: str) -> None:
    config = encoder_for_task(name)
    # A ConvNeXt of random weights would be the tiny one, which takes seconds.
    encoder = build(replace(config, name="timm:convnext_atto") if name == "none" else config, CPU)
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
