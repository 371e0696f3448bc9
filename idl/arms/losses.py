"""The one look at the test split: every arm's squared error on every image."""

from collections.abc import Sequence

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


def squared_errors(
    source: MapSource, name: str, target: Target, arms: Sequence[FittedArm], progress: Progress
) -> tuple[Float64[np.ndarray, " images"], Float64[np.ndarray, "arms images"]]:
    """Valid pixels of each image of split `name`, and every arm's sum of squared errors over them and the outputs.

    The sums are those at full resolution, in target units squared, taken on the grid: p'Kp - 2 p'r + y'My of each
    arm's prediction p. In float64, because the three cancel; twenty arms cost as much as one.
    Raises InputError where no pixel of the split is valid.
    """
    num_images = len(source.share(name))
    num_valid, errors = np.empty(num_images), np.empty((len(arms), num_images))
    weights = _joint_weights(arms, source.columns.total).to(source.device)
    done = 0
    with progress(name, num_images) as advance:
        for batch in source.stream(name, (target.layer, "valid")):
            truth, valid = read_target(target, batch.layers)
            for part in torch.arange(len(truth)).split(IMAGES_AT_A_TIME):
                cells = source.columns.assemble(batch.maps[part].to(source.device)).permute(0, 2, 3, 1)
                grid = (cells.double() @ weights).cpu()
                rows = slice(done, done + len(part))
                num_valid[rows] = valid[part].sum(dim=(1, 2), dtype=torch.float64).numpy()
                errors[:, rows] = _on_grid(grid, truth[part].double(), valid[part].double()).numpy()
                done += len(part)
            advance(len(truth))
    if not num_valid.any():
        raise InputError(f"{source.store.path}: no pixel of the {name} split has a valid {target.name}.")
    return num_valid, errors


def _joint_weights(arms: Sequence[FittedArm], num_columns: int) -> Float64[Tensor, "columns arms_out"]:
    """All arms' weights on the joint columns, one arm's outputs after the other's."""
    parts = []
    for arm in arms:
        joint = torch.zeros(num_columns, arm.weights.shape[1], dtype=torch.float64)
        joint[list(arm.columns)] = arm.weights
        parts.append(joint)
    return torch.cat(parts, dim=1)


def _on_grid(
    grid: Float64[Tensor, "batch h w arms_out"],
    truth: Float64[Tensor, "batch out H W"],
    mask: Float64[Tensor, "batch H W"],
) -> Float64[Tensor, "arms batch"]:
    height, width = grid.shape[1:3]
    coupled = Coupling.of_mask(mask, height, width).apply(grid)
    gathered = gather(truth, mask, height, width).permute(0, 2, 3, 1)
    # (batch, h, w, arms, out): every arm against the same truth.
    by_arm = grid.unflatten(-1, (-1, truth.shape[1]))
    quadratic = (grid * coupled).sum(dim=(1, 2)).unflatten(-1, (-1, truth.shape[1])).sum(dim=-1)
    linear = (by_arm * gathered[..., None, :]).sum(dim=(1, 2, 4))
    energy = (truth * mask[:, None]).square().sum(dim=(1, 2, 3))
    # A perfect fit may come out a rounding below zero.
    return (quadratic - 2 * linear + energy[:, None]).clamp(min=0).T
