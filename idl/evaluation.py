"""The one look at the test split: every arm predicts it, at full resolution, and is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from idl.features import EncodedDataset
from idl.fitting import PROBE, ArmFit, read_target
from idl.metrics import DepthSums, NormalsSums, align, depth_metrics, normals_metrics
from idl.probes.grid import upsample
from idl.progress import Progress
from idl.protocol import Protocol
from idl.targets import Target

NUM_PANELS = 12
# Maps of eight images and their predictions stay in the processor's caches.
IMAGES_AT_A_TIME = 8


@dataclass(frozen=True)
class PanelValues:
    """One test image with truth and prediction: metres (H, W), or unit normals (3, H, W)."""

    name: str
    rgb: UInt8[np.ndarray, "H W 3"]
    truth: np.ndarray
    prediction: np.ndarray
    valid: Bool[np.ndarray, "H W"]


@dataclass(frozen=True)
class Evaluation:
    """The test split under every arm.

    losses: by arm, one mean squared error an image in target units squared (NaN without a valid pixel).
    num_valid: valid pixels of each image.
    arm_errors: by arm, its error in both averages: "rmse" and "rmse_pooled" in metres, or angles in degrees.
    sums: all metrics of the probe.
    panels: images spread evenly over the split.
    """

    losses: Mapping[str, Float64[np.ndarray, " images"]]
    num_valid: Float64[np.ndarray, " images"]
    arm_errors: Mapping[str, Mapping[str, float]]
    sums: DepthSums | NormalsSums
    panels: tuple[PanelValues, ...]

    def pooled_loss(self, arm: str) -> float:
        """Mean squared error over all valid pixels and outputs, target units squared."""
        seen = self.num_valid > 0
        return float((self.losses[arm][seen] * self.num_valid[seen]).sum() / self.num_valid.sum())


def evaluate(
    encoded: EncodedDataset,
    target: Target,
    arms: Mapping[str, ArmFit],
    protocol: Protocol,
    train_mean_m: float,
    progress: Progress,
) -> Evaluation:
    """Predict the test split with every arm and measure it, in one stream."""
    order = encoded.split.indices["test"]
    shown = _spread(len(order), NUM_PANELS)
    collected = _Collected(target, tuple(arms), protocol, train_mean_m)
    panels = []
    weights = _joint_weights(arms, encoded.columns.total).to(encoded.device)
    with progress("test", len(order)) as advance:
        for batch in encoded.stream("test", (target.layer, "valid")):
            truth, valid = read_target(target, batch.layers)
            cells = encoded.columns.assemble(batch.maps.to(encoded.device)).permute(0, 2, 3, 1)
            grid = (cells @ weights).permute(0, 3, 1, 2).cpu()
            for first in range(0, len(grid), IMAGES_AT_A_TIME):
                part = slice(first, first + IMAGES_AT_A_TIME)
                prediction = collected.add(grid[part], truth[part], valid[part], batch.layers[target.layer][part])
                for row in range(len(prediction)):
                    position = batch.position + first + row
                    if position in shown:
                        index = order[position]
                        panels.append(
                            PanelValues(
                                encoded.store.names[index],
                                encoded.store.read(("rgb",), [index])["rgb"][0],
                                (truth if target.layer == "normals" else batch.layers["depth"])[first + row].numpy(),
                                prediction[row].numpy(),
                                valid[first + row].numpy(),
                            )
                        )
            advance(len(batch.maps))
    return collected.evaluation(tuple(panels))


def _spread(count: int, wanted: int) -> set[int]:
    """Positions spread evenly over `count`: the same for every run on the same split."""
    return {round(position) for position in np.linspace(0, count - 1, min(wanted, count))}


def _joint_weights(arms: Mapping[str, ArmFit], num_columns: int) -> Float[Tensor, "columns arms_out"]:
    """All arms' weights on the joint columns, one arm's outputs after the other's."""
    parts = []
    for arm in arms.values():
        joint = torch.zeros(num_columns, arm.weights.shape[1], dtype=torch.float64)
        joint[list(arm.columns)] = arm.weights
        parts.append(joint)
    return torch.cat(parts, dim=1).float()


