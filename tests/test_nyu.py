"""NYU Depth V2: what stands in the file comes out upright, masked and on its side; files that are not it are named."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from nyu_files import NATIVE_SIZE, SMALL_SIZE, Planted, plant, write_mat, write_splits

from idl.data.datasets import DatasetConfig, open_store, require
from idl.data.nyu import CROP, NyuReader
from idl.data.preparation import prepare
from idl.errors import InputError
from idl.protocol import Protocol

# One store pixel is one native pixel of the centred square: nothing is averaged, everything can be compared.
EXACT = Protocol(resolution=48)
CENTRE = np.s_[:, 8:56]


def reader(path: Path, protocol: Protocol = EXACT, **settings: object) -> NyuReader:
    return NyuReader(path, protocol, size=SMALL_SIZE, **settings)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant()


@pytest.fixture(scope="module")
def mat(tmp_path_factory: pytest.TempPathFactory, planted: Planted) -> Path:
    return write_mat(tmp_path_factory.mktemp("nyu") / "nyu_depth_v2_labeled.mat", planted)


def test_images_come_out_upright_with_the_depth_that_was_measured(mat: Path, planted: Planted) -> None:
    found = reader(mat)
    for index in range(6):
        (sample,) = found.read(index)
        np.testing.assert_array_equal(sample.rgb, planted.rgb[index][CENTRE])
        raw_m = planted.raw_m[index][CENTRE]
        np.testing.assert_array_equal(sample.valid, raw_m > 0)
        np.testing.assert_allclose(sample.depth_m, raw_m, rtol=1e-6)


def test_the_filled_depth_is_an_option(mat: Path, planted: Planted) -> None:
    (sample,) = reader(mat, depths="inpainted").read(3)
    assert sample.valid.all()
    np.testing.assert_allclose(sample.depth_m, planted.inpainted_m[3][CENTRE], rtol=1e-6)
    assert reader(mat, depths="inpainted").recipe != reader(mat).recipe


def test_names_count_from_1_and_scenes_are_those_that_the_references_lead_to(mat: Path, planted: Planted) -> None:
    groups = reader(mat).groups
    assert [group.names for group in groups] == [(f"000{number}",) for number in range(1, 7)]
    assert tuple(group.scene for group in groups) == planted.scenes


@pytest.mark.parametrize("chunk_images", [1, 4])
def test_chunks_of_several_images_and_no_chunks_read_the_same(mat: Path, tmp_path: Path, chunk_images: int) -> None:
    other = write_mat(tmp_path / "b.mat", plant(), chunk_images=chunk_images, compression=4)
    for index in (5, 0, 3):
        (one,), (two,) = reader(mat).read(index), reader(other).read(index)
        np.testing.assert_array_equal(one.depth_m, two.depth_m)
        np.testing.assert_array_equal(one.rgb, two.rgb)


def test_a_reader_that_has_read_goes_to_another_process(mat: Path) -> None:
    found = reader(mat)
    before = found.read(2)
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    np.testing.assert_array_equal(again.read(2)[0].rgb, before[0].rgb)


def test_sides_come_from_the_splits_beside_the_file(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "nyu_depth_v2_labeled.mat", plant())
    assert [reader(path).read(index)[0].side for index in range(6)] == [""] * 6
    without = reader(path).recipe
    write_splits(tmp_path / "splits.mat", [1, 2, 6], [3, 4, 5])
    found = reader(tmp_path)
    assert [found.read(index)[0].side for index in range(6)] == ["train", "train", "test", "test", "test", "train"]
    assert found.recipe != without
    assert prepare(found, EXACT, tmp_path / "stores").sides == ("train", "train", "test", "test", "test", "train")


def test_the_crop_leaves_nothing_of_the_white_frame(tmp_path: Path) -> None:
    """At the published size, through the configuration that the command line makes."""
    planted = plant(3, NATIVE_SIZE)
    assert (planted.rgb[0] == 255).all(axis=-1).sum() > 10_000
    write_mat(tmp_path / "nyu_depth_v2_labeled.mat", planted)
    config = DatasetConfig("nyu", str(tmp_path))
    require(config)
    store = open_store(config, tmp_path / "stores")
    assert store.protocol.crop == CROP
    assert store.name == "nyu"
    read = store.read(("rgb", "depth", "valid"), range(3))
    assert not (read["rgb"] == 255).all(axis=-1).any()
    # Where depth is linear in red, the average over a cell of the one is that of the other.
    expected = 1.5 + 4.0 * read["rgb"][..., 0] / 255.0
    assert np.abs(read["depth"] - expected)[read["valid"]].max() < 0.15
    assert 0.7 < read["valid"].mean() < 0.95
    assert open_store(DatasetConfig("nyu", str(tmp_path), depths="inpainted"), tmp_path / "stores").protocol.mask == (
        "inpainted"
    )


def test_native_truth_is_the_whole_frame_as_measured(mat: Path, planted: Planted) -> None:
    protocol = Protocol(name="native", resolution=24, width=32, is_native=True)
    store = prepare(reader(mat, protocol), protocol, mat.parent / "native")
    native_m = store.read(("native_depth",), range(6))["native_depth"]
    np.testing.assert_array_equal(native_m, planted.raw_m)
    assert store.read(("rgb",), [0])["rgb"].shape == (1, 24, 32, 3)


def changed(**extra: np.ndarray) -> Callable[[Path, Planted], object]:
    return lambda path, planted: write_mat(path, replace(planted, extra=extra))


def of_scenes(*scenes: str) -> Callable[[Path, Planted], object]:
    return lambda path, planted: write_mat(path, replace(planted, scenes=scenes))


def cut_short(path: Path, planted: Planted) -> None:
    content = write_mat(path, planted).read_bytes()
    path.write_bytes(content[: int(0.7 * len(content))])


NATURAL = plant()
BAD = {
    "cut_short": ("cut short or damaged", cut_short),
    "no_raw_depth": (
        "no array `rawDepths` .*depths",
        lambda path, planted: write_mat(path, planted, leave_out=("rawDepths",)),
    ),
    "row_major_images": (r"`images` has shape .* expected \(6, 3, 64, 48\)", changed(images=NATURAL.rgb)),
    "matlab_order": (r"`depths` has shape \(48, 64, 6\)", changed(depths=NATURAL.raw_m.transpose(1, 2, 0))),
    "labels": (r"`labels` has shape \(5, 64, 48\), expected \(6, ", changed(labels=np.zeros((5, 64, 48), np.uint16))),
    "integers": ("`rawDepths` is uint16", changed(rawDepths=np.ones((6, 64, 48), np.uint16))),
    "none": ("`images` is empty", changed(images=np.ones((0, 3, 64, 48), np.uint8))),
    "other_scenes": ("`scenes` has 2 entries .* expected references to 6 strings", of_scenes("a", "b")),
    "empty_scene": ("`scenes` has no text for image 3", of_scenes("a", "a", "", "b", "b", "c")),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_not_it_is_named_before_work_starts(tmp_path: Path, planted: Planted, case: str) -> None:
    message, write = BAD[case]
    write(tmp_path / "bad.mat", planted)
    with pytest.raises(InputError, match=message) as caught:
        reader(tmp_path / "bad.mat")
    assert str(tmp_path / "bad.mat") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_image_is_named_when_it_is_read(tmp_path: Path, planted: Planted) -> None:
    path = write_mat(tmp_path / "a.mat", planted)
    with h5py.File(path) as file:
        chunk = file["rawDepths"].id.get_chunk_info(4)  # pyright: ignore[reportAttributeAccessIssue]
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset + 512)
        file.write(b"\xff" * (chunk.size - 8))
    found = reader(path)
    found.read(3)
    with pytest.raises(InputError, match=r"a\.mat: image 5 cannot be read"):
        found.read(4)


SPLITS = {
    "from_zero": ("lists 6 images, 0 to 5; expected each of 1 to 6 once", ([0, 1, 2], [3, 4, 5])),
    "both_sides": ("lists 7 images, 1 to 6", ([1, 2, 3], [3, 4, 5, 6])),
    "twice": ("lists 6 images, 1 to 6", ([1, 2, 2], [4, 5, 6])),
    "one_sided": ("no numbers in a list `trainNdxs`", ([], [1, 2, 3, 4, 5, 6])),
}


@pytest.mark.parametrize("case", SPLITS)
def test_a_split_that_does_not_divide_the_images_is_refused(tmp_path: Path, planted: Planted, case: str) -> None:
    message, (train, test) = SPLITS[case]
    write_mat(tmp_path / "nyu_depth_v2_labeled.mat", planted)
    write_splits(tmp_path / "splits.mat", train, test)
    with pytest.raises(InputError, match=message) as caught:
        reader(tmp_path)
    assert str(tmp_path / "splits.mat") in str(caught.value)
