"""Pictures and depth maps: read from files, and brought to a protocol's size.

They are read here only, for datasets, `doctor`, `predict` and `evaluate` alike. RGB is resized with antialiasing; depth
is averaged over measured pixels only.
"""

import hashlib
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from math import ceil
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Float64, Int64, Shaped, UInt8
from PIL import ExifTags, Image, ImageOps

from idl.data.units import ARRAY_FORMATS, axial_depth, unrotated
from idl.errors import InputError
from idl.progress import Progress
from idl.protocol import Crop, Protocol

# Of pictures, and of depth maps and masks; in lower case. Of maps of one name, arrays go before pictures.
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MAP_SUFFIXES = (*ARRAY_FORMATS, ".png", ".tif", ".tiff", ".pgm")
HYPERSIM = ".depth_meters.hdf5"

_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
# (rank, cells): the native pixels that a cell overlaps, and over which share of its length.
_Overlaps = tuple[Int64[np.ndarray, "rank cells"], Float64[np.ndarray, "rank cells"]]
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, KeyError, RuntimeError),
    *(Image.DecompressionBombError, zipfile.BadZipFile),
)


def read_rgb(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Return a picture as a viewer shows it: upright, in 8-bit RGB, on white where it is transparent.

    Grey of 16 bits, or of floats in [0, 1], is scaled to 8, and becomes three equal channels.
    Raises InputError, naming the file, where it cannot be read or its values have no known range.
    """
    with _opened(path, "image") as image:
        image.load()
        if _orientation(image) != 1:
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode in _DEEP_MODES:
            image = Image.fromarray(_eight_bits(path, np.asarray(image)))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def rgb_size(path: Path) -> tuple[int, int]:
    """Return the height and width that `read_rgb` gives, pixels, without decoding the picture.

    Raises InputError, naming the file, where its head is not that of a picture.
    """
    with _opened(path, "image") as image:
        # Of a TIFF, Pillow says the size after it is turned.
        is_turned = image.format != "TIFF" and _may_be_turned(path, image) and _orientation(image) in (5, 6, 7, 8)
        return (image.width, image.height) if is_turned else (image.height, image.width)


def orientation(path: Path) -> int:
    """Return the orientation tag of a picture: 1 is upright, up to 4 its height stays its height, up to 8 it does not.

    Raises InputError, naming the file, where its head is not that of a picture.
    """
    with _opened(path, "image") as image:
        return _orientation(image) if _may_be_turned(path, image) else 1


def _orientation(image: Image.Image) -> int:
    """Return the orientation tag, 1 (upright) where there is none or the tags are damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except SyntaxError:
        return 1


def _may_be_turned(path: Path, image: Image.Image) -> bool:
    """Tell a PNG without tags, which Pillow would decode (25 ms of 1024 x 768) to look for some behind the pixels."""
    if image.format != "PNG" or {"exif", "XML:com.adobe.xmp", "Raw profile type exif"} & image.info.keys():
        return True
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16))
        return re.search(rb"eXIf|iTXt|zTXt|tEXt", file.read()) is not None


def read_map(path: Path, channels: int = 1) -> Shaped[np.ndarray, "H W *channels"]:
    """Return the numbers of a map as they are stored: (H, W) for one channel, else (H, W, channels).

    Raises InputError, naming the file, where it cannot be read or has another shape.
    """
    if path.suffix.lower() in ARRAY_FORMATS:
        with _readable(path, "map"):
            values = ARRAY_FORMATS[path.suffix.lower()](path)
    else:
        with _opened(path, "map") as image:
            values = np.asarray(image)
    if channels == 1:
        values = _one_channel(values)
    if values.shape[2:] != ((channels,) if channels > 1 else ()) or values.ndim < 2 or not values.size:
        expected = "one number a pixel (H, W)" if channels == 1 else f"(H, W, {channels})"
        raise InputError(f"{path}: has shape {values.shape}, expected {expected}. Save it so, or take it out.")
    return values


