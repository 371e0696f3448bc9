"""The exact solver: ridge in closed form, for every k from one factorisation, or with penalties of two groups.

The penalised normal equations are (G + P) w = b with P = penalty * n_valid * D, D one on every column and zero on the
bias, which comes first. Statistics are sums of float64 products, so that G + P is positive definite at every penalty
above their rounding: of two equal columns each gets a half. A penalty of 0 stands for the limit: least squares of
minimum norm, taken at `FLOOR`. Penalties, and k where it is open, are chosen by the cross-validated loss over the folds
of training and validation split; what is chosen is fitted on the training split.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from idl.probes.statistics import FoldedStatistics, Statistics, total

# Share of a column's own square that is added to it at least: far above the rounding of float64 sums (2e-13 for 1,000
# columns), far below what two columns of maps in half precision can differ by (2^-22).
FLOOR = 1e-12

# In units of the mean square of a column: 0, decades, and a last one that leaves out what it is laid on (weights of
# 1e-8).
PENALTIES: tuple[float, ...] = (0.0, *(10.0**step for step in range(-8, 4)), 1e5, 1e8)
_HALF_STEP = 10.0**0.5

# Maps are rounded to half precision, 2^-11 of each number: directions of less variance are its noise.
ROUNDING = 2.0**-22
# A direction of the features whose square canonical correlation with the pixels is this near to 1 counts as theirs too.
_SHARED = 2.0**-10
# Effects that are planted, to see what comes of them.
NUM_PLANTED = 20


@dataclass(frozen=True)
class Solution:
    """A probe on the leading columns of a system. Losses are unpenalised mean squared errors, target units squared.

    k: columns read besides the bias and the columns that every k has.
    penalty: in units of the mean square of a column; of a joint fit, on the pixels' columns.
    weights: of the target itself, the bias first; zero beyond k.
    rank: directions among the columns read that are not the noise of their rounding; the bias counts.
    plain_train_loss: of a fit without any penalty. excess_loss: of the chosen fit, as `excess_loss` says.
    val_error, cv_error: standard errors over the folds of `val_loss` and of the cross-validated loss; infinite where
      there is one fold alone.
    features_penalty, expected_rank: of a joint fit, the penalty of the features' columns; the rank of the pixels'
      columns and that of the features', less the directions that both hold.
    """

    k: int
    penalty: float
    weights: Float64[Tensor, "columns out"]
    rank: int
    train_loss: float
    plain_train_loss: float
    excess_loss: float
    val_loss: float
    val_error: float
    cv_loss: float
    cv_error: float
    features_penalty: float = math.nan
    expected_rank: int = 0


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


def losses_of_all_k(
    train: Statistics, penalty: float, measured: Sequence[Statistics]
) -> Float64[Tensor, "measured columns"]:
    """Squared errors of every leading block fitted on `train`, summed over each of `measured`; squared target units.

    Entry [:, j] is of the first j + 1 columns. With L the Cholesky factor of G + P and z = L^-1 b, the weights of a
    block are L^-T times z cut to it, so that its w'Hw on another split's H is the sum over the leading block of
    zz' * (L^-1 H L^-T), elementwise: running sums serve all blocks.
    """
    factor = _cholesky(train.xtx, penalty * train.num_valid)
    z = torch.linalg.solve_triangular(factor, train.xty, upper=False)
    losses = []
    for other in measured:
        half = torch.linalg.solve_triangular(factor, other.xtx, upper=False)
        rotated = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        xty = torch.linalg.solve_triangular(factor, other.xty, upper=False)
        crossed = 2 * z * (rotated.tril(-1) @ z) + rotated.diagonal()[:, None] * z.square()
        losses.append((crossed - 2 * xty * z).sum(dim=1).cumsum(dim=0) + other.yty.sum())
    return torch.stack(losses).clamp(min=0)


def fit(
    folds: FoldedStatistics, *, num_fixed: int, k: int | None = None, penalties: Sequence[float] = PENALTIES
) -> Fit:
    """Fit every k at every penalty, and choose by the cross-validated loss.

    num_fixed: leading columns that every k reads (the bias, which is first, at least); k counts those after them.
    k: as given, or None: the one of lowest loss (the smallest of equals).
    penalties: candidates; the half steps beside the best one are tried too.
    Raises ValueError where `num_fixed` or `k` does not fit the columns.
    """
    train, val = folds.whole_train, folds.whole_val
    num_columns = len(train.xtx)
    if not 1 <= num_fixed <= num_columns or not 0 <= (k or 0) <= num_columns - num_fixed:
        raise ValueError(f"num_fixed={num_fixed}, k={k} do not fit {num_columns} columns")
    if num_columns == 1:
        # A bias alone has nothing to penalise.
        penalties = (0.0,)
    num_held_out = sum(held.num_terms for _, held in folds.pairs)

    @cache
    def errors(penalty: float) -> Float64[Tensor, "pairs ks"]:
        rows = [losses_of_all_k(fitted, penalty, [held])[0] for fitted, held in folds.pairs]
        return torch.stack(rows)[:, num_fixed - 1 :]

    def cv_losses() -> tuple[Float64[Tensor, "penalties ks"], int]:
        losses = torch.stack([errors(penalty).sum(dim=0) for penalty in penalties]) / num_held_out
        return losses, int(losses.min(dim=0).values.argmin()) if k is None else k

    losses, chosen = cv_losses()
    penalties = (*penalties, *_between(penalties, penalties[int(losses[:, chosen].argmin())]))
    losses, chosen = cv_losses()
    best = losses.argmin(dim=0)
    penalty_of, row_of = torch.tensor(penalties, dtype=torch.float64)[best].unique(return_inverse=True)
    fitted = torch.stack([losses_of_all_k(train, penalty, [train, val]) for penalty in penalty_of.tolist()])
    ks = torch.arange(losses.shape[1])
    fitted = fitted[row_of, :, ks + num_fixed - 1] / torch.tensor([train.num_terms, val.num_terms])
    curve = Curve(ks, penalty_of[row_of], fitted[:, 0], fitted[:, 1], losses[best, ks])
    penalty = float(curve.penalty[chosen])
    group = torch.zeros(num_fixed + chosen, dtype=torch.long)
    return Fit(_solution(folds, chosen, (penalty,), group, errors(penalty)[:, chosen]), curve)


def fit_joint(
    folds: FoldedStatistics, *, num_pixels: int, parts: tuple[float, float], penalties: Sequence[float] = PENALTIES
) -> Solution:
    """Fit with a penalty of the pixels' columns and one of the features', the pair of lowest cross-validated loss.

    folds: of the bias, then the pixels' columns, then the features'. num_pixels: of the former, the bias counted.
    parts: penalties that the pixels alone and the features alone chose.
    penalties: candidates for both: every other pair, the parts' pairs, and from the best of them on to the best
      neighbour, half steps at last. The largest one leaves a part out: the loss is never above that of the other.
    """
    num_columns = len(folds.whole_train.xtx)
    group = (torch.arange(num_columns) >= num_pixels).long()

    @cache
    def errors(pair: tuple[float, ...]) -> Float64[Tensor, " pairs"]:
        return torch.stack([held.squared_error(_solve(fitted, pair, group)) for fitted, held in folds.pairs])

    def best_of(pairs: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
        return min(pairs, key=lambda pair: float(errors(pair).sum()))

    def neighbours(penalty: float) -> Sequence[float]:
        at = bisect_left(penalties, penalty * (1 - 1e-9))
        return (penalty, *penalties[max(0, at - 1) : at + 2])

    coarse = (*penalties[::2], penalties[-1])
    alone = ((parts[0], penalties[-1]), (penalties[-1], parts[1]))
    chosen, before = best_of((parts, *alone, *product(coarse, coarse))), None
    while chosen != before:
        chosen, before = best_of(product(*(neighbours(each) for each in chosen))), chosen
    chosen = best_of(product(*((each, *_between(penalties, each)) for each in chosen)))
    xtx = folds.whole_train.xtx
    of_parts = _rank(xtx[:num_pixels, :num_pixels]) + _rank(xtx[num_pixels:, num_pixels:])
    num_shared = int((_canonical(xtx, num_pixels)[1] > 1 - _SHARED).sum())
    solution = _solution(folds, num_columns - num_pixels, chosen, group, errors(chosen))
    return replace(solution, features_penalty=chosen[1], expected_rank=of_parts - num_shared)


def recovered(
    folds: FoldedStatistics,
    *,
    num_pixels: int,
    chosen: tuple[float, float],
    effect: float,
    penalties: Sequence[float] = PENALTIES,
) -> float:
    """Return what an effect of the features of a known size comes to on these data: the least of `NUM_PLANTED`.

    Random directions of the features, less what the pixels hold of them, are added to the target, so large that the
    loss without the features is exp(effect) times that with them. Each is fitted on all folds but one at the best
    penalty of the features, and measured on that one: the log ratio of the loss of not having found it over that of
    having. With many images it is `effect`; where features are many, images few, or the features' noise common to a
    scene, it is less, and down to 0: then "nothing was found" does not say "nothing is there".

    chosen: penalties of pixels and features of the joint fit. effect: a log ratio of losses, at least 0.
    """
    whole = total([held for _, held in folds.pairs])
    num_outputs, pixels, features = whole.xty.shape[1], slice(num_pixels), slice(num_pixels, None)
    group = (torch.arange(len(whole.xtx)) >= num_pixels).long()
    of_features, squares, vectors = _canonical(whole.xtx, num_pixels)
    own = vectors[:, squares <= 1 - _SHARED]
    if own.shape[1] == 0:
        # The pixels hold all of the features: there is nothing beyond them to be missed.
        return effect
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(own.shape[1], NUM_PLANTED * num_outputs, generator=generator, dtype=torch.float64)
    directions = torch.linalg.solve_triangular(of_features.mT, own @ drawn, upper=True)
    across = whole.xtx[pixels, features] @ directions
    planted = torch.cat([-torch.cholesky_solve(across, _cholesky(whole.xtx[pixels, pixels])), directions])
    power = (planted * (whole.xtx @ planted)).sum(dim=0) / whole.num_valid
    joint = [_solve(fitted, chosen, group) for fitted, _ in folds.pairs]
    squared = [held.squared_error(weights) for weights, (_, held) in zip(joint, folds.pairs, strict=True)]
    loss = float(torch.stack(squared).sum()) / whole.num_terms
    planted = planted * (math.expm1(effect) * loss / power.clamp(min=torch.finfo(torch.float64).tiny)).sqrt()

    def with_planted(part: Statistics) -> Statistics:
        xty, across = part.xty.repeat(1, NUM_PLANTED), part.xtx @ planted
        yty = part.yty.repeat(NUM_PLANTED) + (planted * (2 * xty + across)).sum(dim=0)
        return replace(part, xty=xty + across, yty=yty)

    # Without the effect, then with it at each penalty of the features: squared errors of every planted one.
    errors = torch.zeros(1 + len(penalties), NUM_PLANTED, dtype=torch.float64)
    for weights, (fitted, held) in zip(joint, folds.pairs, strict=True):
        changed, measured = with_planted(fitted), with_planted(held)
        found = [_solve(changed, (chosen[0], penalty), group) for penalty in penalties]
        of_pair = [measured.output_errors(each) for each in (weights.repeat(1, NUM_PLANTED), *found)]
        errors += torch.stack(of_pair).unflatten(1, (NUM_PLANTED, num_outputs)).sum(dim=2)
    return float((errors[0] / errors[1:].min(dim=0).values).log().min())


def excess_loss(
    train: Statistics, strength: Float64[Tensor, " columns"], weights: Float64[Tensor, "columns out"]
) -> float:
    """Return how far weights lie above the optimum of the penalised loss, as a share of it, whatever made them.

    strength: on the diagonal of the system. By its gradient g the loss lies g'(G + P)^-1 g above the optimum; an
    eigendecomposition of all columns inverts it, so that one that a solver lost is seen.
    """
    system = train.xtx + torch.diag(torch.maximum(strength, FLOOR * train.xtx.diagonal()))
    eigenvalues, vectors = torch.linalg.eigh(system)
    gradient = vectors.T @ (train.xty - system @ weights)
    counts = eigenvalues > FLOOR * eigenvalues[-1]
    excess = float((gradient[counts].square() / eigenvalues[counts, None]).sum())
    loss = float((weights * (system @ weights - 2 * train.xty)).sum() + train.yty.sum())
    # The loss of a perfect fit is rounding: there is no share of it.
    return excess / max(loss - excess, FLOOR * float(train.yty.sum())) if excess else 0.0


def _rank(xtx: Float64[Tensor, "columns columns"]) -> int:
    """Directions of the columns, each at a mean square of 1, that are not the noise of their rounding."""
    return int((torch.linalg.eigvalsh(_scaled(xtx)) > ROUNDING).sum())


def _canonical(xtx: Float64[Tensor, "columns columns"], num_pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Squares of the canonical correlations of the features with the pixels' leading columns.

    Returns the Cholesky factor L of the features' own part, the squares, and V: the columns of features @ L^-T V are
    uncorrelated, of equal size, and have these correlations with the pixels.
    """
    pixels, features = slice(num_pixels), slice(num_pixels, None)
    half = torch.linalg.solve_triangular(_cholesky(xtx[pixels, pixels]), xtx[pixels, features], upper=False)
    of_features = _cholesky(xtx[features, features], free=None)
    explained = torch.linalg.solve_triangular(of_features, half.mT, upper=False)
    return of_features, *torch.linalg.eigh(explained @ explained.mT)


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
    weights = torch.zeros_like(folds.whole_train.xty)
    weights[: len(group)] = _solve(read, penalties, group)
    strength = _strength(read, penalties, group)
    held_out = torch.tensor([held.num_terms for _, held in folds.pairs])
    on_val = torch.stack([fold.squared_error(weights) for fold in folds.val])
    return Solution(
        k=k,
        penalty=penalties[0],
        weights=folds.with_offset(weights),
        rank=_rank(read.xtx),
        train_loss=float(folds.whole_train.mse(weights)),
        plain_train_loss=float(read.mse(_solve(read, (0.0,) * len(penalties), group))),
        excess_loss=excess_loss(read, strength, weights[: len(group)]),
        val_loss=float(folds.whole_val.mse(weights)),
        val_error=_standard_error(on_val, torch.tensor([fold.num_terms for fold in folds.val])),
        cv_loss=float(errors.sum() / held_out.sum()),
        cv_error=_standard_error(errors, held_out),
    )


