"""What is asked of a study: the options of the commands that answer, and what they come to."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_args

import click

from idl.cli.building import configured
from idl.cli.options import (
    TARGET_HELP,
    batch_option,
    crops_options,
    dataset_options,
    grouped,
    option,
    run_options,
    scene_split_options,
)
from idl.errors import InputError
from idl.pipeline import ProbeConfig
from idl.study.cells import Clusters
from idl.study.config import StudyConfig
from idl.targets import Target
from idl.targets import target as find_target
from idl.tasks import encoder_for_task

_STUDY = StudyConfig()
_PROBE = ProbeConfig()
NULL = "null"
# Of the original study.
COMPARED = "autoencoder,convnext"
# null has none, and the autoencoder none of a hub.
_WITHOUT_WEIGHTS = {NULL, "autoencoder"}

study_options = grouped(
    option("--ks", _STUDY.ks, "Numbers read at a cell, with commas between, or all; each is a question of its own."),
    option("--margin", _STUDY.margin, "Ratio of losses up to which an effect counts as none."),
    option("--level", _STUDY.level, "Of the two-sided intervals."),
    option("--draws", _STUDY.draws, "Bootstrap draws."),
    option("--bootstrap-seed", _STUDY.bootstrap_seed, "Seed of the draws.", type=click.IntRange(min=0)),
    option(
        "--clusters",
        _STUDY.clusters,
        "What is drawn as a whole; of consecutive frames it is the recording, or the block with block.",
        type=click.Choice(get_args(Clusters)),
    ),
    option("--untrained-seeds", _STUDY.untrained_seeds, "Untrained twins of each form."),
    option("--shuffle-seed", _STUDY.shuffle_seed, "Seed of who lends depth maps to whom.", type=click.IntRange(min=0)),
    option("--common-stride", _STUDY.common_stride, "Stride of the null that all are held against, pixels."),
    option("--cues", "true", "Measure which cues each probe reads.", type=click.Choice(["true", "false"])),
)


feature_option = option("--feature", _PROBE.target, TARGET_HELP)

compare_options = grouped(
    feature_option,
    option("--encoders", COMPARED, "Encoders that are judged, with commas between; the null stands beside them."),
    option("--weights", "auto", "Of a ConvNeXt or timm model: auto, imagenet, shipped or random."),
    dataset_options,
    scene_split_options,
    crops_options,
    batch_option,
    study_options,
    run_options,
)


def settings(options: Mapping[str, Any]) -> tuple[ProbeConfig, StudyConfig, Target]:
    """Read both configurations, and look the feature up, before anything is built."""
    config = configured(ProbeConfig, {**options, "target": options["feature"]})
    return config, configured(StudyConfig, options), find_target(config.target)


def chosen_encoder(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the encoder that is meant, which a task may stand for."""
    if options["encoder"] or not options["task"]:
        return {**options, "encoder": options["encoder"] or "convnext"}
    named = encoder_for_task(options["task"])
    # Weights that were asked for beside the task are those of the task's encoder.
    weights = named.weights if options["weights"] == "auto" else options["weights"]
    return {**options, "encoder": named.name, "weights": weights}


def compared_encoders(options: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return the options of each encoder that is judged, and of the null beside them, by name."""
    names = [name.strip() for name in options["encoders"].split(",") if name.strip()]
    if not names or NULL in names:
        raise InputError(f"encoders={options['encoders']}: name those that are judged; {NULL} stands beside them.")
    if len(set(names)) < len(names):
        raise InputError(f"encoders={options['encoders']}: one is there twice. Name each once.")
    without = {**options, "weights": "auto"}
    if options["weights"] != "auto" and set(names) <= _WITHOUT_WEIGHTS:
        raise InputError(
            f"weights={options['weights']}: encoders={options['encoders']} has none that takes them. Pass "
            "weights=auto, or judge one encoder with `idl verdict`."
        )
    null = {NULL: {**without, "stride": options["common_stride"]}}
    return null | {name: without if name in _WITHOUT_WEIGHTS else options for name in names}


@contextmanager
def named_as_typed(**typed: str) -> Iterator[None]:
    """Let an InputError that begins with the name of a setting begin with that of the option that it came from."""
    try:
        yield
    except InputError as error:
        name = re.match(r"\w*", str(error))[0]  # pyright: ignore[reportOptionalSubscript]
        if name not in typed:
            raise
        raise InputError(typed[name] + str(error).removeprefix(name)) from error
