"""The doctor's guesses on real frames, which lie outside the repository; skipped where they are absent."""

from pathlib import Path

import numpy as np
import pytest

from idl.data.folder import FolderReader
from idl.doctor import SAMPLE, pixels
from idl.doctor.finding import spread
from idl.doctor.measures import measure
from idl.protocol import Protocol

REAL = Path(__file__).parents[2] / "shared" / "real" / "hololens"


@pytest.mark.skipif(not REAL.exists(), reason=f"no real frames at {REAL}")
def test_real_frames_are_told_from_mirrored_and_from_bgr_ones() -> None:
    dataset = FolderReader(REAL, Protocol())
    frames = [dataset.native(index) for index in spread(len(dataset.groups), SAMPLE)]
    straight = [measure("", np.asarray(each.image), each.depth_m, each.valid) for each in frames]
    assert [pixels.registration(straight).level, pixels.channel_order(straight).level] == ["ok", "ok"]
    turned = [measure("", np.asarray(each.image)[:, ::-1, ::-1], each.depth_m, each.valid) for each in frames]
    assert [pixels.registration(turned).level, pixels.channel_order(turned).level] == ["doubt", "doubt"]
