"""Every arm fitted at every k, from the statistics of the training and the validation split."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from idl.arms.columns import FIXED, JOINT, TRAINED, feature_columns, pixel_columns
from idl.fitting import PIVOT_TOLERANCE, SplitStatistics
from idl.probes.basis import Columns
from idl.probes.exact import PENALTIES, Curve, fit
from idl.probes.joint import fit_joint


@dataclass(frozen=True)
class FittedArm:
    """An arm, before it has seen the test split.

    columns: what it reads of the joint system, the bias first.
    weights: (columns, out), float64, with the target's offset in the bias.
    k: components of the features that it reads.
    penalty: in units of the mean square of a column; of a joint arm: on its pixels.
    features_penalty: of a joint arm, on its features; infinity leaves them out. None for other arms.
    is_penalty_at_edge: `penalty` is the largest that was tried.
    rank: independent columns, the bias counted.
    train_loss, val_loss: target units squared. plain_train_loss: without any penalty.
    excess_loss: of the plain fit over the optimum, a share of it: the exact solver leaves none.
    """

    name: str
    columns: tuple[int, ...]
    weights: Float64[Tensor, "columns out"]
    k: int
    penalty: float
    features_penalty: float | None
    is_penalty_at_edge: bool
    rank: int
    train_loss: float
    val_loss: float
    plain_train_loss: float
    excess_loss: float = 0.0


@dataclass(frozen=True)
class FittedArms:
    """Arms by k and name, and the features' losses over all k up to the largest."""

    at: dict[int, dict[str, FittedArm]]
    curve: Curve


def fit_all(
    train: SplitStatistics, val: SplitStatistics, columns: Columns, ks: Sequence[int], names: Sequence[str]
) -> FittedArms:
    """Fit the arms `names`, `TRAINED` among them, at each of `ks`, penalties chosen by the validation loss.

    train, val: with the same offset.
    """
    if train.offset != val.offset:
        raise ValueError(f"train and val have different offsets: {train.offset}, {val.offset}")
    fixed = {name: _fit_alone(name, train, val, pixel_columns(columns, name, 0), 0)[0] for name in FIXED}
    at: dict[int, dict[str, FittedArm]] = {}
    curve = None
    for k in sorted(set(ks)):
        at[k] = {}
        for name in names:
            pixels, features = pixel_columns(columns, name, k), feature_columns(columns, name, k)
            if name in fixed:
                at[k][name] = fixed[name]
            elif name == JOINT:
                at[k][name] = _fit_joint(train, val, pixels, features)
            elif name == TRAINED:
                # The last one is that of the largest k.
                at[k][name], curve = _fit_alone(name, train, val, (*pixels, *features), len(features))
            else:
                at[k][name], _ = _fit_alone(name, train, val, pixels, 0)
    if curve is None:
        raise ValueError(f"arms {', '.join(names)}: no {TRAINED} among them")
    return FittedArms(at, curve)


def _fit_alone(
    name: str, train: SplitStatistics, val: SplitStatistics, columns: tuple[int, ...], k: int
) -> tuple[FittedArm, Curve]:
    """Fit an arm of one penalty, and losses over its leading k: the bias and the columns before the last k stay."""
    chosen = torch.tensor(columns)
    parts = train.statistics.subset(chosen), val.statistics.subset(chosen)
    fixed = len(columns) - k
    # A constant has no column to penalise.
    penalties = PENALTIES if len(columns) > 1 else (0.0,)
    result = fit(*parts, num_fixed=fixed, k=k, penalties=penalties, tolerance=PIVOT_TOLERANCE)
    plain = fit(*parts, num_fixed=fixed, k=k, penalties=(0.0,), tolerance=PIVOT_TOLERANCE)
    solution = result.solution
    arm = FittedArm(
        name=name,
        columns=columns,
        weights=_with_offset(solution.weights, train),
        k=k,
        penalty=solution.penalty,
        features_penalty=None,
        is_penalty_at_edge=result.is_penalty_at_edge,
        rank=solution.rank,
        train_loss=solution.train_loss,
        val_loss=solution.val_loss,
        plain_train_loss=plain.solution.train_loss,
    )
    return arm, result.curve


def _fit_joint(
    train: SplitStatistics, val: SplitStatistics, pixels: tuple[int, ...], features: tuple[int, ...]
) -> FittedArm:
    chosen = torch.tensor((*pixels, *features))
    result = fit_joint(
        train.statistics.subset(chosen),
        val.statistics.subset(chosen),
        num_pixels=len(pixels),
        penalties=PENALTIES,
        tolerance=PIVOT_TOLERANCE,
    )
    return FittedArm(
        name=JOINT,
        columns=(*pixels, *features),
        weights=_with_offset(result.weights, train),
        k=len(features),
        penalty=result.pixels_penalty,
        features_penalty=result.features_penalty,
        is_penalty_at_edge=result.is_penalty_at_edge,
        rank=result.rank,
        train_loss=result.train_loss,
        val_loss=result.val_loss,
        plain_train_loss=result.plain_train_loss,
    )


def _with_offset(weights: Float64[Tensor, "columns out"], train: SplitStatistics) -> Float64[Tensor, "columns out"]:
    weights = weights.clone()
    weights[0] += torch.tensor(train.offset, dtype=torch.float64)
    return weights