def _one_channel(values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Return a map without axes of length 1 at its ends, and one of its channels where all of them are equal."""
    while values.ndim > 2 and 1 in (values.shape[0], values.shape[-1]):
        values = values[..., 0] if values.shape[-1] == 1 else values[0]
    first = values[..., :1]
    # A missing number does not equal itself.
    is_grey = values.ndim == 3 and values.size and ((values == first) | ((values != values) & (first != first))).all()
    return first[..., 0] if is_grey else values


def metres(
    path: Path,
    values: Shaped[np.ndarray, "H W"],
    depth_scale: float | None = None,
    invalid_values: Sequence[int] = (),
    float_scale: float = 1.0,
    is_rotated: bool = False,
) -> tuple[Float32[np.ndarray, "H W"], Bool[np.ndarray, "H W"]]:
    """Return the depth that a map's numbers mean, metres along the optical axis, and which pixels were measured.

    What stands at the others does not matter. Floats are divided by `float_scale`, and missing where they are not
    finite or not above 0. Integers of 16 bits or more are divided by `depth_scale`, and missing where they are one of
    `invalid_values`, or negative. Hypersim's distances (NAME.depth_meters.hdf5) become depth.
    depth_scale, float_scale: units per metre; depth_scale None where integers are not expected.
    is_rotated: integers are SUN RGB-D's, of which the millimetres are taken.
    Raises InputError, naming the file, where the numbers are of another type.
    """
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):
            valid, depth_m = np.isfinite(values) & (values > 0), values.astype(np.float32, copy=False)
            depth_m = depth_m if float_scale == 1 else depth_m / np.float32(float_scale)
            return axial_depth(depth_m) if path.name.lower().endswith(HYPERSIM) else depth_m, valid
    if depth_scale is None:
        raise InputError(f"{path}: depth is {values.dtype}, expected float32 metres. Replace it or take it out.")
    # Pillow gives 16-bit PNG as uint16 or int32; 8 bits hold a picture of depth, not depth.
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 2:
        raise InputError(
            f"{path}: depth is {values.dtype}, expected a PNG of one channel of 16 bits, depth_scale units per metre, "
            "or floats in metres (.npy, .tiff)."
        )
    valid = ~np.isin(values, invalid_values) & (values >= 0)
    return ((unrotated(values) / 1000 if is_rotated else values / depth_scale).astype(np.float32), valid)


def read_mask(path: Path) -> Bool[np.ndarray, "H W"]:
    """Return where a mask of any type of number is above 0; what is not a number is not.

    Raises InputError, naming the file, where it cannot be read or holds no numbers.
    """
    values = read_map(path)
    if values.dtype.kind not in "biuf":
        raise InputError(f"{path}: the mask is {values.dtype}, expected numbers, 1 where valid. Replace it.")
    return values > 0


def require_registered(
    path: Path, what: str, size: tuple[int, ...], image: tuple[int, ...], slack: float | None = None
) -> None:
    """Raise InputError where a map has another size than its picture or, with a slack, another shape.

    path: of the map. what: it is, for people. size, image: shapes of arrays. slack: the share of a side, or a pixel if
    that is more, by which the shape may differ.
    """
    (height, width), (rgb_height, rgb_width) = size[:2], image[:2]
    off = (abs(width * rgb_height / rgb_width - height), abs(height * rgb_width / rgb_height - width))
    most = [-1.0, -1.0] if slack is None else [max(1, slack * height), max(1, slack * width)]
    if size[:2] != image[:2] and off[0] > most[0] and off[1] > most[1]:
        raise InputError(
            f"{path}: {what} is {width} x {height}, its RGB image {rgb_width} x {rgb_height}. Register them to one "
            f"{'size' if slack is None else 'field of view'}."
        )


def _eight_bits(path: Path, values: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    """Scale grey values of 16 bits, or floats in [0, 1]."""
    top = 1.0 if values.dtype.kind == "f" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        values_found = f"{values.dtype} from {values.min():g} to {values.max():g}"
        raise InputError(f"{path}: has {values_found}, expected 0 to {top:g}. Save it with 8 or 16 bits a channel.")
    return (values / top * 255 + 0.5).astype(np.uint8)


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Raise InputError for what a damaged file leads to."""
    try:
        yield
    except _UNREADABLE as error:
        reason = " ".join(str(error).replace(repr(str(path)), "it").replace(str(path), "it").split())[:160]
        raise InputError(f"{path}: not a readable {what} ({reason}). Replace it or take it out.") from error


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Image.Image]:
    with _readable(path, what), warnings.catch_warnings():
        # Of damaged tags, and from 89 million pixels on; from 179 million on Pillow refuses.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        with Image.open(path) as image:
            if image.format == "TIFF":
                # Without a name, Pillow does not map the file: it would lay out the rows of a turned TIFF wrongly.
                image.filename = ""
            yield image


