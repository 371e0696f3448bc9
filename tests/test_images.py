"""Pictures are read as they are seen; resizing with holes averages valid pixels, never invented ones."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from idl.data.images import (
    centred_box,
    eroded,
    metres,
    read_map,
    read_rgb,
    resize_depth,
    resize_normals,
    resize_rgb,
    rgb_size,
    truth_mask,
)
from idl.errors import InputError
from idl.protocol import Protocol

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["uint16", "float32"])
def test_deep_grey_is_scaled(tmp_path: Path, mode: str) -> None:
    share = np.linspace(0, 1, 600).reshape(20, 30)
    path = tmp_path / ("a.png" if mode == "uint16" else "a.tif")
    Image.fromarray((share * 65535).astype(np.uint16) if mode == "uint16" else share.astype(np.float32)).save(path)
    read = read_rgb(path)
    assert np.abs(read - (share * 255)[..., None]).max() <= 0.51
    if mode == "float32":
        Image.fromarray((share * 2).astype(np.float32)).save(path)
        with pytest.raises(InputError, match="expected 0 to 1"):
            read_rgb(path)


def test_transparent_is_white(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS)
    alpha = np.zeros((20, 30), np.uint8)
    alpha[:, 15:] = 255
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "a.png")
    read = read_rgb(tmp_path / "a.png")
    assert (read[:, :15] == 255).all()
    np.testing.assert_array_equal(read[:, 15:], COLOURS[:, 15:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("place", ["png", "jpg", "behind the pixels"])
def test_a_turned_picture_is_upright_and_of_the_size_that_its_head_says(
    tmp_path: Path, orientation: int, place: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / ("a.jpg" if place == "jpg" else "a.png")
    Image.fromarray(COLOURS).save(path, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    if place == "behind the pixels":
        Image.fromarray(COLOURS).save(path)
        chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        content, end = path.read_bytes()[:-12], path.read_bytes()[-12:]
        path.write_bytes(
            content + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + end
        )
    np.testing.assert_array_equal(read_rgb(path), expected)
    assert rgb_size(path) == expected.shape[:2] == ((30, 20) if orientation >= 5 else (20, 30))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["RGB", "I;16", "RGBA"])
def test_a_turned_tiff_is_upright_once(tmp_path: Path, mode: str, compression: str | None, orientation: int) -> None:
    image = Image.fromarray(COLOURS[..., 0].astype(np.uint16) * 257 if mode == "I;16" else COLOURS)
    image = image if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "lying.tif")
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.tif", compression=compression, exif=exif)
    # By the definition of the tag: which corner the first row and column lie at.
    lying = read_rgb(tmp_path / "lying.tif")
    rows, columns = (-1 if orientation in turned else 1 for turned in ((3, 4, 6, 7), (2, 3, 7, 8)))
    lying = lying.swapaxes(0, 1)[:: columns * 1, :: rows * 1] if orientation > 4 else lying[::rows, ::columns]
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif"), lying)
    assert rgb_size(tmp_path / "a.tif") == lying.shape[:2]


@pytest.mark.parametrize("tags", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0"], ids=["garbage", "cut off"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_damaged_tags_do_not_matter(tmp_path: Path, tags: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(COLOURS).save(path)
    expected = np.asarray(Image.open(path))
    Image.fromarray(COLOURS).save(path, exif=tags)
    np.testing.assert_array_equal(read_rgb(path), expected)
    assert rgb_size(path) == (20, 30)


def _archive(path: Path, **arrays: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


MAPS = {
    "cut off": (lambda path: path.write_bytes(b"\x93NUMPY"), "not a readable map"),
    "pickled": (lambda path: np.save(path, np.array([{}]), allow_pickle=True), "not a readable map"),
    "flat": (lambda path: np.save(path, np.ones(9, np.float32)), r"has shape \(9,\)"),
    "colours": (lambda path: np.save(path, COLOURS), r"has shape \(20, 30, 3\), expected one number a pixel"),
    "8 bits": (lambda path: np.save(path, COLOURS[..., 0]), "depth is uint8, expected a PNG of one channel of 16"),
    "several": (lambda path: _archive(path, one=COLOURS, two=COLOURS), "an archive of one, two; expected one array"),
    "of no size": (lambda path: np.save(path, np.ones((0, 30), np.uint16)), r"has shape \(0, 30\)"),
    "complex": (lambda path: np.save(path, np.ones((20, 30), complex)), "depth is complex128"),
    "words": (lambda path: np.save(path, np.full((20, 30), "yes")), "depth is <U3"),
}


@pytest.mark.parametrize("case", MAPS)
def test_what_is_no_depth_map_is_named(tmp_path: Path, case: str) -> None:
    write, message = MAPS[case]
    write(tmp_path / "a.npy")
    with pytest.raises(InputError, match=message) as caught:
        metres(tmp_path / "a.npy", read_map(tmp_path / "a.npy"), 1000.0)
    assert str(caught.value).startswith(str(tmp_path / "a.npy"))
    assert "\n" not in str(caught.value)


METRES = np.linspace(0.5, 5, 600, dtype=np.float32).reshape(20, 30)
MILLIMETRES = np.rint(METRES * 1000).astype(np.int64)
LEFT = np.arange(30) < 4
# As it is saved, by what it is; where the leftmost four columns were not measured, a value that says so.
NUMBERS: dict[str, np.ndarray] = {
    **{
        f"{kind}": MILLIMETRES.astype(kind) for kind in ("uint16", "int16", "uint32", "int32", "int64", "uint64", ">u2")
    },
    **{f"float {kind}": METRES.astype(kind) for kind in ("f4", "f8", ">f4", "longdouble")},
    "-1": np.where(LEFT, -1, MILLIMETRES).astype(np.int16),
    "least": np.where(LEFT, -(2**31), MILLIMETRES).astype(np.int32),
    "0": np.where(LEFT, 0, MILLIMETRES),
    "65535": np.where(LEFT, 65535, MILLIMETRES),
    "nan": np.where(LEFT, np.nan, METRES),
    "inf": np.where(LEFT, np.inf, METRES),
    "-inf": np.where(LEFT, -np.inf, METRES),
    "below 0": np.where(LEFT, -3.5, METRES),
    "axes of one": METRES[None, ..., None],
    "a batch and a channel": METRES[None, None],
    "grey": np.repeat(METRES[..., None], 3, axis=2),
    "grey with holes": np.repeat(np.where(LEFT, np.nan, METRES)[..., None], 4, axis=2),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_every_kind_are_the_same_metres(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "a.npy", NUMBERS[kind])
    depth_m, valid = metres(tmp_path / "a.npy", read_map(tmp_path / "a.npy"), 1000.0, (0, 65535))
    has_hole = kind in ("-1", "least", "0", "65535", "nan", "inf", "-inf", "below 0", "grey with holes")
    np.testing.assert_array_equal(valid, np.broadcast_to(~LEFT | (not has_hole), METRES.shape))
    assert depth_m.dtype == np.float32
    np.testing.assert_allclose(depth_m[valid], METRES[valid], atol=6e-4)


def _png_of_16_bits(path: Path, values: np.ndarray) -> None:
    """Write what Pillow does not: type 2 is RGB, 4 grey with alpha."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2}[channels], 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def _frames(path: Path) -> None:
    Image.fromarray(COLOURS).save(path, save_all=True, append_images=[Image.fromarray(255 - COLOURS)])


