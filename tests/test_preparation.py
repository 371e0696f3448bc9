"""Preparation: what went in comes out, interrupted or not, in one process or in several."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from planted import PlantedReader

from idl.data import preparation, segments
from idl.data.preparation import prepare, store_path
from idl.data.store import Store
from idl.errors import InputError, is_disk_full
from idl.protocol import Protocol

PROTOCOL = Protocol(resolution=64)


def contents(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path, "r") as file:
        return {name: dataset[:] for name, dataset in file.items()}  # pyright: ignore[reportIndexIssue]


def assert_same(a: Path, b: Path) -> None:
    one, other = contents(a), contents(b)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    with h5py.File(a, "r") as first, h5py.File(b, "r") as second:
        assert dict(first.attrs) == dict(second.attrs)


def test_a_store_holds_what_was_read(tmp_path: Path) -> None:
    reader = PlantedReader(num_scenes=20)
    store = prepare(reader, PROTOCOL, tmp_path)
    assert store.num_images == 60
    assert store.layers == ("depth", "normals", "rgb", "valid")
    assert store.protocol == PROTOCOL
    samples = [sample for index in range(20) for sample in reader.read(index)]
    assert store.names == tuple(sample.name for sample in samples)
    assert store.scenes == tuple(sample.scene for sample in samples)
    picked = [59, 0, 17]
    read = store.read(("rgb", "depth", "valid", "normals"), picked)
    for row, index in enumerate(picked):
        np.testing.assert_array_equal(read["rgb"][row], samples[index].rgb)
        np.testing.assert_array_equal(read["depth"][row], samples[index].depth_m)
        np.testing.assert_array_equal(read["valid"][row], samples[index].valid)
        np.testing.assert_array_equal(read["normals"][row], samples[index].layers["normals"])
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".lock"] == [".h5"]


def test_depth_outside_the_protocol_is_not_valid(tmp_path: Path) -> None:
    protocol = Protocol(resolution=64, min_depth_m=2.0, max_depth_m=3.0)
    read = prepare(PlantedReader(), protocol, tmp_path).read(("depth", "valid"), range(24))
    assert read["valid"].any()
    assert not read["depth"][~read["valid"]].any()
    assert read["depth"][read["valid"]].min() >= 2.0
    assert read["depth"][read["valid"]].max() <= 3.0


def test_the_number_of_processes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "IMAGES_PER_SEGMENT", 6)
    one = prepare(PlantedReader(), PROTOCOL, tmp_path / "one", workers=1)
    two = prepare(PlantedReader(), PROTOCOL, tmp_path / "two", workers=2)
    assert_same(one.path, two.path)


def test_an_interrupted_preparation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "IMAGES_PER_SEGMENT", 6)
    log = tmp_path / "log"
    whole = prepare(PlantedReader(), PROTOCOL, tmp_path / "whole")
    with pytest.raises(InputError, match="scene_05: cannot be read"):
        prepare(PlantedReader(broken=5, log=log), PROTOCOL, tmp_path / "parts")
    assert not list((tmp_path / "parts").glob("*.h5"))
    again = prepare(PlantedReader(log=log), PROTOCOL, tmp_path / "parts")
    assert_same(whole.path, again.path)
    read = [int(line) for line in log.read_text().split()]
    # Segments of two scenes: the third was broken off at its second scene, and only that one is read again.
    assert read == [0, 1, 2, 3, 4, 4, 5, 6, 7]


KILLED = """
import time
from pathlib import Path
import sys
sys.path.insert(0, {tests!r})
from planted import PlantedReader
from idl.data import preparation, segments
from idl.protocol import Protocol

class Slow(PlantedReader):
    def read(self, index):
        time.sleep(0.05)
        return super().read(index)

