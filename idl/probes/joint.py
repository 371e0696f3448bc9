"""The exact solver with two penalties: one for what the image says by itself, one for the features.

The system is (G + n (p Dp + f Df)) w = b, with n the valid pixels, p and f the penalties of the pixels' columns and
of the features', Dp and Df one on these and zero elsewhere, and zero on the bias. Elimination of the pixels leaves

    (S + n f I) wf = t,    S = Gff - Gfp A^-1 Gpf,    t = bf - Gfp A^-1 bp,    A = Gpp + n p Dp,

so that one eigendecomposition of S serves every f, and wf = 0 is f = infinity: the pixels alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from idl.probes.exact import PENALTIES, PIVOT_TOLERANCE, independent_columns
from idl.probes.statistics import Statistics


@dataclass(frozen=True)
class JointFit:
    """The solution whose two penalties were chosen on validation.

    weights: the bias first; zero at dropped columns, and at all features where their penalty is infinite.
    pixels_penalty, features_penalty: in units of the mean square of a column; the latter may be infinite.
    rank: independent columns, the bias counted.
    train_loss, val_loss: unpenalised mean squared errors, target units squared.
    plain_train_loss: that of the solution without any penalty.
    is_penalty_at_edge: the pixels' penalty is the largest that was tried, so that a larger one may be better. The
      features' has no such edge, because infinity is tried.
    """

    weights: Float64[Tensor, "columns out"]
    pixels_penalty: float
    features_penalty: float
    rank: int
    train_loss: float
    val_loss: float
    plain_train_loss: float
    is_penalty_at_edge: bool


def fit_joint(
    train: Statistics,
    val: Statistics,
    *,
    num_pixels: int,
    penalties: Sequence[float] = PENALTIES,
    tolerance: float = PIVOT_TOLERANCE,
) -> JointFit:
    """Fit every pair of penalties on `train` and choose by the loss on `val`.

    train, val: statistics of the same columns: the bias, then the pixels', then the features'.
    num_pixels: leading columns, the bias counted.
    penalties: candidates for both; the features' infinity is added. Zero among them is plain least squares.
    Raises ValueError where `num_pixels` does not fit the columns.
    """
    num_columns = len(train.gram)
    if not 1 <= num_pixels <= num_columns:
        raise ValueError(f"num_pixels={num_pixels} does not fit {num_columns} columns")
    kept = independent_columns(train.gram, tolerance)
    # Infinity first: where features change nothing, the first of equals is the pixels alone.
    of_features = (math.inf, *penalties)
    paths = torch.stack([_path(train, kept, num_pixels, penalty, of_features) for penalty in penalties], dim=1)
    train_losses, val_losses = train.mse(paths), val.mse(paths)
    row, column = divmod(int(val_losses.argmin()), len(of_features))
    plain = paths[:, 0, 1] if penalties[0] == 0 else _path(train, kept, num_pixels, 0.0, (0.0,))[:, 0]
    return JointFit(
        weights=paths[:, row, column].clone(),
        pixels_penalty=penalties[row],
        features_penalty=of_features[column],
        rank=int(kept.sum()),
        train_loss=float(train_losses[row, column]),
        val_loss=float(val_losses[row, column]),
        plain_train_loss=float(train.mse(plain)),
        is_penalty_at_edge=len(penalties) > 1 and num_pixels > 1 and penalties[row] == max(penalties),
    )


def _path(
    train: Statistics,
    kept: Bool[Tensor, " columns"],
    num_pixels: int,
    penalty: float,
    of_features: Sequence[float],
) -> Float64[Tensor, "columns features_penalties out"]:
    """Weights of one penalty of the pixels and every one of the features."""
    pixels, features = kept.clone(), kept.clone()
    pixels[num_pixels:] = False
    features[:num_pixels] = False
    system = train.gram[pixels][:, pixels].clone()
    # The bias is never dropped: it is the first of the kept.
    system.diagonal()[1:] += penalty * train.num_valid
    factor = torch.linalg.cholesky(system)
    across = train.gram[pixels][:, features]
    solved = torch.cholesky_solve(torch.cat([train.moment[pixels], across], dim=1), factor)
    alone, taken = solved.split([train.moment.shape[1], across.shape[1]], dim=1)
    weights = torch.zeros(len(kept), len(of_features), train.moment.shape[1], dtype=torch.float64)
    weights[pixels] = alone[:, None]
    if across.shape[1] == 0:
        return weights
    left = train.gram[features][:, features] - across.T @ taken
    eigenvalues, vectors = torch.linalg.eigh((left + left.T) / 2)
    rotated = vectors.T @ (train.moment[features] - across.T @ alone)
    scales = torch.tensor(of_features, dtype=torch.float64) * train.num_valid
    # (features, penalties): zero at infinity. Kept columns leave positive eigenvalues.
    shrunk = 1 / (eigenvalues[:, None] + scales)
    of_left = torch.einsum("ij,jp,jo->ipo", vectors, shrunk, rotated)
    weights[features] = of_left
    weights[pixels] -= torch.einsum("ij,jpo->ipo", taken, of_left)
    return weights
