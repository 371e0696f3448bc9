"""Native images to the protocol's square: antialiased RGB, depth averaged over measured pixels only."""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from PIL import Image

from idl.protocol import Protocol

Box = tuple[float, float, float, float]


def square_box(height: int, width: int, crop: tuple[int, int, int, int] | None) -> Box:
    """The centred square of the (cropped) image that becomes the store's image: left, top, right, bottom, pixels.

    Resizing the short side and cropping the centre is resizing this square.
    crop: (top, bottom, left, right), as in Protocol; None: the whole image.
    """
    top, bottom, left, right = crop or (0, height, 0, width)
    side = min(bottom - top, right - left)
    x, y = left + (right - left - side) / 2, top + (bottom - top - side) / 2
    return x, y, x + side, y + side


@lru_cache(maxsize=16)
def _area_weights(start: float, stop: float, num_pixels: int, num_cells: int) -> Float64[np.ndarray, "cells pixels"]:
    """Length of the overlap of each cell of [start, stop) with each native pixel, over the length of a cell."""
    edges = np.linspace(start, stop, num_cells + 1)
    pixel = np.arange(num_pixels)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.clip(overlap, 0, None) * num_cells / (stop - start)


def resize_rgb(image: Image.Image, protocol: Protocol) -> UInt8[np.ndarray, "side side 3"]:
    """Resize with antialiasing (bicubic, supported over the cell's footprint)."""
    if protocol.crop is not None:
        top, bottom, left, right = protocol.crop
        # Cut, not boxed: at the edge of a box the filter still reads beyond it, NYU's white border for one.
        image = image.crop((left, top, right, bottom))
    box = square_box(image.height, image.width, None)
    side = protocol.resolution
    resized = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized, dtype=np.uint8)


def resize_depth(
    depth_m: Float32[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"], protocol: Protocol
) -> tuple[Float32[np.ndarray, "side side"], Bool[np.ndarray, "side side"]]:
    """Average the valid pixels under each cell; a cell is valid where enough of its area was.

    depth_m: metres; what stands at invalid pixels does not matter, NaN included.
    Returns metres (0 where not valid) and the mask: no invented pixel enters an average.
    """
    height, width = depth_m.shape
    left, top, right, bottom = square_box(height, width, protocol.crop)
    rows = _area_weights(top, bottom, height, protocol.resolution)
    columns = _area_weights(left, right, width, protocol.resolution).T
    share = rows @ valid.astype(np.float64) @ columns
    total = rows @ np.where(valid, depth_m, 0).astype(np.float64) @ columns
    # The share of a wholly valid cell is 1 up to rounding.
    kept = (share >= protocol.min_valid_share - 1e-9) & (share > 0)
    return np.where(kept, total / np.where(kept, share, 1), 0).astype(np.float32), kept
