"""The doctor's findings: each on data that has just this wrong with it, and none on data that has not."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from diode_files import SCANS, view, write_frame, write_tree
from nyu_files import Planted, plant, write_mat, write_splits
from PIL import Image
from planted import write_pairs

from idl.data.datasets import DatasetConfig, open_store
from idl.doctor import Diagnosis, Finding, diagnose
from idl.doctor.checks import Expected, Measured, measure, of_images, sample_of
from idl.errors import InputError
from idl.protocol import Protocol

MAT = "nyu_depth_v2_labeled.mat"


def levels(found: Diagnosis) -> dict[str, str]:
    """The worst level of each check."""
    order = ("ok", "note", "missing", "doubt", "bad")
    worst: dict[str, str] = {}
    for finding in found.findings:
        worst[finding.check] = max(worst.get(finding.check, "ok"), finding.level, key=order.index)
    return worst


def text(found: Diagnosis, check: str) -> str:
    return " / ".join(f"{each.found} {each.advice}" for each in found.findings if each.check == check)


# What is measured of pixels, on scenes made of rectangles.


def scene(seed: int, warm: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture of rectangles, each of its own colour and depth in metres, a tenth of them without depth."""
    generator = np.random.default_rng(seed)
    rgb = np.full((96, 128, 3), 128, np.uint8)
    depth_m = np.full((96, 128), 4.0, np.float32)
    for _ in range(8):
        top, left = generator.integers(0, 80), generator.integers(0, 110)
        part = np.s_[top : top + generator.integers(10, 40), left : left + generator.integers(10, 40)]
        rgb[part] = generator.integers(20, 200, 3)
        depth_m[part] = generator.uniform(1, 6)
    rgb[..., 2] = np.minimum(rgb[..., 0], rgb[..., 2]) * warm
    valid = generator.random(depth_m.shape) > 0.1
    return rgb, depth_m, valid


Change = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple]


def pictures(change: Change = lambda *each: each, num: int = 12) -> list[Measured]:
    return [measure(f"{seed}", *change(*scene(seed, 0.7))) for seed in range(num)]


EXPECTED = Expected((0.5, 6.0), (0.4, 10.0))


def findings(images: list[Measured], expected: Expected = EXPECTED) -> dict[str, Finding]:
    return {each.check: each for each in of_images(dict(enumerate(images)), Protocol(), expected)}


def test_sound_pictures_raise_no_doubt() -> None:
    found = findings(pictures(), replace(EXPECTED, size=(96, 128), has_holes=True))
    assert {each.level for each in found.values()} == {"ok"}, found
    assert len(found) == 7


def longer(maps: np.ndarray) -> np.ndarray:
    """A focal length 1.2 times as long: the inner 80 x 107 of 96 x 128 pixels fill the map."""
    return np.asarray(Image.fromarray(maps).crop((10, 8, 117, 88)).resize((128, 96), 0))


