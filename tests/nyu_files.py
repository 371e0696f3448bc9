"""Files in the layout of NYU Depth V2's labelled set, made from arrays in their natural order.

As in the published file: a user block with MATLAB's header, every array with its axes reversed, chunked and
compressed, cell arrays of strings as object references into `#refs#`, `rawDepths` with holes and nothing outside the
projected sensor, `depths` with every hole filled, RGB with a white frame, splits that count from 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image

NATIVE_SIZE = (480, 640)
SMALL_SIZE = (48, 64)


@dataclass(frozen=True)
class Planted:
    """What a file is made of, in natural order: image, row, column (, channel)."""

    rgb: np.ndarray
    raw_m: np.ndarray
    inpainted_m: np.ndarray
    scenes: tuple[str, ...]
    extra: dict[str, np.ndarray] = field(default_factory=dict)


def plant(num: int = 6, size: tuple[int, int] = SMALL_SIZE, scenes: Sequence[str] = (), seed: int = 0) -> Planted:
    """Images whose raw depth is linear in the red channel, with holes; two images a scene unless said.

    The frame: white in RGB, without depth in `raw_m`, 1/60 of the height wide.
    """
    generator = np.random.default_rng(seed)
    height, width = size
    frame = height // 60 + 1
    rgb = np.empty((num, height, width, 3), np.uint8)
    raw_m = np.empty((num, height, width), np.float32)
    inpainted_m = np.empty_like(raw_m)
    for image in range(num):
        coarse = generator.integers(0, 230, (8, 10, 3), dtype=np.uint8)
        rgb[image] = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        inpainted_m[image] = 1.5 + 4.0 * rgb[image, ..., 0] / 255.0
        holes = generator.random((height // 4, width // 4)).repeat(4, axis=0).repeat(4, axis=1) < 0.15
        inside = np.zeros((height, width), bool)
        inside[frame:-frame, frame:-frame] = True
        raw_m[image] = np.where(inside & ~holes, inpainted_m[image], 0)
        # Filling invents: what stands there has nothing to do with the rest, so that a test sees it.
        inpainted_m[image] = np.where(raw_m[image] > 0, raw_m[image], 9.0)
        rgb[image][~inside] = 255
    named = tuple(scenes) or tuple(f"{'kitchen' if k % 4 < 2 else 'office'}_{k // 2:04d}" for k in range(num))
    return Planted(rgb, raw_m, inpainted_m, named)


def arrays(planted: Planted) -> dict[str, np.ndarray]:
    """All arrays as HDF5 holds them, by key."""
    num = len(planted.rgb)
    labels = (planted.inpainted_m * 10).astype(np.uint16)
    return {
        "images": planted.rgb.transpose(0, 3, 2, 1),
        "depths": planted.inpainted_m.transpose(0, 2, 1),
        "rawDepths": planted.raw_m.transpose(0, 2, 1),
        "labels": labels.transpose(0, 2, 1),
        "instances": (labels % 7).astype(np.uint8).transpose(0, 2, 1),
        "accelData": np.zeros((4, num), np.float32),
        **planted.extra,
    }


def write_mat(
    path: Path,
    planted: Planted,
    *,
    leave_out: Sequence[str] = (),
    chunk_images: int = 1,
    compression: int | None = 3,
    repeats: int = 1,
) -> Path:
    """Write the file.

    leave_out: keys that are missing. chunk_images: images in one chunk; with 1 the images can be repeated `repeats`
    times, which copies what was compressed once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scenes = tuple(f"{scene}{round or ''}" for round in range(repeats) for scene in planted.scenes)
    with h5py.File(path, "w", userblock_size=512) as file:
        references = file.create_group("#refs#")
        file.create_group("#subsystem#")
        for key, values in arrays(planted).items():
            if key not in leave_out:
                made = _write_array(file, key, values, chunk_images, compression, repeats)
                made.attrs["MATLAB_class"] = np.bytes_("single" if values.dtype == np.float32 else values.dtype.name)
        cells = {
            "names": ("wall", "floor", "night stand"),
            "scenes": scenes,
            "sceneTypes": tuple(scene.rpartition("_")[0] for scene in scenes),
        }
        for key, texts in cells.items():
            if key not in leave_out:
                _write_cells(file, references, key, texts)
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Wed Jun  6 14:22:01 2012 HDF5 schema 1.00 ."
    with path.open("r+b") as file:
        file.write(header.ljust(116) + bytes(8) + b"\x00\x02IM")
    return path


def _write_array(
    file: h5py.File, key: str, values: np.ndarray, chunk_images: int, compression: int | None, repeats: int
) -> h5py.Dataset:
    if values.ndim < 3 or not len(values):
        return file.create_dataset(key, data=np.tile(values, (1,) * (values.ndim - 1) + (repeats,)))
    shape, chunks = (len(values) * repeats, *values.shape[1:]), (min(chunk_images, len(values)), *values.shape[1:])
    made = file.create_dataset(key, shape, values.dtype, chunks=chunks, compression=compression)
    made[: len(values)] = values
    rest = (0,) * (values.ndim - 1)
    for index in range(len(values), shape[0]):
        mask, chunk = made.id.read_direct_chunk((index % len(values), *rest))
        made.id.write_direct_chunk((index, *rest), chunk, mask)
    return made


def _write_cells(file: h5py.File, references: h5py.Group, key: str, texts: Sequence[str]) -> None:
    cells = file.create_dataset(key, (1, len(texts)), dtype=h5py.ref_dtype)
    cells.attrs["MATLAB_class"] = np.bytes_("cell")
    for number, text in enumerate(texts):
        # MATLAB names what references point to by letters, in the order of the file.
        codes = np.array([[ord(letter)] for letter in text], np.uint16) if text else np.zeros(2, np.uint64)
        made = references.create_dataset(f"{key[:2]}{len(references)}", data=codes)
        made.attrs["MATLAB_class"] = np.bytes_("char")
        if not text:
            made.attrs["MATLAB_empty"] = np.uint8(1)
        cells[0, number] = made.ref


def write_splits(path: Path, train: Sequence[int], test: Sequence[int]) -> Path:
    """Write splits.mat, MATLAB v5, of image numbers as they are given."""
    columns = {"trainNdxs": train, "testNdxs": test}
    scipy.io.savemat(path, {key: np.array(values, np.uint16).reshape(-1, 1) for key, values in columns.items()})
    return path
