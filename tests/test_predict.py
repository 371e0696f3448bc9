"""Photographs of every kind become maps of their own size, and outputs are neither lost nor mixed up."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from idl.errors import InputError
from idl.evaluate import predict_whole
from idl.predict import BEYOND, Folder, Photograph, PredictionConfig, Source, find, predict_map, to_units

STRIDE = 8


def red_in_cells(rgb: Tensor) -> Tensor:
    """A model of stride 8 that refuses what is no whole number of cells: 10 m times the mean red of a cell."""
    assert rgb.shape[2] % STRIDE == 0
    assert rgb.shape[3] % STRIDE == 0
    cells = torch.nn.functional.avg_pool2d(rgb[:, :1] * 10, STRIDE)
    return torch.nn.functional.interpolate(cells, size=rgb.shape[2:], mode="bilinear", align_corners=False)


def facing(rgb: Tensor) -> Tensor:
    return torch.nn.functional.normalize(torch.cat([rgb[:, :2] - 0.5, -torch.ones_like(rgb[:, :1])], dim=1), dim=1)


def written(path: Path, width: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, 4)).save(path)
    return path


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 24, 37]))
def test_the_map_has_the_size_of_the_photograph_and_one_colour_gives_one_depth(
    height: int, width: int, resolution: int
) -> None:
    rgb = np.full((height, width, 3), 51, np.uint8)
    # A strip of one pixel would become 90 times as long as wide: enough here.
    depth = predict_map(red_in_cells, rgb, (resolution, resolution), STRIDE)
    assert depth.shape == (1, height, width)
    np.testing.assert_allclose(depth, 2.0, atol=1e-5)


@pytest.mark.parametrize("size", [(300, 500), (500, 300), (40, 67), (64, 64)])
def test_depth_stays_where_it_was_seen(size: tuple[int, int]) -> None:
    """A ramp of red comes back as a ramp of depth at the same pixels, from larger and from smaller images."""
    ramp = np.linspace(0.2, 0.8, size[1])
    rgb = np.broadcast_to((ramp[None, :, None] * 255).round().astype(np.uint8), (*size, 3))
    depth = predict_map(red_in_cells, np.ascontiguousarray(rgb), (64, 64), STRIDE)[0]
    inner = slice(size[1] // 6, -size[1] // 6)  # the outermost half cell is flat, as bilinear upsampling makes it
    np.testing.assert_allclose(depth[:, inner], np.broadcast_to(10 * ramp, size)[:, inner], atol=0.05)


def test_normals_keep_their_length_when_they_are_resized() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (90, 50, 3), np.uint8)
    normals = predict_map(facing, rgb, (16, 16), STRIDE, is_direction=True)
    assert normals.shape == (3, 90, 50)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1.0, atol=1e-5)


def squeezed(rgb: Tensor) -> Tensor:
    """A model of one size, 24 x 24, that knows where in its image a pixel is, as a ViT does."""
    small = F.interpolate(rgb, size=(24, 24), mode="bilinear", antialias=True)
    place = 1 + torch.arange(24 * 24).reshape(24, 24) / 576
    return F.interpolate(small[:, :1] * place, size=rgb.shape[2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("window", [(32, 32), (24, 36), (32, 24)])
@pytest.mark.parametrize("size", [(32, 50), (51, 32), (24, 140), (32, 64), (33, 33)])
def test_what_one_window_covers_is_predicted_as_that_window_alone(
    size: tuple[int, int], window: tuple[int, int]
) -> None:
    """And a photograph of the protocol's size is what the probe saw, whatever lies beside it."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    scale = max(window[0] / size[0], window[1] / size[1])
    covering = max(window[0], round(size[0] * scale)), max(window[1], round(size[1] * scale))
    rgb = np.asarray(Image.fromarray(noise).resize((covering[1], covering[0])))
    whole = predict_map(squeezed, rgb, window, 1, window=window)
    assert whole.shape == (1, *covering)
    axis = int(covering[1] > window[1])
    length, side = covering[axis], window[axis]
    num_windows = 1 + int(np.ceil((length - side) / (0.75 * side)))
    # Where the second window begins, from either end.
    alone = side if num_windows == 1 else (length - side) // (num_windows - 1)
    for turned in (False, True):
        picture, map_ = (np.flip(each, axis) if turned else each for each in (rgb, whole[0]))
        seen = picture[:side] if axis == 0 else picture[:, :side]
        handed = np.ascontiguousarray(np.flip(seen, axis) if turned else seen)
        by_itself = predict_map(squeezed, handed, window, 1, window=window)[0]
        direct = squeezed(torch.from_numpy(handed.copy()).permute(2, 0, 1)[None].float() / 255)[0, 0].numpy()
        np.testing.assert_array_equal(by_itself, direct)
        expected = np.flip(by_itself, axis) if turned else by_itself
        np.testing.assert_allclose(map_.take(range(alone), axis), expected.take(range(alone), axis), atol=1e-6)