def moved(move: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda rgb, *maps: (rgb, *map(move, maps))


def measured(share: float) -> Change:
    return lambda rgb, depth_m, valid: (rgb, depth_m, np.random.default_rng(0).random(valid.shape) < share)


SENSOR = replace(EXPECTED, has_holes=True)


@pytest.mark.parametrize(
    ("change", "expected", "check", "level", "words"),
    [
        (moved(lambda maps: maps[:, ::-1]), EXPECTED, "registration", "doubt", "when mirrored"),
        (moved(lambda maps: maps[::-1]), EXPECTED, "registration", "doubt", "when upside down"),
        (moved(lambda maps: maps[::-1, ::-1]), EXPECTED, "registration", "doubt", "when turned by 180 degrees"),
        (
            moved(lambda maps: np.roll(maps, (-4, 9), (0, 1))),
            EXPECTED,
            "registration",
            "doubt",
            r"about ([89]|10) pixels left and moved about [345] pixels down",
        ),
        (moved(longer), EXPECTED, "registration", "doubt", "shrunk 1.2 times"),
        # A pixel is less than what two cameras are registered to.
        (moved(lambda maps: np.roll(maps, 1, 1)), EXPECTED, "registration", "ok", ""),
        (lambda rgb, depth_m, valid: (rgb, depth_m * 1000, valid), EXPECTED, "units", "bad", "Divided by 1000"),
        (lambda *each: each, replace(EXPECTED, median_m=(20, 100)), "units", "doubt", ""),
        (measured(1), SENSOR, "holes", "doubt", ""),
        (measured(1), EXPECTED, "holes", "ok", ""),
        (measured(0.2), SENSOR, "holes", "doubt", "79.8% of the pixels"),
        (measured(0), SENSOR, "holes", "doubt", "12 images, the first 0"),
        (measured(0), SENSOR, "units", "bad", ""),
        (lambda rgb, *maps: (np.full_like(rgb, 90), *maps), EXPECTED, "images", "doubt", "12 images, the first 0"),
    ],
)
def test_what_is_wrong_with_pixels_is_found(
    change: Change, expected: Expected, check: str, level: str, words: str
) -> None:
    found = findings(pictures(change), expected)
    assert found[check].level == level
    assert re.search(words, f"{found[check].found} {found[check].advice}")
    # Units are doubted once.
    assert level != "bad" or "depth range" not in found


def test_depth_of_another_image_is_not_called_registered() -> None:
    others = [measure(f"{seed}", scene(seed)[0], *scene(seed + 100)[1:]) for seed in range(12)]
    assert findings(others)["registration"].level == "note"


def test_a_white_frame_is_fine_only_where_the_crop_takes_it_away() -> None:
    def framed(rgb: np.ndarray, *rest: np.ndarray) -> tuple:
        inner = np.zeros(rgb.shape[:2], bool)
        inner[5:-4, 3:-6] = True
        return (np.where(inner[..., None], rgb, 255).astype(np.uint8), *rest)

    images = pictures(framed)
    assert images[0].frame == (5, 4, 3, 6)
    crops = (None, (5, 92, 3, 122), (4, 92, 3, 122))
    levels_found = [findings(images, replace(EXPECTED, crop=crop))["white frame"].level for crop in crops]
    assert levels_found == ["doubt", "ok", "doubt"]
    without = [findings(pictures(), replace(EXPECTED, has_frame=each))["white frame"].level for each in (False, True)]
    assert without == ["ok", "doubt"]


def test_several_sizes_and_the_sample() -> None:
    several = [*pictures(num=2), measure("small", *(each[:48] for each in scene(0)))]
    assert "96 x 128 (2), 48 x 128 (1)" in findings(several)["resolution"].found
    assert sample_of(100, 5) == (0, 25, 50, 74, 99)
    assert sample_of(3, 24) == sample_of(3, 0) == (0, 1, 2)
    assert sample_of(9, 1) == (4,)


# NYU.


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant(6, (480, 640), [f"s_{k:04d}" for k in range(6)])


@pytest.fixture(scope="module")
def nyu(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nyu")
    write_mat(folder / MAT, planted)
    write_splits(folder / "splits.mat", range(1, 5), range(5, 7))
    return folder


def few(planted: Planted, **changed: np.ndarray) -> Planted:
    parts = {"rgb": planted.rgb[:3], "raw_m": planted.raw_m[:3], "inpainted_m": planted.inpainted_m[:3], **changed}
    return Planted(**parts, scenes=planted.scenes[:3])  # pyright: ignore[reportArgumentType]


def test_nyu_is_described_and_left_as_it_is(nyu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in nyu.iterdir()}
    assert run("doctor", "nyu", str(nyu), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["can_probe"], told["num_images"], told["num_looked_at"]) == (True, 6, 6)
    found = levels(diagnose(DatasetConfig("nyu", str(nyu)), 6))
    # It is smaller than what was published, and everything else is as it should be.
    assert {check for check, level in found.items() if level == "doubt"} == {"file", "count", "published split"}
    for check in ("layout", "scenes", "split", "resolution", "units", "holes", "in-painted depth", "white frame"):
        assert found[check] == "ok"
    assert {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in nyu.iterdir()} == before


def test_nyu_with_another_checksum_without_its_split_and_with_one_from_0(nyu: Path, tmp_path: Path) -> None:
    os.link(nyu / MAT, tmp_path / MAT)
    config = DatasetConfig("nyu", str(tmp_path))
    without = diagnose(config, 1)
    assert (levels(without)["published split"], levels(without)["checksum"]) == ("missing", "note")
    assert "published 520609c519fba3ba5ac58c8fefcc3530" in text(diagnose(config, 1, checksums=True), "checksum")
    write_splits(tmp_path / "splits.mat", range(4), range(4, 6))
    assert "lists 6 images, 0 to 5; expected each of 1 to 6" in diagnose(config, 1).reason


def test_nyu_with_one_depth_in_both_places_or_swapped(planted: Planted, tmp_path: Path) -> None:
    for name, raw_m, inpainted_m, line in (
        ("copied", planted.inpainted_m, planted.inpainted_m, "one is a copy of the other"),
        ("swapped", planted.inpainted_m, planted.raw_m, "Are the two swapped?"),
    ):
        changed = few(planted, raw_m=raw_m[:3], inpainted_m=inpainted_m[:3])
        found = diagnose(DatasetConfig("nyu", str(write_mat(tmp_path / name / MAT, changed))))
        assert line in text(found, "in-painted depth")
        assert "was it filled in" in text(found, "holes")


def test_nyu_that_cannot_be_read(nyu: Path, planted: Planted, tmp_path: Path) -> None:
    """What the reader refuses is the reason, whatever it is; a file that is cut is too."""
    lacking = write_mat(tmp_path / "lacking.mat", few(planted), leave_out=("rawDepths",))
    assert "no array `rawDepths`" in diagnose(DatasetConfig("nyu", str(lacking))).reason
    cut = tmp_path / "cut.mat"
    cut.write_bytes((nyu / MAT).read_bytes()[:-200_000])
    assert "fetch it again" in diagnose(DatasetConfig("nyu", str(cut))).reason
    (tmp_path / f"{MAT}.part").write_bytes(bytes(10))
    nothing = diagnose(DatasetConfig("nyu", str(tmp_path)))
    assert "no nyu_depth_v2_labeled.mat in it" in nothing.reason
    # What it tells to do can be done as it is told.
    for check in ("download", "file"):
        assert "Pass --download true to `prepare`" in text(nothing, check)
    assert "10 bytes so far" in text(nothing, "download")


# DIODE.


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_tree(tmp_path / "diode", per_scan=1)
    return tmp_path / "diode"


def diode(root: Path, sample: int = 0) -> Diagnosis:
    return diagnose(DatasetConfig("diode", str(root)), sample)


def test_diode_is_described(tree: Path) -> None:
    found = diode(tree)
    told = levels(found)
    assert not found.reason
    assert "4 of 8574 frames" in text(found, "train/indoors")
    # The generated frames are small, which is said; nothing else is doubted.
    assert {check for check, level in told.items() if level == "doubt"} == {"resolution"}
    assert told["normals' axes"] == told["units"] == told["split"] == "ok"
    assert "beyond 10 m it is left out" in text(found, "depth range")


def test_diode_with_frames_that_are_not_whole(tree: Path) -> None:
    first, second, *_ = sorted(tree.rglob("*_depth.npy"))
    first.write_bytes(first.read_bytes()[:500])
    found = diode(tree)
    assert "not whole" in text(found, "file sizes")
    assert found.reason
    normals = min(tree.rglob("*_normal.npy"))
    normals.write_bytes(normals.read_bytes()[:500])
    assert "normals files" in text(diode(tree), "file sizes") or str(normals) in text(diode(tree), "file sizes")
    second.unlink()
    found = diode(tree)
    assert "(no depth)" in found.reason
    assert levels(found)["layout"] == "bad"


def test_diode_with_odd_masks_and_normals(tree: Path) -> None:
    for path in tree.rglob("*_depth_mask.npy"):
        np.save(path, np.load(path).astype(np.uint8) * 255)
    for path in tree.rglob("*_normal.npy"):
        # x down instead of right.
        np.save(path, np.load(path)[..., [1, 0, 2]])
    next(iter(sorted(tree.rglob("*_normal.npy")))).unlink()
    found = diode(tree)
    told = levels(found)
    assert told["mask values"] == told["normals' axes"] == "doubt"
    assert "of 1 of 7 frames" in text(found, "normals")
    assert not found.reason


def test_diode_of_which_the_metadata_file_listed_the_frames(tmp_path: Path) -> None:
    """612 of 771: made of links to one frame."""
    for place, scan, count in (("indoors", SCANS[5], 300), ("outdoor", SCANS[6], 312)):
        made = write_frame(tmp_path / "one", scan, 0, view(0, (24, 32)))
        folder = tmp_path / "many" / scan
        folder.mkdir(parents=True)
        for number in range(count):
            for suffix in (".png", "_depth.npy", "_depth_mask.npy"):
                os.link(f"{made}{suffix}", folder / f"{made.name[:11]}_{place}_{number:03d}_000{suffix}")
    found = diode(tmp_path / "many", sample=2)
    assert levels(found)["val/indoors"] == levels(found)["val/outdoor"] == "doubt"
    assert "612 in val, as the metadata file lists" in text(found, "val/indoors")
    # Two scenes cannot be divided by three.
    assert levels(found)["split"] == "bad"


# Folders, stores, rooms.


def test_a_folder_and_what_is_in_no_pair(tmp_path: Path) -> None:
    write_pairs(tmp_path / "walk", num=60)
    config = DatasetConfig("folder", str(tmp_path / "walk"))
    found = diagnose(config)
    assert set(levels(found).values()) <= {"ok", "note"}
    assert (found.num_images, found.num_looked_at) == (60, 24)
    Image.new("RGB", (40, 48)).save(tmp_path / "walk/alone.png")
    assert "in no pair: alone.png" in text(diagnose(config), "other pictures")
    (tmp_path / "walk/rgb/0000.png").write_bytes(b"nothing")
    assert "1 of 24 images cannot be read" in diagnose(config).reason
    (tmp_path / "walk/depth/0001.png").unlink()
    assert "without depth: rgb/0001.png" in text(diagnose(config), "images alone")


@pytest.mark.parametrize(
    ("scale", "depth_scale", "words"),
    [
        (5000, 10.0, ("none of it between 0.001 and 10 m", "Pass depth_scale=5000.")),
        # It may be metres.
        (5000, 1000.0, ()),
        # Of a street, 20 to 60 m.
        (20_000, 1000.0, ("Pass max_depth=60 where it is in metres, else depth_scale=5000.",)),
    ],
)
def test_doctor_says_of_units_what_the_run_says(
    tmp_path: Path, scale: int, depth_scale: float, words: tuple[str, ...]
) -> None:
    write_pairs(tmp_path / "walk", num=30, scale=scale)
    config = DatasetConfig("folder", str(tmp_path / "walk"), depth_scale=depth_scale)
    found = diagnose(config)
    assert bool(found.reason) is bool(words)
    if words:
        with pytest.raises(InputError) as refused:
            open_store(config, tmp_path)
        # The medians differ: each looks at a sample of its own.
        for each in words:
            assert each in text(found, "units")
            assert each in str(refused.value)
        assert "depth range" not in levels(found)


def test_depth_beyond_the_range_is_fine_in_a_wider_one(tmp_path: Path) -> None:
    """Of a street, 20 to 60 m."""
    write_pairs(tmp_path / "street", num=30, scale=20_000)
    config = DatasetConfig("folder", str(tmp_path / "street"), max_depth=60)
    further = diagnose(config)
    assert not further.reason
    assert levels(further)["units"] == levels(further)["depth range"] == "ok"
    assert "max_depth" not in text(diagnose(replace(config, max_depth=1e4, depth_scale=1.0)), "units")


@pytest.mark.parametrize(
    ("tag", "side", "turn", "is_doubtful"),
    [
        # Depth as the picture is shown, as it is stored, and edges that tell nothing.
        (3, 128, 2, False),
        (3, 128, 0, True),
        (6, 96, 3, False),
        (6, 96, 0, True),
        (3, 128, None, True),
        (1, 128, None, False),
        # Of another shape it would fit one way only.
        (6, 128, 3, False),
    ],
)
def test_a_tag_that_turns_a_picture_is_doubted_unless_the_edges_fit(
    tmp_path: Path, tag: int, side: int, turn: int | None, is_doubtful: bool
) -> None:
    """turn: by how many right angles the depth as stored is turned back; None: depth without an edge."""
    exif = Image.Exif()
    exif[0x112] = tag
    for name in ("rgb", "depth"):
        (tmp_path / name).mkdir()
    for number in range(12):
        rgb, depth_m, valid = (each[:, :side] for each in scene(number, 0.7))
        Image.fromarray(rgb).save(tmp_path / f"rgb/{number:02d}.png", exif=exif)
        units = np.where(valid, depth_m * 1000, 0) if turn is not None else np.full(valid.shape, 2000)
        Image.fromarray(np.rot90(units, turn or 0).astype(np.uint16)).save(tmp_path / f"depth/{number:02d}.png")
    found = diagnose(DatasetConfig("folder", str(tmp_path)))
    assert ("orientation" in levels(found)) == is_doubtful, found.findings
    assert "reading" not in levels(found)


def test_a_store_and_a_damaged_one(tmp_path: Path) -> None:
    write_pairs(tmp_path / "walk", num=60)
    store = open_store(DatasetConfig("folder", str(tmp_path / "walk")), tmp_path)
    found = diagnose(DatasetConfig(str(store.path)))
    assert not found.reason
    assert "60 images of walk" in text(found, "store")
    assert run("doctor", "folder", str(store.path), "--sample", "1") == 0
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(store.path.read_bytes()[:2000])
    assert "not a whole store" in diagnose(DatasetConfig(str(damaged))).reason


# Repeats.


def test_repeats_are_found_whatever_they_are_called_or_saved_as(tmp_path: Path) -> None:
    """Of 40 images in blocks of ten, all outside the sample: one in another block, saved anew, and one in its own."""
    write_pairs(tmp_path, num=40)
    config = DatasetConfig("folder", str(tmp_path))
    for index in (1, 11, 21):
        Image.new("RGB", (40, 48), (9, 9, 9)).save(tmp_path / f"rgb/{index:04d}.png")
    assert levels(diagnose(config, 2))["repeats"] == "ok"
    shutil.copy(tmp_path / "rgb/0032.png", tmp_path / "rgb/0036.png")
    within = diagnose(config, 2)
    assert levels(within)["repeats"] == "note"
    assert "1 of all 40 images is" in text(within, "repeats")
    assert "0036 is 0032" in text(within, "repeats")
    with Image.open(tmp_path / "rgb/0003.png") as image:
        image.save(tmp_path / "rgb/0025.bmp")
    (tmp_path / "rgb/0025.bmp").rename(tmp_path / "rgb/0025.png")
    across = diagnose(config, 2)
    assert levels(across)["repeats"] == "doubt"
    assert "2 of all 40 images are" in text(across, "repeats")
    assert "1 of them of another scene: 0025 is 0003" in text(across, "repeats")
    store = open_store(config, tmp_path / "stores")
    prepared = diagnose(DatasetConfig(str(store.path)), 2)
    assert "1 of them of another scene: 0025 is 0003" in text(prepared, "repeats")
    assert not across.reason
    (tmp_path / "rgb/0007.png").write_bytes(b"nothing")
    assert "0007.png: not a readable image" in diagnose(config, 2).reason


def test_rooms() -> None:
    found = diagnose(DatasetConfig("rooms", num_scenes=20, views=1), 1)
    assert not found.reason
    assert found.num_looked_at == 1


def test_the_table_fits_into_80_columns(nyu: Path, tree: Path) -> None:
    for found in (diagnose(DatasetConfig("nyu", str(nyu)), 1), diode(tree, 1)):
        told = found.lines(80)
        # A path that is longer than a line stands in one of its own.
        assert [line for line in told if len(line) > 80 and "/" not in line] == []
        assert told[-1].startswith("probing can go ahead")
        for finding in found.findings:
            assert any(line.startswith(f"{finding.level} ") and finding.check in line for line in told)


# The table and the exit code.


def test_exit_codes(
    nyu: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("doctor", "--dataset", "nyu", "--data", str(nyu), "--sample", "1") == 0
    assert "probing can go ahead" in capsys.readouterr().out
    assert run("doctor", "nyu", str(tmp_path)) == 1
    assert "probing cannot go ahead" in capsys.readouterr().out
    with pytest.raises(InputError, match="erosion"):
        diagnose(DatasetConfig("nyu", str(tmp_path), erosion=-1))
