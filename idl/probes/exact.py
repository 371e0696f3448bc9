"""The exact solver: ridge in closed form, for every k from one factorisation, or with penalties of two groups.

The penalised normal equations are (G + P) w = b with P = penalty * n_valid * D, D one on every column and zero on the
bias, which comes first. All products are float64, so that G + P is positive definite at every penalty above the
rounding of such products, whatever the columns have in common, and no column is ever left out: of two equal ones each
gets a half. A penalty of 0 stands for the limit: least squares of minimum norm, taken at `FLOOR`.

Penalties, and k where it is open, are chosen by the cross-validated loss over the folds of training and validation
split; what is chosen is fitted on the training split.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from idl.probes.statistics import FoldedStatistics, Statistics

# Share of a column's own square that is added to it at least: far above the rounding of float64 sums (2e-13 for 1,000
# columns), far below what two columns of maps in half precision can differ by (2^-22).
FLOOR = 1e-12

# In units of the mean square of a column: 0, decades, and a last one that leaves out what it is laid on (weights of
# 1e-8). No choice lies at an edge that a wider grid would move.
PENALTIES: tuple[float, ...] = (0.0, *(10.0**step for step in range(-8, 4)), 1e5, 1e8)
_HALF_STEP = 10.0**0.5

# Maps are rounded to half precision, 2^-11 of each number: directions of less variance are its noise.
ROUNDING = 2.0**-22
# A direction of the features whose square multiple correlation with the pixels is this near to 1 is theirs.
_SHARED = 2.0**-16


@dataclass(frozen=True)
class Solution:
    """A probe on the leading columns of a system.

    k: columns read besides the bias and the columns that every k has.
    penalty: in units of the mean square of a column.
    weights: the bias first; zero beyond k.
    num_columns, rank: columns read that vary, and directions among them that are not the noise of their rounding; the
      bias counts.
    train_loss, val_loss: unpenalised mean squared errors, target units squared.
    plain_train_loss: that of a fit without any penalty. excess_loss: how far it lies above the optimum, as a share of
      the optimum, by the gradient that is left.
    cv_loss, cv_error: the cross-validated one, and its standard error over the folds. val_error: of `val_loss`, over
      the validation split's folds. Infinite where there is one fold alone.
    """

    k: int
    penalty: float
    weights: Float64[Tensor, "columns out"]
    num_columns: int
    rank: int
    train_loss: float
    plain_train_loss: float
    excess_loss: float
    val_loss: float
    val_error: float
    cv_loss: float
    cv_error: float


@dataclass(frozen=True)
class Curve:
    """Losses over k, each k at the penalty of lowest cross-validated loss; target units squared."""

    k: Int[Tensor, " ks"]
    penalty: Float64[Tensor, " ks"]
    train_loss: Float64[Tensor, " ks"]
    val_loss: Float64[Tensor, " ks"]
    cv_loss: Float64[Tensor, " ks"]

    def smallest_k_within(self, share: float) -> int:
        """Smallest k whose cross-validated loss is at most (1 + share) times the lowest one."""
        enough = self.cv_loss <= self.cv_loss.min() * (1 + share)
        return int(self.k[enough.nonzero()[0, 0]])


@dataclass(frozen=True)
class Fit:
    """The chosen solution and the curve that it was chosen from."""

    solution: Solution
    curve: Curve


@dataclass(frozen=True)
class JointFit:
    """The solution with a penalty of the pixels' columns, in `solution`, and one of the features'.

    num_shared: directions of the features that the pixels' columns hold too, to within their rounding.
    """

    solution: Solution
    features_penalty: float
    num_shared: int


def losses_of_all_k(
    train: Statistics, penalty: float, measured: Sequence[Statistics]
) -> Float64[Tensor, "measured columns"]:
    """Squared errors of every leading block fitted on `train`, summed over each of `measured`; squared target units.

    Entry [:, j] is of the first j + 1 columns. With L the Cholesky factor of G + P and z = L^-1 b, the weights of a
    block are L^-T times z cut to it, so that its w'Hw on another split's H is the sum over the leading block of
    zz' * (L^-1 H L^-T), elementwise: running sums serve all blocks.
    """
    factor = _cholesky(train.gram, penalty * train.num_valid)
    z = torch.linalg.solve_triangular(factor, train.moment, upper=False)
    losses = []
    for other in measured:
        half = torch.linalg.solve_triangular(factor, other.gram, upper=False)
        rotated = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        moment = torch.linalg.solve_triangular(factor, other.moment, upper=False)
        crossed = 2 * z * (rotated.tril(-1) @ z) + rotated.diagonal()[:, None] * z.square()
        losses.append((crossed - 2 * moment * z).sum(dim=1).cumsum(dim=0) + other.energy.sum())
    return torch.stack(losses).clamp(min=0)


def fit(
    folds: FoldedStatistics, *, num_fixed: int, k: int | None = None, penalties: Sequence[float] = PENALTIES
) -> Fit:
    """Fit every k at every penalty, and choose by the cross-validated loss.

    folds: the bias comes first, components last.
    num_fixed: leading columns that every k reads (the bias at least); k counts the columns after them.
    k: as given, or None: the one of lowest loss (the smallest of equals).
    penalties: candidates; the half steps beside the best one are tried too.
    Raises ValueError where `num_fixed` or `k` does not fit the columns.
    """
    train, val = folds.whole_train, folds.whole_val
    num_columns = len(train.gram)
    if not 1 <= num_fixed <= num_columns or not 0 <= (k or 0) <= num_columns - num_fixed:
        raise ValueError(f"num_fixed={num_fixed}, k={k} do not fit {num_columns} columns")
    num_held_out = sum(held.num_terms for _, held in folds.pairs)
    errors: dict[float, Tensor] = {}

    def try_all(candidates: Sequence[float]) -> tuple[Tensor, int]:
        for penalty in candidates:
            rows = [losses_of_all_k(fitted, penalty, [held])[0] for fitted, held in folds.pairs]
            errors[penalty] = torch.stack(rows)[:, num_fixed - 1 :]
        losses = torch.stack([rows.sum(dim=0) for rows in errors.values()]) / num_held_out
        return losses, int(losses.min(dim=0).values.argmin()) if k is None else k

    losses, chosen = try_all(penalties)
    losses, chosen = try_all(_between(penalties, penalties[int(losses[:, chosen].argmin())]))
    best = losses.argmin(dim=0)
    penalty_of, row_of = torch.tensor(list(errors), dtype=torch.float64)[best].unique(return_inverse=True)
    fitted = torch.stack([losses_of_all_k(train, penalty, [train, val]) for penalty in penalty_of.tolist()])
    ks = torch.arange(losses.shape[1])
    fitted = fitted[row_of, :, ks + num_fixed - 1] / torch.tensor([train.num_terms, val.num_terms])
    curve = Curve(ks, penalty_of[row_of], fitted[:, 0], fitted[:, 1], losses[best, ks])
    penalty = float(curve.penalty[chosen])
    group = torch.zeros(num_fixed + chosen, dtype=torch.long)
    return Fit(_solution(folds, chosen, (penalty,), group, errors[penalty][:, chosen]), curve)


def fit_joint(
    folds: FoldedStatistics, *, num_pixels: int, parts: tuple[float, float], penalties: Sequence[float] = PENALTIES
) -> JointFit:
    """Fit with a penalty of the pixels' columns and one of the features', the pair of lowest cross-validated loss.

    folds: of the bias, then the pixels' columns, then the features'. num_pixels: of the former, the bias counted.
    parts: penalties of the pixels alone and of the features alone, where the search starts.
    penalties: candidates for both. The largest leaves out what it is laid on, so that the loss is never above that of
      a part.
    Raises ValueError where `num_pixels` does not fit the columns.
    """
    num_columns = len(folds.whole_train.gram)
    if not 1 <= num_pixels <= num_columns:
        raise ValueError(f"num_pixels={num_pixels} does not fit {num_columns} columns")
    group = (torch.arange(num_columns) >= num_pixels).long()
    alone = ((parts[0], max(penalties)), (max(penalties), parts[1]))
    chosen, errors = _search(folds.pairs, group, (parts, *alone), penalties)
    solution = _solution(folds, num_columns - num_pixels, chosen, group, errors)
    return JointFit(solution, chosen[1], num_shared(folds.whole_train.gram, num_pixels))


def half_cv_loss(
    folds: FoldedStatistics,
    num_pixels: int,
    near: tuple[float, ...],
    penalties: Sequence[float] = PENALTIES,
) -> float:
    """Cross-validated loss of fits on half as many scenes, at their own best penalties; target units squared.

    near: penalties of the fit on all of them: one of all columns, or those of `fit_joint`, whose `num_pixels` this is.
    Returns nan where there are fewer than three folds.
    """
    pairs = folds.half_pairs
    if not pairs:
        return float("nan")
    group = (torch.arange(len(folds.whole_train.gram)) >= num_pixels).long().clamp(max=len(near) - 1)
    _, errors = _search(pairs, group, (near,), penalties)
    return float(errors.sum()) / sum(held.num_terms for _, held in pairs)


def rank_and_excess(train: Statistics, weights: Float64[Tensor, "columns out"]) -> tuple[int, float]:
    """Return how many directions the columns have, and how far the weights' loss lies above the optimum's, as a share.

    Directions are those of the columns at a mean square of 1 each that are not the noise of their rounding. By its
    gradient g the loss lies g'G^-1 g above the optimum: that holds for weights of any solver, and for columns that it
    lost.
    """
    scale = torch.where(train.gram.diagonal() > 0, train.gram.diagonal(), torch.inf).rsqrt()
    eigenvalues, vectors = torch.linalg.eigh(scale[:, None] * train.gram * scale)
    counts = eigenvalues > ROUNDING
    gradient = vectors.T @ (scale[:, None] * (train.moment - train.gram @ weights))
    excess = float((gradient[counts].square() / eigenvalues[counts, None]).sum())
    # The loss of a perfect fit is rounding: there is no share of it.
    optimum = max(float(train.squared_error(weights)) - excess, FLOOR * float(train.energy.sum()))
    return int(counts.sum()), excess / optimum if excess else 0.0


def num_shared(gram: Float64[Tensor, "columns columns"], num_pixels: int) -> int:
    """Directions of the features that the leading `num_pixels` columns hold too, to within their rounding.

    They are those whose square canonical correlation is 1.
    """
    pixels, features = slice(num_pixels), slice(num_pixels, None)
    of_pixels, of_features = (_cholesky(gram[part, part]) for part in (pixels, features))
    half = torch.linalg.solve_triangular(of_pixels, gram[pixels, features], upper=False)
    correlations = torch.linalg.svdvals(torch.linalg.solve_triangular(of_features, half.mT, upper=False))
    return int((correlations.square() > 1 - _SHARED).sum())


def _search(
    pairs: Sequence[tuple[Statistics, Statistics]],
    group: Int[Tensor, " columns"],
    starts: Sequence[tuple[float, ...]],
    penalties: Sequence[float],
) -> tuple[tuple[float, ...], Float64[Tensor, " pairs"]]:
    """Walk over the grid of penalties, from each start to the best neighbour until none is better, then by half steps.

    group: which of the penalties each column has. starts: one penalty a group each.
    Returns the best penalties, and their squared errors on each of `pairs`.
    """
    errors: dict[tuple[float, ...], Tensor] = {}

    def loss(chosen: tuple[float, ...]) -> float:
        if chosen not in errors:
            errors[chosen] = torch.stack([held.squared_error(_solve(fitted, chosen, group)) for fitted, held in pairs])
        return float(errors[chosen].sum())

    def best_around(chosen: tuple[float, ...], steps: Callable[[float], Sequence[float]]) -> tuple[float, ...]:
        return min(product(*((each, *steps(each)) for each in chosen)), key=loss)

    def neighbours(penalty: float) -> Sequence[float]:
        at = bisect_left(penalties, penalty * (1 - 1e-9))
        return penalties[max(0, at - 1) : at + 2]

    found = []
    for start in starts:
        best, before = best_around(start, neighbours), start
        while best != before:
            best, before = best_around(best, neighbours), best
        found.append(best)
    best = best_around(min(found, key=loss), lambda penalty: _between(penalties, penalty))
    return best, errors[best]


def _between(penalties: Sequence[float], best: float) -> tuple[float, ...]:
    """Give the half steps beside a penalty, towards neighbours that are a decade away."""
    near = ((best * _HALF_STEP, best * 10), (best / _HALF_STEP, best / 10))
    return tuple(half for half, end in near if best > 0 and any(math.isclose(end, each) for each in penalties))


def _solution(
    folds: FoldedStatistics,
    k: int,
    penalties: tuple[float, ...],
    group: Int[Tensor, " read"],
    errors: Float64[Tensor, " pairs"],
) -> Solution:
    """Fit the leading columns on the training split, and measure that. errors: of cross-validation, squared, summed."""
    read = folds.whole_train.subset(torch.arange(len(group)))
    plain = _solve(read, (0.0,) * len(penalties), group)
    rank, excess_loss = rank_and_excess(read, plain)
    weights = torch.zeros_like(folds.whole_train.moment)
    weights[: len(group)] = _solve(read, penalties, group)
    held_out = torch.tensor([held.num_terms for _, held in folds.pairs])
    on_val = torch.stack([fold.squared_error(weights) for fold in folds.val])
    return Solution(
        k=k,
        penalty=penalties[0],
        weights=weights,
        num_columns=int((read.gram.diagonal() > 0).sum()),
        rank=rank,
        train_loss=float(folds.whole_train.mse(weights)),
        plain_train_loss=float(read.mse(plain)),
        excess_loss=excess_loss,
        val_loss=float(folds.whole_val.mse(weights)),
        val_error=_standard_error(on_val, torch.tensor([fold.num_terms for fold in folds.val])),
        cv_loss=float(errors.sum() / held_out.sum()),
        cv_error=_standard_error(errors, held_out),
    )


def _solve(
    train: Statistics, penalties: Sequence[float], group: Int[Tensor, " columns"]
) -> Float64[Tensor, "columns out"]:
    """Weights of the penalised system; the bias comes first, and has no penalty."""
    strength = torch.tensor(penalties, dtype=torch.float64)[group] * train.num_valid
    return torch.cholesky_solve(train.moment, _cholesky(train.gram, strength))


def _cholesky(
    gram: Float64[Tensor, "columns columns"], strength: Float64[Tensor, " columns"] | float = 0.0
) -> Float64[Tensor, "columns columns"]:
    """Cholesky factor of `gram` with `strength` on its diagonal but the first, FLOOR of the diagonal at least.

    Where `gram` is rounded more than that, twice its most negative eigenvalue is the floor.
    """
    diagonal = gram.diagonal()
    floor = FLOOR
    while True:
        added = torch.maximum(floor * diagonal, torch.as_tensor(strength, dtype=torch.float64))
        # A column of zeros becomes an equation of its own, w = 0.
        added = torch.where(diagonal > 0, added, 1.0)
        added[0] = 0.0 if diagonal[0] > 0 else 1.0
        factor, failed = torch.linalg.cholesky_ex(gram + torch.diag(added))
        if not failed:
            return factor
        floor = max(10 * floor, -2 * float(torch.linalg.eigvalsh(_scaled(gram))[0]))


def _scaled(gram: Float64[Tensor, "columns columns"]) -> Float64[Tensor, "columns columns"]:
    """Bring every column that varies to a mean square of 1."""
    scale = torch.where(gram.diagonal() > 0, gram.diagonal(), torch.inf).rsqrt()
    return scale[:, None] * gram * scale


def _standard_error(errors: Float64[Tensor, " folds"], counts: Int[Tensor, " folds"]) -> float:
    """Standard error of the ratio sum(errors) / sum(counts), its terms drawn fold by fold; infinite for one fold."""
    kept = counts > 0
    errors, counts = errors[kept], counts[kept]
    if len(counts) < 2:
        return math.inf
    apart = errors - counts * errors.sum() / counts.sum()
    return float((len(counts) / (len(counts) - 1) * apart.square().sum()).sqrt() / counts.sum())
