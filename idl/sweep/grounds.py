"""From a dataset and encoders to what a sweep trains on, and from its winner to a run like any probe's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from idl import cache
from idl.data.store import Store
from idl.descending import TrainingSet, arm_of, target_weights, training_set
from idl.encoders import Encoder
from idl.fitting import PROBE, fit_arms
from idl.pipeline import Ground, ProbeConfig, check, concluded, prepared, split_of
from idl.probes.trial import Descent
from idl.progress import Progress, silent
from idl.report import Run
from idl.sweep.result import SweepResult
from idl.sweep.space import Place, SearchSpace
from idl.targets import target as find_target
from idl.validation import losses_in_metres

Encoders = Mapping[int | None, Encoder]


@dataclass(frozen=True)
class Grounds:
    """What the trials of a sweep are trained on, and judged by: one ground and one training set a place."""

    grounds: Mapping[Place, Ground]
    data: Mapping[Place, TrainingSet]

    @property
    def num_components(self) -> int:
        """Largest k of all places."""
        return max(each.num_components for each in self.data.values())

    def in_metres(self, place: Place, descents: Sequence[Descent]) -> list[float]:
        """Mean squared errors over the validation pixels, metres squared."""
        if not descents:
            return []
        ground, data = self.grounds[place], self.data[place]
        weights = torch.cat([target_weights(descent, data) for descent in descents], dim=1)
        return losses_in_metres(ground.encoded, ground.target, weights, ground.protocol).tolist()


def check_all(config: ProbeConfig, space: SearchSpace, encoders: Encoders) -> None:
    """Make sure, before a dataset is made or read, that every place can be had. Raises InputError.

    encoders: one a stage of the space; one under None where stages are not searched.
    """
    for place in space.places:
        check(_config_of(config, place), encoders[place.stage])
    space.within(max(encoder.channels for encoder in encoders.values()), "channels")


def subject_of(config: ProbeConfig, space: SearchSpace, store: Store, encoders: Encoders) -> dict[str, str]:
    """Return what the trials of a study have in common, by name: a study of another subject is another study."""
    first = find_target((space.target or (config.target,))[0])
    split = split_of(config, store, first)
    names = ", ".join(f"{encoder.name} {encoder.digest}" for encoder in encoders.values())
    subject = {
        "encoder": f"{names} ({next(iter(encoders.values())).arithmetic})",
        "dataset": f"{store.name} {store.digest}",
        "protocol": store.protocol.digest,
        "split": f"{config.split} {split.digest}",
    }
    return subject if space.target else {**subject, "target": config.target}


def prepare_all(
    config: ProbeConfig,
    space: SearchSpace,
    store: Store,
    encoders: Encoders,
    cache_folder: Path,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda line: None,
) -> Grounds:
    """Encode once a stage, and make the training set of every place; what is in the cache is taken from there.

    say: hears how the images are held.
    """
    grounds: dict[Place, Ground] = {}
    data: dict[Place, TrainingSet] = {}
    for place in space.places:
        encoder, of_place = encoders[place.stage], _config_of(config, place)
        # Released before the training: other workers on this machine want the same maps.
        with prepared(of_place, store, encoder, cache_folder, progress) as ground:
            made = training_set(ground.encoded, ground.target, ground.train, ground.val, space.k[1], progress)
        grounds[place], data[place] = ground, made
        say(f"{_in_words(place)}{made.plan.sentence}")
    return Grounds(grounds, data)


def conclude(grounds: Grounds, result: SweepResult, progress: Progress = silent) -> tuple[Run, float]:
    """Read the test split, once, for the winner, and make it a run like that of a probe with its settings.

    Returns the validation loss of the exact solver at the winner's k, too.
    """
    ground, data, trial = grounds.grounds[result.place], grounds.data[result.place], result.best.trial
    config = replace(
        ground.config,
        k=str(trial.k),
        solver=trial.solver,
        lr=trial.lr,
        weight_decay=trial.weight_decay,
        step_images=trial.batch_size,
    )
    ground = replace(ground, config=config)
    with cache.locked(ground.encoded.folder):
        arms = fit_arms(ground.train, ground.val, ground.encoded.columns, trial.k)
        exact_val_loss = arms[PROBE].fit.solution.val_loss
        arms |= {PROBE: arm_of(result.best, arms[PROBE], data)}
        return concluded(ground, arms, result.best, progress), exact_val_loss


def _config_of(config: ProbeConfig, place: Place) -> ProbeConfig:
    return config if place.target is None else replace(config, target=place.target)


def _in_words(place: Place) -> str:
    parts = [f"stage {place.stage}"] if place.stage is not None else []
    parts += [place.target] if place.target is not None else []
    return f"{', '.join(parts)}: " if parts else ""
