"""The command that measures a registered probe on a dataset: `evaluate`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import click

from idl.cli import setup
from idl.cli.options import options, part
from idl.cli.predict import MODEL
from idl.cli.setup import RunSettings, Settings
from idl.data.splits import EVERYTHING, Split, require_rule, split_store
from idl.data.store import Store
from idl.errors import InputError
from idl.evaluate import evaluate_model, require_native
from idl.probe_config import ProbeConfig
from idl.progress import terminal
from idl.report.probe import MeasuredModel, Part, measurement_report
from idl.report.views import shown_range
from idl.settings import setting
from idl.targets import target as find_target
from idl.tracking import registry
from idl.tracking.registry import RegisteredProbe

# In both averages.
RESULTS = ("rmse", "rmse_pooled", "abs_rel", "abs_rel_pooled", "delta1", "delta1_pooled", "r2")
RESULTS += ("angle_mean_deg", "angle_mean_deg_pooled", "angle_median_deg", "angle_median_deg_pooled")
SPLIT = ("split", "split_seed", "test_images", "test_seed", "alignment")


@dataclass(frozen=True)
class EvaluateSettings(Settings):
    """Settings of `idl evaluate`."""

    model: str = setting("", MODEL)
    probe: ProbeConfig = part(ProbeConfig(), only=SPLIT)
    measured: Part = setting("test", "Images that are measured; all: of a dataset not fitted on.", option="part")
    run: RunSettings = part(RunSettings(), without=("device",))


@click.command()
@options(EvaluateSettings)
def evaluate(settings: EvaluateSettings) -> None:
    """Measure a registered probe: on another dataset, or on its own test split."""
    part, config = settings.measured, settings.probe
    require_rule(config.split)
    if config.test_images and part != "test":
        raise InputError(f"part={part}: crops are of the test split. Pass part=test, or test_images=0.")
    subject = (settings.model.removeprefix("models:/"), settings.dataset_name)
    with settings.tracked_run("evaluate", *subject) as recorder:
        probe = registry.load_probe(settings.model)
        # A target from outside is found by the address that the run was given.
        name = probe.card.target_factory or probe.card.target
        target = find_target(name)
        if target.identity != probe.version.tags.get("target_identity", ""):
            raise InputError(
                f"model={probe.version.uri}: {name} is another target now than the one that it was fitted for."
            )
        replace(settings, probe=replace(config, target=name)).check_dataset()
        store = settings.open_store()
        split, order, reference = _images(store, part, config)
        require_native(store, target, order)
        protocol = replace(store.protocol, alignment=config.alignment)
        _require_unseen(probe, store, split, part)
        notes = tuple(_notes(probe, store))
        limits = shown_range(store, split, target, settings.run.cache_folder / "ranges")
        if part in ("test", "all"):
            setup.note_test_reading(recorder, store, split)
        measured = evaluate_model(
            *(probe.module, store, order, reference, target, protocol, probe.stride, terminal),
            window=probe.window,
            label=part,
        )
        encoder = {name: probe.version.tags.get(name, "") for name in ("encoder", "encoder_digest", "weights", "task")}
        model = MeasuredModel(probe.version.uri, probe.card, encoder)
        report = measurement_report(
            model, store, split, part, order, protocol, target, measured, limits, (*store.notes, *notes)
        )
        setup.log_report(recorder, report, settings)
        for note in notes:
            setup.warn(note)
        click.echo(f"model: {probe.version.uri}, of {target.name}")
        click.echo(f"measured on: {part} of {store.name} ({store.digest}), {len(order)} images")
        click.echo(f"protocol: {protocol.name} ({protocol.digest})")
        setup.print_result(report, recorder.hint, [f"{part}_{figure}" for figure in RESULTS])


def _images(store: Store, part: Part, config: ProbeConfig) -> tuple[Split, tuple[int, ...], tuple[int, ...]]:
    """Return the split, the images to measure, and those whose mean r2 is measured from."""
    if part == "all":
        everything, scenes = tuple(range(store.num_images)), tuple(dict.fromkeys(store.scenes))
        # Its mean is taken of the images that are measured.
        whole = Split({"train": everything}, {"train": scenes, "test": scenes}, EVERYTHING, "", EVERYTHING)
        return whole, everything, everything
    split = split_store(store, config.split, config.split_seed)
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
        raise InputError(
            f"split: not the one that {probe.version.uri} was fitted on, so that images it learned from might be "
            "measured. Pass split= and split_seed= as its run did."
        )


def _notes(probe: RegisteredProbe, store: Store) -> Iterator[str]:
    """Yield what a reader must know of the model on this dataset, a sentence each."""
    card, protocol, task = probe.card, store.protocol, probe.version.tags.get("task", "")
    if store.digest == card.dataset_digest:
        yield f"This is the dataset that the model was fitted on ({store.name}), and its own test split."
    elif store.name == card.dataset:
        yield (
            f"The model was fitted on a dataset of the same name, {card.dataset} ({card.dataset_digest}): images may "
            "be in both."
        )
    if store.name in task:
        yield (
            f"The encoder's weights were trained for {task} ({probe.origin['origin']['source']}): it may have seen "
            f"these images, without their {card.target}."
        )
    if probe.kind != "depth":
        return
    if protocol.is_native:
        yield (
            "Measured at native size. Where the model predicts beyond its range its own run may differ a little: a "
            "whole model clamps before it is upsampled."
        )
    if protocol.max_depth_m > (farthest := probe.protocol.max_depth_m):
        yield f"The model predicts at most {farthest:g} m; here truth counts up to {protocol.max_depth_m:g} m."
