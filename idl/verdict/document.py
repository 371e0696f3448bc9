"""Verdicts as plain JSON, with a schema that is tested to name every field and no other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from idl.verdict.config import VerdictConfig
from idl.verdict.result import Verdict

# 2: the digest covers `fixed` too. 3: each arm's loss after alignment. 4: what the clusters are; headroom; forms by
# cross-validated loss.
SCHEMA_VERSION = 4

INTERVAL: Mapping[str, str] = {
    "estimate": "on the test split",
    "low": "lower bound at the configured level",
    "high": "upper bound",
    "standard_error": "of the estimate",
}
_COMPARISON = {
    "name": "which comparison",
    "above[]": "arms whose loss is above the fraction's line; log ratios are averaged over them",
    "below": "arm whose loss is below the line",
    "log_ratio": "ln(MSE[above] / MSE[below])",
    **{f"log_ratio.{field}": meaning for field, meaning in INTERVAL.items()},
    "p": "one-sided, of: the log ratio is the margin or less",
    "smallest_detectable": "log ratio that would have been found with 80 % power",
    "headroom": "how much more it may come to with more training scenes, by cross-validation on half of them; "
    "null: not known",
}


def under(name: str, meaning: str, fields: Mapping[str, str]) -> Mapping[str, str]:
    """Name a field, and those inside it by their paths."""
    return {name: meaning, **{f"{name}.{field}": text for field, text in fields.items()}}


SCHEMA: Mapping[str, str] = {
    "schema_version": f"{SCHEMA_VERSION}; 4 moved clusters into cells[], added cells[].num_recordings, headroom, and "
    "made forms[].val_loss cv_loss",
    "digest": 'first 16 hex digits of the SHA-256 of {"config": ..., "fixed": ...} as below, taken before the test '
    'split was read: as Python writes it with json.dumps(..., sort_keys=True, separators=(",", ":"))',
    "fixed": "all else that was fixed before the test split was read",
    **under(
        "config",
        "the rules, fixed before the test split was read",
        {
            "margin": "log ratio up to which an effect counts as none",
            "level": "of the two-sided intervals",
            "draws": "bootstrap draws",
            "seed": "of the draws",
            "min_clusters": "fewer: INVALID",
            "few_clusters": "fewer: flagged",
            "max_excess_loss": "above it: INVALID; share of the optimum",
            "growth": "times what the last doubling of the scenes has added that may still come",
        },
    ),
    **under(
        "cells[]",
        "one question each",
        {
            "cell": "its name",
            "outcome": "LEARNED, NOT LEARNED, INCONCLUSIVE or INVALID",
            "reason": "one sentence",
            "p": "the largest of the estimands' and the seeds'",
            "adjusted_p": "after Holm over the cells that no gate stopped; null for INVALID",
            "num_tested": "how many cells that are",
            "smallest_detectable": "the larger of the two estimands'",
            "few_clusters": "true: valid, but with few clusters the error rate is above nominal for skewed losses",
            "caution": "sentences for people where few_clusters is true or clusters are blocks; else null",
            "clusters": "what the bootstrap draws as a whole: scene, scan, recording or block",
            "num_clusters": "clusters with a valid pixel",
            "num_recordings": "recordings that the blocks are of; null where clusters are no blocks",
            "num_images": "images with a valid pixel",
            "num_valid": "valid pixels (times outputs)",
            **under("beyond_pixels", "the first estimand", _COMPARISON),
            **under("learned", "the second estimand, averaged over seeds", _COMPARISON),
            **under("seeds[]", "the second estimand, each seed alone", _COMPARISON),
            **under(
                "forms[]",
                "forms of untrained, the deciding one first",
                {"name": "random, permuted", "arms[]": "one a seed", "cv_loss": "mean over seeds, cross-validated"},
            ),
            **under(
                "gates[]",
                "conditions without which the outcome is INVALID",
                {"name": "the condition", "passed": "true or false", "detail": "what was found"},
            ),
            **under(
                "description",
                "figures that decide nothing",
                {
                    **under(
                        "arms[]",
                        "every arm",
                        {
                            "name": "its name",
                            **under("mse", "mean squared error, target units squared", INTERVAL),
                            **under(
                                "aligned_mse",
                                "the same once each image's prediction has the scale and shift (one pair an output, in "
                                "the target's own space) that fit its truth best: what is left is structure; null: not "
                                "measured",
                                INTERVAL,
                            ),
                            **under("r2", "1 - MSE / MSE[constant]; null without a constant arm", INTERVAL),
                        },
                    ),
                    **under("trained_over_null", "MSE[trained] / MSE[null]; null without them", INTERVAL),
                    **under("selectivity", "R2[trained] - R2[shuffled]; null without them", INTERVAL),
                    **under("beyond_pixels_by_image", "median image's log ratio, first estimand", INTERVAL),
                    **under("learned_by_image", "median image's log ratio, second estimand", INTERVAL),
                },
            ),
        },
    ),
}
"""Every field by its path ("[]": each element of a list). A number that is infinite (no bound; the logarithm of a loss
of exactly 0) is null."""


def document(verdicts: Sequence[Verdict], config: VerdictConfig, fixed: Mapping[str, object]) -> dict[str, object]:
    """Return what `json.dumps` writes, described by `SCHEMA`. fixed: as in `VerdictConfig.digest`."""
    cells = [
        {**asdict(verdict), "smallest_detectable": verdict.smallest_detectable, "caution": verdict.caution}
        for verdict in verdicts
    ]
    content = {
        "schema_version": SCHEMA_VERSION,
        "digest": config.digest(fixed),
        "fixed": fixed,
        "config": config.to_dict(),
        "cells": cells,
    }
    return {name: plain(value) for name, value in content.items()}


def plain(value: object) -> object:
    """Bring nested mappings, sequences and numbers into what JSON holds: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, str) else value
