"""What a study asks: which ks, beside which controls, under which rules."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from idl.arms import Controls
from idl.errors import InputError
from idl.verdict import VerdictConfig

Clusters = Literal["auto", "scene", "scan", "block"]
_RULES, _CONTROLS = VerdictConfig(), Controls()


@dataclass(frozen=True)
class StudyConfig:
    """What is fixed before the test split is read. Raises InputError for what cannot be.

    ks: what the probe reads at a cell, with commas between: numbers or "all". Each is a question of its own.
    margin: ratio of losses up to which an effect counts as none, at least 1.
    level, draws, bootstrap_seed: as in `VerdictConfig`.
    clusters: what is drawn anew as a whole: the "scene"; the "scan", the folder that an image lies in; "auto": scans
      where there are too few scenes for a verdict and more scans. Of consecutive frames all of these are the
      recording, and "block" is the block of frames.
    untrained_seeds, shuffle_seed, common_stride: as in `Controls`.
    """

    ks: str = "10,all"
    margin: float = math.exp(_RULES.margin)
    level: float = _RULES.level
    draws: int = _RULES.draws
    bootstrap_seed: int = _RULES.seed
    clusters: Clusters = "auto"
    untrained_seeds: int = _CONTROLS.untrained_seeds
    shuffle_seed: int = _CONTROLS.shuffle_seed
    common_stride: int = _CONTROLS.common_stride

    def __post_init__(self) -> None:
        if not 1 <= self.margin < math.inf:
            raise InputError(f"margin={self.margin:g}: expected a ratio of losses of 1 or more, such as 1.05.")
        if self.clusters not in get_args(Clusters):
            raise InputError(f"clusters={self.clusters}: expected one of {', '.join(get_args(Clusters))}.")
        if not self.asked_ks:
            raise InputError("ks: none given. Pass numbers or all, with commas between, such as 10,all.")
        _ = self.rules, self.controls

    @property
    def asked_ks(self) -> tuple[str, ...]:
        """Each k once, as it was asked for."""
        return tuple(dict.fromkeys(part.strip() for part in self.ks.split(",") if part.strip()))

    @property
    def rules(self) -> VerdictConfig:
        """What decides."""
        # Rounded: 1.05 on the command line and the rules' own default are the same margin, and have one digest.
        margin = round(math.log(self.margin), 12)
        return VerdictConfig(margin=margin, level=self.level, draws=self.draws, seed=self.bootstrap_seed)

    @property
    def controls(self) -> Controls:
        """What stands beside the trained encoder."""
        return Controls(self.untrained_seeds, self.shuffle_seed, self.common_stride, self.rules.margin, needs_twin=True)
