"""What has to hold before a verdict means anything."""

import math

from idl.verdict.config import VerdictConfig
from idl.verdict.evidence import CONSTANT, ClusterKind, Training, counted
from idl.verdict.result import Gate

# An arm that reads nothing of use fits as constant does, but for the rounding of float32 statistics.
_ROUNDING = 1e-5


def gates(
    training: Training, num_clusters: int, config: VerdictConfig, clusters: ClusterKind = "scene"
) -> tuple[Gate, ...]:
    """Look at the fits, the splits and the number of clusters; none of it depends on a test loss."""
    return (
        _above_constant(training),
        _converged(training, config.max_excess_loss),
        enough_clusters(num_clusters, clusters, config),
        _apart(training),
    )


def enough_clusters(num_clusters: int, clusters: ClusterKind, config: VerdictConfig) -> Gate:
    """Return whether the clusters are enough for a verdict, which is known before anything is measured."""
    passed = num_clusters >= config.min_clusters
    detail = f"{counted(num_clusters, clusters)}, of {config.min_clusters} or more"
    if clusters == "recording" and not passed:
        detail += ": blocks of one recording are no independent scenes; clusters=block takes them as such"
    return Gate("enough clusters", passed, detail)


def _above_constant(training: Training) -> Gate:
    constant = training.train_loss[CONSTANT]
    limit = constant * (1 + _ROUNDING)
    # `not <=`: a loss that is no number fails too.
    worse = [arm for arm, loss in training.train_loss.items() if not loss <= limit]
    found = ", ".join(f"{arm} {training.train_loss[arm]:.4g}" for arm in worse) or "none"
    return Gate("no fit worse than constant", not worse, f"worse on training than constant ({constant:.4g}): {found}")


def _converged(training: Training, limit: float) -> Gate:
    losses = training.excess_loss
    if not losses:
        return Gate("fits converged", True, "no excess loss was given")
    worst = max(losses, key=lambda arm: math.inf if math.isnan(losses[arm]) else losses[arm])
    passed = losses[worst] <= limit
    return Gate("fits converged", passed, f"excess loss at most {losses[worst]:.2%} ({worst}), of {limit:.2%} or less")


def _apart(training: Training) -> Gate:
    shared = list(training.shared_scenes)
    if not shared:
        return Gate("splits apart", True, "no scene and no image is in two splits")
    more = ", ..." if len(shared) > 3 else ""
    return Gate("splits apart", False, f"{len(shared)} found in two splits: {', '.join(shared[:3])}{more}")