def _strength(train: Statistics, penalties: Sequence[float], group: Int[Tensor, " columns"]) -> Tensor:
    """What penalties of groups of columns put on the system's diagonal: nothing on the bias, which comes first."""
    strength = torch.tensor(penalties, dtype=torch.float64)[group] * train.num_valid
    strength[0] = 0.0
    return strength


def _solve(
    train: Statistics, penalties: Sequence[float], group: Int[Tensor, " columns"]
) -> Float64[Tensor, "columns out"]:
    """Weights of the penalised system. group: which of the penalties each column has."""
    return torch.cholesky_solve(train.xty, _cholesky(train.xtx, _strength(train, penalties, group)))


def _cholesky(
    xtx: Float64[Tensor, "columns columns"], strength: Float64[Tensor, " columns"] | float = 0.0, free: int | None = 0
) -> Float64[Tensor, "columns columns"]:
    """Cholesky factor of `xtx` with `strength` on its diagonal, FLOOR of the diagonal at least.

    free: the column that gets neither: the bias. Where `xtx` is rounded more than that, twice its most negative
    eigenvalue is the floor.
    """
    diagonal = xtx.diagonal()
    floor = FLOOR
    while True:
        added = torch.maximum(floor * diagonal, torch.as_tensor(strength, dtype=torch.float64))
        if free is not None:
            added[free] = 0.0
        # A column of zeros becomes an equation of its own, w = 0.
        added = torch.where(diagonal > 0, added, 1.0)
        factor, failed = torch.linalg.cholesky_ex(xtx + torch.diag(added))
        if not failed:
            return factor
        floor = max(10 * floor, -2 * float(torch.linalg.eigvalsh(_scaled(xtx))[0]))


def _scaled(xtx: Float64[Tensor, "columns columns"]) -> Float64[Tensor, "columns columns"]:
    """Bring every column that varies to a mean square of 1."""
    scale = torch.where(xtx.diagonal() > 0, xtx.diagonal(), torch.inf).rsqrt()
    return scale[:, None] * xtx * scale


def _standard_error(errors: Float64[Tensor, " folds"], counts: Int[Tensor, " folds"]) -> float:
    """Standard error of the ratio sum(errors) / sum(counts), its terms drawn fold by fold; infinite for one fold."""
    kept = counts > 0
    errors, counts = errors[kept], counts[kept]
    if len(counts) < 2:
        return math.inf
    apart = errors - counts * errors.sum() / counts.sum()
    return float((len(counts) / (len(counts) - 1) * apart.square().sum()).sqrt() / counts.sum())
