"""Settings: the rules that decide, the options of a study, and how cues are measured."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from idl.errors import InputError
from idl.settings import setting


@dataclass(frozen=True)
class VerdictConfig:
    """The rules of a verdict: what is hashed of them, and shown in verdict.json.

    margin: a smaller effect than this counts as none: a log ratio of losses, at least 0. ln 1.05: losses 5 % apart.
    level: of the two-sided intervals, between 0 and 1. alpha is 1 - level.
    draws: bootstrap draws. seed: of the draws.
    min_clusters: a cell with fewer is INVALID. few_clusters: one with fewer is valid, and flagged.
    max_excess_loss: how far the training loss of a fit may lie above the optimum, as a share of the optimum.
    """

    margin: float = math.log(1.05)
    level: float = 0.95
    draws: int = 10_000
    seed: int = 0
    min_clusters: int = 10
    few_clusters: int = 20
    max_excess_loss: float = 0.01

    @property
    def alpha(self) -> float:
        """Share of both tails together."""
        return 1 - self.level

    def digest(self, fixed: Mapping[str, object]) -> str:
        """Return the first 16 hex digits of the SHA-256 of all that is fixed before the test split is read.

        Hashed is {"config": these settings, "fixed": `fixed`} as Python's
        `json.dumps(..., sort_keys=True, separators=(",", ":"))` writes it, numbers as Python has them: 1e-08.
        """
        plan = {"config": asdict(self), "fixed": fixed}
        text = json.dumps(plan, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


_RULES = VerdictConfig()


@dataclass(frozen=True)
class StudyConfig:
    """What is fixed about a study before the test split is read. Raises InputError for what cannot be."""

    ks: str = setting(
        "10,all", "Numbers that the probe reads at a cell, with commas between, or all; each is its own question."
    )
    margin: float = setting(
        math.exp(_RULES.margin), "Ratio of losses up to which an effect counts as none.", at_least=1
    )
    level: float = setting(_RULES.level, "Level of the two-sided intervals, between 0 and 1.")
    draws: int = setting(_RULES.draws, "Bootstrap draws.", at_least=100)
    bootstrap_seed: int = setting(_RULES.seed, "Seed of the bootstrap draws.", at_least=0)
    clusters: Literal["auto", "scene", "scan", "block"] = setting(
        "auto",
        "What is drawn as a whole: the scene; the scan, which is the folder that an image lies in; auto: scans where "
        "scenes are too few for a verdict. Of consecutive frames it is the recording, or with block the block of them.",
    )
    untrained_seeds: int = setting(3, "Untrained twins of each kind.", at_least=1)
    shuffle_seed: int = setting(0, "Seed of the shuffled-target control.", at_least=0)
    common_stride: int = setting(8, "Stride of the null that is the same for every encoder, pixels.", at_least=1)
    cues: bool = setting(True, "Measure which cues each probe reads.")

    def __post_init__(self) -> None:
        if not 1 <= self.margin < math.inf:
            raise InputError(f"margin={self.margin:g}: expected a ratio of losses of 1 or more, such as 1.05.")
        if not 0 < self.level < 1:
            raise InputError(f"level={self.level:g}: expected more than 0 and less than 1.")
        if not self.requested_ks:
            raise InputError("ks: none given. Pass numbers or all, with commas between, such as 10,all.")

    @property
    def requested_ks(self) -> tuple[str, ...]:
        """Each k once, as it was typed."""
        return tuple(dict.fromkeys(part.strip() for part in self.ks.split(",") if part.strip()))

    @property
    def rules(self) -> VerdictConfig:
        """What decides."""
        # Rounded: 1.05 on the command line and the rules' own default are the same margin, and have one digest.
        margin = round(math.log(self.margin), 12)
        return VerdictConfig(margin=margin, level=self.level, draws=self.draws, seed=self.bootstrap_seed)


@dataclass(frozen=True)
class CuesConfig:
    """How cues are measured.

    batch_size: images encoded at once.
    rules: their level, draws and seed are those of the intervals over clusters.
    max_images: test images that are measured, spread evenly over the split.
    tile: side of the shuffled tiles, pixels; brought to whole cells of the encoder's grid.
    num_examples: images that are kept for a picture.
    """

    batch_size: int = 32
    rules: VerdictConfig = _RULES
    max_images: int = 180
    tile: int = 64
    num_examples: int = 2
