"""The columns a probe reads: bias, position, the downsampled image, and principal components of the features."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16, Float32, Float64
from safetensors.torch import save
from torch import Tensor

from idl.probes.grid import position_columns

# Components whose eigenvalue is below this share of the first one are rounding, not features.
EIGENVALUE_TOLERANCE = 1e-9
ARMS = ("constant", "position", "null", "null+position")
NUM_POSITION = 5
NUM_NULL = 3
# Half precision overflows at 65,504; a component has unit variance, so nothing real comes near.
_LARGEST_HALF = 6e4


def null_map(rgb: Float[Tensor, "batch 3 H W"], height: int, width: int) -> Float[Tensor, "batch 3 h w"]:
    """Average-downsample the image to the encoder's grid: what the null arm reads."""
    rows, columns = rgb.shape[2] // height, rgb.shape[3] // width
    if rgb.shape[2:] != (height * rows, width * columns):
        return F.adaptive_avg_pool2d(rgb, (height, width))
    # Rows first and over whole lines: 0.04 ms an image of 256 x 256 in channels_last, against 0.2 ms by pooling.
    lines = rgb.permute(0, 2, 3, 1).reshape(len(rgb), height, rows, -1).mean(dim=2)
    return lines.view(len(rgb), height, width, columns, 3).mean(dim=3).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Basis:
    """Affine maps from features and pixels to columns of about unit variance, fitted without labels.

    feature_mean, projection: component j is (features - feature_mean) @ projection[:, j].
    eigenvalues: variance of the features along each component, decreasing.
    null_mean, null_projection: the same of the downsampled image's three channels; columns of zeros where it varies
      in fewer directions.
    """

    feature_mean: Float32[Tensor, " channels"]
    projection: Float32[Tensor, "channels components"]
    eigenvalues: Float64[Tensor, " components"]
    null_mean: Float32[Tensor, "3"]
    null_projection: Float32[Tensor, "3 3"]

    @classmethod
    def fit(
        cls,
        features: list[Float[Tensor, "batch channels h w"]],
        null: list[Float[Tensor, "batch 3 h w"]],
        most: int | None = None,
    ) -> Self:
        """Principal components of the cells of `features`, in float64: the `most` leading ones, or all.

        Raises ValueError where the features do not vary at all or are not finite.
        """
        mean, projection, eigenvalues = _whitening(features)
        if not len(eigenvalues):
            raise ValueError("the features are the same at every cell of every image")
        null_mean, null_projection, _ = _whitening(null)
        return cls(
            mean.float().cpu(),
            projection[:, :most].float().cpu(),
            eigenvalues[:most].cpu(),
            null_mean.float().cpu(),
            F.pad(null_projection, (0, NUM_NULL - null_projection.shape[1])).float().cpu(),
        )

    @property
    def num_components(self) -> int:
        """Components kept: at most the encoder's channels."""
        return self.projection.shape[1]

    @property
    def num_stored(self) -> int:
        """Columns that are stored of each cell: the image's three and the components."""
        return NUM_NULL + self.num_components

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of all its numbers."""
        content = save({name: tensor.contiguous() for name, tensor in vars(self).items()})
        return hashlib.sha256(content).hexdigest()[:16]

    def to(self, device: torch.device) -> Self:
        """Return the basis with its tensors on `device`."""
        return type(self)(*(tensor.to(device) for tensor in vars(self).values()))

    def project(
        self, features: Float[Tensor, "batch channels h w"], null: Float[Tensor, "batch 3 h w"]
    ) -> Float16[Tensor, "batch h w stored"]:
        """Project to [null | components], in half precision: as rounded from the encoder as from the cache.

        The rounding is 2^-11 of each number, 1e-7 of its variance.
        """
        # The mean goes first: it can be 30 times the spread, and float32 would lose the component behind it.
        components = (features.float().permute(0, 2, 3, 1) - self.feature_mean) @ self.projection
        pixels = (null.float().permute(0, 2, 3, 1) - self.null_mean) @ self.null_projection
        return torch.cat([pixels.half(), components.clamp_(-_LARGEST_HALF, _LARGEST_HALF).half()], dim=3)


def _whitening(maps: list[Float[Tensor, "batch channels h w"]]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, projection to unit-variance principal components, and their eigenvalues, decreasing; in float64.

    The sign of a component is that of its largest loading. Raises ValueError where the maps are not finite.
    """
    num_cells = sum(part.shape[0] * part.shape[2] * part.shape[3] for part in maps)
    mean = torch.as_tensor(sum(part.sum(dim=(0, 2, 3), dtype=torch.float64) for part in maps)) / num_cells
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
    for part in maps:
        for single in part:
            rows = single.flatten(1).T.double() - mean
            covariance += rows.T @ rows
    if not torch.isfinite(covariance).all():
        raise ValueError("the features are not finite")
    eigenvalues, vectors = torch.linalg.eigh(covariance / num_cells)
    eigenvalues, vectors = eigenvalues.flip(0), vectors.flip(1)
    # Rounding of float32 features leaves a "variance" of mean^2 * 2^-48 on a constant channel.
    floor = float(mean.square().max()) * 2.0**-46
    keep = eigenvalues > max(EIGENVALUE_TOLERANCE * float(eigenvalues[0]), floor)
    eigenvalues, vectors = eigenvalues[keep], vectors[:, keep]
    if len(eigenvalues):
        largest = vectors.abs().argmax(dim=0, keepdim=True)
        vectors = vectors * vectors.gather(0, largest).sign()
    return mean, vectors / eigenvalues.sqrt(), eigenvalues


@dataclass(frozen=True)
class Columns:
    """Order of the columns in the joint system: [bias | position | null | patches | components].

    num_patches: components of the raw pixels under a cell; an ordinary probe has none.
    """

    num_components: int
    num_patches: int = 0

    @property
    def total(self) -> int:
        """All columns."""
        return 1 + NUM_POSITION + NUM_NULL + self.num_patches + self.num_components

    def of_arm(self, arm: str) -> list[int]:
        """Columns of an arm, the bias first: "constant", "position", "null", "null+position", "patches" or "probe"."""
        edges = (1, 1 + NUM_POSITION, 1 + NUM_POSITION + NUM_NULL, self.total - self.num_components, self.total)
        parts = dict(zip(("position", "null", "patches", "probe"), pairwise(edges), strict=True)) | {"constant": (0, 0)}
        return [0, *(column for part in arm.split("+") for column in range(*parts[part]))]

    def side_by_side(
        self, arms: Sequence[tuple[Sequence[int], Float64[Tensor, "read out"]]]
    ) -> Float64[Tensor, "columns arms_out"]:
        """Put the weights of several arms, each on the columns that it reads, on all: outputs of one after another."""
        placed = [torch.zeros(self.total, weights.shape[1], dtype=torch.float64) for _, weights in arms]
        for part, (columns, weights) in zip(placed, arms, strict=True):
            part[list(columns)] = weights
        return torch.cat(placed, dim=1)

    def assemble(self, stored: Float16[Tensor, "batch h w stored"]) -> Float32[Tensor, "batch columns h w"]:
        """Put bias and position before the stored columns; channels_last in memory."""
        batch, height, width, _ = stored.shape
        cells = torch.empty(batch, height, width, self.total, device=stored.device)
        cells[..., 0] = 1.0
        cells[..., 1 : 1 + NUM_POSITION] = position_columns(height, width).permute(1, 2, 0).to(stored.device)
        cells[..., 1 + NUM_POSITION :] = stored
        return cells.permute(0, 3, 1, 2)
