"""Photographs: found on disk, named so that no two share an output, and read whatever their mode."""

import glob
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from idl.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Photograph:
    """An image file, and the path without a suffix that its outputs have under the output folder."""

    path: Path
    key: str


def find(places: Sequence[str], out: Path) -> tuple[Photograph, ...]:
    """Return the images of files, folders (with all that is below) and patterns ("walk/**/*.png").

    out: the output folder; what lies in it is no input, unless it is named itself.

    An image keeps its path below the folder that was named, a file or a pattern's match its name; where two would
    have the same outputs, both get as many of their folders in front as tell them apart, and the suffix if need be.
    An image that is named twice comes once.

    Raises InputError: a place that is not there, nothing found, a file that is no image, `out` is a folder of
    images that was named.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for place in places:
        path = Path(place).expanduser()
        if path.is_dir():
            if path.resolve() == out.resolve():
                raise InputError(f"{path}: is the output folder too. Pass another out.")
            inside = [each for each in sorted(path.rglob("*")) if _is_wanted(each, path, out)]
            matches = [(each, each.relative_to(path)) for each in inside]
        elif path.is_file():
            matches = [(path, Path(path.name))]
        else:
            hits = sorted(Path(hit) for hit in glob.glob(str(path), recursive=True))  # noqa: PTH207  (it may be absolute)
            matches = [(hit, Path(hit.name)) for hit in hits if hit.is_file() and _is_wanted(hit, hit.parent, out)]
            if not matches and not glob.has_magic(str(path)):
                raise InputError(f"{path}: no such image or folder.")
        for each, relative in matches:
            # Named as it was found, known by where it really lies.
            found.setdefault(each.resolve(), (Path(os.path.abspath(each)), relative))  # noqa: PTH100  (keeps links)
    if not found:
        told = ", ".join(places) or "no place was named"
        raise InputError(f"images: none found ({told}). Pass images, folders or a pattern such as 'walk/*.png'.")
    named = list(found.values())
    photographs = tuple(Photograph(path, key) for (path, _), key in zip(named, _keys(named), strict=True))
    for photograph in photographs:
        _require_image(photograph.path)
    return photographs


def read(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Read an image as a viewer shows it: upright, in 8-bit RGB, on white where it is transparent.

    16 bits are scaled to 8, and grey becomes three equal channels. Raises InputError where the file cannot be read,
    or its values have no known range.
    """
    with _readable(path) as opened:
        try:
            image = ImageOps.exif_transpose(opened)
            image.load()
        except UNREADABLE as error:
            raise _unreadable(path, error) from error
        if image.mode in DEEP_MODES or image.mode == "F":
            image = Image.fromarray(_eight_bits(path, np.asarray(image)))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image.convert("RGB"))


def _eight_bits(path: Path, values: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    """Scale grey values of 16 bits, or floats in [0, 1]."""
    top = 1.0 if values.dtype.kind == "f" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        told = f"{values.dtype} from {values.min():g} to {values.max():g}"
        raise InputError(f"{path}: has {told}, expected 0 to {top:g}. Save it with 8 or 16 bits a channel.")
    return (values / top * 255 + 0.5).astype(np.uint8)


def _is_wanted(path: Path, folder: Path, out: Path) -> bool:
    """Tell images from other files, from what is hidden and from outputs."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    if any(part.startswith(".") for part in path.relative_to(folder).parts):
        return False
    # An output folder around the named one does not make its images outputs.
    is_around = folder.resolve().is_relative_to(out.resolve())
    return is_around or not path.resolve().is_relative_to(out.resolve())


def _keys(found: Sequence[tuple[Path, Path]]) -> list[str]:
    """Return a key for each (absolute path, path below what was named)."""
    num_parts = [len(relative.parts) for _, relative in found]
    has_suffix = [False] * len(found)
    while True:
        groups: dict[str, list[int]] = {}
        for number, (path, _) in enumerate(found):
            name = path.name if has_suffix[number] else path.stem
            groups.setdefault("/".join((*path.parts[-num_parts[number] : -1], name)), []).append(number)
        clashes = [numbers for numbers in groups.values() if len(numbers) > 1]
        if not clashes:
            keys = {number: key for key, numbers in groups.items() for number in numbers}
            return [keys[number] for number in range(len(found))]
        for numbers in clashes:
            paths = [found[number][0] for number in numbers]
            is_one_folder = len({path.parent for path in paths}) == 1
            for number, path in zip(numbers, paths, strict=True):
                if is_one_folder:
                    has_suffix[number] = True
                else:
                    # The root is no part of a name.
                    num_parts[number] = min(num_parts[number] + 1, len(path.parts) - 1)


def _require_image(path: Path) -> None:
    """Read the head of a file. Raises InputError where it is no image."""
    with _readable(path):
        pass


def _readable(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 million pixels on, and refuses from 179 million on.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).replace(repr(str(path)), "it").split())[:160]
    return InputError(f"{path}: not a readable image ({reason}). Replace it or leave it out.")
