"""Every arm fitted at every k, from the statistics of the training and the validation split."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from idl.arms.columns import FIXED, JOINT, PIXELS, TRAINED, feature_columns, pixel_columns
from idl.fitting import SplitStatistics, folds_of, with_offset
from idl.probes.basis import Columns
from idl.probes.exact import Curve, Solution, fit, fit_joint, recovered
from idl.probes.statistics import FoldedStatistics


@dataclass(frozen=True)
class FittedArm:
    """An arm, before it has seen the test split.

    columns: what it reads of the joint system, the bias first.
    weights: (columns, out), float64, with the target's offset in the bias.
    solution: its penalty, rank and losses; the penalty of a joint arm is that of its pixels.
    features_penalty: of a joint arm, on its features. None for other arms.
    expected_rank: of a joint arm, from its parts' ranks; of any other its own.
    recovered: log ratio that an effect of a given size, planted in a joint arm's features, comes to; nan where none was
      planted.
    """

    name: str
    columns: tuple[int, ...]
    weights: Float64[Tensor, "columns out"]
    solution: Solution
    features_penalty: float | None = None
    expected_rank: int = 0
    recovered: float = float("nan")

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
    train: SplitStatistics,
    val: SplitStatistics,
    columns: Columns,
    ks: Sequence[int],
    names: Sequence[str],
    *,
    pixels: FittedArms | None = None,
    planted_effect: float | None = None,
) -> FittedArms:
    """Fit the arms `names`, `TRAINED` among them, at each of `ks`, penalties chosen by cross-validation.

    train, val: with the same offset.
    pixels: where the arm of the pixels is fitted already, which `JOINT` starts from; None: it is among `names`.
    planted_effect: of `JOINT`, a log ratio: what an effect so large would come to is measured; None: it is not.
    """
    folds = folds_of(train, val)
    # The same at every k.
    fixed = {name: _alone(name, folds, train, columns, 0)[0] for name in names if name in FIXED}
    at: dict[int, dict[str, FittedArm]] = {}
    curve = None
    for k in sorted(set(ks)):
        arms: dict[str, FittedArm] = {}
        for name in names:
            if name in fixed:
                arms[name] = fixed[name]
            elif name == TRAINED:
                # The last curve is that of the largest k.
                arms[name], curve = _alone(name, folds, train, columns, k)
            elif name == JOINT:
                parts = ((pixels.at[k] if pixels else arms)[PIXELS].penalty, arms[TRAINED].penalty)
                arms[name] = _joint(folds, train, columns, k, parts, planted_effect)
            else:
                arms[name], _ = _alone(name, folds, train, columns, k)
        at[k] = arms
    if curve is None:
        raise ValueError(f"arms {', '.join(names)}: no {TRAINED} among them, or no k")
    return FittedArms(at, curve)


def _alone(
    name: str, folds: FoldedStatistics, train: SplitStatistics, columns: Columns, k: int
) -> tuple[FittedArm, Curve]:
    """Fit an arm of one penalty, and losses over its k leading components, beside what else it reads."""
    index, features = pixel_columns(columns, name, k), feature_columns(columns, name, k)
    read = (*index, *features)
    result = fit(folds.subset(torch.tensor(read)), num_fixed=len(index), k=len(features))
    solution = result.solution
    arm = FittedArm(name, read, with_offset(solution.weights, train), solution, expected_rank=solution.rank)
    return arm, result.curve


def _joint(
    folds: FoldedStatistics,
    train: SplitStatistics,
    columns: Columns,
    k: int,
    parts: tuple[float, float],
    planted_effect: float | None,
) -> FittedArm:
    """Fit features and pixels together. parts: penalties of the pixels and of the features alone."""
    pixels, features = pixel_columns(columns, JOINT, k), feature_columns(columns, JOINT, k)
    system = folds.subset(torch.tensor((*pixels, *features)))
    result = fit_joint(system, num_pixels=len(pixels), parts=parts)
    chosen = (result.solution.penalty, result.features_penalty)
    found = float("nan")
    if planted_effect is not None:
        found = recovered(system, num_pixels=len(pixels), chosen=chosen, effect=planted_effect)
    return FittedArm(
        name=JOINT,
        columns=(*pixels, *features),
        weights=with_offset(result.solution.weights, train),
        solution=result.solution,
        features_penalty=result.features_penalty,
        expected_rank=result.expected_rank,
        recovered=found,
    )
