"""The validation split under many probes at once: their losses in metres, and what a few images look like."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from idl.features import EncodedDataset
from idl.fitting import PROBE, read_target
from idl.probes.grid import upsample
from idl.progress import Progress, silent
from idl.protocol import Protocol
from idl.targets import Target

# Predictions of twenty probes for so many images, at 256 x 256 pixels, take 20 MB.
IMAGES_AT_A_TIME = 4


def losses_in_metres(
    encoded: EncodedDataset,
    target: Target,
    weights: Float64[Tensor, "columns probes"],
    protocol: Protocol,
    progress: Progress = silent,
) -> Float64[np.ndarray, " probes"]:
    """Mean squared error of each probe over the valid pixels of the validation split, metres squared.

    weights: on [bias | leading components], for the target itself.
    Every pixel is predicted in the target's space, brought back to metres and clamped to the protocol's range;
    nothing is aligned.
    """
    squared = torch.zeros(weights.shape[1], dtype=torch.float64)
    num_valid = 0
    with progress("validation in metres", len(encoded.split.indices["val"])) as advance:
        for batch in encoded.stream("val", (target.layer, "valid")):
            _, valid = read_target(target, batch.layers)
            truth = batch.layers[target.layer].float()
            grid = _grid(encoded, batch.maps, weights).cpu()
            for first in range(0, len(grid), IMAGES_AT_A_TIME):
                part = slice(first, first + IMAGES_AT_A_TIME)
                prediction = target.decode(upsample(grid[part], *truth.shape[1:]))
                error = prediction.clamp_(protocol.min_depth_m, protocol.max_depth_m).sub_(truth[part, None])
                squared += error.mul_(valid[part, None]).square_().sum(dim=(2, 3), dtype=torch.float64).sum(dim=0)
            num_valid += int(valid.sum())
            advance(len(batch.maps))
    return (squared / num_valid).numpy()


@dataclass(frozen=True)
class ShownImages:
    """A few validation images, to see what probes make of them.

    truth: metres (images, H, W), normals (images, H, W, 3), or the first output of any other target (images, H, W).
    cells: of the grid, on all columns [bias | components].
    """

    target: Target
    names: tuple[str, ...]
    rgb: UInt8[np.ndarray, "images H W 3"]
    truth: Float[np.ndarray, "images H W *three"]
    valid: Bool[np.ndarray, "images H W"]
    cells: Float[Tensor, "images h w columns"]

    @classmethod
    def of(cls, encoded: EncodedDataset, target: Target, num_images: int) -> "ShownImages":
        """Read images spread evenly over the validation split, whose maps are in the cache."""
        order = encoded.split.indices["val"]
        positions = np.unique(np.linspace(0, len(order) - 1, num_images).round().astype(int)).tolist()
        batch = encoded.read("val", positions, ("rgb", target.layer, "valid"))
        encoded_truth, valid = read_target(target, batch.layers)
        truth = encoded_truth[:, 0] if target.kind == "field" else batch.layers[target.layer].float()
        columns = encoded.columns.assemble(batch.maps.to(encoded.device))[:, list(encoded.columns.of_arm(PROBE))]
        return cls(
            target,
            tuple(encoded.store.names[order[position]] for position in positions),
            batch.layers["rgb"].numpy(),
            truth.numpy(),
            valid.numpy(),
            columns.permute(0, 2, 3, 1).float().cpu(),
        )

    def predicted(self, weights: Sequence[Float64[Tensor, "columns out"]], side: int) -> list[np.ndarray]:
        """Predict every image with every probe, by one product.

        weights: on [bias | leading components], the same number of columns for all, for the target itself.
        side: of the pictures, pixels.
        Returns for each probe what `truth` is of, (images, side, side) or (images, side, side, 3).
        """
        if not weights:
            return []
        joint = torch.cat(list(weights), dim=1).float()
        grid = (self.cells[..., : len(joint)] @ joint).permute(0, 3, 1, 2)
        values = upsample(grid.contiguous(), side, side).unflatten(1, (len(weights), -1)).transpose(0, 1)
        decoded = self.target.decode(values.flatten(0, 1)).unflatten(0, values.shape[:2]).numpy()
        return [np.moveaxis(each, 1, -1) if self.target.kind == "normals" else each[:, 0] for each in decoded]


def _grid(
    encoded: EncodedDataset, maps: Tensor, weights: Float64[Tensor, "columns probes"]
) -> Float[Tensor, "batch probes h w"]:
    columns = list(encoded.columns.of_arm(PROBE)[: len(weights)])
    cells = encoded.columns.assemble(maps.to(encoded.device))[:, columns].permute(0, 2, 3, 1)
    return (cells @ weights.float().to(encoded.device)).permute(0, 3, 1, 2).contiguous()
