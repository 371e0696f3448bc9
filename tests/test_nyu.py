"""NYU Depth V2: what stands in the file comes out upright, masked and on its side; files that are not it are named."""

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
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
    assert reader(mat).groups[0].scene == "kitchen_0000"


def test_not_finite_and_negative_depth_is_missing(tmp_path: Path) -> None:
    planted = plant(1)
    planted.raw_m[0, 20:24, 20:30] = [[np.nan], [np.inf], [-1.0], [0.0]]
    (sample,) = reader(write_mat(tmp_path / "a.mat", planted)).read(0)
    assert not sample.valid[20:24, 12:22].any()
    assert np.isfinite(sample.depth_m).all()


@pytest.mark.parametrize("chunk_images", [1, 4, 6])
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


def test_the_file_is_opened_once_and_its_references_are_followed_once(
    mat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reader(mat)
    assert len(found.groups) == 6
    opened: list[object] = []
    original = h5py.File.__init__

    def counted(self: h5py.File, *args: object, **kwargs: object) -> None:
        opened.extend(arg for arg in args if isinstance(arg, Path))
        original(self, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(h5py.File, "__init__", counted)
    monkeypatch.setattr(h5py, "check_ref_dtype", None)
    for index in range(6):
        found.read(index)
    assert len(opened) == 1


def test_sides_come_from_the_splits_beside_the_file(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "nyu_depth_v2_labeled.mat", plant())
    assert [reader(path).read(index)[0].side for index in range(6)] == [""] * 6
    without = reader(path).recipe
    write_splits(tmp_path / "splits.mat", [1, 2, 6], [3, 4, 5])
    found = reader(tmp_path)
    assert [found.read(index)[0].side for index in range(6)] == ["train", "train", "test", "test", "test", "train"]
    assert found.recipe != without
    assert prepare(found, EXACT, tmp_path / "stores").sides == ("train", "train", "test", "test", "test", "train")


def test_the_published_split_is_read() -> None:
    path = Path(__file__).parents[2] / "shared" / "real" / "nyu" / "splits.mat"
    if not path.exists():
        pytest.skip(f"no published split at {path}")
    from idl.data.nyu.sides import read_sides

    sides = read_sides(path, 1449)
    assert (sides.count("train"), sides.count("test")) == (795, 654)
    assert (sides[0], sides[2]) == ("test", "train")


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


def old_version(path: Path, planted: Planted) -> None:
    scipy.io.savemat(path, {"images": planted.rgb[0]})


def truncated(part: float) -> Callable[[Path, Planted], None]:
    def write(path: Path, planted: Planted) -> None:
        content = write_mat(path, planted).read_bytes()
        path.write_bytes(content[: int(part * len(content))])

    return write


def changed(**extra: np.ndarray) -> Callable[[Path, Planted], None]:
    def write(path: Path, planted: Planted) -> None:
        write_mat(path, Planted(planted.rgb, planted.raw_m, planted.inpainted_m, planted.scenes, extra))

    return write


def without(*keys: str) -> Callable[[Path, Planted], None]:
    return lambda path, planted: (write_mat(path, planted, leave_out=keys), None)[1]


def of_scenes(*scenes: str) -> Callable[[Path, Planted], None]:
    return lambda path, planted: (write_mat(path, plant(scenes=scenes)), None)[1]


def scenes_as_numbers(path: Path, planted: Planted) -> None:
    write_mat(path, planted, leave_out=("scenes",))
    with h5py.File(path, "r+") as file:
        file["scenes"] = np.arange(6)


def references_to_nothing(path: Path, planted: Planted) -> None:
    write_mat(path, planted, leave_out=("scenes",))
    with h5py.File(path, "r+") as file:
        file.create_dataset("scenes", (1, 6), dtype=h5py.ref_dtype)


NATURAL = plant()
BAD = {
    "cut_short": ("cut short or damaged", truncated(0.7)),
    "cut_to_its_header": ("cut short after", truncated(0.0005)),
    "empty": ("not a MATLAB v7.3 file", truncated(0)),
    "older": (r"older than v7\.3.*save\('bad\.mat', '-struct', 's', '-v7\.3'\)", old_version),
    "text": ("not a MATLAB v7.3 file", lambda path, _: (path.write_text("images"), None)[1]),
    "no_images": ("no array `images`", without("images")),
    "no_raw_depth": ("no array `rawDepths` .*depths", without("rawDepths")),
    "no_scenes": ("no array `scenes`", without("scenes")),
    "row_major_images": (r"`images` has shape \(6, 48, 64, 3\), expected", changed(images=NATURAL.rgb)),
    "row_major_depth": (r"`rawDepths` has shape \(6, 48, 64\), expected", changed(rawDepths=NATURAL.raw_m)),
    "matlab_order": (r"`depths` has shape \(48, 64, 6\)", changed(depths=NATURAL.raw_m.transpose(1, 2, 0))),
    "labels": ("`labels` has 5 images, `images` has 6", changed(labels=np.zeros((5, 64, 48), np.uint16))),
    "integers": ("`rawDepths` is uint16", changed(rawDepths=np.ones((6, 64, 48), np.uint16))),
    "sixteen_bits": ("`images` is uint16", changed(images=np.ones((6, 3, 64, 48), np.uint16))),
    "none": ("`images` is empty", changed(images=np.ones((0, 3, 64, 48), np.uint8))),
    "other_scenes": ("`scenes` has 2 entries, `images` has 6", of_scenes("a", "b")),
    "empty_scene": ("`scenes` has no text for image 3", of_scenes("a", "a", "", "b", "b", "c")),
    "numbers_for_scenes": ("`scenes` is int64", scenes_as_numbers),
    "null_references": ("`scenes` has no text for image 1", references_to_nothing),
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
    "from_zero": ("counts the images from 0, expected 1 to 6", ([0, 1, 2], [3, 4, 5])),
    "shorter": ("lists 4 images, 1 to 4; the dataset has 1 to 6", ([1, 2], [3, 4])),
    "longer": ("lists 8 images, 1 to 8; the dataset has 1 to 6", ([1, 2, 3, 4], [5, 6, 7, 8])),
    "gap": ("lists 6 images, 1 to 7", ([1, 2, 3], [4, 6, 7])),
    "both_sides": ("image 3 is in trainNdxs and in testNdxs", ([1, 2, 3], [3, 4, 5, 6])),
    "twice": ("image 2 is listed twice", ([1, 2, 2, 3], [4, 5, 6])),
    "one_sided": ("one side of the split is empty", ([], [1, 2, 3, 4, 5, 6])),
}


@pytest.mark.parametrize("case", SPLITS)
def test_a_split_that_does_not_divide_the_images_is_refused(tmp_path: Path, planted: Planted, case: str) -> None:
    message, (train, test) = SPLITS[case]
    write_mat(tmp_path / "nyu_depth_v2_labeled.mat", planted)
    write_splits(tmp_path / "splits.mat", train, test)
    with pytest.raises(InputError, match=message) as caught:
        reader(tmp_path)
    assert str(tmp_path / "splits.mat") in str(caught.value)


def test_a_split_file_that_is_none_is_refused(tmp_path: Path, planted: Planted) -> None:
    write_mat(tmp_path / "nyu_depth_v2_labeled.mat", planted)
    splits = tmp_path / "splits.mat"
    scipy.io.savemat(splits, {"trainNdxs": np.array([1, 2])})
    with pytest.raises(InputError, match="no list `testNdxs`"):
        reader(tmp_path)
    scipy.io.savemat(splits, {"trainNdxs": np.array([1.5, 2]), "testNdxs": np.array([3.0, 4, 5, 6])})
    with pytest.raises(InputError, match="`trainNdxs` holds no whole numbers"):
        reader(tmp_path)
    content = write_splits(splits, [1, 2, 3], [4, 5, 6]).read_bytes()
    for damaged in (content[:150], content[:-9], b"", b"train 1 2 3"):
        splits.write_bytes(damaged)
        with pytest.raises(InputError, match=r"splits\.mat: ") as caught:
            reader(tmp_path)
        assert "\n" not in str(caught.value)
    splits.unlink()
    write_mat(splits, planted)
    with pytest.raises(InputError, match=r"is MATLAB v7\.3"):
        reader(tmp_path)


def test_paths_and_settings_that_cannot_be_are_refused(tmp_path: Path, mat: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        reader(tmp_path / "gone.mat")
    with pytest.raises(InputError, match=r"no nyu_depth_v2_labeled\.mat in it"):
        reader(tmp_path)
    with pytest.raises(InputError, match="depths=filled: expected sensor or inpainted"):
        reader(mat, depths="filled")
    with pytest.raises(InputError, match=r"crop \(44, 471, 40, 601\) does not fit into 64 x 48"):
        reader(mat, Protocol(resolution=16, crop=CROP))
    with pytest.raises(InputError, match="dataset=nyu: no data given"):
        require(DatasetConfig("nyu"))


@pytest.mark.parametrize("command", ["prepare", "probe"])
def test_the_command_line_ends_with_one_line_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    from idl.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    truncated(0.7)(tmp_path / "cut.mat", plant())
    monkeypatch.setattr("sys.argv", ["idl", command, "--dataset", "nyu", "--data", "cut.mat"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "cut.mat: cannot be read" in errors[0]
    assert not list(tmp_path.rglob("*.h5"))
