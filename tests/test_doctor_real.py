"""The doctor's guesses on real frames, which lie outside the repository; skipped where they are absent."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idl.data.folder import FolderReader
from idl.data.reader import Native
from idl.doctor import SAMPLE, Finding
from idl.doctor.checks import Expected, Measured, measure, of_images, sample_of
from idl.protocol import Protocol

REAL = Path(__file__).parents[2] / "shared" / "real"
if not REAL.exists():
    pytest.skip(f"no real frames at {REAL}", allow_module_level=True)


@pytest.fixture(scope="module")
def hololens() -> list[Native]:
    """Frames of one walk, of a time-of-flight camera whose depth is registered to about 6 pixels."""
    dataset = FolderReader(REAL / "hololens", Protocol())
    return [dataset.native(index) for index in sample_of(len(dataset.groups), SAMPLE)]


@pytest.fixture(scope="module")
def nyu() -> list[Native]:
    """Frames with a white frame and in-painted depth."""
    lines = (REAL / "nyu/pairs.txt").read_text().splitlines()
    frames = []
    for index in sample_of(len(lines), SAMPLE):
        rgb, depth, _ = lines[index].split()
        depth_m = (np.asarray(Image.open(REAL / "nyu" / depth), np.float32) + 0.5) / 25.5
        image = np.asarray(Image.open(REAL / "nyu" / rgb).convert("RGB"))
        frames.append(Native(image, depth_m, np.ones(depth_m.shape, bool)))
    return frames


def levels(images: list[Measured]) -> dict[str, Finding]:
    return {each.check: each for each in of_images(dict(enumerate(images)), Protocol(), Expected((0.1, 200.0)))}


def registration(frames: list[Native], depths: list[Native], across: int = 0) -> Finding:
    """What is said of frames with the depth of others, rolled to the right by `across` pixels."""
    images = [
        measure("", one.image, np.roll(other.depth_m, across, 1), np.roll(other.valid, across, 1))
        for one, other in zip(frames, depths, strict=True)
    ]
    return levels(images)["registration"]


def test_real_frames_are_told_from_mirrored_ones(hololens: list[Native]) -> None:
    straight = [measure("", each.image, each.depth_m, each.valid) for each in hololens]
    assert levels(straight)["registration"].level == "ok"
    turned = [measure("", each.image[:, ::-1], each.depth_m, each.valid) for each in hololens]
    assert levels(turned)["registration"].level == "doubt"


@pytest.mark.parametrize("source", ["hololens", "nyu"])
def test_real_depth_of_another_camera_or_another_time_is_not_called_registered(
    source: str, request: pytest.FixtureRequest
) -> None:
    frames = request.getfixturevalue(source)
    assert registration(frames, frames).level == "ok"
    beside = registration(frames, frames, across=27)
    assert beside.level == "doubt"
    assert any(f"moved about {shift} pixels left" in beside.found for shift in range(24, 31))
    assert registration(frames, [*frames[1:], frames[0]]).level == "note"
