"""Native images to the protocol's size: antialiased RGB, depth averaged over measured pixels only."""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Float64, Int64, UInt8
from PIL import Image

from idl.protocol import Crop, Protocol

Box = tuple[float, float, float, float]


def centred_box(height: int, width: int, crop: Crop | None, size: tuple[int, int] = (1, 1)) -> Box:
    """The centred part of the (cropped) image that becomes the store's image: left, top, right, bottom, pixels.

    It is the largest of the shape of `size` (height, width; a square unless said): resizing an image so that it
    covers `size`, and cropping the centre, is resizing this box.
    crop: (top, bottom, left, right), as in Protocol; None: the whole image.
    """
    top, bottom, left, right = crop or (0, height, 0, width)
    # Products of whole numbers: the whole of a frame of that shape is exactly the whole of it.
    if (bottom - top) * size[1] <= (right - left) * size[0]:
        box_height, box_width = bottom - top, (bottom - top) * size[1] / size[0]
    else:
        box_height, box_width = (right - left) * size[0] / size[1], right - left
    x, y = left + (right - left - box_width) / 2, top + (bottom - top - box_height) / 2
    return x, y, x + box_width, y + box_height


# (rank, cells): the native pixels that a cell overlaps, and over which share of its length.
_Overlaps = tuple[Int64[np.ndarray, "rank cells"], Float64[np.ndarray, "rank cells"]]


# A crop's sides are its own: rows and columns of one, and of those that are made beside it.
@lru_cache(maxsize=64)
def _overlaps(start: float, stop: float, num_pixels: int, num_cells: int) -> _Overlaps:
    """Length of the overlap of each cell of [start, stop) with each native pixel that it touches, over its own."""
    edges = np.linspace(start, stop, num_cells + 1)
    most = int(np.ceil((stop - start) / num_cells)) + 1
    pixel = np.floor(edges[:-1]).astype(np.int64) + np.arange(most)[:, None]
    overlap = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    # Beyond the last pixel nothing overlaps but by rounding.
    pixel = np.minimum(pixel, num_pixels - 1)
    return pixel, np.clip(overlap, 0, None) * num_cells / (stop - start)


def _averaged(
    values: Float[np.ndarray, "*maps H W"], rows: _Overlaps, columns: _Overlaps
) -> Float[np.ndarray, "*maps height width"]:
    """Average over cells, each map by itself, in the type of `values`."""
    # A cell touches two to four pixels a side: a product with the matrix of all overlaps took ten times as long.
    for pixels, shares in (rows, columns):
        shares = shares.astype(values.dtype)[..., None]
        total = values[..., pixels[0], :] * shares[0]
        for pixel, share in zip(pixels[1:], shares[1:], strict=True):
            total += values[..., pixel, :] * share
        values = np.ascontiguousarray(np.swapaxes(total, -1, -2))
    return values


def resize_rgb(image: Image.Image, protocol: Protocol) -> UInt8[np.ndarray, "height width 3"]:
    """Resize with antialiasing (bicubic, supported over the cell's footprint)."""
    if protocol.crop is not None:
        top, bottom, left, right = protocol.crop
        # Cut, not boxed: at the edge of a box the filter still reads beyond it, NYU's white border for one.
        image = image.crop((left, top, right, bottom))
    box = centred_box(image.height, image.width, None, protocol.size)
    resized = image.resize((protocol.width, protocol.resolution), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized, dtype=np.uint8)


def resize_depth(
    depth_m: Float32[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"], protocol: Protocol
) -> tuple[Float32[np.ndarray, "height width"], Bool[np.ndarray, "height width"]]:
    """Average the valid pixels under each cell; a cell is valid where enough of its area was.

    depth_m: metres; what stands at invalid pixels does not matter, NaN included.
    valid: as measured; the protocol's erosion is done here.
    Returns metres (0 where not valid) and the mask: no invented pixel enters an average.
    """
    valid = eroded(valid, protocol.erosion)
    height, width = depth_m.shape
    left, top, right, bottom = centred_box(height, width, protocol.crop, protocol.size)
    cells = _overlaps(top, bottom, height, protocol.resolution), _overlaps(left, right, width, protocol.width)
    share = _averaged(valid.astype(np.float64), *cells)
    total = _averaged(np.where(valid, depth_m, 0).astype(np.float64), *cells)
    # The share of a wholly valid cell is 1 up to rounding.
    kept = (share >= protocol.min_valid_share - 1e-9) & (share > 0)
    return np.where(kept, total / np.where(kept, share, 1), 0).astype(np.float32), kept


def resize_normals(
    normals: Float32[np.ndarray, "H W 3"], defined: Bool[np.ndarray, "H W"], protocol: Protocol
) -> Float16[np.ndarray, "height width 3"]:
    """Average the defined unit normals under each cell and bring them back to unit length.

    defined: where there is a normal; erosion is the caller's.
    Returns (0, 0, 0) where less of the cell than the protocol's share was defined, or its normals cancel.
    """
    height, width = defined.shape
    left, top, right, bottom = centred_box(height, width, protocol.crop, protocol.size)
    cells = _overlaps(top, bottom, height, protocol.resolution), _overlaps(left, right, width, protocol.width)
    # float32, as half precision is what is kept.
    share = _averaged(defined.astype(np.float32), *cells)
    total = _averaged(np.where(defined, np.moveaxis(normals, -1, 0), np.float32(0)), *cells)
    length = np.sqrt(np.square(total).sum(axis=0))
    # Below a thousandth of the share, what is left of opposite normals is rounding.
    kept = (share >= protocol.min_valid_share - 1e-5) & (share > 0) & (length > 1e-3 * share)
    return np.moveaxis(np.where(kept, total / np.where(kept, length, 1), 0), 0, -1).astype(np.float16)


def eroded(valid: Bool[np.ndarray, "H W"], reach: int) -> Bool[np.ndarray, "H W"]:
    """Keep the valid pixels whose (2 reach + 1)-sided square holds no invalid one; beyond the image is nothing."""
    missing = ~valid
    for axis in (0, 1):
        grown = missing.copy()
        for step in range(1, min(reach, missing.shape[axis] - 1) + 1):
            before, after = [slice(None)] * 2, [slice(None)] * 2
            before[axis], after[axis] = slice(None, -step), slice(step, None)
            grown[tuple(after)] |= missing[tuple(before)]
            grown[tuple(before)] |= missing[tuple(after)]
        missing = grown
    return ~missing


def within_range(
    depth_m: Float32[np.ndarray, "*size"], valid: Bool[np.ndarray, "*size"], protocol: Protocol
) -> tuple[Float32[np.ndarray, "*size"], Bool[np.ndarray, "*size"]]:
    """Depth, metres, and its mask as a store has them: what is outside the protocol's range is 0 and not valid."""
    kept = valid & (depth_m >= protocol.min_depth_m) & (depth_m <= protocol.max_depth_m)
    return np.where(kept, depth_m, np.float32(0)), kept


def native_truth(
    depth_m: Float32[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"], protocol: Protocol
) -> Float32[np.ndarray, "H W"]:
    """The layer "native_depth": metres where valid after the protocol's erosion, else 0."""
    return np.where(eroded(valid, protocol.erosion), depth_m, 0).astype(np.float32)
