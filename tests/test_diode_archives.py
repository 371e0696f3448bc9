"""DIODE from its .tar.gz: the same datasets as from the tree, after a kill too, and no archive that is not whole."""

import gzip
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from diode_files import SCANS, add_member, pack, pack_as_published, view, write_frame, write_tree
from test_preparation import contents

from idl.data import preparation
from idl.data.diode import DiodeArchives, diode
from idl.data.diode.archives import IndexedArchives, find_archives
from idl.data.diode.layout import parse
from idl.data.preparation import prepare, store_path
from idl.data.store import Store
from idl.data.tarball import members
from idl.errors import InputError
from idl.progress import Advance
from idl.protocol import Protocol

PROTOCOL = Protocol(resolution=16, max_depth_m=350.0)
NATIVE = Protocol(resolution=12, width=16, max_depth_m=350.0, is_native=True, erosion=1)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    write_tree(root)
    return root


@pytest.fixture(scope="module")
def archives(tree: Path) -> Path:
    """train.tar.gz, val.tar.gz and their normals, each in an order of its own."""
    return pack_as_published(tree, tree.parent / "archives", seed=1)


def assert_same_datasets(one: Store, other: Store) -> None:
    first, second = contents(one.path), contents(other.path)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert one.digest == other.digest
    assert one.notes == other.notes


class Labels:
    """A progress that remembers what was begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.counted: dict[str, tuple[int, int]] = {}

    @contextmanager
    def __call__(self, label: str, total: int, done: int = 0, unit: str = "img") -> Iterator[Advance]:
        self.begun.append(label)
        count = done

        def advance(more: int) -> None:
            nonlocal count
            count += more

        yield advance
        self.counted[label] = count, total


@pytest.mark.parametrize("protocol", [PROTOCOL, NATIVE], ids=["square", "native"])
def test_archives_and_tree_give_the_same_datasets(
    tree: Path, archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: Protocol
) -> None:
    monkeypatch.setattr(preparation, "IMAGES_PER_SEGMENT", 2)
    from_tree = prepare(diode(tree, protocol), protocol, tmp_path / "a")
    from_archives = prepare(diode(archives, protocol), protocol, tmp_path / "b")
    assert_same_datasets(from_tree, from_archives)
    assert from_archives.num_images == 21
    # Nothing that was set aside is left, only the indices.
    left = {path.suffix for path in (tmp_path / "b").rglob("*") if path.is_file()}
    assert left == {".h5", ".lock", ".json"}


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(tree: Path, archives: Path, tmp_path: Path) -> None:
    from_tree = prepare(diode(tree, PROTOCOL), PROTOCOL, tmp_path / "a")
    assert_same_datasets(from_tree, prepare(diode(archives, PROTOCOL), PROTOCOL, tmp_path / "b", workers=3))


def test_one_archive_takes_its_normals_along(tree: Path, archives: Path, tmp_path: Path) -> None:
    assert [path.name for path in find_archives(archives / "val.tar.gz")] == ["val.tar.gz", "val_normals.tar.gz"]
    of_tree = prepare(diode(tree / "val", PROTOCOL, "outdoor"), PROTOCOL, tmp_path / "a")
    of_archive = prepare(diode(archives / "val.tar.gz", PROTOCOL, "outdoor"), PROTOCOL, tmp_path / "b")
    assert_same_datasets(of_tree, of_archive)
    assert of_archive.name == "diode-outdoor"
    assert "normals" in of_archive.layers


def test_a_tree_goes_before_archives_beside_it(tree: Path, archives: Path, tmp_path: Path) -> None:
    for source in (tree / "val", archives / "train.tar.gz"):
        (tmp_path / source.name).symlink_to(source)
    assert not isinstance(diode(tmp_path, PROTOCOL), DiodeArchives)


def test_an_index_serves_every_later_preparation(archives: Path, tmp_path: Path) -> None:
    first, second = Labels(), Labels()
    prepare(diode(archives, PROTOCOL), PROTOCOL, tmp_path, progress=first)
    assert [label for label in first.begun if label.startswith("index")] == [
        f"index {name}.tar.gz" for name in ("train", "train_normals", "val", "val_normals")
    ]
    assert all(count == total for count, total in first.counted.values())
    prepare(diode(archives, NATIVE, "indoors"), NATIVE, tmp_path, progress=second)
    assert second.begun == ["prepare diode-indoors"]


def test_a_changed_archive_is_indexed_anew(tree: Path, tmp_path: Path) -> None:
    archive = pack(tree, tmp_path / "val.tar.gz", lambda name: name.startswith("val/indoors"))
    before = prepare(diode(archive, PROTOCOL), PROTOCOL, tmp_path / "stores")
    pack(tree, archive, lambda name: name.startswith("val/"))
    after = prepare(diode(archive, PROTOCOL), PROTOCOL, tmp_path / "stores")
    assert (before.num_images, after.num_images) == (3, 6)


def indexed(path: Path, folder: Path) -> IndexedArchives:
    found = diode(path, PROTOCOL)
    assert isinstance(found, DiodeArchives)
    return found.indexed(folder / "indices", folder / "spool", Labels())


def test_little_is_set_aside_at_a_time(tree: Path, tmp_path: Path) -> None:
    """Scans one after another, their frames in no order: never more than the frames of a scan, 3 of 21, at a time."""
    archive = pack(tree, tmp_path / "all.tar.gz")
    shuffled = tmp_path / "shuffled.tar.gz"
    with tarfile.open(archive) as source, tarfile.open(shuffled, "w:gz") as target:
        infos = [info for info in source if parse(info.name) is not None]
        infos.sort(key=lambda info: (info.name.rsplit("/", 1)[0], info.name[::-1]))
        for info in infos:
            target.addfile(info, source.extractfile(info))
    reader = indexed(shuffled, tmp_path)
    most = 0
    waiting: dict[str, list[int]] = {}
    for index in reader.stream(range(len(reader.groups))):
        # As a preparation does: a segment is dropped when all of its batch has come by.
        batch = reader.groups[index].batch
        waiting.setdefault(batch, []).append(index)
        most = max(most, len(list((tmp_path / "spool").rglob("*.png"))))
        if len(waiting[batch]) == 3:
            for each in waiting.pop(batch):
                reader.release(each)
    assert not waiting
    assert most <= 3
    assert not [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]


def test_only_what_is_wanted_is_set_aside(archives: Path, tmp_path: Path) -> None:
    reader = indexed(archives, tmp_path)
    wanted = [20, 4]
    assert sorted(reader.stream(wanted)) == sorted(wanted)
    stems = {path.name.split("_depth")[0].split(".")[0] for path in (tmp_path / "spool").rglob("*.npy")}
    assert {stem.removesuffix("_normal") for stem in stems} == {reader.groups[index].names[0] for index in wanted}
    assert reader.read(4)[0].name == reader.groups[4].names[0]


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from idl.data import preparation
from idl.data.diode import diode
from idl.data.diode.archives import IndexedArchives
from idl.protocol import Protocol

class Slow(IndexedArchives):
    def read(self, index):
        time.sleep(0.05)
        return super().read(index)

import idl.data.diode.archives as archives
archives.IndexedArchives = Slow
preparation.IMAGES_PER_SEGMENT = 1
protocol = Protocol(resolution=16, max_depth_m=350.0)
preparation.prepare(diode(Path({data!r}), protocol), protocol, Path({folder!r}))
"""


