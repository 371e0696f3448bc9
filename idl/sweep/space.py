"""What a sweep is asked for: how many trials, where they are kept, and between which bounds their settings lie."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from idl.errors import InputError
from idl.probes.gradient_fit import Solver, Trial
from idl.settings import setting

# A stage of the encoder, as its level; None where stages are not searched.
Stage = int | None

OPEN = sys.maxsize
# Of Optuna's column.
MAX_NAME_CHARACTERS = 512


@dataclass(frozen=True)
class SweepConfig:
    """How a sweep searches, and where its study is kept. Raises InputError for a name that no study can have."""

    trials: int = setting(100, "Trials that the study is to have, those of other workers included.", at_least=1)
    # The sampler learns between batches only: with as many as `trials` it would be a random search.
    trials_per_batch: int = setting(20, "Trials that are drawn, and trained, as one.", at_least=1)
    sampler: Literal["tpe", "random"] = setting("tpe", "What draws trials: tpe learns from finished ones.")
    sweep_seed: int = setting(0, "Seed of the sampler.", at_least=0)
    storage: str = setting(
        "", "URL of a database for several machines (leave its password to PGPASSWORD); empty: a file in the cache."
    )
    study: str = setting("", "Name of the study; one that exists goes on. Empty: a new one.")

    def __post_init__(self) -> None:
        if not self.study.isprintable() or len(self.study) > MAX_NAME_CHARACTERS:
            raise InputError(
                f"study={self.study[:40]!a}: expected at most {MAX_NAME_CHARACTERS} characters that can be printed."
            )


@dataclass(frozen=True)
class SearchSpace:
    """Bounds of what a sweep searches, both included. Raises InputError where a range or a choice is none.

    Ranges are searched evenly in the logarithm; what is empty is not searched.
    """

    k_range: str = setting("1:all", "Components that the probe reads, FIRST:LAST; all: as many as there are.")
    lr_range: str = setting("0.0001:1", "Learning rates, LOW:HIGH.")
    weight_decay_range: str = setting("", "Weight decays, LOW:HIGH; empty: --weight-decay.")
    step_images_choices: str = setting("", "Images a step, such as 16,32; empty: --step-images.")
    solvers: str = setting("", f"sgd, adam or sgd,adam; empty: {Trial.solver}.")
    stages: str = setting("", "Feature levels such as 1,2,3; empty: --stage.")

    def __post_init__(self) -> None:
        # Reading them is their check.
        self.distributions(OPEN)

    @property
    def k(self) -> tuple[int, int | None]:
        """Least and largest k; None: as many components as there are."""
        first, last = _range("k_range", self.k_range, lambda k: OPEN if k == "all" else int(k), "1:64 or 1:all")
        return first, None if last == OPEN else last

    @property
    def each_stage(self) -> tuple[Stage, ...]:
        """Every stage that is searched; each is a training set of its own."""
        return _choices("stages", self.stages, 0) or (None,)

    def require_within(self, most: int, of: str) -> None:
        """Raise InputError where k goes beyond `most`, of which the encoder has so many `of`."""
        first, last = self.k
        if max(first, last or 0) > most:
            raise InputError(f"k_range={self.k_range}: the encoder has {most} {of}. Pass a range within 1:{most}.")

    def distributions(self, last: int) -> dict[str, BaseDistribution]:
        """Return what Optuna draws from: settings of a trial by name, and its "stage". last: the largest k."""
        made: dict[str, BaseDistribution] = {"k": IntDistribution(self.k[0], last, log=True)}
        for name in ("lr", "weight_decay"):
            if text := getattr(self, f"{name}_range"):
                made[name] = FloatDistribution(*_range(f"{name}_range", text, float, "1e-4:1"), log=True)
        solvers = tuple(part.strip() for part in self.solvers.split(",")) if self.solvers else ()
        if not set(solvers) <= {*get_args(Solver)} or len(set(solvers)) < len(solvers):
            raise InputError(f"solvers={self.solvers}: expected {', '.join(get_args(Solver))}, or both.")
        choices = {
            "step_images": _choices("step_images_choices", self.step_images_choices, 1),
            "solver": solvers,
            "stage": _choices("stages", self.stages, 0),
        }
        return made | {name: CategoricalDistribution(values) for name, values in choices.items() if values}

    def searched(self) -> dict[str, str]:
        """Return the options that say what is searched, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name)}


def trial_of(params: Mapping[str, Any], fixed: Trial, components: Mapping[Stage, int]) -> tuple[Stage, Trial]:
    """Return where a trial with these settings of the space trains, and how; what they do not say is `fixed`.

    components: that each stage has. A k beyond them reads them all.
    """
    named = dict(params)
    stage = named.pop("stage", None)
    if "step_images" in named:
        named["batch_size"] = named.pop("step_images")
    return stage, replace(fixed, **{**named, "k": min(named["k"], components[stage])})


def _range(name: str, text: str, read: Callable[[str], Any], example: str) -> tuple[Any, Any]:
    try:
        low, high = (read(part) for part in text.split(":"))
    except ValueError:
        low, high = 0, 0
    # A range that is not of numbers compares as false, too.
    if not 0 < low <= high < float("inf"):
        raise InputError(f"{name}={text}: expected two numbers above 0, the lower one first, such as {example}.")
    return low, high


def _choices(name: str, text: str, least: int) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        values = (least - 1,)
    if any(value < least for value in values) or len(set(values)) < len(values):
        raise InputError(f"{name}={text}: expected different whole numbers from {least} on, such as 1,2.")
    return values
