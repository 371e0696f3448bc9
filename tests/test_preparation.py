"""Preparation: what went in comes out, interrupted or not, in one process or in several; memory stays flat."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from nyu_files import NATIVE_SIZE, SMALL_SIZE, plant, write_mat, write_splits
from planted import PlantedReader
from planted_frames import FramesReader

from idl.data import datasets
from idl.data.datasets import DatasetConfig
from idl.data.nyu import NyuReader
from idl.data.preparation import prepare, store_path
from idl.data.reader import Sample
from idl.data.store import Store
from idl.errors import InputError
from idl.protocol import NATIVE, Protocol

PROTOCOL = Protocol(resolution=64)
SMALL = Protocol(name="small", resolution=24, width=32, is_native=True, max_depth_m=3.0)
WHOLE = Protocol(name="native", resolution=24, width=32, is_native=True)


def frames(**changes: Any) -> FramesReader:
    return FramesReader(**{"num_scenes": 6, "views": 2, "protocol": SMALL, **changes})


def assert_same(one: Path, other: Path) -> None:
    """Every dataset and every attribute."""
    with h5py.File(one) as a, h5py.File(other) as b:
        assert a.keys() == b.keys()
        assert dict(a.attrs) == dict(b.attrs)
        for name in a:
            first, second = a[name], b[name]
            assert isinstance(first, h5py.Dataset)
            assert isinstance(second, h5py.Dataset)
            assert (first.dtype, first.chunks, first.compression) == (second.dtype, second.chunks, second.compression)
            np.testing.assert_array_equal(first[:], second[:])


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
    with h5py.File(store.path) as file:
        assert json.loads(str(file.attrs["recipe"]))["reader"] == "planted"
        assert "side" not in file


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    store = prepare(PlantedReader(), PROTOCOL, tmp_path / "a")
    assert store.digest == prepare(replace(PlantedReader(), source="elsewhere"), PROTOCOL, tmp_path / "b").digest
    assert store.digest != prepare(PlantedReader(noise_m=0.2), PROTOCOL, tmp_path / "c").digest
    recipe_a = prepare(PlantedReader(is_deterministic=True), PROTOCOL, tmp_path / "d").digest
    recipe_b = prepare(PlantedReader(is_deterministic=True, noise_m=0.2), PROTOCOL, tmp_path / "e").digest
    assert recipe_a == recipe_b


def test_two_that_prepare_the_same_dataset_read_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: prepare(PlantedReader(log=log), PROTOCOL, tmp_path / "stores"), range(2))
    assert one == other
    assert len(log.read_text().split()) == 8


def test_images_without_a_valid_pixel_are_left_out_and_counted(tmp_path: Path) -> None:
    blank = ("scene_02_1", "scene_04_0", *(f"scene_05_{view}" for view in range(3)))
    store = prepare(PlantedReader(blank=blank), PROTOCOL, tmp_path)
    assert store.num_images == 19
    assert not set(store.names) & set(blank)
    assert any("5 of 24 images have no valid pixel" in note for note in store.notes)
    assert store.read(("rgb",), range(19))["rgb"].any(axis=(1, 2, 3)).all()


def test_a_doubtful_unit_is_said(tmp_path: Path) -> None:
    store = prepare(PlantedReader(plausible_median_m=(20, 100)), PROTOCOL, tmp_path / "far")
    assert any("median depth 2.5" in note and "expected 20 to 100 m" in note for note in store.notes)
    assert not prepare(PlantedReader(), PROTOCOL, tmp_path / "near").notes


@pytest.mark.parametrize("damage", ["none", "log cut off", "image changed", "file cut off", "file gone", "concluded"])
def test_what_an_interruption_left_is_checked(tmp_path: Path, damage: str) -> None:
    """A line that is not whole is left out; a file that is not as the log says is made anew."""
    log = tmp_path / "log"
    blank = ("scene_01_1", *(f"scene_02_{view}" for view in range(3)))
    whole = prepare(PlantedReader(blank=blank), PROTOCOL, tmp_path / "whole")
    with pytest.raises(InputError, match="scene_05: cannot be read"):
        prepare(PlantedReader(blank=blank, broken=5), PROTOCOL, tmp_path / "parts")
    assert not list((tmp_path / "parts").glob("*.h5"))
    (unfinished,), (lines,) = (list((tmp_path / "parts").glob(f"*{suffix}")) for suffix in (".unfinished", ".log"))
    if damage == "log cut off":
        lines.write_text(lines.read_text()[:-20])
    elif damage == "file cut off":
        os.truncate(unfinished, unfinished.stat().st_size // 2)
    elif damage == "file gone":
        unfinished.unlink()
    elif damage != "none":
        with h5py.File(unfinished, "r+") as file:
            if damage == "concluded":
                file.create_dataset("scene", data=["a"], dtype=h5py.string_dtype())
            else:
                file["depth"][7, 0, 0] = 77.0  # pyright: ignore[reportIndexIssue]
    again = prepare(PlantedReader(blank=blank, log=log), PROTOCOL, tmp_path / "parts")
    assert_same(whole.path, again.path)
    first = {"none": 5, "log cut off": 4, "concluded": 5}.get(damage, 0)
    assert [int(line) for line in log.read_text().split()] == list(range(first, 8))


@pytest.fixture(scope="module")
def mat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nyu")
    write_splits(folder / "splits.mat", range(1, 31), range(31, 49))
    return write_mat(folder / "nyu_depth_v2_labeled.mat", plant(48))


def nyu(mat: Path) -> NyuReader:
    return NyuReader(mat, WHOLE, size=SMALL_SIZE)


def test_the_number_of_processes_changes_nothing(mat: Path, tmp_path: Path) -> None:
    for reader, protocol in ((nyu(mat), WHOLE), (PlantedReader(), PROTOCOL)):
        one, two = (prepare(reader, protocol, tmp_path / str(workers), workers=workers) for workers in (1, 2))
        assert_same(one.path, two.path)


def test_an_error_in_a_process_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scene_05: cannot be read"):
        prepare(PlantedReader(broken=5), PROTOCOL, tmp_path, workers=2)


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from idl.data.nyu import NyuReader
from idl.data.preparation import prepare
from test_preparation import SMALL_SIZE, WHOLE

class Slow(NyuReader):
    def read(self, index):
        time.sleep(0.05)
        return super().read(index)

if __name__ == "__main__":
    prepare(Slow(Path({mat!r}), WHOLE, size=SMALL_SIZE), WHOLE, Path({folder!r}), workers=2)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_killed_with_its_processes_at_work_it_goes_on_to_the_same_store(mat: Path, tmp_path: Path) -> None:
    script, folder = tmp_path / "slow.py", tmp_path / "killed"
    script.write_text(SLOW.format(tests=str(Path(__file__).parent), mat=str(mat), folder=str(folder)))
    process = subprocess.Popen([sys.executable, str(script)])
    path = store_path(nyu(mat), WHOLE, folder)
    log = path.with_suffix(".log")
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= 12) and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not path.exists()
    num_done = log.read_text().count("\n")
    assert 12 <= num_done < 48
    # Nobody is left who waits for work from a parent that is gone.
    assert len(workers) >= 2
    while any(is_alive(int(worker)) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_alive(int(worker)) for worker in workers)

    read: list[int] = []

    class Noted(NyuReader):
        def read(self, index: int) -> list[Sample]:
            read.append(index)
            return super().read(index)

    again = prepare(Noted(mat, WHOLE, size=SMALL_SIZE), WHOLE, folder)
    assert read == list(range(num_done, 48))
    assert_same(prepare(nyu(mat), WHOLE, tmp_path / "whole").path, again.path)
    assert [each for each in folder.iterdir() if each.suffix != ".lock"] == [path]


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("limit", [20_000, 700_000])
def test_a_full_disk_is_said_and_gone_on_from(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files fails a write as a full disk does."""
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(InputError, match="no space left for the prepared dataset"):
            prepare(PlantedReader(), PROTOCOL, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.glob("*.h5"))
    again = prepare(PlantedReader(), PROTOCOL, tmp_path)
    assert_same(prepare(PlantedReader(), PROTOCOL, tmp_path / "whole").path, again.path)


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
def test_memory_is_flat_over_10_and_150_images(tmp_path: Path) -> None:
    """150 images are 0.65 GB unpacked. They are nearly of one colour, so that the file is quickly made and unpacked."""
    planted = plant(10, NATIVE_SIZE)
    planted.rgb[:, 50:400] = 90
    planted.raw_m[:] = 2.5
    planted.inpainted_m[:] = 2.5
    peaks = []
    for repeats in (1, 15):
        path = write_mat(tmp_path / f"{repeats}.mat", planted, repeats=repeats)
        command = [sys.executable, "-c", PEAK, str(path), str(tmp_path / "stores")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        num_images, peak_kib = map(int, done.stdout.split())
        assert num_images == 10 * repeats
        peaks.append(peak_kib / 1024)
    # One image more or less held is 4 MB; what the names of 140 more take is far less.
    assert peaks[1] < peaks[0] + 8, peaks


def test_a_store_knows_sides_and_native_truth(tmp_path: Path) -> None:
    reader = frames(num_test=2)
    store = prepare(reader, SMALL, tmp_path)
    assert store.sides == ("train",) * 8 + ("test",) * 4
    assert store.layers == ("depth", NATIVE, "rgb", "valid")
    samples = [sample for index in range(6) for sample in reader.read(index)]
    read = store.read((NATIVE,), range(12))[NATIVE]
    for row, sample in enumerate(samples):
        truth = sample.layers[NATIVE]
        assert truth.max() > 3.0
        np.testing.assert_array_equal(read[row], np.where(truth <= 3.0, truth, 0))
    # Sides are part of the content.
    assert store.digest != prepare(frames(), SMALL, tmp_path / "without").digest


def test_native_truth_must_be_there_and_of_one_size(tmp_path: Path) -> None:
    class Mixed(FramesReader):
        def read(self, index: int) -> list[Sample]:
            other = replace(frames(), frame=(48, 64))
            return other.read(index) if index == 3 else super().read(index)

    for reader, message in (
        (
            frames(protocol=replace(SMALL, is_native=False)),
            "scene_00_0 has no native depth, which small is measured on",
        ),
        (
            Mixed(num_scenes=6, views=2, protocol=SMALL),
            "native_depth has 96 x 128 pixels in one image, 48 x 64 in another",
        ),
    ):
        with pytest.raises(InputError, match=message):
            prepare(reader, SMALL, tmp_path)
        assert not list(tmp_path.glob("*.h5"))


def test_a_store_of_another_protocol_is_refused(tmp_path: Path) -> None:
    path = prepare(PlantedReader(num_scenes=3), Protocol(resolution=64, max_depth_m=5.0), tmp_path).path
    config = DatasetConfig(dataset=str(path))
    for asked in (config, replace(config, max_depth=5.0), replace(config, protocol="idl", max_depth=5.0)):
        assert datasets.open_store(asked, tmp_path).path == path
    with pytest.raises(InputError, match=r"another protocol \(name is idl, not diode-outdoor, max_depth_m is 5.0"):
        datasets.require(replace(config, protocol="diode-outdoor"))


def test_a_store_whose_sides_are_not_of_its_images_is_refused(tmp_path: Path) -> None:
    store = prepare(frames(num_test=2), SMALL, tmp_path)
    with h5py.File(store.path, "r+") as file:
        del file["side"]
        file.create_dataset("side", data=["train", "test"], dtype=h5py.string_dtype())
    with pytest.raises(InputError, match="side has another length"):
        Store.open(store.path)
