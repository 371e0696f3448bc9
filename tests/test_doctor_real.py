"""The doctor's guess at registration on real frames, which lie outside the repository; skipped where these are not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idl.data.folder import FolderReader
from idl.data.reader import Native
from idl.doctor import SAMPLE, Finding
from idl.doctor.checks import Expected, measure, of_images, sample_of
from idl.protocol import Protocol

REAL = Path(__file__).parents[2] / "shared" / "real"
if not REAL.exists():
    pytest.skip(f"no real frames at {REAL}", allow_module_level=True)


def hololens() -> list[Native]:
    """Return frames of one walk, of a time-of-flight camera whose depth is registered to about 6 pixels."""
    dataset = FolderReader(REAL / "hololens", Protocol())
    return [dataset.native(index) for index in sample_of(len(dataset.groups), SAMPLE)]


def nyu() -> list[Native]:
    """Return frames with a white frame and in-painted depth."""
    lines = (REAL / "nyu/pairs.txt").read_text().splitlines()
    frames = []
    for index in sample_of(len(lines), SAMPLE):
        rgb, depth, _ = lines[index].split()
        depth_m = (np.asarray(Image.open(REAL / "nyu" / depth), np.float32) + 0.5) / 25.5
        image = np.asarray(Image.open(REAL / "nyu" / rgb).convert("RGB"))
        frames.append(Native(image, depth_m, np.ones(depth_m.shape, bool)))
    return frames


def registration(frames: list[Native], depths: list[Native], across: int = 0, turn: int = 1) -> Finding:
    """What is said of frames, mirrored where turn is -1, with the depth of others, rolled right by `across` pixels."""
    images = [
        measure("", one.image[:, ::turn], np.roll(other.depth_m, across, 1), np.roll(other.valid, across, 1))
        for one, other in zip(frames, depths, strict=True)
    ]
    found = of_images(dict(enumerate(images)), Protocol(), Expected((0.1, 200.0)))
    return next(each for each in found if each.check == "registration")


@pytest.mark.parametrize("source", [hololens, nyu])
def test_real_depth_mirrored_or_of_another_camera_or_time_is_not_called_registered(
    source: Callable[[], list[Native]],
) -> None:
    frames = source()
    assert registration(frames, frames).level == "ok"
    assert registration(frames, frames, turn=-1).level == "doubt"
    beside = registration(frames, frames, across=27)
    assert beside.level == "doubt"
    assert any(f"moved about {shift} pixels left" in beside.found for shift in range(24, 31))
    assert registration(frames, [*frames[1:], frames[0]]).level == "note"
