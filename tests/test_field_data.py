"""RGB-D data as people have it: each kind is read to the figures of the same pairs in the plain layout, or refused."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import h5py
import mlflow
import numpy as np
import pytest
from command_line import run
from field_scenes import scene
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Run
from PIL import Image

from idl.data.datasets import DatasetConfig, reader
from idl.data.folder import FolderReader
from idl.data.images import resize_depth, resize_rgb
from idl.data.units import is_rotated, unrotated
from idl.errors import InputError
from idl.protocol import Protocol
from idl.tracking.store import quiet

NUM = 30
PROTOCOL = Protocol()
# test_loss of the null of the 30 pairs as rgb/NAME.png and depth/NAME.png in millimetres.
BASE = 0.45203


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


def listed(name: str) -> Write:
    def write(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
        where = f"shot_{number // 10}/{number:02d}"
        files(f"{where} c.jpg.png", f"{where} z.png")(root, number, rgb, depth_m)
        with (root / name).open("a") as file:
            file.write(f'"{where} c.jpg.png"\t"{where} z.png"\n'.replace('"', "") if number else "# rgb depth\n")
            if not number:
                file.write(f"{where} c.jpg.png\t{where} z.png\n")

    return write


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


def with_doubles(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    plain(root, number, rgb, depth_m)
    put(root / f"rgb/{number:04d}.jpg", rgb)


def without_depth(lacking: Callable[[int], bool]) -> Write:
    def write(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
        plain(root, number, rgb, depth_m)
        if lacking(number):
            (root / f"depth/{number:04d}.png").unlink()

    return write


def eight_bits(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    put(root / f"room_{number // 10}/{number}.jpg", rgb)
    put(root / f"room_{number // 10}/{number}.png", (depth_m / 10 * 255 + 0.5).astype(np.uint8))


def unread(path: Path, depth_m: np.ndarray) -> None:
    path.with_suffix(".mat").write_bytes(b"MATLAB 5.0")


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


def grey(dtype: type) -> Write:
    def write(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
        deep = (rgb.mean(-1) / 255 * 65535).astype(np.uint16)
        put(root / f"rgb/{number:04d}.png", deep if dtype is np.uint16 else (deep / 65535 * 255 + 0.5).astype(np.uint8))
        put(root / f"depth/{number:04d}.png", units(depth_m))

    return write


@dataclass(frozen=True)
class Case:
    """What is written, the options, the null's test_loss (None: exit 2), words in what is printed, and how near."""

    write: Write
    options: tuple[str, ...] = ()
    test_loss: float | None = BASE
    words: tuple[str, ...] = ()
    # float maps are not rounded to millimetres.
    within: float = 2e-5