GREY = np.repeat(COLOURS[..., :1], 3, axis=2)
FULL = np.full((20, 30, 1), 65535, np.uint16)
PICTURES: dict[str, tuple[str, Callable[[Path], object], np.ndarray]] = {
    "16 bits": ("png", lambda path: _png_of_16_bits(path, COLOURS.astype(np.uint16) * 257), COLOURS),
    "16 bits, grey": (
        "png",
        lambda path: _png_of_16_bits(path, np.dstack([COLOURS[..., :1].astype(np.uint16) * 257, FULL])),
        GREY,
    ),
    "1 bit": ("png", lambda path: Image.fromarray(COLOURS[..., 0] > 99).save(path), (GREY > 99) * np.uint8(255)),
    "1 bit, TIFF": ("tif", lambda path: Image.fromarray(COLOURS[..., 0] > 99).save(path), (GREY > 99) * np.uint8(255)),
    # Of several, the first.
    "animated": ("png", _frames, COLOURS),
    "pages": ("tif", _frames, COLOURS),
    "palette": ("png", lambda path: Image.fromarray(COLOURS[..., 0]).convert("P").save(path), GREY),
    "grey, alpha": ("png", lambda path: Image.fromarray(COLOURS[..., 0]).convert("LA").save(path), GREY),
    "CMYK": ("tif", lambda path: Image.fromarray(COLOURS).convert("CMYK").save(path), COLOURS),
    "misnamed": ("jpg", lambda path: Image.fromarray(COLOURS).save(path, format="PNG"), COLOURS),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_of_every_kind_are_the_same_colours(tmp_path: Path, kind: str) -> None:
    suffix, write, expected = PICTURES[kind]
    write(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_rgb(tmp_path / f"a.{suffix}"), expected)
    assert rgb_size(tmp_path / f"a.{suffix}") == (20, 30)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "ppm"])
