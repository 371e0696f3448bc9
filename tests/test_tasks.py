"""Names of tasks, the encoders that they mean, and encoders of no known task."""

from dataclasses import replace

import pytest
from encoder_contract import CPU

from idl.encoders import ALIASES, TASKS, Origin, build, encoder_for_task, task_name, task_of
from idl.encoders.weights import SHIPPED, shipped_for
from idl.errors import InputError
from idl.training.objectives import OBJECTIVES, Autoencoding

ORIGIN = Origin("small", "file", "digest", "unknown", None, "weights.pth")


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("autoencodr", "Did you mean reconstruction"),
        ("unknown", "reconstruction, rooms-recognition, imagenet, none"),
    ],
)
def test_a_task_without_an_encoder_names_others(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder_for_task(text)


def test_what_the_weights_record_is_not_overruled_and_what_they_do_not_must_be_named() -> None:
    imagenet = replace(ORIGIN, task="imagenet")
    assert task_of(imagenet) == task_of(imagenet, "ImageNet") == "imagenet"
    with pytest.raises(InputError, match="trained for imagenet"):
        task_of(imagenet, "reconstruction")
    for nothing in ("unknown", "", "Unknown"):
        with pytest.raises(InputError, match=r"weights\.pth.*Name the task: --task"):
            task_of(replace(ORIGIN, task=nothing))
    assert task_of(ORIGIN, "Depth estimation") == "depth-estimation"