def slant(rgb: Tensor) -> Tensor:
    """A model of one size that gives how much steeper the red it is fed is across than down: 1 for as steep."""
    small = F.interpolate(rgb[:, :1], size=(24, 24), mode="bilinear", antialias=True)
    across, down = (small.diff(dim=axis).abs().mean(dim=(2, 3), keepdim=True) for axis in (3, 2))
    return (across / down).expand(-1, -1, *rgb.shape[2:])


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (60, 90), (90, 300)])
def test_a_photograph_of_another_shape_is_not_stretched(size: tuple[int, int]) -> None:
    """Stripes at 45 degrees, which a squeezed picture does not have, have them in every window."""
    rows, columns = np.indices(size) * 256 / min(size)
    stripes = np.repeat((127.5 + 100 * np.sin((rows + columns) / 15))[..., None], 3, axis=2).astype(np.uint8)
    steepness = predict_map(slant, stripes, (64, 64), 1, window=(64, 64))
    assert steepness.shape == (1, *size)
    np.testing.assert_allclose(steepness, 1, atol=0.06)
    tensor = torch.from_numpy(stripes).permute(2, 0, 1)[None].float() / 255
    np.testing.assert_allclose(predict_whole(slant, tensor, 1, (64, 64)), 1, atol=0.06)
    assert abs(float(slant(tensor).mean()) - 1) > 0.2


def keys(*places: Path, out: str = "out") -> list[str]:
    return [each.key for each in find([str(place) for place in places], Path(out))]


def test_a_folder_keeps_its_paths_and_outputs_are_no_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("walk/b/1.png", "walk/a/1.png", "walk/a/.2.png", "walk/depth/1_depth.png"):
        written(tmp_path / name)
    (tmp_path / "walk" / "notes.txt").write_text("none")
    assert keys(Path("walk"), out="walk/depth") == ["a/1", "b/1"]
    assert keys(Path("walk"), out=".") == ["a/1", "b/1", "depth/1_depth"]
    assert keys(Path("walk/*/1.png")) == ["a/1", "b/1"]
    assert keys(Path("walk/**/1.png")) == ["a/1", "b/1"]


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    paths = [written(tmp_path / name) for name in ("a/1.png", "b/1.png", "b/1.bmp", "c/2.png")]
    assert keys(*paths) == ["a/1", "b/1.png", "b/1.bmp", "2"]
    assert keys(paths[0], tmp_path / "a", paths[0]) == ["1"]


def test_units_leave_the_two_numbers_that_mean_no_depth() -> None:
    units, num_beyond = to_units(np.array([[0.0, 1.2344, 65.534, 65.536, np.inf]], np.float32), 1000)
    assert units.tolist() == [[1, 1234, 65534, BEYOND, BEYOND]]
    assert num_beyond == 2


DEPTH = Source("models:/idl-depth-null/1", "models:/m-1", "depth", "depth", "m", (0.0, 10.0))
NORMALS = Source("models:/idl-normals-null/1", "models:/m-2", "normals", "normals", "1", (0.0, 90.0))
FIELD = Source("models:/idl-edge-null/1", "models:/m-3", "edge", "field", "px", (-2.0, 4.0))
MAP = np.array([[[1.0, 2.5], [10.0, 70.0]]], np.float32)


@pytest.fixture
def photograph(tmp_path: Path) -> Photograph:
    return Photograph(written(tmp_path / "in" / "room.png"), "walk/room")


