"""A sweep, from a search space to its best trial."""

import secrets
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from idl.descending import TrainingSet
from idl.errors import InputError
from idl.progress import Progress, silent
from idl.sweep.batches import TOLD, InMetres, Search
from idl.sweep.config import SweepConfig
from idl.sweep.identity import FINISHED, agree_on, agreed_space, open_study
from idl.sweep.result import Seconds, SweepResult, SweepTrial
from idl.sweep.searching import importances_of
from idl.sweep.signs import Watch, present
from idl.sweep.space import Place, SearchSpace
from idl.sweep.storage import journal_path, opened
from idl.sweep.watcher import Watcher
from idl.sweep.workers import Heartbeat

QUIET = Watcher()


def named(config: SweepConfig) -> SweepConfig:
    """Give a study without a name one of its own."""
    if config.study:
        return config
    return replace(config, study=f"sweep-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")


def require_storage(config: SweepConfig, folder: Path) -> None:
    """Raise InputError where the storage cannot be reached, or is damaged; nothing is made that is not there."""
    if config.storage or journal_path(folder, config.study).exists():
        with opened(config, config.study, folder):
            pass


def check(space: SearchSpace, config: SweepConfig, subject: Mapping[str, str], folder: Path) -> SearchSpace:
    """Raise InputError where `sweep` would, as far as that is known before anything is encoded.

    config: with the study's name. space, subject, folder: as for `sweep`.
    Returns the space, with the k's end of the study where that has one.
    """
    with opened(config, config.study, folder) as storage:
        return agreed_space(open_study(storage, config, config.study, subject), space, config)


def agree(
    asked: SearchSpace, found: SearchSpace, config: SweepConfig, subject: Mapping[str, str], folder: Path
) -> SearchSpace:
    """Return the study's space: `found` where no other worker was first. Raises InputError as `check`.

    asked: as the user gave it. found: with k's end as a number.
    """
    with opened(config, config.study, folder) as storage:
        return agree_on(storage, open_study(storage, config, config.study, subject), asked, found, config)


def sweep(
    data: Mapping[Place, TrainingSet],
    space: SearchSpace,
    config: SweepConfig,
    subject: Mapping[str, str],
    folder: Path,
    watcher: Watcher = QUIET,
    progress: Progress = silent,
    *,
    in_metres: InMetres | None = None,
) -> SweepResult:
    """Search `space` for the trial with the lowest validation loss.

    data: training and validation split, for each of the space's places; nothing else is seen.
    subject: digests, by name, of what the trials are trained on; a study of another subject is refused.
    folder: of journals.
    watcher: hears of the trials.
    in_metres: judges trials of several targets alike; needed where such are searched.

    Any number of workers may share one study; each returns when the study has all its trials. Trials of one that
    ended on the way are tried again. A single worker with the same seed draws the same trials.
    Raises InputError for k beyond the components, a storage that cannot be used, a study of another subject or
    space, and where no trial came to an end that counts.
    """
    config = named(config)
    found = space.within(max(each.num_components for each in data.values()))
    agreed = agree(space, found, config, subject, folder)
    return search(data, agreed, config, subject, folder, watcher, progress, in_metres=in_metres)


def search(
    data: Mapping[Place, TrainingSet],
    space: SearchSpace,
    config: SweepConfig,
    subject: Mapping[str, str],
    folder: Path,
    watcher: Watcher = QUIET,
    progress: Progress = silent,
    *,
    in_metres: InMetres | None = None,
    watch: Watch | None = None,
) -> SweepResult:
    """As `sweep`, in the space that `agree` returned, under the study's name.

    watch: what was seen of the signs of other workers before.
    """
    if set(data) != set(space.places):
        raise ValueError(f"training sets of {list(data)}, but the space has {list(space.places)}")
    if len(space.target) > 1 and in_metres is None:
        raise ValueError("several targets, and nothing that judges them alike")
    space = space.within(max(each.num_components for each in data.values()))
    with opened(config, config.study, folder) as storage:
        study = open_study(storage, config, config.study, subject)
        # In a database the trials have signs of life of their own.
        signs = nullcontext() if storage.database else present(config, folder)
        with signs, Heartbeat(storage.database) as heartbeat:
            worker = Search(data, in_metres, space, config, storage, study, heartbeat, watcher, watch or Watch())
            worker.run(progress)
        best = _best(study)
        if best is None:
            raise InputError(
                f"study {config.study}: every trial diverged or was ended. Lower the bounds of lr={space.lr[0]:g}:"
                f"{space.lr[1]:g} under another study name."
            )
        return SweepResult(
            study=config.study,
            space=space,
            number=best.number,
            place=worker.trial_of(best)[0],
            best=worker.descent_of(best),
            trials=tuple(_plain(worker, each) for each in study.get_trials(deepcopy=False, states=FINISHED)),
            importances=importances_of(study),
            num_trained=worker.num_trained,
            seconds=Seconds(**worker.seconds),
        )


def _best(study: Study) -> FrozenTrial | None:
    """Return the trial with the lowest validation loss, the first of equals."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min(complete, key=lambda each: each.value or 0.0, default=None)


def _plain(search: Search, trial: FrozenTrial) -> SweepTrial:
    attributes = {name: trial.user_attrs[name] for name in TOLD}
    return SweepTrial(trial.number, *search.trial_of(trial), **attributes)
