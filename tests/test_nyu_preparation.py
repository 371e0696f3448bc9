"""Preparing a file in NYU's layout: processes, kills and length change nothing; memory stays flat."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from nyu_files import NATIVE_SIZE, SMALL_SIZE, plant, write_mat, write_splits

from idl.data import preparation
from idl.data.nyu import NyuReader
from idl.data.preparation import prepare, store_path
from idl.protocol import Protocol

PROTOCOL = Protocol(name="native", resolution=24, width=32, is_native=True)


@pytest.fixture(scope="module")
def mat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nyu")
    write_splits(folder / "splits.mat", range(1, 31), range(31, 49))
    return write_mat(folder / "nyu_depth_v2_labeled.mat", plant(48))


def reader(mat: Path) -> NyuReader:
    return NyuReader(mat, PROTOCOL, size=SMALL_SIZE)


def assert_same_bytes(one: Path, other: Path) -> None:
    """Every dataset and every attribute."""
    with h5py.File(one) as a, h5py.File(other) as b:
        assert set(a) == set(b) >= {"name", "scene", "side", "rgb", "depth", "valid", "native_depth"}
        assert dict(a.attrs) == dict(b.attrs)
        for name in a:
            first, second = a[name], b[name]
            assert isinstance(first, h5py.Dataset)
            assert isinstance(second, h5py.Dataset)
            assert (first.shape, first.dtype, first.chunks) == (second.shape, second.dtype, second.chunks)
            # Unpacked: lzf starts from what it finds in memory, and packs the same bytes differently.
            values, others = np.asarray(first[:]), np.asarray(second[:])
            assert (
                values.tolist() == others.tolist() if values.dtype == object else values.tobytes() == others.tobytes()
            )


def test_processes_and_segments_change_nothing(mat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare(reader(mat), PROTOCOL, tmp_path / "one")
    monkeypatch.setattr(preparation, "IMAGES_PER_SEGMENT", 5)
    assert_same_bytes(whole.path, prepare(reader(mat), PROTOCOL, tmp_path / "three", workers=3).path)


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from idl.data import preparation
from idl.data.nyu import NyuReader
from test_nyu_preparation import PROTOCOL, reader

class Slow(NyuReader):
    def read(self, index):
        time.sleep(0.05)
        return super().read(index)

preparation.IMAGES_PER_SEGMENT = 3
if __name__ == "__main__":
    found = reader(Path({mat!r}))
    slow = Slow(found.data, found.protocol, size=found.size)
    preparation.prepare(slow, PROTOCOL, Path({folder!r}), workers=2)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_killed_with_its_processes_at_work_it_goes_on_to_the_same_bytes(
    mat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW.format(tests=str(Path(__file__).parent), mat=str(mat), folder=str(tmp_path / "killed")))
    process = subprocess.Popen([sys.executable, str(script)])
    path = store_path(reader(mat), PROTOCOL, tmp_path / "killed")
    partial = path.with_suffix(".partial")
    deadline = time.monotonic() + 120
    while len(list(partial.glob("segment_*.h5"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not path.exists()
    done = {whole.name: whole.stat().st_mtime_ns for whole in partial.glob("segment_*.h5")}
    assert 4 <= len(done) < 16
    # Nobody is left who waits for work from a parent that is gone.
    assert len(workers) >= 2
    while any(is_alive(int(worker)) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_alive(int(worker)) for worker in workers)

    monkeypatch.setattr(preparation, "IMAGES_PER_SEGMENT", 3)
    written: list[int] = []
    original = preparation.write_segment

    def noted(found: NyuReader, protocol: Protocol, segment: preparation.Segment, folder: Path) -> None:
        written.append(segment.number)
        original(found, protocol, segment, folder)

    monkeypatch.setattr(preparation, "write_segment", noted)
    again = prepare(reader(mat), PROTOCOL, tmp_path / "killed")
    assert len(written) <= 16 - len(done)
    assert_same_bytes(prepare(reader(mat), PROTOCOL, tmp_path / "whole").path, again.path)
    assert not partial.exists()


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_images_that_are_left_out_leave_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = plant(9)
    blank = [0, 4, 5, 8]
    planted.raw_m[blank] = 0
    monkeypatch.setattr(preparation, "IMAGES_PER_SEGMENT", 2)
    store = prepare(reader(write_mat(tmp_path / "a.mat", planted)), PROTOCOL, tmp_path)
    assert store.names == ("0002", "0003", "0004", "0007", "0008")
    read = store.read(("native_depth", "rgb"), range(5))
    np.testing.assert_array_equal(read["native_depth"], np.delete(planted.raw_m, blank, axis=0))
    assert all(image.any() for image in read["rgb"])


PEAK = """
import sys
from pathlib import Path
from idl.data.datasets import DatasetConfig, open_store

store = open_store(DatasetConfig("nyu", sys.argv[1]), Path(sys.argv[2]))
lines = Path("/proc/self/status").read_text().splitlines()
print(store.num_images, next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_is_flat_over_10_and_300_images(tmp_path: Path) -> None:
    """300 images are 1.3 GB unpacked. They are nearly of one colour, so that the file is quickly made and unpacked."""
    planted = plant(10, NATIVE_SIZE)
    planted.rgb[:, 50:400] = 90
    planted.raw_m[:] = 2.5
    planted.inpainted_m[:] = 2.5
    peaks = []
    for repeats in (1, 30):
        path = write_mat(tmp_path / f"{repeats}.mat", planted, repeats=repeats)
        command = [sys.executable, "-c", PEAK, str(path), str(tmp_path / "stores")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        num_images, peak_kib = map(int, done.stdout.split())
        assert num_images == 10 * repeats
        peaks.append(peak_kib / 1024)
    # One image more or less held is 4 MB; what the names of 290 more take is far less.
    assert peaks[1] < peaks[0] + 8, peaks
