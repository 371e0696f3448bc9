"""Whether a study is the study of this sweep: its subject, its space, and how its trials are trained."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import optuna

from idl.errors import InputError
from idl.sweep.config import SweepConfig
from idl.sweep.journal import FINISHED
from idl.sweep.searching import SeededSampler, make_pruner
from idl.sweep.space import SearchSpace
from idl.sweep.storage import Storage

# Attributes of a study: the range of k as it was asked for, and the names of what is drawn for a trial.
ASKED, DRAWN = "k_range", "searched"


def open_study(storage: Storage, config: SweepConfig, name: str, subject: Mapping[str, str]) -> optuna.Study:
    """Create the study, or go on with the one of that name. Raises InputError where that is another subject's."""
    study = optuna.create_study(
        storage=storage.optuna,
        sampler=SeededSampler(config.sampler, config.seed),
        pruner=make_pruner(config),
        study_name=name,
        load_if_exists=True,
    )
    with storage.locked(study):
        _note(study, _compared(study, subject))
    return study


def agreed_space(study: optuna.Study, space: SearchSpace, config: SweepConfig) -> SearchSpace:
    """Return `space` with the k's end that the study has, where it has one; nothing is noted.

    Where k is left open its end depends on the memory that was free when the study began.
    Raises InputError where the study's trials were drawn from another space, or trained in another way.
    """
    noted = study.user_attrs.get("k")
    if noted is None:
        return space
    first, _, last = noted.partition(":")
    # One that was asked for may have been beyond the components that there are; one that begins elsewhere is another.
    if str(space.k[0]) == first and (space.k[1] is None or study.user_attrs.get(ASKED) == _in_words(space.k)):
        space = replace(space, k=(space.k[0], int(last)))
    _compared(study, _words_of(space, config))
    return space


def agree_on(
    storage: Storage, study: optuna.Study, asked: SearchSpace, found: SearchSpace, config: SweepConfig
) -> SearchSpace:
    """Return the study's space: `found` where it has none yet, which is then noted; whoever is first decides.

    asked: as the user gave it. found: with k's end as a number. Raises InputError as `agreed_space`.
    """
    with storage.locked(study):
        if "k" in study.user_attrs:
            return agreed_space(study, asked, config)
        _note(study, {**_compared(study, _words_of(found, config)), ASKED: _in_words(asked.k)})
        return found


def _words_of(space: SearchSpace, config: SweepConfig) -> dict[str, str]:
    """Say what all trials of a study have in common besides its subject, by name."""
    fixed = asdict(config.fixed)
    fixed["step_images"] = fixed.pop("batch_size")
    searched = {name: bounds for name, bounds in asdict(space).items() if bounds}
    words = {name: _in_words(value) for name, value in (fixed | searched).items()}
    # What is searched among one choice, and what is set to it, are drawn under other names.
    return {**words, DRAWN: ", ".join(sorted(searched))}


def _compared(study: optuna.Study, expected: Mapping[str, str]) -> dict[str, str]:
    """Return what of `expected` the study has not noted. Raises InputError where an attribute is another one."""
    has = study.user_attrs
    drawn = next((trial.params for trial in study.get_trials(deepcopy=False, states=FINISHED)), None)
    if DRAWN not in has and drawn is not None:
        # Studies of earlier versions did not say so.
        has = {**has, DRAWN: ", ".join(sorted(drawn))}
    differing = [
        f"{name} is {has[name]} there, {value} here"
        for name, value in expected.items()
        if has.get(name, value) != value
    ]
    if differing:
        raise InputError(f"study {study.study_name}: {'; '.join(differing)}. Pass another study name.")
    missing = {name: value for name, value in expected.items() if name not in has}
    if missing and any(study.get_trials(deepcopy=False)):
        raise InputError(
            f"study {study.study_name}: its trials were made without {', '.join(sorted(missing))}. "
            "Pass another study name."
        )
    return missing


def _note(study: optuna.Study, words: Mapping[str, str]) -> None:
    for name in sorted(words):
        study.set_user_attr(name, words[name])


def _in_words(value: Any) -> str:
    return ":".join("all" if each is None else str(each) for each in value) if isinstance(value, tuple) else str(value)