@pytest.mark.slow
def test_a_killed_preparation_goes_on_to_the_same_store(
    tree: Path, archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "killed"
    script = KILLED.format(tests=str(Path(__file__).parent), data=str(archives), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", script])
    partial = store_path(diode(archives, PROTOCOL), PROTOCOL, folder).with_suffix(".partial")
    deadline = time.monotonic() + 120
    while len(list(partial.glob("segment_*.h5"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list(folder.glob("*.h5"))
    done = {int(path.name.split("_")[1]) for path in partial.glob("segment_*.h5")}
    assert 5 <= len(done) < 21
    monkeypatch.setattr(preparation, "IMAGES_PER_SEGMENT", 1)
    read: list[int] = []
    original = IndexedArchives.read
    monkeypatch.setattr(IndexedArchives, "read", lambda self, index: (read.append(index), original(self, index))[1])
    labels = Labels()
    again = prepare(diode(archives, PROTOCOL), PROTOCOL, folder, progress=labels)
    # Neither an index nor a finished segment is made twice.
    assert labels.begun == ["prepare diode"]
    assert sorted(read) == [index for index in range(21) if index not in done]
    assert_same_datasets(prepare(diode(tree, PROTOCOL), PROTOCOL, tmp_path / "whole"), again)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.4, 0.999])
def test_a_truncated_archive_is_no_archive(archives: Path, tmp_path: Path, share: float) -> None:
    content = (archives / "val.tar.gz").read_bytes()
    cut = tmp_path / "val.tar.gz"
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"val\.tar\.gz: (is cut off|not a whole \.tar\.gz)") as caught:
        prepare(diode(cut, PROTOCOL), PROTOCOL, tmp_path / "stores")
    assert "\n" not in str(caught.value)
    # No index either: the next call must not take a part for the whole.
    assert not list((tmp_path / "stores").rglob("*.json"))
    assert not list((tmp_path / "stores").rglob("*.h5"))


def test_a_tar_that_was_cut_before_it_was_compressed(archives: Path, tmp_path: Path) -> None:
    plain = gzip.decompress((archives / "val.tar.gz").read_bytes())
    (tmp_path / "val.tar.gz").write_bytes(gzip.compress(plain[: len(plain) // 3], compresslevel=1))
    with pytest.raises(InputError, match=r"val\.tar\.gz: |no depth|no RGB"):
        prepare(diode(tmp_path / "val.tar.gz", PROTOCOL), PROTOCOL, tmp_path / "stores")


def test_a_damaged_archive_is_no_archive(archives: Path, tmp_path: Path) -> None:
    content = bytearray((archives / "val.tar.gz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "val.tar.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"val\.tar\.gz: (not a whole \.tar\.gz|is cut off)"):
        prepare(diode(tmp_path / "val.tar.gz", PROTOCOL), PROTOCOL, tmp_path / "stores")


def test_not_an_archive(tmp_path: Path) -> None:
    (tmp_path / "val.tar.gz").write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match=r"not a whole \.tar\.gz \(Not a gzipped file"):
        prepare(diode(tmp_path / "val.tar.gz", PROTOCOL), PROTOCOL, tmp_path / "stores")


def _link(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (tarfile.TarInfo("../outside.png"), "member '../outside.png' points outside"),
        (tarfile.TarInfo("val/../../outside.png"), "points outside"),
        (tarfile.TarInfo("/etc/outside"), "member '/etc/outside' points outside"),
        (_link("val/link", tarfile.SYMTYPE, "/etc/passwd"), "member 'val/link' is a link or a device"),
        (_link("val/link", tarfile.LNKTYPE, "val/other"), "is a link or a device"),
        (_link("val/device", tarfile.CHRTYPE), "is a link or a device"),
        (_link("val/pipe", tarfile.FIFOTYPE), "is a link or a device"),
    ],
)
def test_a_member_that_must_not_be_is_refused(tmp_path: Path, info: tarfile.TarInfo, expected: str) -> None:
    add_member(tmp_path / "val.tar.gz", info)
    with pytest.raises(InputError, match=expected):
        prepare(diode(tmp_path / "val.tar.gz", PROTOCOL), PROTOCOL, tmp_path / "stores")
    assert {path.name for path in tmp_path.iterdir()} == {"val.tar.gz", "stores"}


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("_depth_mask.npy", r"val\.tar\.gz: val/indoors/.*_depth\.npy: no depth mask beside it|no depth mask beside"),
        ("_depth.npy", r"val\.tar\.gz: val/indoors/.*\.png: no depth beside it"),
        (".png", r"val\.tar\.gz: val/indoors/.*_depth\.npy: no RGB image beside it"),
    ],
)
def test_a_frame_that_lacks_a_file_is_said_before_the_second_pass(tmp_path: Path, ending: str, expected: str) -> None:
    frame = write_frame(tmp_path / "t", SCANS[5], 0, view(0))
    write_frame(tmp_path / "t", SCANS[5], 1, view(1))
    frame.with_name(frame.name + ending).unlink()
    archive = pack(tmp_path / "t", tmp_path / "val.tar.gz")
    labels = Labels()
    with pytest.raises(InputError, match=expected):
        prepare(diode(archive, PROTOCOL), PROTOCOL, tmp_path / "stores", progress=labels)
    assert labels.begun == ["index val.tar.gz"]


def test_an_unreadable_file_in_an_archive_is_named_by_its_member(tmp_path: Path) -> None:
    frame = write_frame(tmp_path / "t", SCANS[5], 0, view(0))
    frame.with_name(f"{frame.name}_depth.npy").write_bytes(b"no array")
    archive = pack(tmp_path / "t", tmp_path / "val.tar.gz")
    with pytest.raises(InputError, match=r"val\.tar\.gz: val/indoors/.*_depth\.npy: not a readable \.npy") as caught:
        prepare(diode(archive, PROTOCOL), PROTOCOL, tmp_path / "stores")
    assert "spool" not in str(caught.value)
    assert not list((tmp_path / "stores").rglob("spool"))


def test_a_subset_that_is_not_there(archives: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"subset=scene_00777: no such part of .*It has: all, indoors, outdoor"):
        prepare(diode(archives, PROTOCOL, "scene_00777"), PROTOCOL, tmp_path)


def test_the_same_file_twice(tmp_path: Path) -> None:
    write_frame(tmp_path / "t", SCANS[5], 0, view(0))
    pack(tmp_path / "t", tmp_path / "a" / "one.tar.gz")
    pack(tmp_path / "t", tmp_path / "a" / "two.tar.gz", prefix="")
    with pytest.raises(InputError, match=r"two\.tar\.gz: .* is there twice, also as .*one\.tar\.gz"):
        prepare(diode(tmp_path / "a", PROTOCOL), PROTOCOL, tmp_path / "stores")


def test_members_are_handed_out_one_by_one(archives: Path, tmp_path: Path) -> None:
    with tarfile.open(archives / "val.tar.gz") as tar:
        expected = {info.name.removeprefix("./"): tar.extractfile(info).read() for info in tar}  # pyright: ignore[reportOptionalMemberAccess]
    found = {}
    for member in members(archives / "val.tar.gz"):
        if member.name.endswith(".png"):
            continue
        member.save(tmp_path / "x")
        found[member.name] = (tmp_path / "x").read_bytes()
    assert found == {name: content for name, content in expected.items() if not name.endswith(".png")}
