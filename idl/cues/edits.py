"""Images with one cue removed: batched functions of RGB in [0, 1].

Luminance is Y = 0.2126 R + 0.7152 G + 0.0722 B (Rec. 709) of the stored, gamma-encoded values, which video calls
luma; chroma is RGB - Y. Encoded rather than linear light, because the question is which of its numbers a network
reads, and these are its numbers: every edit of colour is linear in them, so a probe that is linear in Y does not see
grey or a rotated hue at all; and nothing amplifies the noise of dark pixels, as a decoding does near black.

Where an edit leaves [0, 1], the pixel's chroma is scaled down until it fits: luminance is kept exactly, which clipping
would not do.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

LUMINANCE = (0.2126, 0.7152, 0.0722)
Images = Float[Tensor, "batch 3 H W"]
Maps = Float[Tensor, "batch channels h w"]


def luminance(rgb: Images) -> Float[Tensor, "batch 1 H W"]:
    """Weigh the channels by Rec. 709."""
    weights = torch.tensor(LUMINANCE, dtype=rgb.dtype, device=rgb.device)
    return torch.einsum("c,bchw->bhw", weights, rgb)[:, None]


def grey(rgb: Images) -> Images:
    """Take the colour away: every channel is the luminance."""
    return luminance(rgb).expand_as(rgb).contiguous()


def hue_rotated(rgb: Images, degrees: float) -> Images:
    """Rotate the chroma in the plane of colours without luminance, before anything is fitted into [0, 1].

    Distances in that plane are those of RGB. Luminance stays, and the rotation by -degrees undoes it.
    """
    rotation = torch.tensor(_rotation(degrees), dtype=rgb.dtype, device=rgb.device)
    level = luminance(rgb)
    return level + torch.einsum("ij,bjhw->bihw", rotation, rgb - level)


def luminance_flattened(rgb: Images) -> Images:
    """Give every pixel its image's mean luminance and its own chroma, before anything is fitted into [0, 1]."""
    level = luminance(rgb)
    return rgb - level + level.mean(dim=(2, 3), keepdim=True)


def fitted(rgb: Images) -> Images:
    """Bring colours into [0, 1] by scaling the chroma of those outside; their luminance, in [0, 1], stays."""
    level = luminance(rgb).clamp(0, 1)
    chroma = rgb - level
    room = torch.where(chroma > 0, 1 - level, level)
    # 0 / 0 has all the room that there is.
    share = (room / chroma.abs().clamp(min=1e-12)).amin(dim=1, keepdim=True).clamp(max=1)
    # Clamped for rounding alone.
    return (level + share * chroma).clamp(0, 1)


def low_passed(rgb: Images, sigma: float) -> Images:
    """Blur by a Gaussian of `sigma` pixels, the image mirrored at its edges: the mean of each channel stays.

    Of a wave of w pixels exp(-2 (pi sigma / w)^2) is left: at sigma 4, a third at 17 pixels, a hundredth at 8.
    """
    rows, columns = (_blur(side, sigma).to(rgb) for side in rgb.shape[2:])
    return (rows @ rgb @ columns.T).clamp(0, 1)


def tile_orders(num_tiles: int, seeds: list[int]) -> Int64[Tensor, "batch tiles"]:
    """Draw for each seed which tile comes to each place: one random cycle, so that no tile of several stays."""
    orders = torch.empty(len(seeds), num_tiles, dtype=torch.int64)
    for row, seed in enumerate(seeds):
        cycle = torch.randperm(num_tiles, generator=torch.Generator().manual_seed(seed))
        orders[row, cycle] = cycle.roll(1)
    return orders


def num_tiles(height: int, width: int, tile: int) -> int:
    """Count the whole tiles of `tile` on each side."""
    return (height // tile) * (width // tile)


def shuffled(maps: Maps, orders: Int64[Tensor, "batch tiles"], tile: int) -> Maps:
    """Put tile orders[i, j] of image i at place j, row by row; what is no whole tile, right and below, stays."""
    rows, columns = maps.shape[2] // tile, maps.shape[3] // tile
    whole = maps[:, :, : rows * tile, : columns * tile]
    tiles = whole.unflatten(3, (columns, tile)).unflatten(2, (rows, tile)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    chosen = orders.to(maps.device)[:, :, None, None, None].expand_as(tiles)
    moved = tiles.gather(1, chosen).unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5)
    result = maps.clone()
    result[:, :, : rows * tile, : columns * tile] = moved.flatten(4, 5).flatten(2, 3)
    return result


def unshuffled(maps: Maps, orders: Int64[Tensor, "batch tiles"], tile: int) -> Maps:
    """Put every tile back to where `shuffled` took it from."""
    return shuffled(maps, orders.argsort(dim=1), tile)


def upside_down(maps: Maps) -> Maps:
    """Turn the rows round, and nothing else: what is left stays left."""
    return maps.flip(2)


def _rotation(degrees: float) -> list[list[float]]:
    """Rotate about the luminance's normal, which the plane of colours without luminance is perpendicular to."""
    length = math.sqrt(sum(weight**2 for weight in LUMINANCE))
    x, y, z = (weight / length for weight in LUMINANCE)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Rodrigues.
    return [
        [cos + x * x * (1 - cos), x * y * (1 - cos) - z * sin, x * z * (1 - cos) + y * sin],
        [y * x * (1 - cos) + z * sin, cos + y * y * (1 - cos), y * z * (1 - cos) - x * sin],
        [z * x * (1 - cos) - y * sin, z * y * (1 - cos) + x * sin, cos + z * z * (1 - cos)],
    ]


@lru_cache(maxsize=8)
def _blur(side: int, sigma: float) -> Float[Tensor, "side side"]:
    """Blur along one side as a matrix: taps beyond an edge are mirrored, so that rows and columns sum to 1."""
    reach = math.ceil(4 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    taps = taps / taps.sum()
    places = (torch.arange(side)[:, None] + torch.arange(-reach, reach + 1)) % (2 * side)
    places = torch.where(places < side, places, 2 * side - 1 - places)
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(1, places, taps.expand(side, -1).contiguous())
