"""Any folder of RGB-D pairs: layouts, units, missing values, and files that are not what they seem."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted import write_pairs

from idl.data.folder import FolderReader
from idl.errors import InputError
from idl.protocol import Protocol

PROTOCOL = Protocol(resolution=16)


def reader(root: Path, **settings: object) -> FolderReader:
    return FolderReader(root, PROTOCOL, **settings)  # pyright: ignore[reportArgumentType]


def rgb(path: Path, size: tuple[int, int] = (20, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)


def depth(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)


def plain(value: float, dtype: type = np.uint16, size: tuple[int, int] = (20, 24)) -> np.ndarray:
    return np.full(size, value, dtype)


def test_a_mask_takes_pixels_out(tmp_path: Path) -> None:
    mask = plain(255, np.uint8)
    mask[:, 12:] = 0
    rgb(tmp_path / "rgb/a.png")
    depth(tmp_path / "depth/a.png", plain(2000))
    depth(tmp_path / "mask/a.png", mask)
    (sample,) = reader(tmp_path).read(0)
    assert sample.valid[:, :7].all()
    assert not sample.valid[:, 9:].any()


def test_integers_that_mean_missing_are_0_and_65535_unless_others_are_given(tmp_path: Path) -> None:
    values = plain(2000)
    values[:10, :12], values[10:, :12] = 0, 65535
    rgb(tmp_path / "rgb/a.png")
    depth(tmp_path / "depth/a.png", values)
    (sample,) = reader(tmp_path).read(0)
    assert not sample.valid[:, :7].any()
    assert sample.valid[:, 9:].all()
    np.testing.assert_allclose(sample.depth_m[sample.valid], 2.0)
    (other,) = reader(tmp_path, invalid_values=(2000,), depth_scale=65535.0).read(0)
    assert not other.valid[:, 9:].any()
    np.testing.assert_allclose(other.depth_m[10:, :7], 1.0)
    assert reader(tmp_path, depth_scale=5000.0).recipe != reader(tmp_path).recipe


def test_scenes_are_folders_where_there_are_some(tmp_path: Path) -> None:
    for scene in ("attic", "cellar", "hall"):
        for name in ("1", "2"):
            rgb(tmp_path / scene / "rgb" / f"{name}.png")
            depth(tmp_path / scene / "depth" / f"{name}.png", plain(2000))
    found = reader(tmp_path)
    assert [group.scene for group in found.groups] == ["attic"] * 2 + ["cellar"] * 2 + ["hall"] * 2
    assert [group.names[0] for group in found.groups][:2] == ["attic/1", "attic/2"]
    assert not found.is_sequential
    blocks = reader(tmp_path, scene="block:1")
    assert [group.scene for group in blocks.groups][:3] == [
        "attic/block_00000",
        "attic/block_00001",
        "cellar/block_00000",
    ]


def test_scenes_are_blocks_of_frames_where_there_are_no_folders(tmp_path: Path) -> None:
    write_pairs(tmp_path / "Walk 1", num=25)
    found = reader(tmp_path / "Walk 1")
    assert found.name == "walk-1"
    assert [group.scene for group in found.groups] == [f"block_{index // 10:05d}" for index in range(25)]
    assert found.is_sequential


def test_a_changed_file_is_another_recipe(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    before = reader(tmp_path).recipe
    assert reader(tmp_path).recipe == before
    rgb(tmp_path / "rgb/0003.png", (48, 40))
    assert reader(tmp_path).recipe != before


def test_a_pair_that_does_not_fit_is_named(tmp_path: Path) -> None:
    rgb(tmp_path / "rgb/a.png")
    depth(tmp_path / "depth/a.png", plain(2000))
    depth(tmp_path / "mask/a.png", plain(1, np.uint8, (5, 9)))
    with pytest.raises(InputError, match=r"mask/a\.png: the mask is 9 x 5, its RGB image 24 x 20"):
        reader(tmp_path).read(0)
    (tmp_path / "mask/a.png").unlink()
    with pytest.raises(InputError, match="does not fit into 24 x 20"):
        FolderReader(tmp_path, Protocol(resolution=16, crop=(0, 21, 0, 20))).read(0)


def test_a_reader_that_has_read_its_layout_goes_to_other_processes(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    found = reader(tmp_path)
    assert found.layout_name == "plain"
    copy = pickle.loads(pickle.dumps(found))
    assert [sample.depth_m.tolist() for sample in copy.read(0)] == [sample.depth_m.tolist() for sample in found.read(0)]