CASES = {
    "plain": Case(plain),
    "beside": Case(files("{n:04d}.png", "{n:04d}_depth.png")),
    "upper case": Case(files("RGB/IMG_{n:04d}.PNG", "Depth/img_{n:04d}.png")),
    "links": Case(linked),
    "hidden": Case(hidden),
    "one without depth": Case(without_depth(lambda n: n == 7), (), 0.452, ("1 of 30 images has no depth",), 0.02),
    "most without depth": Case(without_depth(lambda n: n > 9), (), None, ("no depth beside it", "20 of 30")),
    "jpg and png": Case(with_doubles, (), None, ("0000.jpg", "0000.png")),
    "array and picture": Case(arrays(stretched)),
    "tiff": Case(arrays(lambda path, depth_m: put(path.with_suffix(".tiff"), depth_m))),
    "pfm": Case(arrays(pfm)),
    "npz": Case(arrays(lambda path, depth_m: np.savez_compressed(path, depth=depth_m, other=depth_m[0]))),
    "first axis": Case(arrays(lambda path, depth_m: np.save(path, depth_m[None]))),
    "exr": Case(arrays(exr)),
    "mat": Case(arrays(unread), (), None, ("0000.mat", ".pfm")),
    "bmp": Case(files("rgb/{n:04d}.bmp", "depth/{n:04d}.png")),
    "ppm": Case(files("rgb/{n:04d}.ppm", "depth/{n:04d}.png")),
    "tif": Case(files("rgb/{n:04d}.tif", "depth/{n:04d}.tif")),
    "millimetres": Case(arrays(lambda path, d: np.save(path, d * 1000)), ("--depth-scale", "1000")),
    "millimetres as metres": Case(
        arrays(lambda path, d: np.save(path, d * 1000)), (), None, ("Pass depth_scale=1000",)
    ),
    "rotated": Case(rotated, ("--depth-format", "sunrgbd")),
    "rotated at 8000": Case(rotated, ("--depth-scale", "8000")),
    "rotated, unsaid": Case(rotated, ("--max-depth", "80"), 50.0, ("depth_format=sunrgbd",), 50.0),
    "phone": Case(phone, (), 0.450, (), 2e-3),
    "turned": Case(turned),
    "tum": Case(tum, (), BASE, ("30 pairs, of the layout tum, which was recognised: rgb.txt and depth.txt",)),
    "plurals": Case(files("images/{n:04d}.png", "depths/{n:04d}.png"), (), BASE, ("scannet",)),
    "hyphens": Case(files("{n:04d}.png", "{n:04d}-depth.png")),
    "prefixes": Case(files("rgb_{n:04d}.png", "depth_{n:04d}.png"), (), BASE, ("nyu-sync",)),
    "accents": Case(files("rgb/caf\u00e9{n:04d}.png", "depth/cafe\u0301{n:04d}.png")),
    "odd names": Case(files("a\nb\u202e'\"<i>/rgb/{n:04d}\n.png", "a\nb\u202e'\"<i>/depth/{n:04d}\n.png")),
    "7-scenes": Case(
        files("seq-{s:02d}/frame-{i:06d}.color.png", "seq-{s:02d}/frame-{i:06d}.depth.png"),
        (),
        0.452,
        ("7-scenes",),
        0.01,
    ),
    "scannet": Case(
        files("scene{s:04d}_00/color/{i}.png", "scene{s:04d}_00/depth/{i}.png"), (), 0.452, ("scannet",), 0.01
    ),
    "open3d": Case(files("color/{n:05d}.png", "depth/{n:05d}.png"), (), BASE, ("scannet",)),
    "vkitti": Case(files("rgb/Camera_0/rgb_{n:05d}.png", "depth/Camera_0/depth_{n:05d}.png", 100), within=1e-3),
    "replica": Case(files("results/frame{n:06d}.png", "results/depth{n:06d}.png", 6553.5)),
    "nyu-sync": Case(
        files("bed_{s}/rgb_{i:05d}.png", "bed_{s}/sync_depth_{i:05d}.png"), ("--scene", "block:10"), 0.452, (), 0.01
    ),
    "nyu list": Case(nyu_list, (), 0.452, ("nyu-lists",), 0.01),
    "colors": Case(files("{n:05d}_colors.png", "{n:05d}_depth.png")),
    "8 bits": Case(eight_bits, (), None, ("0.png", "uint8")),
    "tum, asked for": Case(tum, ("--layout", "tum"), BASE, ("of the layout tum, which was asked for",)),
    "list": Case(
        listed("pairs.txt"), ("--pairs", "walk/pairs.txt"), 0.452, ("listed: 'rgb depth [scene]' a line of",), 0.01
    ),
    "csv": Case(as_csv, ("--pairs", "walk/pairs.csv")),
    "windows": Case(windows, ("--pairs", "walk/pairs.txt")),
    "patterns": Case(
        files("left/{n:04d}_l.png", "z/{n:04d}.d.png"),
        ("--rgb-pattern", "left/*_l.png", "--depth-pattern", "z/*.d.png"),
        BASE,
        ("30 pairs, by patterns: left/*_l.png with z/*.d.png.",),
    ),
    "another layout": Case(plain, ("--layout", "tum"), None, ("rgb.txt",)),
    "no layout": Case(plain, ("--layout", "tumm"), None, ("layout=tumm",)),
    "8-bit grey": Case(grey(np.uint8), (), 0.47205),
    "16-bit grey": Case(grey(np.uint16), (), 0.47205),
}


# Through the command line: ten seconds each. Of the others the samples are held against those of the plain layout.
FIGURES = (
    *("plain", "links", "hidden", "one without depth", "millimetres", "millimetres as metres", "rotated"),
    *("rotated at 8000", "rotated, unsaid", "phone", "turned", "tum", "7-scenes", "nyu list", "16-bit grey"),
)
REFUSED = tuple(name for name, case in CASES.items() if case.test_loss is None)
OTHER_SAMPLES = ("phone", "8-bit grey", "16-bit grey", "rotated at 8000", "rotated, unsaid", *REFUSED)


