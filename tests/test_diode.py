"""DIODE's tree: what is found, what a pixel becomes, and every file that is not what it should be."""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from diode_files import MASK_TYPES, SCANS, View, view, write_tree

from idl.data.datasets import DatasetConfig, require
from idl.data.diode import STORED_AXES, Axes, DiodeReader, axes_by_depth, jumps, normals_by_depth, to_camera
from idl.data.preparation import prepare
from idl.data.store import Store
from idl.errors import InputError
from idl.protocol import Protocol

PROTOCOL = Protocol(resolution=16, max_depth_m=350.0)
FULL = Protocol(resolution=48, width=64, max_depth_m=350.0)
NATIVE = Protocol(resolution=12, width=16, max_depth_m=350.0, is_native=True)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, View]]:
    root = tmp_path_factory.mktemp("diode")
    return root, write_tree(root)


def tree_reader(root: Path, protocol: Protocol = PROTOCOL, subset: str = "all") -> DiodeReader:
    return DiodeReader(root, protocol, subset)


def stored(root: Path, protocol: Protocol = PROTOCOL, subset: str = "all") -> Store:
    return prepare(tree_reader(root, protocol, subset), protocol, root.parent / f"{root.name}-stores")


def test_the_disk_is_believed_not_the_metadata(tree: tuple[Path, dict[str, View]]) -> None:
    store = stored(tree[0])
    assert store.names == tuple(path.rsplit("/", 1)[1] for path in tree[1])
    assert store.scenes == tuple("/".join(name.split("/")[1:3]) for name in tree[1])
    assert set(store.scenes) >= {"indoors/scene_00019", "outdoor/scene_00022"}
    assert store.sides == tuple({"train": "train", "val": "test"}[name.split("/")[0]] for name in tree[1])


def test_a_frame_is_what_its_files_hold_with_normals_brought_to_our_axes(tree: tuple[Path, dict[str, View]]) -> None:
    """At the size of the frames, where nothing is averaged; masks are of all types, some normals turned away."""
    for index, seen in enumerate(tree[1].values()):
        (sample,) = tree_reader(tree[0], FULL).read(index)
        np.testing.assert_array_equal(sample.valid, seen.mask)
        np.testing.assert_array_equal(sample.depth_m, np.where(seen.mask, seen.depth_m, 0))
        np.testing.assert_allclose(sample.layers["normals"], seen.normals, atol=2e-3)
        assert sample.layers["normals"].dtype == np.float16
    assert len(tree[1]) > len(MASK_TYPES)


def is_as_assumed(check: Mapping[Axes, float]) -> bool:
    """But for noise."""
    return check[STORED_AXES] >= max(check.values()) - 0.01


@pytest.mark.parametrize("seed", range(4))
def test_the_depth_map_tells_how_normals_are_stored(seed: int) -> None:
    seen = view(seed)
    as_published = seen.normals * np.array([1, -1, -1], np.float32)
    assert is_as_assumed(axes_by_depth(as_published, seen.depth_m, seen.mask))
    ours, defined = to_camera(as_published)
    np.testing.assert_allclose(ours[defined], seen.normals[defined], atol=1e-6)


def test_other_axes_are_noticed() -> None:
    """One image of a level camera may tie; over a few tilted ones another convention never passes."""
    views = [view(seed) for seed in range(6)]
    for signs in ((1, 1, 1), (1, 1, -1), (1, -1, 1)):
        turned = np.array(signs, np.float32)
        checks = [axes_by_depth(seen.normals * turned, seen.depth_m, seen.mask) for seen in views]
        assert sum(not is_as_assumed(check) for check in checks) >= 4
    seen = view(0)
    swapped = axes_by_depth(seen.normals[..., [1, 0, 2]], seen.depth_m, seen.mask)
    assert not is_as_assumed(swapped)
    assert [axis for axis, _ in next(iter(swapped))] == [1, 0, 2]
    assert not axes_by_depth(np.zeros_like(seen.normals), seen.depth_m, seen.mask)