preparation.IMAGES_PER_SEGMENT = 3
preparation.prepare(Slow(num_scenes=60), Protocol(resolution=64), Path({folder!r}))
"""


def test_a_killed_preparation_goes_on_to_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "killed"))
    process = subprocess.Popen([sys.executable, "-c", script])
    partial = store_path(PlantedReader(num_scenes=60), PROTOCOL, tmp_path / "killed").with_suffix(".partial")
    deadline = time.monotonic() + 60
    while len(list(partial.glob("segment_*.h5"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list((tmp_path / "killed").glob("*.h5"))
    log = tmp_path / "log"
    monkeypatch.setattr(preparation, "IMAGES_PER_SEGMENT", 3)
    again = prepare(PlantedReader(num_scenes=60, log=log), PROTOCOL, tmp_path / "killed")
    assert len(log.read_text().split()) <= 55
    assert_same(prepare(PlantedReader(num_scenes=60), PROTOCOL, tmp_path / "whole").path, again.path)


def test_segments_that_packed_other_layers_are_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare(PlantedReader(), PROTOCOL, tmp_path / "whole")
    # The first segments are those of a version that packed depth and left normals as they are.
    monkeypatch.setattr(preparation, "IMAGES_PER_SEGMENT", 6)
    folder = tmp_path / "mixed"
    partial = store_path(PlantedReader(), PROTOCOL, folder).with_suffix(".partial")
    partial.mkdir(parents=True)
    with monkeypatch.context() as before:
        before.setattr(segments, "PLAIN", ("rgb", "valid", "normals"))
        for segment in preparation._segments(PlantedReader())[:2]:
            segments.write_segment(PlantedReader(), PROTOCOL, segment, partial)
    assert_same(whole.path, prepare(PlantedReader(), PROTOCOL, folder).path)


def test_a_second_call_reads_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    prepare(PlantedReader(), PROTOCOL, tmp_path)
    prepare(PlantedReader(log=log), PROTOCOL, tmp_path)
    assert not log.exists()


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    digest = prepare(PlantedReader(), PROTOCOL, tmp_path / "a").digest
    assert prepare(replace(PlantedReader(), source="elsewhere"), PROTOCOL, tmp_path / "b").digest == digest
    assert prepare(PlantedReader(noise_m=0.2), PROTOCOL, tmp_path / "c").digest != digest
    recipe_a = prepare(PlantedReader(is_deterministic=True), PROTOCOL, tmp_path / "d").digest
    recipe_b = prepare(PlantedReader(is_deterministic=True, noise_m=0.2), PROTOCOL, tmp_path / "e").digest
    assert recipe_a == recipe_b


def test_images_without_a_valid_pixel_are_left_out_and_counted(tmp_path: Path) -> None:
    store = prepare(PlantedReader(blank=("scene_02_1", "scene_04_0")), PROTOCOL, tmp_path)
    assert store.num_images == 22
    assert "scene_02_1" not in store.names
    assert any("2 of 24 images have no valid pixel" in note for note in store.notes)


def test_a_dataset_without_a_valid_pixel_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 24 images has a pixel with a depth between 50 and 60 m"):
        prepare(PlantedReader(), Protocol(resolution=64, min_depth_m=50, max_depth_m=60), tmp_path)
    assert not list(tmp_path.glob("*.h5"))


def test_a_doubtful_unit_is_said(tmp_path: Path) -> None:
    store = prepare(PlantedReader(plausible_median_m=(20, 100)), PROTOCOL, tmp_path / "far")
    assert any("median depth is 2.5" in note and "depth_scale" in note for note in store.notes)
    assert not prepare(PlantedReader(), PROTOCOL, tmp_path / "near").notes


FULL = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from planted import PlantedReader
from idl.data.preparation import prepare
from idl.errors import InputError
from idl.protocol import Protocol

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    prepare(PlantedReader(), Protocol(resolution=64), Path({folder!r}))
except InputError as error:
    sys.exit(f"said: {{error}}")
"""


@pytest.mark.parametrize("limit", [20_000, 1_193_700])
def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files fails a write as a full disk does; the larger one strikes while joining segments."""
    script = FULL.format(tests=str(Path(__file__).parent), folder=str(tmp_path), limit=limit)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "said:" in done.stderr, done.stderr
    assert "no space left for the prepared dataset" in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".tmp", ".h5") and "segment" not in path.name]
    prepare(PlantedReader(), PROTOCOL, tmp_path)


def test_which_errors_mean_a_full_disk() -> None:
    assert is_disk_full(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert is_disk_full(OSError("Can't write data (errno = 28, error message = 'No space left on device')"))
    assert not is_disk_full(OSError(errno.EACCES, os.strerror(errno.EACCES)))
    assert is_disk_full(RuntimeError("(sqlite3.OperationalError) database or disk is full"))
    assert not is_disk_full(ValueError("no depth beside it"))


def test_bad_stores_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such store"):
        Store.open(tmp_path / "gone.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(InputError, match="not a whole store"):
        Store.open(tmp_path / "text.h5")
    store = prepare(PlantedReader(), PROTOCOL, tmp_path)
    content = store.path.read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="not a whole store"):
        Store.open(tmp_path / "cut.h5")
    with pytest.raises(InputError, match="no layer 'materials'"):
        store.read(("materials",), [0])
    with h5py.File(store.path, "r+") as file:
        file.attrs["version"] = 999
    with pytest.raises(InputError, match="store version 999"):
        Store.open(store.path)


def test_attributes_tell_where_a_store_came_from(tmp_path: Path) -> None:
    with h5py.File(prepare(PlantedReader(), PROTOCOL, tmp_path).path, "r") as file:
        assert json.loads(str(file.attrs["recipe"]))["reader"] == "planted"
        assert Protocol.from_json(str(file.attrs["protocol"])) == PROTOCOL
        assert file.attrs["source"] == "made by the tests"
        assert len(str(file.attrs["digest"])) == 16
