"""The exact solver: every k of a system from one factorisation, the penalty and k chosen on validation.

The penalised normal equations are (G + P) w = b with P = penalty * n_valid * D, D one on every column and zero
on the bias, which comes first. With the Cholesky factor L of G + P and z = L^-1 b, the leading k x k block is
served by the leading block of L, so that the weights of all k are the running sums over the columns of
L^-T diag(z).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from idl.probes.statistics import Statistics

# A column whose pivot falls below this share of its diagonal is a combination of those before it.
PIVOT_TOLERANCE = 1e-10
_BLOCK = 64

# In units of the mean square of a column: 0, then half decades.
PENALTIES: tuple[float, ...] = (0.0, *(10.0 ** (step / 2) for step in range(-16, 3)))


def independent_columns(
    gram: Float64[Tensor, "columns columns"], tolerance: float = PIVOT_TOLERANCE
) -> Bool[Tensor, " columns"]:
    """Columns that are no combination of those before them.

    A blocked Cholesky factorisation that leaves out a column whose pivot is below `tolerance` of its diagonal.
    The order counts: of two equal columns the first is kept.
    """
    num_columns = len(gram)
    factor = torch.zeros_like(gram)
    kept = torch.zeros(num_columns, dtype=torch.bool)
    diagonal = gram.diagonal()
    for first in range(0, num_columns, _BLOCK):
        last = min(first + _BLOCK, num_columns)
        rest = gram[first:, first:last] - factor[first:, :first] @ factor[first:last, :first].T
        panel = torch.zeros_like(rest)
        for column in range(last - first):
            pivot = rest[column, column] - panel[column, :column].square().sum()
            if pivot > tolerance * diagonal[first + column]:
                kept[first + column] = True
                panel[:, column] = (rest[:, column] - panel[:, :column] @ panel[column, :column]) / pivot.sqrt()
                panel[:column, column] = 0
        factor[first:, first:last] = panel
    return kept


@dataclass(frozen=True)
class Solution:
    """A probe on the leading columns of a system.

    k: columns read besides the bias and the columns that every k has.
    penalty: in units of the mean square of a column.
    weights: the bias first; zero beyond k and at dropped columns.
    rank: independent columns among those read, the bias counted.
    train_loss, val_loss: unpenalised mean squared errors, target units squared.
    """

    k: int
    penalty: float
    weights: Float64[Tensor, "columns out"]
    rank: int
    train_loss: float
    val_loss: float


@dataclass(frozen=True)
class Curve:
    """Losses over k, each k at the penalty that its validation loss chose; target units squared."""

    k: Int[Tensor, " ks"]
    penalty: Float64[Tensor, " ks"]
    train_loss: Float64[Tensor, " ks"]
    val_loss: Float64[Tensor, " ks"]

    def smallest_k_within(self, share: float) -> int:
        """Smallest k whose validation loss is at most (1 + share) times the lowest one."""
        enough = self.val_loss <= self.val_loss.min() * (1 + share)
        return int(self.k[enough.nonzero()[0, 0]])


@dataclass(frozen=True)
class Fit:
    """The chosen solution and the curve that it was chosen from.

    is_penalty_at_edge: the chosen penalty is the largest that was tried, so that a larger one may be better.
    """

    solution: Solution
    curve: Curve
    is_penalty_at_edge: bool


def weights_of_all_k(
    statistics: Statistics, penalty: float, kept: Bool[Tensor, " columns"]
) -> Float64[Tensor, "columns leading out"]:
    """Weights of every leading block: entry [:, j] solves the system of the first j + 1 columns.

    kept: columns that take part; the others get weight zero.
    Raises torch.linalg.LinAlgError where the kept system is not positive definite.
    """
    scale = penalty * statistics.num_valid
    system = statistics.gram + scale * torch.diag_embed(_penalised(len(kept)))
    # A dropped column becomes an equation of its own, 1 * w = 0: the factorisation stays whole.
    system = torch.where(kept[:, None] & kept[None], system, torch.zeros_like(system))
    system.diagonal()[~kept] = 1.0
    moment = torch.where(kept[:, None], statistics.moment, torch.zeros_like(statistics.moment))
    factor = torch.linalg.cholesky(system)
    z = torch.linalg.solve_triangular(factor, moment, upper=False)
    inverse = torch.linalg.solve_triangular(factor, torch.eye(len(kept), dtype=torch.float64), upper=False).T
    return (inverse[:, :, None] * z[None]).cumsum(dim=1)


def _penalised(num_columns: int) -> Float64[Tensor, " columns"]:
    weights = torch.ones(num_columns, dtype=torch.float64)
    weights[0] = 0.0
    return weights


def fit(
    train: Statistics,
    val: Statistics,
    *,
    num_fixed: int,
    k: int | None = None,
    penalties: Sequence[float] = PENALTIES,
    tolerance: float = PIVOT_TOLERANCE,
) -> Fit:
    """Fit every k and penalty on `train` and choose by the loss on `val`.

    train, val: statistics of the same columns; the bias comes first, components last.
    num_fixed: leading columns that every k reads (the bias at least); k counts the columns after them.
    k: as given, or None: the one of lowest validation loss (the smallest of equals).
    penalties: candidates; zero among them is the plain least squares on the independent columns.
    Raises ValueError where `num_fixed` or `k` does not fit the columns.
    """
    num_columns = len(train.gram)
    if not 1 <= num_fixed <= num_columns or not 0 <= (k or 0) <= num_columns - num_fixed:
        raise ValueError(f"num_fixed={num_fixed}, k={k} do not fit {num_columns} columns")
    kept = independent_columns(train.gram, tolerance)
    paths = []
    for penalty in penalties:
        weights = weights_of_all_k(train, penalty, kept)[:, num_fixed - 1 :]
        paths.append((train.mse(weights), val.mse(weights)))
    train_losses = torch.stack([losses for losses, _ in paths])
    val_losses = torch.stack([losses for _, losses in paths])
    best = val_losses.argmin(dim=0)
    ks = torch.arange(val_losses.shape[1])
    curve = Curve(
        ks,
        torch.tensor(penalties, dtype=torch.float64)[best],
        train_losses[best, ks],
        val_losses[best, ks],
    )
    chosen = int(curve.val_loss.argmin()) if k is None else k
    penalty = float(curve.penalty[chosen])
    solution = Solution(
        k=chosen,
        penalty=penalty,
        weights=weights_of_all_k(train, penalty, kept)[:, num_fixed - 1 + chosen].clone(),
        rank=int(kept[: num_fixed + chosen].sum()),
        train_loss=float(curve.train_loss[chosen]),
        val_loss=float(curve.val_loss[chosen]),
    )
    is_at_edge = len(penalties) > 1 and num_columns > 1 and penalty == max(penalties)
    return Fit(solution, curve, is_at_edge)
