"""What has to hold before a verdict means anything."""

import math

from idl.verdict.config import VerdictConfig
from idl.verdict.evidence import CONSTANT, PIXELS, UNTRAINED, ClusterKind, Training, counted
from idl.verdict.result import Gate

# An arm that reads nothing of use fits as constant does, but for the rounding of sums.
_ROUNDING = 1e-5
# Relative; the largest penalty leaves 1e-8 of what it is laid on.
_EQUAL = 1e-10


def gates(
    training: Training, num_clusters: int, config: VerdictConfig, clusters: ClusterKind = "scene"
) -> tuple[Gate, ...]:
    """Look at the fits, the splits and the number of clusters; none of it depends on a test loss."""
    return (
        _above_constant(training),
        _converged(training, config.max_excess_loss),
        _whole(training),
        _above_parts(training),
        _twins_apart(training),
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
    constant = training.fits[CONSTANT].train_loss
    limit = constant * (1 + _ROUNDING)
    # `not <=`: a loss that is no number fails too.
    worse = [f"{arm} {fit.train_loss:.4g}" for arm, fit in training.fits.items() if not fit.train_loss <= limit]
    detail = f"worse on training than constant ({constant:.4g}): {', '.join(worse) or 'none'}"
    return Gate("no fit worse than constant", not worse, detail)


def _converged(training: Training, limit: float) -> Gate:
    losses = {arm: fit.excess_loss for arm, fit in training.fits.items()}
    worst = max(losses, key=lambda arm: math.inf if math.isnan(losses[arm]) else losses[arm])
    passed = losses[worst] <= limit
    return Gate("fits converged", passed, f"excess loss at most {losses[worst]:.2%} ({worst}), of {limit:.2%} or less")


def _whole(training: Training) -> Gate:
    """No direction of the columns is lost, save those that features and pixels have in common."""
    lost = [
        f"{arm} {fit.rank} of {fit.expected_rank}" for arm, fit in training.fits.items() if fit.rank < fit.expected_rank
    ]
    return Gate("every column counts", not lost, f"directions lost: {'; '.join(lost) or 'none'}")


def _above_parts(training: Training) -> Gate:
    """No joint arm does worse than one of its parts by more than the part's standard error."""
    worse = []
    for arm, joint in training.fits.items():
        if not arm.endswith(f"+{PIXELS}"):
            continue
        for part in (PIXELS, arm.removesuffix(f"+{PIXELS}")):
            alone = training.fits.get(part)
            if alone is None:
                continue
            for kind, loss, other, error in (
                ("on validation", joint.val_loss, alone.val_loss, alone.val_error),
                ("by cross-validation", joint.cv_loss, alone.cv_loss, alone.cv_error),
            ):
                # `not <=`: a loss that is no number fails too.
                if not loss <= other + error:
                    worse.append(f"{arm} {loss:.4g} {kind}, {part} alone {other:.4g} (standard error {error:.2g})")
    detail = f"worse: {'; '.join(worse) or 'none'}"
    if any(math.isinf(fit.val_error) for fit in training.fits.values()):
        detail += "; not tested on validation, which is of one fold"
    return Gate("no joint arm worse than its part", not worse, detail)


def _twins_apart(training: Training) -> Gate:
    """A twin that changes nothing was not read, unless cross-validation itself left it out."""
    pixels = training.fits.get(PIXELS)
    same = [
        arm
        for arm, fit in training.fits.items()
        if UNTRAINED.fullmatch(arm)
        and pixels is not None
        and not fit.is_left_out
        and math.isclose(fit.val_loss, pixels.val_loss, rel_tol=_EQUAL)
        and math.isclose(fit.cv_loss, pixels.cv_loss, rel_tol=_EQUAL)
    ]
    return Gate("twins differ from pixels", not same, f"equal to the pixels: {', '.join(same) or 'none'}")


def _apart(training: Training) -> Gate:
    shared = list(training.shared_scenes)
    if not shared:
        return Gate("splits apart", True, "no scene and no image is in two splits")
    more = ", ..." if len(shared) > 3 else ""
    return Gate("splits apart", False, f"{len(shared)} found in two splits: {', '.join(shared[:3])}{more}")