def test_the_normals_of_a_depth_map_are_those_of_its_planes() -> None:
    seen = view(3)
    normals, known = normals_by_depth(seen.depth_m, seen.mask)
    both = known & seen.normals.any(axis=-1)
    # Inside a plane they are exact; at a crease between two planes they are between.
    cosine = (normals[both] * seen.normals[both]).sum(axis=-1)
    assert (cosine > 1 - 1e-5).mean() > 0.85
    assert STORED_AXES == ((0, 1), (1, -1), (2, -1))


def test_erosion_takes_spurious_returns_away(tree: tuple[Path, dict[str, View]]) -> None:
    """The column between pillar and wall is valid in the mask; with an erosion of one it is no truth any more."""
    seen = next(iter(tree[1].values()))
    column = 64 // 4 - 1
    jumping = jumps(seen.depth_m, seen.mask)
    spurious = seen.mask[:, column] & (np.abs(np.diff(seen.depth_m[:, column - 1 : column + 2])) > 0.5).all(axis=1)
    assert spurious.sum() > 10
    assert jumping[spurious, column].all()
    (sample,) = tree_reader(tree[0], replace(FULL, erosion=1)).read(0)
    assert not sample.valid[spurious, column].any()
    assert not sample.layers["normals"][~sample.valid].any()
    for row, place in np.argwhere(sample.valid):
        around = np.s_[max(row - 1, 0) : row + 2, max(place - 1, 0) : place + 2]
        assert seen.mask[around].all()
        assert not jumping[around].any()


def test_a_slanted_floor_is_no_jump() -> None:
    rows = (np.arange(768) + 0.5 - 384) / 927.06
    depth_m = np.where(rows > 0, 1.5 / np.maximum(rows, 1e-6), 1.0)[:, None].repeat(4, axis=1).astype(np.float32)
    jumping = jumps(depth_m, rows[:, None].repeat(4, axis=1) > 0)
    assert not jumping[(depth_m < 100) & (rows[:, None] > 0)].any()


def test_native_truth_is_kept_of_the_published_test_side_only(tree: tuple[Path, dict[str, View]]) -> None:
    store = stored(tree[0], NATIVE)
    of_test = [index for index, side in enumerate(store.sides) if side == "test"]
    assert len(of_test) == 6
    with h5py.File(store.path, "r") as file:
        layer = file["native_depth"]
        assert isinstance(layer, h5py.Dataset)
        # An image without the layer takes no room in the file.
        assert layer.id.get_num_chunks() == len(of_test)
    (native,) = store.read(("native_depth",), range(store.num_images)).values()
    for index, seen in enumerate(tree[1].values()):
        expected = np.where(seen.mask, seen.depth_m, 0) if index in of_test else np.zeros((48, 64))
        np.testing.assert_array_equal(native[index], expected.astype(np.float32))


def test_without_a_test_side_native_truth_is_kept_of_all(tmp_path: Path) -> None:
    write_tree(tmp_path / "d", SCANS[:2], per_scan=2)
    (native,) = stored(tmp_path / "d", NATIVE).read(("native_depth",), range(4)).values()
    assert native.any(axis=(1, 2)).all()


def test_normals_of_some_frames_only(tmp_path: Path) -> None:
    """Only val's normals were fetched: the others have none, and their depth is as it was."""
    root = tmp_path / "d"
    write_tree(root)
    whole = stored(root)
    depth = whole.read(("depth",), range(21))["depth"]
    for path in (root / "train").rglob("*_normal.npy"):
        path.unlink()
    store = stored(root)
    read = store.read(("depth", "normals"), range(21))
    np.testing.assert_array_equal(read["depth"], depth)
    assert not read["normals"][:15].any()
    np.testing.assert_array_equal(read["normals"][15:], whole.read(("normals",), range(15, 21))["normals"])


