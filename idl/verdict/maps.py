"""What arms read, an encoder's maps beside the patches, and their errors on each image."""

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from idl import cache
from idl.data.loading import batches
from idl.errors import InputError
from idl.features import EncodedDataset, MapBatch, MapSource
from idl.fitting import layers_read, read_target
from idl.probes.basis import NUM_NULL, Columns
from idl.probes.grid import UpsampledGram, upsample_adjoint
from idl.progress import Progress
from idl.targets import Target

Lenders = Mapping[str, Int64[np.ndarray, " images"]]
_SWAPS_PER_IMAGE = 10
# Their columns in float64 are 8 MB at 16 x 16 cells and 500 columns.
_IMAGES_IN_FLOAT64 = 8
# Spread of a prediction that should be constant, as a share of its size: the sums leave 1e-8 of it to rounding.
_SPREAD_OF_A_CONSTANT = 1e-6


class ArmMaps:
    """[null | patches | components]: an encoder's maps and those of the patches of its stride, and truth beside them.

    Patches are maps of their own, because they are the same for every encoder of a stride, and for all its twins.
    encoded, patches: of the same store, split, grid and `batch_size`. None: without patches.
    lenders: by split, the position of the image whose truth and mask each image gets; None: its own. An image's fold is
      that of its maps, whoever lends it its truth.
    """

    def __init__(
        self, encoded: EncodedDataset, patches: EncodedDataset | None, batch_size: int, lenders: Lenders | None = None
    ) -> None:
        self.encoded, self.patches, self.batch_size, self.lenders = encoded, patches, batch_size, lenders
        self.store, self.split, self.folder = encoded.store, encoded.split, encoded.folder
        self.device, self.world, self.share = encoded.device, encoded.world, encoded.share
        num_patches = 0 if patches is None else patches.basis.num_components
        self.columns = Columns(encoded.basis.num_components, num_patches)
        # An encoder's maps alone have its own digest, so that its statistics are shared.
        self.digest = encoded.digest
        if patches is not None:
            self.digest = _digest(self.digest, patches.digest)
        if lenders is not None:
            lent = [hashlib.sha256(lenders[name].tobytes()).hexdigest() for name in sorted(lenders)]
            self.digest = _digest(self.digest, *lent)

    def stream(self, name: str, layers: tuple[str, ...]) -> Iterator[MapBatch]:
        """Yield this rank's share of split `name` in its order, with `layers` of the image or of its lender."""
        parts = self.encoded.stream(name, layers if self.lenders is None else ("valid",))
        if self.patches is not None:
            parts = map(_side_by_side, parts, self.patches.stream(name, ("valid",)))
        if self.lenders is not None:
            share, order = self.share(name), self.split.indices[name]
            lent = [order[position] for position in self.lenders[name][: share.stop]]
            truth = batches(self.store, layers, lent, self.batch_size, first=share.start)
            parts = (replace(batch, layers=read) for batch, read in zip(parts, truth, strict=True))
        yield from parts

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folders that the maps come from."""
        with cache.locked(self.folder), nullcontext() if self.patches is None else cache.locked(self.patches.folder):
            yield


def _side_by_side(batch: MapBatch, patches: MapBatch) -> MapBatch:
    null, components = batch.maps[..., :NUM_NULL], batch.maps[..., NUM_NULL:]
    return replace(batch, maps=torch.cat([null, patches.maps[..., NUM_NULL:], components], dim=-1))


def _digest(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def derangement(scenes: Sequence[Hashable], seed: int) -> Int64[np.ndarray, " images"] | None:
    """Return for each image the position of the one whose truth it gets: of another scene, and each used once.

    scenes: of each image.
    Returns None where there is no such permutation, because one scene has more than half of the images.
    """
    generator = np.random.default_rng([seed, 0xDE7A])
    labels = {scene: number for number, scene in enumerate(dict.fromkeys(scenes))}
    scene_of = np.array([labels[scene] for scene in scenes])
    largest = int(np.bincount(scene_of).max())
    if 2 * largest > len(scenes):
        return None
    # Scenes side by side in a random order, moved on by the largest of them: no image stays within its own.
    ranks = generator.permutation(len(labels))
    order = np.lexsort((generator.permutation(len(scenes)), ranks[scene_of]))
    lender = np.empty(len(scenes), np.int64)
    lender[order] = np.roll(order, -largest)
    # That sends whole scenes to whole scenes: pairs are swapped at random where both may.
    for one, two in generator.integers(0, len(scenes), (_SWAPS_PER_IMAGE * len(scenes), 2)).tolist():
        if scene_of[lender[one]] != scene_of[two] and scene_of[lender[two]] != scene_of[one]:
            lender[one], lender[two] = lender[two], lender[one]
    return lender


Errors = tuple[Float64[np.ndarray, " images"], Float64[np.ndarray, "arms images"], Float64[np.ndarray, "arms images"]]


def squared_errors(
    source: MapSource,
    name: str,
    targets: Sequence[Target],
    arms: Sequence[Sequence[tuple[Sequence[int], Tensor]]],
    progress: Progress,
) -> list[Errors]:
    """Return, for each target, the valid pixels of each image of split `name`, and every arm's errors: plain, aligned.

    arms: for each target, the columns that each reads, and its weights (columns, out) on them.
    Errors are squared, and summed over an image's valid pixels and outputs, target units squared. Aligned ones are
    those of predictions with the scale and shift of least squares on their own image, one pair an output.
    The sums are those at full resolution, taken on the grid: p'Kp - 2 p'r + y'My of each arm's prediction p. In
    float64, because the three cancel; twenty arms cost as much as one.
    Raises InputError where no pixel of the split is valid.
    """
    num_images = len(source.share(name))
    shapes = [(len(each), num_images) for each in arms]
    made: list[Errors] = [(np.empty(num_images), np.empty(shape), np.empty(shape)) for shape in shapes]
    weights = [source.columns.side_by_side(each) for each in arms]
    widths = [each.shape[1] for each in weights]
    together = torch.cat(weights, dim=1).to(source.device)
    done = 0
    with progress(name, num_images) as advance:
        for batch in source.stream(name, layers_read(targets)):
            read = [read_target(each, batch.layers) for each in targets]
            for part in torch.arange(len(batch.maps)).split(_IMAGES_IN_FLOAT64):
                cells = source.columns.assemble(batch.maps[part].to(source.device)).permute(0, 2, 3, 1)
                grids = (cells.double() @ together).cpu().split(widths, dim=-1)
                rows = slice(done, done + len(part))
                for (num_valid, plain, aligned), grid, (truth, valid) in zip(made, grids, read, strict=True):
                    num_valid[rows] = valid[part].sum(dim=(1, 2), dtype=torch.float64).numpy()
                    of_part = _errors_on_grid(grid, truth[part].double(), valid[part].double())
                    plain[:, rows], aligned[:, rows] = (errors.numpy() for errors in of_part)
                done += len(part)
            advance(len(batch.maps))
    for each, (num_valid, *_) in zip(targets, made, strict=True):
        if not num_valid.any():
            raise InputError(f"{source.store.path}: no pixel of the {name} split has a valid {each.name}.")
    return made


def _errors_on_grid(
    grid: Float64[Tensor, "batch h w arms_out"],
    truth: Float64[Tensor, "batch out H W"],
    mask: Float64[Tensor, "batch H W"],
) -> tuple[Float64[Tensor, "arms batch"], Float64[Tensor, "arms batch"]]:
    """Return sums of squared errors as they are, and after alignment."""
    num_outputs = truth.shape[1]
    coupling = UpsampledGram.of_mask(mask, *grid.shape[1:3])
    gathered = upsample_adjoint(truth, mask, *grid.shape[1:3]).permute(0, 2, 3, 1)
    # (batch, h, w, arms, out): every arm against the same truth.
    by_arm = grid.unflatten(-1, (-1, num_outputs))
    # p'Kp, p'r and y'My: (batch, arms, out), the last one (batch, 1, out).
    quadratic = (grid * coupling.apply(grid)).sum(dim=(1, 2)).unflatten(-1, (-1, num_outputs))
    linear = (by_arm * gathered[..., None, :]).sum(dim=(1, 2))
    yty = (truth * mask[:, None]).square().sum(dim=(2, 3))[:, None]
    # A perfect fit may come out a rounding below zero.
    plain = (quadratic - 2 * linear + yty).sum(dim=-1).clamp(min=0)
    # The upsampling U of a constant is that constant: K 1 = U'M 1 sums a prediction over the valid pixels, and the
    # cells of r = U'My sum up to the truth.
    weights = coupling.apply(torch.ones_like(grid[..., :1]))
    sum_p = (grid.flatten(1, 2).mT @ weights.flatten(1, 2)).squeeze(-1).unflatten(-1, (-1, num_outputs))
    sum_y = gathered.sum(dim=(1, 2))[:, None]
    count = mask.sum(dim=(1, 2)).clamp(min=1)[:, None, None]
    # Least squares of the truth on [p, 1]: its variance less the share that the prediction accounts for.
    variance_p, variance_y = quadratic - sum_p**2 / count, yty - sum_y**2 / count
    covariance = linear - sum_p * sum_y / count
    is_constant = variance_p <= _SPREAD_OF_A_CONSTANT**2 * quadratic
    explained = torch.where(is_constant, 0.0, covariance**2 / torch.where(is_constant, 1.0, variance_p))
    aligned = (variance_y - explained).sum(dim=-1).clamp(min=0)
    return plain.T, torch.minimum(aligned, plain).T
