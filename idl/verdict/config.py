"""What is fixed about a verdict before the test split is read."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from idl.errors import InputError

# Of the smallest detectable effect.
POWER = 0.80


@dataclass(frozen=True)
class VerdictConfig:
    """The rules of a verdict.

    margin: a smaller effect than this counts as none: a log ratio of losses, at least 0. ln 1.05: losses 5 % apart.
    level: of the two-sided intervals, between 0 and 1. alpha is 1 - level.
    draws: bootstrap draws.
    seed: of the draws.
    min_clusters: a cell with fewer is INVALID.
    few_clusters: a cell with fewer is valid, and flagged.
    max_excess_loss: how far the training loss of a fit may lie above the optimum, as a share of the optimum.
    Raises InputError for values outside these ranges.
    """

    margin: float = math.log(1.05)
    level: float = 0.95
    draws: int = 10_000
    seed: int = 0
    min_clusters: int = 10
    few_clusters: int = 20
    max_excess_loss: float = 0.01

    def __post_init__(self) -> None:
        checks = (
            ("margin", 0 <= self.margin < math.inf, "0 or more"),
            ("level", 0 < self.level < 1, "more than 0 and less than 1"),
            ("draws", self.draws >= 100, "100 or more"),
            ("seed", self.seed >= 0, "0 or more"),
            ("min_clusters", self.min_clusters >= 2, "2 or more"),
            ("few_clusters", self.few_clusters >= self.min_clusters, f"{self.min_clusters} (min_clusters) or more"),
            ("max_excess_loss", 0 <= self.max_excess_loss < math.inf, "0 or more"),
        )
        for name, fits, expected in checks:
            if not fits:
                raise InputError(f"{name}={getattr(self, name)}: expected {expected}.")

    @property
    def alpha(self) -> float:
        """Share of both tails together."""
        return 1 - self.level

    def to_dict(self) -> Mapping[str, float]:
        """Return the settings by name."""
        return asdict(self)

    def digest(self, fixed: Mapping[str, object]) -> str:
        """First 16 hex digits of the SHA-256 of these rules and all else that is fixed before the test split is read.

        Hashed is {"config": these settings, "fixed": `fixed`} as Python's
        `json.dumps(..., sort_keys=True, separators=(",", ":"))` writes it, numbers as Python has them: 1e-08.

        fixed: what JSON holds: data, splits, what is asked of which encoders, how it is fitted.
        """
        plan = {"config": asdict(self), "fixed": fixed}
        text = json.dumps(plan, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