@pytest.mark.parametrize(
    ("subset", "scenes"),
    [
        ("outdoor", ("outdoor/scene_00011", "outdoor/scene_00022")),
        ("scene_00001, outdoor/scene_00022", ("indoors/scene_00001", "outdoor/scene_00022")),
        (
            "indoors,scene_00022",
            (*(f"indoors/scene_000{number}" for number in ("00", "01", "03", "19")), "outdoor/scene_00022"),
        ),
        ("all", ()),
    ],
)
def test_any_subset(tree: tuple[Path, dict[str, View]], subset: str, scenes: tuple[str, ...]) -> None:
    found = tuple(dict.fromkeys(group.scene for group in tree_reader(tree[0], subset=subset).groups))
    assert found == scenes or (subset == "all" and len(found) == 6)


def test_data_may_name_a_folder_below(tree: tuple[Path, dict[str, View]]) -> None:
    for below in ("val", "val/indoors", "val/indoors/scene_00019/scan_00183"):
        names = [name for group in tree_reader(tree[0] / below).groups for name in group.names]
        expected = [path.rsplit("/", 1)[1] for path in tree[1] if path.startswith(f"{below}/")]
        assert names == expected


def test_normals_in_a_tree_of_their_own(tree: tuple[Path, dict[str, View]], tmp_path: Path) -> None:
    """val and val_normals unpacked side by side are one dataset."""
    for source in (tree[0] / "val").rglob("*.*"):
        name = source.relative_to(tree[0])
        target = tmp_path / "d" / ("normals" if source.name.endswith("_normal.npy") else "depth") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    (expected,) = tree_reader(tree[0] / "val").read(2)
    (sample,) = tree_reader(tmp_path / "d").read(2)
    np.testing.assert_array_equal(sample.layers["normals"], expected.layers["normals"])
    assert sample.name == expected.name


def test_outdoor_frames_ask_for_log_depth(tree: tuple[Path, dict[str, View]]) -> None:
    (note,) = tree_reader(tree[0], Protocol()).notes
    assert "6 of 21 images of DIODE are outdoor" in note
    assert "target=log-depth" in note
    assert "max_depth=10 m" in note
    assert note in stored(tree[0], Protocol()).notes
    assert "max_depth" not in tree_reader(tree[0]).notes[0]
    assert tree_reader(tree[0], subset="indoors").notes == ()


def _without(ending: str) -> Callable[[Path], object]:
    return lambda frame: frame.with_name(frame.name + ending).unlink()


def _replaced(ending: str, values: np.ndarray) -> Callable[[Path], object]:
    return lambda frame: np.save(frame.with_name(frame.name + ending), values)


BROKEN = {
    "depth without its mask": (_without("_depth_mask.npy"), r"no \S+_depth_mask\.npy beside it"),
    "turned": (_replaced("_depth.npy", np.ones((64, 48, 1), np.float32)), r"_depth\.npy: depth is 48 x 64, .* 64 x 48"),
    "mask of another size": (_replaced("_depth_mask.npy", np.ones((24, 32))), r"_mask\.npy: the mask is 32 x 24"),
    "normals of one number": (_replaced("_normal.npy", np.ones((48, 64))), r"_normal\.npy: has shape \(48, 64\)"),
    "integer depth": (
        _replaced("_depth.npy", np.ones((48, 64), int)),
        r"_depth\.npy: depth is int64, expected float32",
    ),
    "integer normals": (_replaced("_normal.npy", np.ones((48, 64, 3), int)), r"_normal\.npy: normals are int64"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_bad_files_are_named_in_one_line(tmp_path: Path, kind: str) -> None:
    damage, expected = BROKEN[kind]
    views = write_tree(tmp_path / "d", SCANS[:3], per_scan=1)
    damage(tmp_path / "d" / list(views)[1])
    with pytest.raises(InputError, match=expected) as caught:
        stored(tmp_path / "d")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "d-stores").glob("*.h5"))


def test_bad_requests_are_found_before_work_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("again/one", "again/two", "moved"):
        write_tree(tmp_path / place, SCANS[:1], per_scan=1)
    shutil.copytree(tmp_path / "moved/train", tmp_path / "moved/val")
    for config, expected in (
        (DatasetConfig("diode", "again"), "is there twice"),
        (DatasetConfig("diode", "moved"), "has the name of train/indoors/scene_00000/scan_00000/00000_00000_indoors"),
    ):
        with pytest.raises(InputError, match=re.escape(expected)):
            require(config)
