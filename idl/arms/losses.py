"""The one look at the test split: every arm's squared error on every image, as it is and after alignment."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from idl.arms.fits import FittedArm
from idl.errors import InputError
from idl.features import MapSource
from idl.fitting import read_target
from idl.probes.grid import Coupling, gather
from idl.progress import Progress
from idl.targets import Target

# Their columns in float64 are 8 MB at 16 x 16 cells and 500 columns.
IMAGES_AT_A_TIME = 8
# Spread of a prediction that should be constant, as a share of its size: the sums leave 1e-8 of it to rounding.
SPREAD_OF_A_CONSTANT = 1e-6


@dataclass(frozen=True)
class SquaredErrors:
    """Sums of squared errors over each image's valid pixels and the outputs, target units squared.

    num_valid: pixels of each image. plain: of the predictions as they are.
    aligned: of predictions that were brought to the truth of their own image by the scale and shift of least squares,
      in the target's own space and one pair an output: what is left is structure. Never above `plain`.
    """

    num_valid: Float64[np.ndarray, " images"]
    plain: Float64[np.ndarray, "arms images"]
    aligned: Float64[np.ndarray, "arms images"]


def squared_errors(
    source: MapSource, name: str, target: Target, arms: Sequence[FittedArm], progress: Progress
) -> SquaredErrors:
    """Measure every arm on each image of split `name`.

    The sums are those at full resolution, taken on the grid: p'Kp - 2 p'r + y'My of each arm's prediction p. In
    float64, because the three cancel; twenty arms cost as much as one.
    Raises InputError where no pixel of the split is valid.
    """
    num_images = len(source.share(name))
    num_valid, plain, aligned = np.empty(num_images), *np.empty((2, len(arms), num_images))
    weights = source.columns.side_by_side([(arm.columns, arm.weights) for arm in arms]).to(source.device)
    done = 0
    with progress(name, num_images) as advance:
        for batch in source.stream(name, (target.layer, "valid")):
            truth, valid = read_target(target, batch.layers)
            for part in torch.arange(len(truth)).split(IMAGES_AT_A_TIME):
                cells = source.columns.assemble(batch.maps[part].to(source.device)).permute(0, 2, 3, 1)
                grid = (cells.double() @ weights).cpu()
                rows = slice(done, done + len(part))
                num_valid[rows] = valid[part].sum(dim=(1, 2), dtype=torch.float64).numpy()
                found = _on_grid(grid, truth[part].double(), valid[part].double())
                plain[:, rows], aligned[:, rows] = (errors.numpy() for errors in found)
                done += len(part)
            advance(len(truth))
    if not num_valid.any():
        raise InputError(f"{source.store.path}: no pixel of the {name} split has a valid {target.name}.")
    return SquaredErrors(num_valid, plain, aligned)


def _on_grid(
    grid: Float64[Tensor, "batch h w arms_out"],
    truth: Float64[Tensor, "batch out H W"],
    mask: Float64[Tensor, "batch H W"],
) -> tuple[Float64[Tensor, "arms batch"], Float64[Tensor, "arms batch"]]:
    """Sums of squared errors as they are, and after alignment."""
    num_outputs = truth.shape[1]
    coupling = Coupling.of_mask(mask, *grid.shape[1:3])
    gathered = gather(truth, mask, *grid.shape[1:3]).permute(0, 2, 3, 1)
    # (batch, h, w, arms, out): every arm against the same truth.
    by_arm = grid.unflatten(-1, (-1, num_outputs))
    # p'Kp, p'r and y'My: (batch, arms, out), the last one (batch, 1, out).
    quadratic = (grid * coupling.apply(grid)).sum(dim=(1, 2)).unflatten(-1, (-1, num_outputs))
    linear = (by_arm * gathered[..., None, :]).sum(dim=(1, 2))
    energy = (truth * mask[:, None]).square().sum(dim=(2, 3))[:, None]
    # A perfect fit may come out a rounding below zero.
    plain = (quadratic - 2 * linear + energy).sum(dim=-1).clamp(min=0)
    # The upsampling U of a constant is that constant: K 1 = U'M 1 sums a prediction over the valid pixels, and the
    # cells of r = U'My sum up to the truth.
    weights = coupling.apply(torch.ones_like(grid[..., :1]))
    sum_p = (grid.flatten(1, 2).mT @ weights.flatten(1, 2)).squeeze(-1).unflatten(-1, (-1, num_outputs))
    sum_y = gathered.sum(dim=(1, 2))[:, None]
    count = mask.sum(dim=(1, 2)).clamp(min=1)[:, None, None]
    # Least squares of the truth on [p, 1]: its variance less the share that the prediction accounts for.
    variance_p, variance_y = quadratic - sum_p**2 / count, energy - sum_y**2 / count
    covariance = linear - sum_p * sum_y / count
    is_constant = variance_p <= SPREAD_OF_A_CONSTANT**2 * quadratic
    explained = torch.where(is_constant, 0.0, covariance**2 / torch.where(is_constant, 1.0, variance_p))
    aligned = (variance_y - explained).sum(dim=-1).clamp(min=0)
    return plain.T, torch.minimum(aligned, plain).T