def test_depth_is_written_with_a_picture_that_says_its_range(tmp_path: Path, photograph: Photograph) -> None:
    folder = Folder(tmp_path / "out", DEPTH, PredictionConfig())
    assert not folder.is_done(photograph)
    assert folder.write(photograph, MAP) == 1
    assert folder.is_done(photograph)
    values = np.asarray(Image.open(tmp_path / "out/walk/room_depth.png"))
    assert values.tolist() == [[1000, 2500], [10000, BEYOND]]
    with Image.open(tmp_path / "out/walk/room_colour.png") as picture:
        said = json.loads(picture.info["idl"])
        assert picture.size == (2, 2)
    assert (said["near"], said["far"], said["depth_scale"]) == (0.0, 10.0, 1000.0)
    assert said["model"] == "models:/idl-depth-null/1 (models:/m-1)"
    assert not list(tmp_path.rglob("*.tmp"))


def test_outputs_of_something_else_are_not_taken_for_these(tmp_path: Path, photograph: Photograph) -> None:
    folder = Folder(tmp_path / "out", DEPTH, PredictionConfig())
    folder.write(photograph, MAP)
    for other, named in (
        (Folder(folder.path, DEPTH, PredictionConfig(format="npy")), "another format"),
        (Folder(folder.path, DEPTH, PredictionConfig(far=5)), "another far"),
        (Folder(folder.path, NORMALS, PredictionConfig()), "another model and target"),
    ):
        with pytest.raises(InputError, match=named):
            other.is_done(photograph)
    (folder.path / "walk/room_depth.png").unlink()
    assert not folder.is_done(photograph)
    folder.write(photograph, MAP)
    written(photograph.path, width=8)
    with pytest.raises(InputError, match="another image"):
        folder.is_done(photograph)
    written(folder.path / "walk/room_colour.png")
    with pytest.raises(InputError, match="from another"):
        folder.is_done(photograph)


@pytest.mark.parametrize("letter", ["x", "\u6df1", "\U0001f6cb", "\udcff"])
def test_names_as_long_as_names_may_be_have_outputs_of_their_own(tmp_path: Path, letter: str) -> None:
    """Of 251 bytes and a suffix, alike but for the last."""
    folder = Folder(tmp_path / "out", DEPTH, PredictionConfig())
    stem = letter * (250 // len(os.fsencode(letter)))
    for end in "ab":
        path = written(tmp_path / "in" / f"{stem}{end}.png")
        (each,) = find([str(path)], folder.path)
        assert not folder.is_done(each)
        folder.write(each, MAP)
        assert folder.is_done(each)
    assert len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.parametrize(
    ("source", "config", "name", "values"),
    [
        (DEPTH, PredictionConfig(format="npy"), "depth", MAP),
        (FIELD, PredictionConfig(), "edge", -MAP),
        (NORMALS, PredictionConfig(), "normals", np.tile(np.array([0, -1, 0], np.float32)[:, None, None], (1, 2, 2))),
    ],
)
def test_what_is_no_png_is_written_as_it_is(
    tmp_path: Path, photograph: Photograph, source: Source, config: PredictionConfig, name: str, values: np.ndarray
) -> None:
    folder = Folder(tmp_path / "out", source, config)
    folder.write(photograph, values)
    assert folder.is_done(photograph)
    found = np.load(tmp_path / f"out/walk/room_{name}.npy")
    np.testing.assert_array_equal(found, values[0] if len(values) == 1 else np.moveaxis(values, 0, -1))
    if source is NORMALS:
        assert Image.open(tmp_path / "out/walk/room_colour.png").getpixel((0, 0)) == (128, 255, 128)
    if source is FIELD:
        assert "dark -2 to bright 4 px" in folder.legend


@pytest.mark.parametrize(
    ("source", "config", "signs"),
    [
        # Depth darkens and a field brightens, over a range that may end at zero.
        (FIELD, PredictionConfig(near=0.0), [0, 0, 1]),
        (FIELD, PredictionConfig(far=0.0), [1, 1, 0]),
        (DEPTH, PredictionConfig(near=-2.0, far=4.0), [-1, -1, -1]),
    ],
)
def test_colours_run_over_the_range(
    tmp_path: Path, photograph: Photograph, source: Source, config: PredictionConfig, signs: list[int]
) -> None:
    Folder(tmp_path / "out", source, config).write(photograph, np.array([[[-2.0, -1.0, 0.0, 4.0]]], np.float32))
    grey = np.asarray(Image.open(tmp_path / "out/walk/room_colour.png").convert("L"), int)[0]
    assert np.sign(np.diff(grey)).tolist() == signs
