"""The commands that prepare, materialise and probe; each is an entry point of MLproject."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from idl.cli.building import (
    cache_folder,
    configured,
    dataset_of,
    encoder_of,
    progress_shown,
    require_layer,
    shared_run,
    store_of,
    tracked_run,
)
from idl.cli.finishing import finish, note_look, say_result
from idl.cli.group import cli
from idl.cli.options import (
    crops_options,
    dataset_options,
    encoder_name,
    encoder_options,
    probe_options,
    run_options,
    split_options,
    stride_option,
)
from idl.data.splits import Split
from idl.distributed import announced
from idl.pipeline import ProbeConfig, check, describe, materialise
from idl.pipeline import probe as run_probe
from idl.progress import terminal
from idl.targets import target as find_target


@cli.command()
@dataset_options
@split_options
@run_options
def prepare(**options: Any) -> None:
    """Prepare a dataset: make or read it once, into one HDF5 store."""
    if not announced().is_first:
        return  # nothing to share among ranks
    config = configured(ProbeConfig, options)
    wanted = find_target(config.target)
    with tracked_run("prepare", f"prepare {Path(options['dataset']).stem}", options) as recorder:
        dataset = dataset_of(options)
        require_layer(wanted, dataset, options)
        store = store_of(dataset, options)
        report = describe(config, store, progress=terminal)
        recorder.log(report)
        say_result(report, recorder.hint)
        click.echo(f"store: {store.path}")


@cli.command()
@dataset_options
@stride_option
@split_options
@run_options
def null(**options: Any) -> None:
    """Register the null baseline, which only downsamples the image."""
    _materialise("null", options)


@cli.command()
@dataset_options
@encoder_options
@split_options
@run_options
def convnext(**options: Any) -> None:
    """Register a ConvNeXt of timm's with its weights and origin."""
    _materialise("convnext", options)


@cli.command()
@dataset_options
@encoder_name
@encoder_options
@stride_option
@split_options
@crops_options
@probe_options
@run_options
def probe(**options: Any) -> None:
    """Fit a linear probe on a frozen encoder, exactly, and measure it beside its controls."""
    config = configured(ProbeConfig, options)
    wanted = find_target(config.target)
    name = f"probe {options['encoder']} {wanted.name} {Path(options['dataset']).stem}"
    with shared_run("probe", name, options) as (world, recorder):
        dataset = dataset_of(options)
        require_layer(wanted, dataset, options)
        encoder = world.after_first(lambda: encoder_of(options["encoder"], options))
        check(config, encoder)
        store = world.after_first(lambda: store_of(dataset, options))

        def before_test(split: Split) -> None:
            if recorder is not None:
                note_look(recorder, store, split)

        folder = cache_folder(options)
        run = run_probe(config, store, encoder, folder, progress=progress_shown(), world=world, before_test=before_test)
        if recorder is not None:
            finish(recorder, run, encoder, options)


def _materialise(name: str, options: Mapping[str, Any]) -> None:
    if not announced().is_first:
        return  # nothing to share among ranks
    config = configured(ProbeConfig, options)
    wanted = find_target(config.target)
    with tracked_run(name, f"{name} {Path(options['dataset']).stem}", options) as recorder:
        dataset = dataset_of(options)
        require_layer(wanted, dataset, options)
        encoder = encoder_of(name, options)
        check(config, encoder)
        store = store_of(dataset, options)
        finish(recorder, materialise(config, store, encoder, progress=terminal), encoder, options)
