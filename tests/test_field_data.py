"""RGB-D data as people have it: each kind is read to the figures of the same pairs in the plain layout, or refused."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import mlflow
import numpy as np
import pytest
from command_line import run
from mlflow.entities import Run
from PIL import Image

from idl.tracking.store import quiet

NUM = 30
# test_loss of the null of the 30 pairs as rgb/NAME.png and depth/NAME.png in millimetres.
BASE = 0.45203


def scene(number: int, height: int = 96, width: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Return RGB and depth in metres: a tilted floor with five boxes, warm where near."""
    near, far = 1.0, 4.0
    generator = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    depth = far - (far - near) * (0.85 * y / height + 0.15 * x / width * generator.uniform(0, 1))
    waves = (
        120 + 40 * np.sin(x / width * 6 + number),
        100 + 60 * y / height,
        80 + 30 * np.cos(y / height * 5 + number),
    )
    rgb = np.stack(waves, -1)
    for _ in range(5):
        centre_y, centre_x = generator.uniform(0.1, 0.9) * height, generator.uniform(0.1, 0.9) * width
        size = generator.uniform(0.08, 0.2) * height
        box = (abs(y - centre_y) < size) & (abs(x - centre_x) < size)
        z = generator.uniform(near, far)
        depth[box] = np.minimum(depth[box], z)
        share = (z - near) / (far - near)
        rgb[box] = np.array([255 * (1 - share), generator.uniform(50, 200), 255 * share])
    return (rgb + generator.normal(0, 4, rgb.shape)).clip(0, 255).astype(np.uint8), depth.astype(np.float32)


def put(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def units(depth_m: np.ndarray, scale: float = 1000) -> np.ndarray:
    return np.rint(depth_m * scale).astype(np.uint16)


Write = Callable[[Path, int, np.ndarray, np.ndarray], None]


def plain(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    put(root / f"rgb/{number:04d}.png", rgb)
    put(root / f"depth/{number:04d}.png", units(depth_m))


def files(rgb: str, depth: str, scale: float = 1000) -> Write:
    """Return what writes a pair under paths with {n}, {i} (of ten) and {s} (the scene of ten)."""

    def write(root: Path, number: int, picture: np.ndarray, depth_m: np.ndarray) -> None:
        put(root / rgb.format(n=number, i=number % 10, s=number // 10), picture)
        put(root / depth.format(n=number, i=number % 10, s=number // 10), units(depth_m, scale))

    return write


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


def nyu_list(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    where = f"bedroom_{number // 10:04d}"
    files(f"{where}/rgb_{number:05d}.png", f"{where}/sync_depth_{number:05d}.png")(root, number, rgb, depth_m)
    with (root / "nyu_train.txt").open("a") as file:
        file.write(f"/{where}/rgb_{number:05d}.png /{where}/sync_depth_{number:05d}.png 518.8579\n")


def upper(root: Path, number: int, rgb: np.ndarray, depth_m: np.ndarray) -> None:
    files("RGB/IMG_{n:04d}.PNG", "Depth/img_{n:04d}.png")(root, number, rgb, depth_m)


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
    "upper case": Case(upper),
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
    "millimetres as metres": Case(arrays(lambda path, d: np.save(path, d * 1000)), (), None, ("Pass depth_scale=1000",)),
    "rotated": Case(rotated, ("--depth-format", "sunrgbd")),
    "rotated at 8000": Case(rotated, ("--depth-scale", "8000")),
    "rotated, unsaid": Case(rotated, ("--max-depth", "80"), 50.0, ("depth_format=sunrgbd",), 50.0),
    "phone": Case(phone, (), 0.45015, (), 2e-5),
    "turned": Case(turned),
    "tum": Case(tum, (), BASE, ("read as tum",)),
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
    "list": Case(listed("pairs.txt"), ("--pairs", "walk/pairs.txt"), 0.452, ("pairs",), 0.01),
    "patterns": Case(
        files("left/{n:04d}_l.png", "z/{n:04d}.d.png"),
        ("--rgb-pattern", "left/*_l.png", "--depth-pattern", "z/*.d.png"),
        BASE,
        ("patterns",),
    ),
    "another layout": Case(plain, ("--layout", "tum"), None, ("rgb.txt",)),
    "no layout": Case(plain, ("--layout", "tumm"), None, ("layout=tumm",)),
    "8-bit grey": Case(grey(np.uint8), (), 0.47205),
    "16-bit grey": Case(grey(np.uint16), (), 0.47205),
}


def written(root: Path, write: Write) -> Path:
    for number in range(NUM):
        write(root, number, *scene(number))
    return root


@pytest.mark.parametrize("name", CASES)
def test_the_same_pairs_give_the_same_figure(workplace: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
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