def written(root: Path, write: Write) -> Path:
    for number in range(NUM):
        write(root, number, *scene(number))
    return root


@pytest.mark.usefixtures("unregistered")
@pytest.mark.parametrize("name", dict.fromkeys((*FIGURES, *REFUSED)))
def test_the_command_line_comes_to_the_figure(workplace: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    case = CASES[name]
    with quiet():
        import_module("mlflow.store.tracking.sqlalchemy_store")
    written(workplace / "walk", case.write)
    common = ("--dataset", "folder", "--data", "walk", "--workers", "1", "--device", "cpu", *case.options)
    code = run("probe", *common, "--encoder", "null")
    out, err = capfd.readouterr()
    assert code == (2 if case.test_loss is None else 0), err
    for word in case.words:
        assert word in " ".join((out + err).split())
    runs: list[Run] = mlflow.search_runs(search_all_experiments=True, output_format="list")  # pyright: ignore[reportAssignmentType]
    if case.test_loss is None:
        assert err.strip().splitlines()[-1].startswith("error: ")
        return
    assert runs[0].data.metrics["test_loss"] == pytest.approx(case.test_loss, abs=case.within)


@pytest.mark.parametrize("name", [name for name in CASES if name not in OTHER_SAMPLES])
def test_the_samples_are_those_of_the_plain_layout(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    options = {
        key.removeprefix("--").replace("-", "_"): value for key, value in zip(*[iter(case.options)] * 2, strict=True)
    }
    if "pairs" in options:
        options["pairs"] = str(tmp_path / options["pairs"])
    if "depth_scale" in options:
        options["depth_scale"] = float(options["depth_scale"])
    found = reader(DatasetConfig("folder", str(written(tmp_path / "walk", case.write)), **options))  # pyright: ignore[reportArgumentType]
    numbers = [number for number in range(NUM) if name != "one without depth" or number != 7]
    assert len(found.groups) == len({group.names for group in found.groups}) == len(numbers)
    assert isinstance(found, FolderReader)
    for word in case.words:
        assert word in " ".join(found.notes)
    for index in (0, 10, len(numbers) - 1):
        rgb, depth_m = scene(numbers[index])
        (sample,) = found.read(index)
        expected_m, valid = resize_depth(depth_m, np.ones(depth_m.shape, bool), PROTOCOL)
        np.testing.assert_array_equal(sample.rgb, resize_rgb(rgb, PROTOCOL))
        np.testing.assert_array_equal(sample.valid, valid)
        np.testing.assert_allclose(sample.depth_m, expected_m, atol=6e-3 if name == "vkitti" else 6e-4)


OTHER = files("b/color/{n:04d}.png", "b/depth/{n:04d}.png")
SEVEN = files("seq-01/frame-{n:06d}.color.png", "seq-01/frame-{n:06d}.depth.png")


@pytest.mark.parametrize(
    ("first", "second", "layout", "other"),
    [
        (files("a/rgb/{n:04d}.png", "a/depth/{n:04d}.png"), OTHER, "plain", "scannet"),
        (OTHER, SEVEN, "scannet", "7-scenes"),
        (lambda root, *pair: tum(root / "a", *pair), OTHER, "tum", "scannet"),
        # Both are of the plain layout: all are read, and no depth map is a picture that lacks depth.
        (files("a/rgb/{n:04d}.png", "a/depth/{n:04d}.png"), files("b/{n:04d}.png", "b/{n:04d}_depth.png"), "plain", ""),
    ],
)
def test_folders_of_another_layout_beside_those_that_are_read_are_named(
    tmp_path: Path, first: Write, second: Write, layout: str, other: str
) -> None:
    for number in range(12):
        (first if number < 7 else second)(tmp_path, number, *scene(number))
    found = reader(DatasetConfig("folder", str(tmp_path)))
    assert isinstance(found, FolderReader)
    assert (found.layout_name, found.alone) == (layout, [])
    said = [note for note in found.notes if "not read" in note]
    if not other:
        assert (len(found.pairs), said) == (12, [])
        return
    assert len(found.pairs) == 7
    assert f"5 pairs of the layout {other} beside them were not read" in said[0]
    assert f"Pass layout={other}" in said[0]
    assert len(reader(DatasetConfig("folder", str(tmp_path), layout=other)).groups) == 5


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
