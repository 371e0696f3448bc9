"""Every arm fitted at every k, from the statistics of the training and the validation split."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from idl.arms.columns import FIXED, JOINT, PIXELS, TRAINED, feature_columns, pixel_columns
from idl.fitting import SplitStatistics, folds_of, with_offset
from idl.probes.basis import Columns
from idl.probes.exact import PENALTIES, Curve, Solution, fit, fit_joint, half_cv_loss
from idl.probes.statistics import FoldedStatistics


@dataclass(frozen=True)
class FittedArm:
    """An arm, before it has seen the test split.

    columns: what it reads of the joint system, the bias first.
    weights: (columns, out), float64, with the target's offset in the bias.
    solution: its penalty, rank and losses; the penalty of a joint arm is that of its pixels.
    features_penalty: of a joint arm, on its features. None for other arms.
    num_shared: directions that the features of a joint arm have in common with its pixels.
    half_cv_loss: cross-validated loss of fits on half as many scenes; nan where there are too few, and for arms that no
      estimand is about.
    """

    name: str
    columns: tuple[int, ...]
    weights: Float64[Tensor, "columns out"]
    solution: Solution
    features_penalty: float | None = None
    num_shared: int = 0
    half_cv_loss: float = float("nan")

    @property
    def penalty(self) -> float:
        """In units of the mean square of a column."""
        return self.solution.penalty


@dataclass(frozen=True)
class FittedArms:
    """Arms by k and name, and the features' losses over all k up to the largest."""

    at: dict[int, dict[str, FittedArm]]
    curve: Curve


def fit_all(
    train: SplitStatistics, val: SplitStatistics, columns: Columns, ks: Sequence[int], names: Sequence[str]
) -> FittedArms:
    """Fit the arms `names`, `TRAINED` among them, at each of `ks`, penalties chosen by cross-validation.

    train, val: with the same offset.
    """
    folds = folds_of(train, val)
    # The same at every k.
    fixed = {name: _alone(name, folds, train, columns, 0)[0] for name in names if name in FIXED}
    at: dict[int, dict[str, FittedArm]] = {}
    curve = None
    for k in sorted(set(ks)):
        # The last curve is that of the largest k.
        trained, curve = _alone(TRAINED, folds, train, columns, k)
        arms = fixed | {TRAINED: trained}
        if "patches" in names:
            arms["patches"], _ = _alone("patches", folds, train, columns, k)
        if JOINT in names:
            arms[PIXELS], _ = _alone(PIXELS, folds, train, columns, k)
            arms[JOINT] = _joint(folds, train, columns, k, (arms[PIXELS].penalty, trained.penalty))
        at[k] = {name: arms[name] for name in names}
    if curve is None:
        raise ValueError("no k to fit")
    return FittedArms(at, curve)


def _alone(
    name: str, folds: FoldedStatistics, train: SplitStatistics, columns: Columns, k: int
) -> tuple[FittedArm, Curve]:
    """Fit an arm of one penalty, and losses over its k leading components, beside what else it reads."""
    index, features = pixel_columns(columns, name, k), feature_columns(columns, name, k)
    read = (*index, *features)
    system = folds.subset(torch.tensor(read))
    # A constant has no column to penalise.
    penalties = PENALTIES if len(read) > 1 else (0.0,)
    result = fit(system, num_fixed=len(index), k=len(features), penalties=penalties)
    solution = result.solution
    half = half_cv_loss(system, len(read), (solution.penalty,)) if name == PIXELS else float("nan")
    return FittedArm(name, read, with_offset(solution.weights, train), solution, half_cv_loss=half), result.curve


def _joint(
    folds: FoldedStatistics, train: SplitStatistics, columns: Columns, k: int, parts: tuple[float, float]
) -> FittedArm:
    """Fit features and pixels together. parts: penalties of the pixels and of the features alone."""
    pixels, features = pixel_columns(columns, JOINT, k), feature_columns(columns, JOINT, k)
    system = folds.subset(torch.tensor((*pixels, *features)))
    result = fit_joint(system, num_pixels=len(pixels), parts=parts)
    solution = result.solution
    return FittedArm(
        name=JOINT,
        columns=(*pixels, *features),
        weights=with_offset(solution.weights, train),
        solution=solution,
        features_penalty=result.features_penalty,
        num_shared=result.num_shared,
        half_cv_loss=half_cv_loss(system, len(pixels), (solution.penalty, result.features_penalty)),
    )
