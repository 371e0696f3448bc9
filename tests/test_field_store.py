"""What people have, through the command line: depths out of range, sparse depth, odd names, a foreign shell."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
from command_line import run
from field_scenes import scene
from numpy.random import default_rng
from PIL import Image

from idl.data.store import Store


@pytest.fixture(autouse=True)
def _no_experiment(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def write(folder: Path, stem: str, rgb: np.ndarray, depth: np.ndarray, suffix: str = ".png") -> None:
    """Write a pair; depth of floats as .npy, of integers as 16-bit PNG."""
    for kind in ("rgb", "depth"):
        (folder / kind / stem).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(folder / "rgb" / f"{stem}{suffix}")
    if depth.dtype.kind == "f":
        np.save(folder / "depth" / f"{stem}.npy", depth)
    else:
        Image.fromarray(depth.astype(np.uint16)).save(folder / "depth" / f"{stem}.png")


def write_scenes(folder: Path, stems: list[str] | None = None) -> Path:
    for number, stem in enumerate(stems or [f"{number:04d}" for number in range(30)]):
        rgb, depth = scene(number)
        write(folder, stem, rgb, np.rint(1000 * depth).astype(int))
    return folder


def probe(data: Path | str, *more: str) -> int:
    return run("probe", "--workers", "1", "--dataset", "folder", "--data", str(data), "--encoder", "null", *more)


def metrics() -> dict[str, float]:
    return mlflow.search_runs(search_all_experiments=True, output_format="list")[0].data.metrics  # pyright: ignore


def prepared() -> Store:
    (path,) = Path("cache/datasets").glob("*.h5")
    return Store.open(path)


@pytest.mark.usefixtures("unregistered")
@pytest.mark.parametrize("beyond", [14.0, 1e10])
def test_a_depth_out_of_range_enters_no_average(workplace: Path, beyond: float) -> None:
    for number in range(30):
        depth = np.full((512, 512), 2.0, np.float32)
        # One native column of four: every other cell of 256 x 256 is half of it.
        depth[:, 257::4] = beyond
        rgb = default_rng(number).integers(0, 255, (512, 512, 3), dtype=np.uint8)
        write(workplace / "data", f"{number:04d}", rgb, depth, ".jpg")
    assert probe("data") == 0
    read = prepared().read(("depth", "valid"), range(30))
    assert np.unique(read["depth"]).tolist() == [2.0]
    assert read["valid"].all()
    assert metrics()["test_loss"] == pytest.approx(0, abs=1e-9)


def test_sparse_depth_is_said_and_can_be_kept(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    random = default_rng(0)
    for number in range(30):
        keep = random.uniform(size=(375, 1242)) < 0.24
        keep[:125] = False
        rgb = np.full((375, 1242, 3), number, np.uint8)
        rgb[:, : 40 * number] += 100
        write(workplace / "data", f"{number:04d}", rgb, np.where(keep, 256 * (4 + number), 0), ".jpg")
    lidar = ("--depth-scale", "256", "--max-depth", "80")
    assert probe("data", *lidar) == 0
    assert "9.8 % of the cells keep a depth, of 16 % of the pixels: sparse depth?" in capfd.readouterr().err
    half = prepared()
    # The remedy that the line names.
    Path("cache/datasets").rename("before")
    assert probe("data", *lidar, "--min-valid-share", "0") == 0
    assert "sparse depth" not in capfd.readouterr().err
    touched = prepared()
    assert touched.protocol.digest != half.protocol.digest
    assert touched.read(("valid",), range(30))["valid"].mean() == pytest.approx(0.529, abs=0.01)


LONG = "x" * 245
ODD = ["line\nbreak", "\u202eright to left", "s" * 200, "quote\"s and 'more'", "<script>alert(1)<", "ünïcödé 深度"]


def test_a_long_folder_name_is_cut(workplace: Path) -> None:
    assert probe(write_scenes(workplace / "data" / LONG)) == 0
    assert metrics()["test_loss"] == pytest.approx(0.45203, abs=1e-5)
    first = prepared()
    assert len(first.name) <= 100
    Path("cache/datasets").rename("before")
    # Its digest tells it from another one that begins alike.
    assert probe(write_scenes(workplace / "data" / (LONG + "y"))) == 0
    assert prepared().name != first.name


@pytest.mark.parametrize("as_folder", [True, False])
def test_odd_scene_names_are_only_names(workplace: Path, as_folder: bool) -> None:
    stems = [f"{ODD[number // 5]}{'/' if as_folder else ' '}{number % 5}" for number in range(30)]
    assert probe(write_scenes(workplace / "data", stems)) == 0
    assert len(set(prepared().scenes)) == (6 if as_folder else 3)
    assert np.isfinite(metrics()["test_loss"])
    pages = [path.read_text() for path in workplace.rglob("*.html")]
    assert not any("<script>alert(1)<" in page for page in pages)
