"""The command that measures a registered probe on a dataset."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click

from idl import tracking
from idl.cli.building import cache_folder, dataset_of, store_of, tracked_run, warn
from idl.cli.finishing import note_look, say_result
from idl.cli.group import cli
from idl.cli.options import (
    alignment_option,
    crops_options,
    dataset_options,
    model_option,
    option,
    place_options,
    scene_split_options,
)
from idl.data.splits import EVERYTHING, Split, require_rule, split_store
from idl.data.store import Store
from idl.errors import InputError
from idl.measurement import measure
from idl.native import require_native
from idl.progress import terminal
from idl.ranges import shown_range
from idl.reporting import MeasuredModel, MeasurementFindings, measurement_report
from idl.reporting.measurement import Part
from idl.targets import TARGETS, Target
from idl.targets import target as find_target
from idl.tracking import RegisteredProbe

# Of the figures, in both averages.
SHOWN = ("rmse", "rmse_pooled", "abs_rel", "abs_rel_pooled", "delta1", "delta1_pooled", "r2")
SHOWN += ("angle_mean_deg", "angle_mean_deg_pooled", "angle_median_deg", "angle_median_deg_pooled")


@cli.command()
@model_option
@dataset_options
@scene_split_options
@crops_options
@option(
    "--part", "test", "Images that are measured; all: of a dataset not fitted on.", type=click.Choice(get_args(Part))
)
@alignment_option
@place_options
def evaluate(**options: Any) -> None:
    """Measure a registered probe: on another dataset, or on its own test split."""
    part: Part = options["part"]
    require_rule(options["split"])
    if options["test_images"] and part != "test":
        raise InputError(f"part={part}: crops are of the test split. Pass part=test, or test_images=0.")
    name = f"evaluate {options['model'].removeprefix('models:/')} {Path(options['dataset']).stem}"
    with tracked_run("evaluate", name, options) as recorder:
        dataset = dataset_of(options)
        probe = tracking.load_probe(options["model"])
        target = _target(probe)
        store = store_of(dataset, options)
        if target.layer not in store.layers:
            have = ", ".join(store.layers)
            raise InputError(
                f"model={probe.version.uri}: predicts {target.name}; {store.path} has no layer {target.layer!r}, but "
                f"{have}."
            )
        split, order, reference = _images(store, part, options)
        require_native(store, target, order)
        protocol = replace(store.protocol, alignment=options["alignment"])
        _require_unseen(probe, store, split, part)
        notes = tuple(_notes(probe, store))
        limits = shown_range(store, split, target, cache_folder(options) / "ranges")
        if part in ("test", "all"):
            note_look(recorder, store, split)
        measured = measure(probe.module, store, order, reference, target, protocol, probe.stride, terminal, label=part)
        encoder = {name: probe.version.tags.get(name, "") for name in ("encoder", "encoder_digest", "weights", "task")}
        model = MeasuredModel(probe.version.uri, probe.card, probe.protocol, encoder)
        asked = {name: options[name] for name in ("split", "split_seed", "test_images", "test_seed", "alignment")}
        report = measurement_report(
            MeasurementFindings(
                model, store, split, part, order, protocol, target, measured, limits, asked, (*store.notes, *notes)
            )
        )
        recorder.log(report)
        for note in notes:
            warn(note)
        click.echo(f"model: {probe.version.uri}, of {target.name}")
        click.echo(f"measured on: {part} of {store.name} ({store.digest}), {len(order)} images")
        click.echo(f"protocol: {protocol.name} ({protocol.digest})")
        say_result(report, recorder.hint, [f"{part}_{figure}" for figure in SHOWN])


def _target(probe: RegisteredProbe) -> Target:
    """Return the target that a probe was fitted for. Raises InputError where it is not what it was."""
    # One from outside is found by the address that the run was given.
    name = probe.card.target if probe.card.target in TARGETS else probe.run.get("target", probe.card.target)
    target = find_target(name)
    if target.identity != probe.version.tags.get("target_identity", ""):
        raise InputError(
            f"model={probe.version.uri}: {name} is another target now than the one that it was fitted for."
        )
    return target


def _images(store: Store, part: Part, options: dict[str, Any]) -> tuple[Split, tuple[int, ...], tuple[int, ...]]:
    """Return the split, the images to measure, and those whose mean r2 is measured from."""
    if part == "all":
        everything, scenes = tuple(range(store.num_images)), tuple(dict.fromkeys(store.scenes))
        # Its mean is taken of the images that are measured.
        whole = Split({"train": everything}, {"train": scenes, "test": scenes}, EVERYTHING, "", EVERYTHING)
        return whole, everything, everything
    split = split_store(store, options["split"], options["split_seed"])
    return split, split.indices[part], split.indices["train"]


def _require_unseen(probe: RegisteredProbe, store: Store, split: Split, part: Part) -> None:
    """Raise InputError where images would be measured that the model was fitted on, or chosen by."""
    if store.digest != probe.card.dataset_digest:
        return
    if part != "test":
        raise InputError(
            f"part={part}: {probe.version.uri} was fitted on {store.name}; only its own test split is measured there. "
            "Pass part=test."
        )
    tags = probe.version.tags
    # Its own scenes, as crops or whole: none of them was seen.
    if split.scenes_digest != tags.get("scenes_digest", tags["split_digest"]):
        run = probe.run
        told = f" Pass split={run['split']} split_seed={run['split_seed']}, as its run did." if "split" in run else ""
        raise InputError(
            f"split: not the one that {probe.version.uri} was fitted on, so that images it learned from might be "
            f"measured.{told}"
        )


def _notes(probe: RegisteredProbe, store: Store) -> Iterator[str]:
    """Yield what a reader must know of the model on this dataset, a sentence each."""
    card, protocol = probe.card, store.protocol
    if store.digest == card.dataset_digest:
        yield f"This is the dataset that the model was fitted on ({store.name}), and its own test split."
    elif store.name == card.dataset:
        yield (
            f"The model was fitted on a dataset of the same name, {card.dataset} ({card.dataset_digest}): images may "
            "be in both."
        )
    if store.name in probe.version.tags.get("task", ""):
        source = probe.origin["origin"]["source"]
        yield (
            f"The encoder's weights were trained for {probe.version.tags['task']} ({source}): it may have seen these "
            f"images, without their {card.target}."
        )
    if probe.kind == "depth" and protocol.is_native:
        yield (
            "Measured at native size. Where the model predicts beyond its range its own run may differ a little: a "
            "whole model clamps before it is upsampled."
        )
    farthest = probe.protocol.max_depth_m
    if probe.kind == "depth" and protocol.max_depth_m > farthest:
        yield f"The model predicts at most {farthest:g} m; here truth counts up to {protocol.max_depth_m:g} m."