def test_half_a_picture_is_none(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)).save(whole)
    (tmp_path / f"a.{suffix}").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"a\.{suffix}: not a readable image"):
        read_rgb(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("content", [b"", b"PF\n2 2\n-1\n" + bytes(16), b"Pf\n2 2\n-1\n" + bytes(8), b"Pf 2 x -1 "])
@pytest.mark.parametrize("suffix", [".pfm", ".npz", ".hdf5"])
def test_a_damaged_array_is_named(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\{suffix}: not a readable map"):
        read_map(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("kind", ["<", ">"])
def test_a_pfm_is_of_either_order_of_bytes(tmp_path: Path, kind: str) -> None:
    depth_m = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    scale = -1 if kind == "<" else 1
    (tmp_path / "a.pfm").write_bytes(f"Pf\n3 2\n{scale}\n".encode() + depth_m[::-1].astype(f"{kind}f4").tobytes())
    np.testing.assert_array_equal(read_map(tmp_path / "a.pfm"), depth_m)


@pytest.mark.parametrize(
    ("height", "width", "factor", "size"),
    [(32, 32, 4, (8, 8)), (32, 48, 4, (8, 8)), (20, 16, 2, (8, 8)), (24, 40, 4, (6, 8)), (30, 24, 2, (9, 12))],
)
def test_whole_factors_average_blocks_of_the_centre(
    height: int, width: int, factor: int, size: tuple[int, int]
) -> None:
    generator = np.random.default_rng(0)
    depth = generator.random((height, width)).astype(np.float32) + 1
    valid = generator.random((height, width)) > 0.3
    resized, kept = resize_depth(depth, valid, Protocol(resolution=size[0], width=size[1]))
    normals = generator.normal(size=(height, width, 3)).astype(np.float32)
    directions = resize_normals(normals, valid, Protocol(resolution=size[0], width=size[1]))
    assert resized.shape == kept.shape == directions.shape[:2] == size
    top, left = (height - size[0] * factor) // 2, (width - size[1] * factor) // 2
    for row in range(size[0]):
        for column in range(size[1]):
            block = np.s_[
                top + row * factor : top + (row + 1) * factor, left + column * factor : left + (column + 1) * factor
            ]
            assert kept[row, column] == (valid[block].mean() >= 0.5)
            expected = depth[block][valid[block]].mean() if kept[row, column] else 0
            assert resized[row, column] == pytest.approx(expected, rel=1e-6)
            total = normals[block][valid[block]].sum(axis=0) * kept[row, column]
            np.testing.assert_allclose(directions[row, column], total / (np.linalg.norm(total) or 1), atol=2e-3)


@settings(deadline=None)
@given(st.integers(5, 40), st.integers(5, 40), st.integers(1, 50), st.floats(0, 1), st.integers(0, 99))
def test_averages_stay_inside_what_was_measured(height: int, width: int, side: int, share: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    depth = (generator.random((height, width)) * 5 + 1).astype(np.float32)
    valid = generator.random((height, width)) < share
    poisoned = np.where(valid, depth, np.nan).astype(np.float32)
    resized, kept = resize_depth(poisoned, valid, Protocol(resolution=side))
    assert np.isfinite(resized).all()
    assert not resized[~kept].any()
    if kept.any():
        assert resized[kept].min() >= depth[valid].min() - 1e-5
        assert resized[kept].max() <= depth[valid].max() + 1e-5


def test_the_crop_is_cut_first() -> None:
    """No pixel beyond it is read: NYU has a white border there."""
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[5:15, 10:20] = 200
    assert (resize_rgb(rgb, Protocol(resolution=5, crop=(5, 15, 10, 20))) == 200).all()


def test_rgb_and_depth_show_the_same_place() -> None:
    ramp = np.tile(np.arange(64, dtype=np.float32), (48, 1))
    rgb = np.repeat(ramp[..., None].astype(np.uint8), 3, axis=2)
    colours = resize_rgb(rgb, Protocol(resolution=12))[..., 0]
    depth, _ = resize_depth(ramp + 1, np.ones(ramp.shape, bool), Protocol(resolution=12))
    np.testing.assert_allclose(depth[:, 1:-1] - 1, colours[:, 1:-1], atol=1)


@given(st.integers(8, 40), st.integers(8, 40), st.integers(4, 12), st.integers(4, 12), st.integers(0, 9))
@settings(deadline=None)
def test_a_rectangle_is_the_average_under_each_cell(height: int, width: int, out: int, wide: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    depth = generator.uniform(1, 5, (height, width)).astype(np.float32)
    resized, kept = resize_depth(depth, np.ones(depth.shape, bool), Protocol(resolution=out, width=wide))
    assert resized.shape == kept.shape == (out, wide)
    assert kept.all()
    left, top, right, bottom = centred_box(height, width, None, (out, wide))
    # Fine samples of the box, cell by cell.
    rows = (top + (np.arange(out * 60) + 0.5) * (bottom - top) / (out * 60)).astype(int)
    columns = (left + (np.arange(wide * 60) + 0.5) * (right - left) / (wide * 60)).astype(int)
    sampled = depth[np.ix_(rows, columns)].reshape(out, 60, wide, 60).mean(axis=(1, 3))
    np.testing.assert_allclose(resized, sampled, atol=0.1)
    rgb = resize_rgb(np.full((height, width, 3), 77, np.uint8), Protocol(resolution=out, width=wide))
    assert rgb.shape == (out, wide, 3)
    assert (rgb == 77).all()


@pytest.mark.parametrize(
    ("height", "width", "crop", "size", "box"),
    [
        # One of the same shape is kept whole, another cut in the middle, and the crop is cut first.
        (480, 640, None, (288, 384), (0, 0, 640, 480)),
        (3, 4, None, (288, 384), (0, 0, 4, 3)),
        (100, 300, None, (2, 4), (50, 0, 250, 100)),
        (300, 100, None, (2, 4), (0, 125, 100, 175)),
        (100, 300, (10, 60, 0, 300), (2, 4), (100, 10, 200, 60)),
        (480, 640, (45, 471, 41, 601), (1, 1), (41 + (560 - 426) / 2, 45, 41 + (560 + 426) / 2, 471)),
    ],
)
def test_which_part_of_a_frame_is_kept(
    height: int, width: int, crop: tuple[int, int, int, int] | None, size: tuple[int, int], box: tuple[float, ...]
) -> None:
    assert centred_box(height, width, crop, size) == box


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 12), st.integers(0, 20))
@settings(deadline=None)
def test_erosion_takes_what_is_near_a_hole(height: int, width: int, reach: int, seed: int) -> None:
    valid = np.random.default_rng(seed).random((height, width)) > 0.1
    kept = eroded(valid, reach)
    for y in range(height):
        for x in range(width):
            near = valid[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            assert kept[y, x] == near.all()


@pytest.mark.parametrize("beyond", [np.nan, np.inf, -1.0, 10.5, 1e10])
def test_truth_ends_beside_what_is_missing_or_out_of_range(beyond: float) -> None:
    depth = np.full((12, 16), 2.0, np.float32)
    depth[5, 7] = beyond
    protocol = Protocol(resolution=12, width=16, erosion=2)
    kept = truth_mask(depth, np.ones((12, 16), bool), protocol)
    expected = np.ones((12, 16), bool)
    expected[3:8, 5:10] = False
    np.testing.assert_array_equal(kept, expected)
    resized, valid = resize_depth(depth, kept, protocol)
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(resized, np.where(expected, np.float32(2), 0))
