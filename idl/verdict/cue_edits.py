"""Images with one cue removed, and what a frozen probe makes of them.

Edits are batched functions of RGB in [0, 1]. Luminance is Y = 0.2126 R + 0.7152 G + 0.0722 B (Rec. 709) of the stored,
gamma-encoded values, which video calls luma; chroma is RGB - Y. Encoded rather than linear light, because these are the
numbers that a network reads. Where an edit leaves [0, 1], the pixel's chroma is scaled down until it fits: luminance is
kept exactly, which clipping would not do.
"""

import copy
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from idl.data.loading import batches, images_of
from idl.data.store import Store
from idl.encoders import Encoder
from idl.encoders.base import Size
from idl.fitting import layers_read, read_target
from idl.probes.grid import upsample
from idl.probes.linear_probe import LinearProbe
from idl.progress import Progress
from idl.targets import Target

CLEAN, CONSTANT = "clean", "constant"
GREY, HUE, FLAT, LOW_PASS, TILES, TURNED = "grey", "hue rotated", "luminance flat", "low-passed", "tiles", "upside down"
# Each edit, and what it takes away.
REMOVED: Mapping[str, str] = {
    GREY: "colour",
    HUE: "hue",
    FLAT: "light and dark",
    LOW_PASS: "texture",
    TILES: "layout",
    TURNED: "vertical position",
}
LUMINANCE = (0.2126, 0.7152, 0.0722)
# Of the low-pass, and side of the shuffled tiles, brought to whole cells of the encoder's grid; pixels.
_SIGMA, TILE = 4.0, 64
# Images that are kept for a picture.
NUM_EXAMPLES = 2
Images = Float[Tensor, "batch 3 H W"]
Maps = Float[Tensor, "batch channels h w"]


def luminance(rgb: Images) -> Float[Tensor, "batch 1 H W"]:
    """Return the channels weighted by Rec. 709."""
    weights = torch.tensor(LUMINANCE, dtype=rgb.dtype, device=rgb.device)
    return torch.einsum("c,bchw->bhw", weights, rgb)[:, None]


def grey(rgb: Images) -> Images:
    """Return images without colour: every channel is the luminance."""
    return luminance(rgb).expand_as(rgb).contiguous()


def opposite(rgb: Images) -> Images:
    """Rotate hues by half a turn: every chroma becomes its negative, before anything is fitted into [0, 1]."""
    return 2 * luminance(rgb) - rgb


def luminance_flattened(rgb: Images) -> Images:
    """Give every pixel its image's mean luminance and its own chroma, before anything is fitted into [0, 1]."""
    level = luminance(rgb)
    return rgb - level + level.mean(dim=(2, 3), keepdim=True)


def fitted(rgb: Images) -> Images:
    """Bring colours into [0, 1] by scaling the chroma of those outside; their luminance, in [0, 1], stays."""
    level = luminance(rgb).clamp(0, 1)
    chroma = rgb - level
    room = torch.where(chroma > 0, 1 - level, level)
    share = (room / chroma.abs().clamp(min=1e-12)).amin(dim=1, keepdim=True).clamp(max=1)
    return (level + share * chroma).clamp(0, 1)


def low_passed(rgb: Images, sigma: float) -> Images:
    """Blur by a Gaussian of `sigma` pixels, the image mirrored at its edges: the mean of each channel stays.

    Of a wave of w pixels exp(-2 (pi sigma / w)^2) is left: at sigma 4, a third at 17 pixels, a hundredth at 8.
    """
    rows, columns = (_blur(side, sigma).to(rgb) for side in rgb.shape[2:])
    return (rows @ rgb @ columns.T).clamp(0, 1)


@lru_cache(maxsize=8)
def _blur(side: int, sigma: float) -> Float[Tensor, "side side"]:
    """Return the blur along one side as a matrix, whose rows and columns sum to 1."""
    return torch.from_numpy(gaussian_filter1d(np.eye(side), sigma, mode="reflect", truncate=4.0))


def tile_orders(num_tiles: int, seeds: Sequence[int]) -> Int64[Tensor, "batch tiles"]:
    """Draw for each seed which tile comes to each place: one random cycle, so that no tile of several stays."""
    orders = torch.empty(len(seeds), num_tiles, dtype=torch.int64)
    for row, seed in enumerate(seeds):
        cycle = torch.randperm(num_tiles, generator=torch.Generator().manual_seed(seed))
        orders[row, cycle] = cycle.roll(1)
    return orders


