"""Optuna's side of a search space: what draws trials, what ends them, what mattered."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from optuna import Study
from optuna import Trial as OptunaTrial
from optuna.distributions import BaseDistribution
from optuna.importance import get_param_importances
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from idl.probes.trial import Trial
from idl.sweep.config import Sampler, SweepConfig
from idl.sweep.space import Place, SearchSpace

# Finished trials below which importances are noise.
LEAST_FOR_IMPORTANCES = 10
# Fields of a space that are lists of choices.
CHOICES = ("step_images", "solver", "stage", "target")


def suggest(trial: OptunaTrial, space: SearchSpace) -> None:
    """Draw the settings of a trial from `space`."""
    first, last = space.k
    assert last is not None
    trial.suggest_int("k", first, last, log=True)
    trial.suggest_float("lr", *space.lr, log=True)
    if space.weight_decay is not None:
        trial.suggest_float("weight_decay", *space.weight_decay, log=True)
    for name in CHOICES:
        if choices := getattr(space, name):
            trial.suggest_categorical(name, choices)


def trial_of(params: Mapping[str, Any], fixed: Trial, components: Mapping[Place, int]) -> tuple[Place, Trial]:
    """Build what `params` of a study stand for, all that they do not say from `fixed`.

    components: that each place has. A k beyond them reads them all.
    """
    named = dict(params)
    place = Place(named.pop("stage", None), named.pop("target", None))
    if "step_images" in named:
        named["batch_size"] = named.pop("step_images")
    trial = replace(fixed, **named)
    return place, replace(trial, k=min(trial.k, components[place]))


class SeededSampler(BaseSampler):
    """Draws for each trial from a generator of its own, seeded with the seed and the trial's number."""

    def __init__(self, kind: Sampler, seed: int) -> None:
        self._kind: Sampler = kind
        self._seed = seed
        self._sampler: BaseSampler = RandomSampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Start anew for this trial."""
        seed = int(np.random.SeedSequence((self._seed, trial.number)).generate_state(1)[0])
        self._sampler = TPESampler(seed=seed) if self._kind == "tpe" else RandomSampler(seed=seed)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the sampler of this trial does."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler of this trial does."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the sampler of this trial does."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def make_pruner(config: SweepConfig) -> BasePruner:
    """Make what ends trials that are not worth going on with."""
    epochs = config.fixed.epochs
    if config.pruner == "median":
        # The learning rate still rises at first: large ones look bad.
        return MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, epochs // 10))
    if config.pruner == "hyperband":
        return HyperbandPruner(min_resource=min(config.report_epochs, epochs), max_resource=epochs)
    return NopPruner()


def importances_of(study: Study) -> dict[str, float]:
    """Share of each searched setting; empty where too few trials tell."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < LEAST_FOR_IMPORTANCES:
        return {}
    searched = sorted(name for name, each in complete[0].distributions.items() if not each.single())
    return dict(get_param_importances(study, params=searched)) if searched else {}
