"""Names of tasks, the encoders that they mean, and what an encoder of no known task is told."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from idl.encoders import EncoderConfig, Origin, build, hub
from idl.encoders.shipped import FILES, shipped_for
from idl.errors import InputError
from idl.tasks import ALIASES, TASKS, encoder_for_task, task_name, task_of
from idl.training.recognition import Recognition
from idl.training.reconstruction import Reconstruction

CPU = torch.device("cpu")
ORIGIN = Origin("small", "file", "digest", "unknown", None, "weights.pth")


def test_what_trainings_write_is_known() -> None:
    written = {Recognition.task, Reconstruction.task}
    cards = [shipped_for(name) for name in FILES]
    assert {str(card.card["task"]) for card in cards if card is not None} == written
    assert written < TASKS.keys()


@pytest.mark.parametrize("name", [name for name in TASKS if name != "imagenet"])
def test_a_task_s_encoder_was_trained_for_it(name: str) -> None:
    config = encoder_for_task(name)
    # A ConvNeXt of random weights would be the tiny one, which takes seconds.
    small = replace(config, name="timm:convnext_atto") if name == "none" else config
    encoder = build(small, CPU)
    assert encoder.origin.task == name
    assert encoder.origin.warning is None
    assert task_of(encoder.origin) == name


def test_imagenet_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(file: hub.HubFile) -> Path:
        raise hub.HubUnavailableError("the hub cannot be reached")

    monkeypatch.setattr(hub, "fetch", unreachable)
    for text in ("imagenet", "ImageNet", " IMAGENET ", "imagenet_1k"):
        with pytest.raises(InputError, match=r"cannot be reached.*Pass weights=PATH"):
            build(encoder_for_task(text), CPU)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Reconstruction", "reconstruction"),
        ("rooms_kinds and Materials", "rooms-recognition"),
        ("Multi_Label", "rooms-recognition"),
        ("None", "none"),
        ("", "unknown"),
        ("depth estimation", "depth-estimation"),
    ],
)
def test_case_and_other_names_do_not_matter(text: str, name: str) -> None:
    assert task_name(text) == name
    assert task_name(task_name(text)) == name


def test_other_names_lead_to_known_ones_and_hide_none() -> None:
    assert set(ALIASES.values()) <= TASKS.keys()
    assert not ALIASES.keys() & TASKS.keys()
    assert all(task_name(alias) == name for alias, name in ALIASES.items())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("imagnet", "Did you mean imagenet"),
        ("reconstrution", "Did you mean reconstruction"),
        ("autoencodr", "Did you mean reconstruction"),
        ("unknown", "reconstruction, rooms-recognition, imagenet, none"),
        ("§", "reconstruction, rooms-recognition, imagenet, none"),
        ("", "no encoder stands for"),
    ],
)
def test_a_task_without_an_encoder_is_said_in_one_line(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        encoder_for_task(text)
    assert "\n" not in str(caught.value)


def test_an_encoder_of_no_known_task_needs_one() -> None:
    for nothing in ("unknown", "", "Unknown"):
        with pytest.raises(InputError, match=r"weights\.pth.*Name the task: --task"):
            task_of(replace(ORIGIN, task=nothing))
    assert task_of(ORIGIN, "Depth estimation") == "depth-estimation"


def test_what_the_weights_say_is_not_overruled() -> None:
    imagenet = replace(ORIGIN, task="imagenet")
    assert task_of(imagenet) == task_of(imagenet, "ImageNet") == "imagenet"
    with pytest.raises(InputError, match="trained for imagenet"):
        task_of(imagenet, "reconstruction")


def test_a_file_that_says_nothing_is_of_no_known_task(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    config = EncoderConfig(name="timm:convnext_atto", weights="random")
    import timm

    torch.save(timm.create_model("convnext_atto").state_dict(), path)
    encoder = build(replace(config, weights=os.fspath(path)), CPU)
    with pytest.raises(InputError, match="Name the task"):
        task_of(encoder.origin)
    assert task_of(encoder.origin, "none") == "none"
