"""RGB-D data as people have it: each kind is read to the figures of the same pairs in the plain layout, or refused."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from field_scenes import scene
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from idl.data.datasets import DatasetConfig, reader
from idl.data.folder import FolderReader
from idl.data.images import resize_depth, resize_rgb
from idl.data.units import is_rotated, unrotated
from idl.errors import InputError
from idl.protocol import Protocol

NUM = 12
PROTOCOL = Protocol()


def put(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def units(depth_m: np.ndarray, scale: float = 1000) -> np.ndarray:
    return np.rint(depth_m * scale).astype(np.uint16)


Write = Callable[[Path, int, np.ndarray, np.ndarray], None]


def files(rgb: str, depth: str, scale: float = 1000) -> Write:
    """Return what writes a pair under paths with {n}, {i} (of ten) and {s} (the scene of ten)."""

    def write(root: Path, number: int, picture: np.ndarray, depth_m: np.ndarray) -> None:
        put(root / rgb.format(n=number, i=number % 10, s=number // 10), picture)
        put(root / depth.format(n=number, i=number % 10, s=number // 10), units(depth_m, scale))

    return write


plain = files("rgb/{n:04d}.png", "depth/{n:04d}.png")
SEVEN = files("seq-{s:02d}/frame-{i:06d}.color.png", "seq-{s:02d}/frame-{i:06d}.depth.png")


def arrays(save: Callable[[Path, np.ndarray], object]) -> Write:
    def write(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
        put(root / f"rgb/{number:04d}.png", rgb)
        (root / "depth").mkdir(exist_ok=True)
        save(root / f"depth/{number:04d}", depth_m)

    return write


def pfm(path: Path, depth_m: np.ndarray) -> None:
    head = f"Pf\n{depth_m.shape[1]} {depth_m.shape[0]}\n-1.0\n".encode()
    path.with_suffix(".pfm").write_bytes(head + depth_m[::-1].astype("<f4").tobytes())


def exr(path: Path, depth_m: np.ndarray) -> None:
    library = pytest.importorskip("OpenEXR")
    head = {"compression": library.ZIP_COMPRESSION, "type": library.scanlineimage}
    with library.File(head, {"Z": np.ascontiguousarray(depth_m)}) as file:
        file.write(f"{path}.exr")


def stretched(path: Path, depth_m: np.ndarray) -> None:
    np.save(f"{path}.npy", depth_m)
    share = (depth_m - depth_m.min()) / (depth_m.max() - depth_m.min())
    put(path.with_suffix(".png"), (share * 255).astype(np.uint8))


def rotated(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    millimetres = units(depth_m)
    put(root / f"rgb/{number:04d}.png", rgb)
    put(root / f"depth/{number:04d}.png", ((millimetres << 3) | (millimetres >> 13)).astype(np.uint16))


def tum(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    seconds, depth_seconds = 1305031102.175304 + number / 30, 1305031102.160504 + number / 30
    files(f"rgb/{seconds:.6f}.png", f"depth/{depth_seconds:.6f}.png", 5000)(root, number, rgb, depth_m)
    for kind, stamp in (("rgb", seconds), ("depth", depth_seconds)):
        with (root / f"{kind}.txt").open("a") as file:
            file.write(f"# list\n{stamp:.6f} {kind}/{stamp:.6f}.png\n")


def listed(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    where = f"shot_{number // 10}/{number:02d}"
    files(f"{where} c.jpg.png", f"{where} z.png")(root, number, rgb, depth_m)
    with (root / "pairs.txt").open("a") as file:
        file.write(f"# rgb depth\n{where} c.jpg.png\t{where} z.png\n")


def as_csv(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    plain(root / "a, b", number, rgb, depth_m)
    with (root / "pairs.csv").open("a") as file:
        file.write(f'"a, b/rgb/{number:04d}.png", "a, b/depth/{number:04d}.png"\r\n'.replace('", "', '","'))


def windows(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    plain(root, number, rgb, depth_m)
    with (root / "pairs.txt").open("a") as file:
        file.write(f"rgb\\{number:04d}.png depth\\{number:04d}.png\r\n")


def nyu_list(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    where = f"bedroom_{number // 10:04d}"
    files(f"{where}/rgb_{number:05d}.png", f"{where}/sync_depth_{number:05d}.png")(root, number, rgb, depth_m)
    with (root / "nyu_train.txt").open("a") as file:
        file.write(f"/{where}/rgb_{number:05d}.png /{where}/sync_depth_{number:05d}.png 518.8579\n")


def linked(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    plain(root / "../disk", number, rgb, depth_m)
    if not number:
        root.mkdir(exist_ok=True)
        for kind in ("rgb", "depth"):
            (root / kind).symlink_to(f"../disk/{kind}")
        # One that leads back up, and one to what is there already.
        (root / "again").symlink_to("../disk")
        (root.parent / "disk/up").symlink_to(root)


def hidden(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    plain(root / "walk", number, rgb, depth_m)
    for place in ("walk/rgb/._{}", "walk/depth/._{}", "__MACOSX/walk/rgb/{}", "walk/rgb/.ipynb_checkpoints/{}"):
        path = root / place.format(f"{number:04d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x00\x05\x16\x07Mac OS X")


def without_depth(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    plain(root, number, rgb, depth_m)
    if number == 7:
        (root / f"depth/{number:04d}.png").unlink()


def phone(root: Path, number: int, *_: np.ndarray) -> None:
    rgb, depth_m = scene(number, 360, 480)
    small = np.array(Image.fromarray(depth_m).resize((64, 48), Image.Resampling.NEAREST))
    put(root / f"rgb/{number:06d}.jpg", rgb)
    put(root / f"depth/{number:06d}.png", units(small))


def turned(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    (root / "rgb").mkdir(parents=True, exist_ok=True)
    lying = Image.fromarray(rgb).transpose(Image.Transpose.ROTATE_90)
    lying.save(root / f"rgb/{number:04d}.png", exif=exif)
    put(root / f"depth/{number:04d}.png", units(depth_m))


@dataclass(frozen=True)
class Case:
    """What is written, the options, words in the notes, and how far depth may be off by its rounding."""

    write: Write
    options: dict[str, Any] = field(default_factory=dict)
    words: str = ""
    within: float = 6e-4


ODD = "a\nb\u202e'\"<i>"
CASES = {
    "plain": Case(plain),
    "beside": Case(files("{n:04d}.png", "{n:04d}_depth.png")),
    "upper case": Case(files("RGB/IMG_{n:04d}.PNG", "Depth/img_{n:04d}.png")),
    "links": Case(linked),
    "hidden": Case(hidden),
    "one without depth": Case(without_depth, words="1 of 12 images has no depth"),
    "array and picture": Case(arrays(stretched)),
    "tiff": Case(arrays(lambda path, depth_m: put(path.with_suffix(".tiff"), depth_m))),
    "pfm": Case(arrays(pfm)),
    "npz": Case(arrays(lambda path, depth_m: np.savez_compressed(path, depth=depth_m, other=depth_m[0]))),
    "exr": Case(arrays(exr)),
    "bmp": Case(files("rgb/{n:04d}.bmp", "depth/{n:04d}.png")),
    "millimetres": Case(arrays(lambda path, d: np.save(path, d * 1000)), {"depth_scale": 1000.0}),
    "rotated": Case(rotated, {"depth_format": "sunrgbd"}),
    "rotated at 8000": Case(rotated, {"depth_scale": 8000.0}),
    "turned": Case(turned),
    "tum": Case(tum, words="12 pairs, of the layout tum, which was recognised: rgb.txt and depth.txt"),
    "tum, asked for": Case(tum, {"layout": "tum"}, "of the layout tum, which was asked for"),
    "plurals": Case(files("images/{n:04d}.png", "depths/{n:04d}.png"), words="scannet"),
    "hyphens": Case(files("{n:04d}.png", "{n:04d}-depth.png")),
    "prefixes": Case(files("rgb_{n:04d}.png", "depth_{n:04d}.png"), words="nyu-sync"),
    "accents": Case(files("rgb/caf\u00e9{n:04d}.png", "depth/cafe\u0301{n:04d}.png")),
    "odd names": Case(files(f"{ODD}/rgb/{{n:04d}}\n.png", f"{ODD}/depth/{{n:04d}}\n.png")),
    "7-scenes": Case(SEVEN, words="7-scenes"),
    "scannet": Case(files("scene{s:04d}_00/color/{i}.png", "scene{s:04d}_00/depth/{i}.png"), words="scannet"),
    "open3d": Case(files("color/{n:05d}.png", "depth/{n:05d}.png"), words="scannet"),
    "vkitti": Case(files("rgb/Camera_0/rgb_{n:05d}.png", "depth/Camera_0/depth_{n:05d}.png", 100), within=6e-3),
    "replica": Case(files("results/frame{n:06d}.png", "results/depth{n:06d}.png", 6553.5)),
    "nyu-sync": Case(files("bed_{s}/rgb_{i:05d}.png", "bed_{s}/sync_depth_{i:05d}.png"), {"scene": "block:10"}),
    "nyu list": Case(nyu_list, words="nyu-lists"),
    "colors": Case(files("{n:05d}_colors.png", "{n:05d}_depth.png")),
    "list": Case(listed, {"pairs": "pairs.txt"}, "listed: 'rgb depth [scene]' a line of"),
    "csv": Case(as_csv, {"pairs": "pairs.csv"}),
    "windows": Case(windows, {"pairs": "pairs.txt"}),
    "patterns": Case(
        files("left/{n:04d}_l.png", "z/{n:04d}.d.png"),
        {"rgb_pattern": "left/*_l.png", "depth_pattern": "z/*.d.png"},
        "12 pairs, by patterns: left/*_l.png with z/*.d.png.",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_samples_are_those_of_the_plain_layout(tmp_path: Path, name: str) -> None:
    case, root = CASES[name], tmp_path / "walk"
    for number in range(NUM):
        case.write(root, number, *scene(number))
    options: dict[str, Any] = {
        key: str(root / value) if key == "pairs" else value for key, value in case.options.items()
    }
    found = reader(DatasetConfig("folder", str(root), **options))
    numbers = [number for number in range(NUM) if name != "one without depth" or number != 7]
    assert len(found.groups) == len({group.names for group in found.groups}) == len(numbers)
    assert isinstance(found, FolderReader)
    assert case.words in " ".join(found.notes)
    for index in (0, 7, len(numbers) - 1):
        rgb, depth_m = scene(numbers[index])
        (sample,) = found.read(index)
        expected_m, valid = resize_depth(depth_m, np.ones(depth_m.shape, bool), PROTOCOL)
        np.testing.assert_array_equal(sample.rgb, resize_rgb(rgb, PROTOCOL))
        np.testing.assert_array_equal(sample.valid, valid)
        np.testing.assert_allclose(sample.depth_m, expected_m, atol=case.within)


def test_rotated_integers_that_were_not_asked_for_are_noted(tmp_path: Path) -> None:
    for number in range(3):
        rotated(tmp_path, number, *scene(number))
    found = reader(DatasetConfig("folder", str(tmp_path), max_depth=80.0))
    assert isinstance(found, FolderReader)
    assert "depth_format=sunrgbd" in " ".join(found.notes)


OTHER = files("b/color/{n:04d}.png", "b/depth/{n:04d}.png")


@pytest.mark.parametrize(
    ("first", "second", "layout", "other"),
    [
        (files("a/rgb/{n:04d}.png", "a/depth/{n:04d}.png"), OTHER, "plain", "scannet"),
        (lambda root, *pair: tum(root / "a", *pair), OTHER, "tum", "scannet"),
        # Both are of the plain layout: all are read, and no depth map is a picture that lacks depth.
        (files("a/rgb/{n:04d}.png", "a/depth/{n:04d}.png"), files("b/{n:04d}.png", "b/{n:04d}_depth.png"), "plain", ""),
    ],
)
def test_folders_of_another_layout_beside_those_that_are_read_are_named(
    tmp_path: Path, first: Write, second: Write, layout: str, other: str
) -> None:
    for number in range(5):
        (first if number < 3 else second)(tmp_path, number, *scene(number))
    found = reader(DatasetConfig("folder", str(tmp_path)))
    assert isinstance(found, FolderReader)
    assert (found.layout_name, found.alone, len(found.pairs)) == (layout, [], 3 if other else 5)
    said = " ".join(note for note in found.notes if "not read" in note)
    assert bool(said) is bool(other)
    if other:
        assert f"2 pairs of the layout {other} beside them were not read" in said
        assert len(reader(DatasetConfig("folder", str(tmp_path), layout=other)).groups) == 2


def test_smaller_depth_is_averaged_by_itself(tmp_path: Path) -> None:
    for number in (0, 1, 2):
        phone(tmp_path, number)
    found = reader(DatasetConfig("folder", str(tmp_path)))
    (sample,) = found.read(1)
    stored = np.asarray(Image.open(tmp_path / "depth/000001.png")) / np.float32(1000)
    # 48 pixels under 256 cells: one pixel is 16 / 3 cells.
    fine = np.repeat(np.repeat(stored[:, 8:56], 16, axis=0), 16, axis=1).reshape(256, 3, 256, 3)
    np.testing.assert_allclose(sample.depth_m, fine.mean(axis=(1, 3)), rtol=1e-5)
    assert sample.valid.all()
    assert isinstance(found, FolderReader)
    native = found.native(1)
    assert native.depth_m.shape == native.valid.shape == native.image.shape[:2] == (360, 480)
    np.testing.assert_array_equal(native.depth_m[3::15, 3::15], stored[::2, ::2])
    put(tmp_path / "depth/000001.png", np.full((64, 64), 900, np.uint16))
    with pytest.raises(InputError, match="Register them to one field of view"):
        found.read(1)


def test_hypersim_becomes_depth_along_the_axis(tmp_path: Path) -> None:
    # A wall three metres ahead, square to the axis: its distances grow to the corners.
    y, x = np.mgrid[0:48, 0:64] - np.array([23.5, 31.5])[:, None, None]
    focal = 886.81 / 16
    distance = 3 * np.sqrt(x**2 + y**2 + focal**2) / focal
    for number in range(3):
        put(
            tmp_path / f"ai_001_00{number}/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg",
            scene(0, 48, 64)[0],
        )
        path = tmp_path / f"ai_001_00{number}/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5"
        path.parent.mkdir(parents=True)
        with h5py.File(path, "w") as file:
            file["dataset"] = distance.astype(np.float16)
    found = reader(DatasetConfig("folder", str(tmp_path)))
    assert [group.scene for group in found.groups] == ["ai_001_000", "ai_001_001", "ai_001_002"]
    np.testing.assert_allclose(found.read(0)[0].depth_m, 3, rtol=1e-3)


def test_kitti_is_joined_by_drive_and_camera(tmp_path: Path) -> None:
    for number in range(3):
        drive = f"2011_09_26_drive_000{number}_sync"
        for view in ("image_02", "image_03"):
            put(tmp_path / f"raw/2011_09_26/{drive}/{view}/data/0000000005.png", scene(number)[0])
            put(tmp_path / f"raw/2011_09_26/{drive}/{view}/data/0000000000.png", scene(number)[0])
            put(tmp_path / f"train/{drive}/proj_depth/groundtruth/{view}/0000000005.png", units(scene(number)[1], 256))
    found = reader(DatasetConfig("folder", str(tmp_path)))
    assert isinstance(found, FolderReader)
    assert (found.layout_name, len(found.pairs), len(found.alone)) == ("kitti", 6, 6)
    assert len({group.scene for group in found.groups}) == 3
    np.testing.assert_allclose(found.native(0).depth_m, scene(0)[1], atol=1 / 256)


def test_frames_of_tum_are_nearest_in_time_and_used_once(tmp_path: Path) -> None:
    rgb, depth_m = scene(0)
    for kind, stamps in (("rgb", (0.0, 0.015, 0.2, 0.5)), ("depth", (0.012, 0.19, 0.531))):
        for stamp in stamps:
            put(tmp_path / f"{kind}/{stamp}.png", rgb if kind == "rgb" else units(depth_m, 5000))
        (tmp_path / f"{kind}.txt").write_text("".join(f"{stamp} {kind}/{stamp}.png\n" for stamp in stamps))
    found = reader(DatasetConfig("folder", str(tmp_path)))
    assert isinstance(found, FolderReader)
    assert [(pair.rgb.stem, pair.depth.stem) for pair in found.pairs] == [("0.015", "0.012"), ("0.2", "0.19")]
    assert list(found.alone) == ["rgb/0.0.png", "rgb/0.5.png"]


def test_lists_have_scenes_and_name_the_line_that_is_wrong(tmp_path: Path) -> None:
    for number in range(4):
        plain(tmp_path, number, *scene(number))
    lines = [f"rgb/{number:04d}.png depth/{number:04d}.png room{number % 3}" for number in (3, 0, 2, 1)]
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines))
    found = reader(DatasetConfig("folder", pairs=str(path)))
    assert [group.scene for group in found.groups] == ["room0", "room0", "room2", "room1"]
    assert [group.names[0] for group in found.groups] == ["0003", "0000", "0002", "0001"]
    before = found.recipe
    path.write_text("\n".join(lines).replace("room2", "room9"))
    assert reader(DatasetConfig("folder", pairs=str(path))).recipe != before
    path.write_text("# gone\nrgb/0007.png depth/0007.png")
    with pytest.raises(InputError, match=r"list\.txt, line 2: no such file"):
        _ = reader(DatasetConfig("folder", pairs=str(path))).groups


@given(st.integers(0, 65535))
def test_rotated_integers_are_read_exactly(millimetres: int) -> None:
    stored = np.full((2, 2), ((millimetres << 3) | (millimetres >> 13)) & 65535, np.uint16)
    assert (unrotated(stored) == millimetres).all()


def test_rotated_integers_are_recognised_and_others_are_not() -> None:
    depth_m = np.random.default_rng(0).uniform(0.5, 9, (60, 80))
    millimetres = np.rint(depth_m * 1000).astype(np.uint16)
    assert is_rotated((millimetres << 3) | (millimetres >> 13))
    near = np.rint(depth_m * 900).astype(np.uint16)
    assert is_rotated(near << 3)
    others = (millimetres, millimetres // 5 * 5, (near >> 8) << 8, near // 16 * 8, depth_m.astype(np.float32))
    assert not any(map(is_rotated, others))