def resize_rgb(rgb: UInt8[np.ndarray, "H W 3"], protocol: Protocol) -> UInt8[np.ndarray, "height width 3"]:
    """Return a picture at the protocol's size, resized with antialiasing (bicubic, over the cell's footprint)."""
    image = Image.fromarray(rgb)
    if protocol.crop is not None:
        top, bottom, left, right = protocol.crop
        # Cut, not boxed: at the edge of a box the filter still reads beyond it, NYU's white border for one.
        image = image.crop((left, top, right, bottom))
    box = centred_box(image.height, image.width, None, protocol.size)
    return np.asarray(image.resize((protocol.width, protocol.resolution), Image.Resampling.BICUBIC, box=box))


def resize_depth(
    depth_m: Float32[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"], protocol: Protocol
) -> tuple[Float32[np.ndarray, "height width"], Bool[np.ndarray, "height width"]]:
    """Return metres at the protocol's size, 0 where not valid, and the mask.

    A cell is the average of the valid pixels under it, and valid where enough of its area was: no invented pixel
    enters an average. depth_m: metres, of any value where not valid. valid: the native truth, `truth_mask`.
    """
    total, share = _averaged(depth_m, valid, protocol, np.float64)
    # The share of a wholly valid cell is 1 up to rounding.
    kept = (share >= protocol.min_valid_share - 1e-9) & (share > 0)
    return np.where(kept, total / np.where(kept, share, 1), 0).astype(np.float32), kept


def resize_normals(
    normals: Float32[np.ndarray, "H W 3"], defined: Bool[np.ndarray, "H W"], protocol: Protocol
) -> Float16[np.ndarray, "height width 3"]:
    """Return unit normals at the protocol's size: the averages of those defined under each cell, of unit length again.

    (0, 0, 0) where less of the cell than the protocol's share was defined, or its normals cancel.
    defined: where there is a normal of the native truth.
    """
    # float32, as half precision is what is kept.
    total, share = _averaged(np.moveaxis(normals, -1, 0), defined, protocol, np.float32)
    length = np.sqrt(np.square(total).sum(axis=0))
    # Below a thousandth of the share, what is left of opposite normals is rounding.
    kept = (share >= protocol.min_valid_share - 1e-5) & (share > 0) & (length > 1e-3 * share)
    return np.moveaxis(np.where(kept, total / np.where(kept, length, 1), 0), 0, -1).astype(np.float16)


def truth_mask(
    depth_m: Float32[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"], protocol: Protocol
) -> Bool[np.ndarray, "H W"]:
    """Return which native pixels are truth: measured, within the protocol's range, and not beside one that is not.

    A depth out of range is as one that is missing: its average with others would be a depth that no pixel has.
    """
    return eroded(within_range(depth_m, valid, protocol)[1], protocol.erosion)


def native_share(valid: Bool[np.ndarray, "H W"], protocol: Protocol) -> float:
    """Return the share of truth among the native pixels that the protocol's image is made of."""
    height, width = valid.shape
    left, top, right, bottom = centred_box(height, width, protocol.crop, protocol.size)
    return float(valid[int(top) : ceil(bottom), int(left) : ceil(right)].mean())


def within_range(
    depth_m: Float32[np.ndarray, "*size"], valid: Bool[np.ndarray, "*size"], protocol: Protocol
) -> tuple[Float32[np.ndarray, "*size"], Bool[np.ndarray, "*size"]]:
    """Return depth, metres, and its mask as a store has them: outside the protocol's range 0 and not valid."""
    with np.errstate(invalid="ignore"):
        kept = valid & (depth_m >= protocol.min_depth_m) & (depth_m <= protocol.max_depth_m)
    return np.where(kept, depth_m, np.float32(0)), kept


def eroded(valid: Bool[np.ndarray, "H W"], reach: int) -> Bool[np.ndarray, "H W"]:
    """Return the valid pixels whose (2 reach + 1)-sided square holds no invalid one; beyond the image is nothing."""
    missing = ~valid
    # Shifts take 2 ms of 1024 x 768, scipy's filters 10.
    for axis in (0, 1):
        grown = missing.copy()
        for step in range(1, min(reach, missing.shape[axis] - 1) + 1):
            before, after = [slice(None)] * 2, [slice(None)] * 2
            before[axis], after[axis] = slice(None, -step), slice(step, None)
            grown[tuple(after)] |= missing[tuple(before)]
            grown[tuple(before)] |= missing[tuple(after)]
        missing = grown
    return ~missing


def centred_box(
    height: int, width: int, crop: Crop | None, size: tuple[int, int] = (1, 1)
) -> tuple[float, float, float, float]:
    """Return the centred part of the (cropped) image that becomes the store's image: left, top, right, bottom, pixels.

    It is the largest of the shape of `size`, (height, width). crop: as in Protocol; None: the whole image.
    """
    top, bottom, left, right = crop or (0, height, 0, width)
    # Products of whole numbers: the whole of a frame of that shape is exactly the whole of it.
    if (bottom - top) * size[1] <= (right - left) * size[0]:
        box_height, box_width = bottom - top, (bottom - top) * size[1] / size[0]
    else:
        box_height, box_width = (right - left) * size[0] / size[1], right - left
    x, y = left + (right - left - box_width) / 2, top + (bottom - top - box_height) / 2
    return x, y, x + box_width, y + box_height


# A crop's sides are its own: rows and columns of one, and of those that are made beside it.
@lru_cache(maxsize=64)
def _overlaps(start: float, stop: float, num_pixels: int, num_cells: int) -> _Overlaps:
    """Return the overlap of each cell of [start, stop) with each native pixel that it touches, over its own length."""
    edges = np.linspace(start, stop, num_cells + 1)
    most = int(np.ceil((stop - start) / num_cells)) + 1
    pixel = np.floor(edges[:-1]).astype(np.int64) + np.arange(most)[:, None]
    overlap = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    # Beyond the last pixel nothing overlaps but by rounding.
    pixel = np.minimum(pixel, num_pixels - 1)
    return pixel, np.clip(overlap, 0, None) * num_cells / (stop - start)


def _averaged(
    values: Float[np.ndarray, "*maps H W"], valid: Bool[np.ndarray, "H W"], protocol: Protocol, dtype: type
) -> tuple[Float[np.ndarray, "*maps height width"], Float[np.ndarray, "height width"]]:
    """Return sums over the protocol's cells of valid values, over a cell's area, and the share of it that is valid."""
    height, width = valid.shape
    left, top, right, bottom = centred_box(height, width, protocol.crop, protocol.size)
    sides = _overlaps(top, bottom, height, protocol.resolution), _overlaps(left, right, width, protocol.width)
    averages = []
    # What is not valid may be not finite.
    for each in (np.where(valid, values, 0).astype(dtype, copy=False), valid.astype(dtype)):
        # A cell touches two to four pixels a side: a product with the matrix of all overlaps took ten times as long.
        for pixels, shares in sides:
            shares = shares.astype(dtype)[..., None]
            total = each[..., pixels[0], :] * shares[0]
            for pixel, share in zip(pixels[1:], shares[1:], strict=True):
                total += each[..., pixel, :] * share
            each = np.ascontiguousarray(np.swapaxes(total, -1, -2))
        averages.append(each)
    return averages[0], averages[1]


def repeats(
    read: Callable[[int], UInt8[np.ndarray, "H W 3"] | None], indices: Sequence[int], progress: Progress, label: str
) -> Iterator[tuple[int, int]]:
    """Yield (position, position of the first that equals it) for each image of `indices` that repeats an earlier one.

    read: returns the image of an index, None where there is none to compare; called from several threads.
    Pixels are compared, not files: a copy at another compression is the same image. An image all of one colour, which
    a camera that drops out gives again and again, is no repeat.
    """
    first: dict[bytes, int] = {}
    # Decoding and hashing leave Python's lock. What a thread hands back is 16 bytes, however far it runs ahead.
    with progress(label, len(indices)) as advance, ThreadPoolExecutor() as pool:
        for position, digest in enumerate(pool.map(lambda index: _pixel_digest(read(index)), indices)):
            if digest is not None and (earlier := first.setdefault(digest, position)) != position:
                yield position, earlier
            advance(1)


def _pixel_digest(pixels: UInt8[np.ndarray, "H W 3"] | None) -> bytes | None:
    if pixels is None or (pixels == pixels[0, 0]).all():
        return None
    # With its shape: two images of other sizes may have the same bytes.
    content = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels).data)
    return content.digest()