def shuffled(maps: Maps, orders: Int64[Tensor, "batch tiles"], tile: int) -> Maps:
    """Put tile orders[i, j] of image i at place j, row by row; what is no whole tile, right and below, stays.

    `orders.argsort(dim=1)` puts every tile back.
    """
    rows, columns = maps.shape[2] // tile, maps.shape[3] // tile
    whole = maps[:, :, : rows * tile, : columns * tile]
    tiles = whole.unflatten(3, (columns, tile)).unflatten(2, (rows, tile)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    chosen = orders.to(maps.device)[:, :, None, None, None].expand_as(tiles)
    moved = tiles.gather(1, chosen).unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5)
    result = maps.clone()
    result[:, :, : rows * tile, : columns * tile] = moved.flatten(4, 5).flatten(2, 3)
    return result


# Those that are alike for every image; tiles are not.
_EDITS: Mapping[str, Callable[[Images], Images]] = {
    CLEAN: lambda rgb: rgb,
    GREY: grey,
    HUE: lambda rgb: fitted(opposite(rgb)),
    FLAT: lambda rgb: fitted(luminance_flattened(rgb)),
    LOW_PASS: lambda rgb: low_passed(rgb, _SIGMA),
    TURNED: lambda rgb: rgb.flip(2),
}


class CueExample(NamedTuple):
    """A test image under each edit and what the probe makes of it, as the picture stands, not mapped back.

    rgb: the clean image first, then as `REMOVED`. prediction: as the target decodes it, each (out, H, W).
    """

    name: str
    rgb: UInt8[np.ndarray, "edits H W 3"]
    prediction: Float32[np.ndarray, "edits out H W"]


@dataclass(frozen=True)
class CuePredictions:
    """What a probe makes of images clean and under every edit.

    errors: squared errors by edit, those of the best constant among them, summed over each image's valid pixels and
      outputs, target units squared.
    luminance: `pixel_sums` of the clean images' "predicted" and "true" values; empty for several outputs.
    """

    num_valid: Float64[np.ndarray, " images"]
    errors: Mapping[str, Float64[np.ndarray, " images"]]
    luminance: Mapping[str, Float64[np.ndarray, "images 6"]]
    examples: tuple[CueExample, ...]


class _Measured:
    """What is collected of one probe, batch by batch."""

    def __init__(self, probe: LinearProbe, target: Target, device: torch.device) -> None:
        self.probe, self.target = copy.deepcopy(probe).to(device), target
        self.errors, self.sums = defaultdict[str, list[np.ndarray]](list), defaultdict[str, list[np.ndarray]](list)
        self.moments: list[list[Tensor]] = []
        self.examples: list[CueExample] = []

    def begin(self, layers: Mapping[str, Tensor], device: torch.device) -> None:
        """Take a batch's truth."""
        self.truth, self.valid = (each.to(device) for each in read_target(self.target, layers))
        y = torch.where(self.valid[:, None], self.truth, 0).double()
        of_truth = (y.sum(dim=(2, 3)), y.square().sum(dim=(2, 3)), self.valid.sum(dim=(1, 2)).double()[:, None])
        self.moments.append([each.cpu() for each in of_truth])
        self.values: list[np.ndarray] = []

    def add(self, name: str, maps: Maps, back: Callable[[Maps], Maps], rgb: Images, held: list[int], fed: Size) -> None:
        """Measure the batch under an edit.

        maps: the encoder's, of images of size `fed`. back: brings a prediction on the grid to where the clean image has
        it. held: images whose prediction is kept, as the picture stands.
        """
        on_grid = self.probe(maps)
        prediction = upsample(back(on_grid).contiguous(), *self.truth.shape[2:])
        error = torch.where(self.valid[:, None], prediction - self.truth, 0).square_()
        self.errors[name].append(error.sum(dim=(1, 2, 3), dtype=torch.float64).cpu().numpy())
        if held:
            decoded = self.target.decode(upsample(on_grid[held].contiguous(), *fed))
            self.values.append(decoded.float().cpu().numpy())
        if name == CLEAN and self.target.num_outputs == 1:
            for whose, each in (("predicted", prediction), ("true", self.truth)):
                self.sums[whose].append(pixel_sums(each, luminance(rgb), self.valid))

    def finish(self) -> CuePredictions:
        """Return all of it, and the errors of the best constant."""
        total, squares, num_valid = (torch.cat(parts) for parts in zip(*self.moments, strict=True))
        mean = total.sum(dim=0) / num_valid.sum().clamp(min=1)
        of_constant = (squares - 2 * mean * total + num_valid * mean**2).clamp(min=0).sum(dim=1)
        return CuePredictions(
            num_valid[:, 0].numpy(),
            {**{name: np.concatenate(parts) for name, parts in self.errors.items()}, CONSTANT: of_constant.numpy()},
            {whose: np.concatenate(parts) for whose, parts in self.sums.items()},
            tuple(self.examples),
        )


