"""One look at test images: predicted clean and under every edit, measured image by image."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from idl.cues import edits
from idl.cues.config import CuesConfig
from idl.cues.correlation import pixel_sums
from idl.cues.reading import FLAT, GREY, HUE, LOW_PASS, REMOVED, TILES, TURNED
from idl.cues.result import CueExample
from idl.data.loading import batches, images_of
from idl.data.store import Store
from idl.encoders import Encoder
from idl.fitting import read_target
from idl.probes.grid import upsample
from idl.probes.linear_probe import LinearProbe
from idl.progress import Progress
from idl.targets import Target

CLEAN = "clean"


@dataclass(frozen=True)
class _Edit:
    """image: edits a batch. back: brings a prediction on the grid to where the clean image has it."""

    image: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


def _edits(config: CuesConfig, stride: int, grid: tuple[int, int], names: Sequence[str]) -> Mapping[str, _Edit]:
    """Make the clean image and every edit for a batch of images of these names."""
    cells = _tile_cells(config.tile, stride, grid)
    orders = edits.tile_orders(edits.num_tiles(*grid, cells), [_seed(config.seed, name) for name in names])

    def same(values: Tensor) -> Tensor:
        return values

    return {
        CLEAN: _Edit(same, same),
        GREY: _Edit(edits.grey, same),
        HUE: _Edit(lambda rgb: edits.fitted(edits.hue_rotated(rgb, config.hue_degrees)), same),
        FLAT: _Edit(lambda rgb: edits.fitted(edits.luminance_flattened(rgb)), same),
        LOW_PASS: _Edit(lambda rgb: edits.low_passed(rgb, config.sigma), same),
        TILES: _Edit(
            lambda rgb: edits.shuffled(rgb, orders, cells * stride),
            lambda values: edits.unshuffled(values, orders, cells),
        ),
        TURNED: _Edit(edits.upside_down, edits.upside_down),
    }


@dataclass(frozen=True)
class Seen:
    """What one look at the images gives, image by image.

    tile: side of the shuffled tiles, pixels.
    errors: summed squared errors by edit. constant_errors: of the best constant. predicted, true: `pixel_sums`.
    """

    num_valid: Float64[np.ndarray, " images"]
    errors: Mapping[str, Float64[np.ndarray, " images"]]
    constant_errors: Float64[np.ndarray, " images"]
    predicted: Float64[np.ndarray, "images 6"] | None
    true: Float64[np.ndarray, "images 6"] | None
    tile: int
    examples: tuple[CueExample, ...]

    @classmethod
    def of(
        cls,
        store: Store,
        indices: Sequence[int],
        encoder: Encoder,
        probe: LinearProbe,
        target: Target,
        config: CuesConfig,
        progress: Progress,
    ) -> "Seen":
        """Predict every image clean and under every edit."""
        probe = copy.deepcopy(probe).to(encoder.device)
        errors: dict[str, list[np.ndarray]] = {}
        moments, predicted, true = [], [], []
        examples: list[CueExample] = []
        shown = _middles(len(indices), config.num_examples)
        tile = config.tile
        with progress("cues", len(indices) * (1 + len(REMOVED))) as advance, torch.inference_mode():
            first = 0
            layers = tuple(dict.fromkeys(("rgb", target.layer, "valid")))
            for read in batches(store, layers, indices, config.batch_size):
                truth, valid = (each.to(encoder.device) for each in read_target(target, read))
                rgb = images_of(read["rgb"].to(encoder.device))
                names = [store.names[index] for index in indices[first : first + len(rgb)]]
                held = [row for row in range(len(rgb)) if first + row in shown]
                pictures, shown_values = [], []
                grid = (rgb.shape[2] // encoder.stride, rgb.shape[3] // encoder.stride)
                tile = _tile_cells(config.tile, encoder.stride, grid) * encoder.stride
                for name, edit in _edits(config, encoder.stride, grid, names).items():
                    edited = edit.image(rgb)
                    cells = probe(encoder(edited))
                    prediction = upsample(edit.back(cells).contiguous(), *rgb.shape[2:])
                    errors.setdefault(name, []).append(_squared(prediction - truth, valid))
                    if held:
                        pictures.append((edited[held] * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
                        values = target.decode(upsample(cells[held].contiguous(), *rgb.shape[2:]))
                        shown_values.append(values.float().cpu().numpy())
                    if name == CLEAN and target.num_outputs == 1:
                        level = edits.luminance(rgb)
                        predicted.append(pixel_sums(prediction, level, valid))
                        true.append(pixel_sums(truth, level, valid))
                    advance(len(rgb))
                moments.append(_moments(truth, valid))
                examples += [
                    CueExample(names[row], rgbs, values)
                    for row, rgbs, values in zip(
                        held, _by_image(pictures, held), _by_image(shown_values, held), strict=True
                    )
                ]
                first += len(rgb)
        num_valid, constant_errors = _constant(np.concatenate(moments))
        return cls(
            num_valid,
            {name: np.concatenate(parts) for name, parts in errors.items()},
            constant_errors,
            np.concatenate(predicted) if predicted else None,
            np.concatenate(true) if true else None,
            tile,
            tuple(examples),
        )


def _squared(error: Tensor, valid: Tensor) -> Float64[np.ndarray, " batch"]:
    """Sum squared errors over each image's valid pixels and outputs."""
    kept = torch.where(valid[:, None], error, 0)
    return kept.square_().sum(dim=(1, 2, 3), dtype=torch.float64).cpu().numpy()


def _moments(truth: Tensor, valid: Tensor) -> Float64[np.ndarray, "batch 1_plus_2_out"]:
    """Give each image's valid pixels, and for each output the sums of values and of their squares."""
    values = torch.where(valid[:, None], truth, 0).double()
    sums = [values.sum(dim=(2, 3)), values.square().sum(dim=(2, 3))]
    return torch.cat([valid.sum(dim=(1, 2)).double()[:, None], *sums], dim=1).cpu().numpy()


def _constant(moments: np.ndarray) -> tuple[Float64[np.ndarray, " images"], Float64[np.ndarray, " images"]]:
    """Give valid pixels and the squared error of the best constant, image by image."""
    count = moments[:, 0]
    sums, squares = np.split(moments[:, 1:], 2, axis=1)
    mean = sums.sum(axis=0) / max(count.sum(), 1)
    errors = squares - 2 * mean * sums + count[:, None] * mean**2
    return count, np.maximum(errors, 0).sum(axis=1)


def _tile_cells(tile: int, stride: int, grid: tuple[int, int]) -> int:
    """Side of a tile in cells: whole ones, and at least two tiles along each side where there are two cells."""
    return max(1, min(round(tile / stride), min(grid) // 2))


def _seed(seed: int, name: str) -> int:
    """Give an image its own seed, whatever images stand beside it."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7).digest(), "big")


def _by_image(parts: Sequence[np.ndarray], held: Sequence[int]) -> Iterator[np.ndarray]:
    """Turn one batch an edit into all edits of one image."""
    return (np.stack([part[row] for part in parts]) for row in range(len(held)))


def _middles(count: int, wanted: int) -> set[int]:
    """Give the middles of `wanted` equal parts of `count` positions."""
    return {int((part + 0.5) * count / wanted) for part in range(min(wanted, count))}