class _Collected:
    """Sums that grow image by image while the test split streams by."""

    def __init__(self, target: Target, arms: Sequence[str], protocol: Protocol, train_mean_m: float) -> None:
        self._target = target
        self._arms = arms
        self._protocol = protocol
        self._train_mean_m = train_mean_m
        self._losses: list[Float64[Tensor, "arms batch"]] = []
        self._num_valid: list[Tensor] = []
        self._squared_m: list[Float64[Tensor, "arms batch"]] = []
        self._depth: list[DepthSums] = []
        self._normals: dict[str, list[NormalsSums]] = {arm: [] for arm in arms}

    def add(
        self,
        grid: Float[Tensor, "batch arms_out h w"],
        truth: Float[Tensor, "batch out H W"],
        valid: Bool[Tensor, "batch H W"],
        layer: Tensor,
    ) -> Tensor:
        """Measure a few images under every arm; return the probe's prediction in metres, or unit normals."""
        num_outputs = truth.shape[1]
        # Normals that do not exist (an edge, a hole) are zero; everything else is a plain mask.
        mask = valid[:, None].float()
        predictions = upsample(grid.contiguous(), truth.shape[2], truth.shape[3])
        predictions = predictions.unflatten(1, (len(self._arms), num_outputs))
        count = valid.sum(dim=(1, 2), dtype=torch.float64)
        self._num_valid.append(count)
        losses, squared_m, shown = [], [], torch.empty(0)
        for number, arm in enumerate(self._arms):
            prediction = predictions[:, number]
            error = (prediction - truth).mul_(mask).square_().sum(dim=(1, 2, 3), dtype=torch.float64)
            losses.append(error / (count * num_outputs))
            decoded = self._target.decode(prediction)
            if self._target.layer == "normals":
                # Joined at once: each part carries a histogram of 144 KB.
                seen = self._normals[arm]
                self._normals[arm] = [NormalsSums.concatenate([*seen, normals_metrics(decoded, truth, valid)])]
                shown = decoded if arm == PROBE else shown
                continue
            metres = align(decoded[:, 0], layer, valid, self._protocol.alignment)
            clamped = metres.clamp(self._protocol.min_depth_m, self._protocol.max_depth_m)
            error_m = (clamped - layer).mul_(mask[:, 0]).square_().sum(dim=(1, 2), dtype=torch.float64)
            squared_m.append(error_m / count)
            if arm == PROBE:
                self._depth.append(depth_metrics(decoded[:, 0], layer, valid, self._protocol, self._train_mean_m))
                shown = clamped
        self._losses.append(torch.stack(losses))
        if squared_m:
            self._squared_m.append(torch.stack(squared_m))
        return shown

    def evaluation(self, panels: tuple[PanelValues, ...]) -> Evaluation:
        num_valid = torch.cat(self._num_valid).numpy()
        seen = num_valid > 0
        losses = torch.cat(self._losses, dim=1).numpy()
        errors: dict[str, Mapping[str, float]] = {}
        if self._squared_m:
            squared_m = torch.cat(self._squared_m, dim=1).numpy()
            for arm, values in zip(self._arms, squared_m, strict=True):
                pooled = (values[seen] * num_valid[seen]).sum() / num_valid.sum()
                errors[arm] = {
                    "rmse": float(np.sqrt(values[seen]).mean()),
                    "rmse_pooled": float(np.sqrt(pooled)),
                }
            sums = DepthSums.concatenate(self._depth)
        else:
            by_arm = {arm: NormalsSums.concatenate(parts) for arm, parts in self._normals.items()}
            errors = {
                arm: {name: each.summary()[name] for name in ("angle_mean_deg", "angle_rmse_deg_pooled")}
                for arm, each in by_arm.items()
            }
            sums = by_arm[PROBE]
        return Evaluation(dict(zip(self._arms, losses, strict=True)), num_valid, errors, sums, panels)