def predict(
    store: Store,
    indices: Sequence[int],
    encoder: Encoder,
    probes: Sequence[tuple[LinearProbe, Target]],
    batch_size: int,
    progress: Progress,
) -> list[CuePredictions]:
    """Predict every image clean and under every edit, and measure that image by image, for each probe.

    An edited image is encoded once for all of them. batch_size: images encoded at once.
    """
    device = encoder.device
    grid = encoder.grid(*store.protocol.size)
    # Whole cells, and at least two tiles along each side where there are two cells.
    cells = max(1, min(round(TILE / encoder.stride), min(grid) // 2))
    num_tiles = (grid[0] // cells) * (grid[1] // cells)
    count = min(NUM_EXAMPLES, len(indices))
    shown = {indices[int((part + 0.5) * len(indices) / NUM_EXAMPLES)] for part in range(count)}
    measured = [_Measured(*each, device) for each in probes]
    remaining = iter(indices)
    layers = tuple(dict.fromkeys(("rgb", *layers_read(target for _, target in probes))))
    with progress("cues", len(indices) * (1 + len(REMOVED))) as advance, torch.inference_mode():
        for read in batches(store, layers, indices, batch_size):
            for each in measured:
                each.begin(read, device)
            rgb = images_of(read["rgb"].to(device))
            # Tiles are whole cells of what the network is fed.
            fed = encoder.resized(rgb)
            of_batch = list(itertools.islice(remaining, len(rgb)))
            names = [store.names[index] for index in of_batch]
            held = [row for row, index in enumerate(of_batch) if index in shown]
            pictures = []
            orders = tile_orders(num_tiles, [_seed(name) for name in names])
            edits = {**_EDITS, TILES: partial(shuffled, orders=orders, tile=cells * encoder.stride)}
            backs = {TURNED: edits[TURNED], TILES: partial(shuffled, orders=orders.argsort(dim=1), tile=cells)}
            for name in (CLEAN, *REMOVED):
                edited = edits[name](fed)
                maps = encoder(edited)
                if held:
                    pictures.append((edited[held] * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
                for each in measured:
                    size = (edited.shape[2], edited.shape[3])
                    each.add(name, maps, backs.get(name, edits[CLEAN]), rgb, held, size)
                advance(len(rgb))
            for each, (place, row) in itertools.product(measured, enumerate(held)):
                stacks = (np.stack([one[place] for one in of_edits]) for of_edits in (pictures, each.values))
                each.examples.append(CueExample(names[row], *stacks))
    return [each.finish() for each in measured]


def _seed(name: str) -> int:
    """Return an image's own seed, whatever images stand beside it."""
    return int.from_bytes(hashlib.blake2b(f"0 {name}".encode(), digest_size=7).digest(), "big")


def pixel_sums(
    values: Float[Tensor, "batch 1 H W"], level: Float[Tensor, "batch 1 H W"], valid: Bool[Tensor, "batch H W"]
) -> Float64[np.ndarray, "batch 6"]:
    """Sum 1, x, y, x^2, y^2 and xy over each image's valid pixels; x the luminance `level`, y the values."""
    mask = valid[:, None].double()
    # Values are 0 where they are not valid, but a prediction is not.
    x, y = level.double() * mask, torch.where(valid[:, None], values, 0).double()
    parts = [each.sum(dim=(1, 2, 3)) for each in (mask, x, y, x * x, y * y, x * y)]
    return torch.stack(parts, dim=1).cpu().numpy()
