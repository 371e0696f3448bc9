"""The commands of the main path: `prepare` a dataset, register an encoder (`null`, `convnext`), fit a `probe` on it."""

from dataclasses import dataclass

import click

from idl.cli import setup
from idl.cli.options import options, part
from idl.cli.setup import Settings
from idl.distributed import this_process
from idl.encoders import EncoderConfig
from idl.pipeline import describe, materialise
from idl.pipeline import probe as fit_probe
from idl.probe_config import ProbeConfig, check
from idl.progress import terminal
from idl.targets import target as find_target


@dataclass(frozen=True)
class ProbeSettings(Settings):
    """Settings of `idl probe`."""

    encoder: EncoderConfig = part(EncoderConfig())
    probe: ProbeConfig = part(ProbeConfig())


@dataclass(frozen=True)
class NullSettings(Settings):
    """Settings of `idl null`."""

    encoder: EncoderConfig = part(EncoderConfig(name="null"), only=("stride",))


@dataclass(frozen=True)
class ConvNextSettings(Settings):
    """Settings of `idl convnext`."""

    encoder: EncoderConfig = part(EncoderConfig(name="convnext"), without=("name", "stride"))


@click.command()
@options(Settings)
def prepare(settings: Settings) -> None:
    """Prepare a dataset: make or read it once, into one HDF5 store."""
    if not this_process().is_first:
        return  # nothing to share among ranks
    with settings.tracked_run("prepare", settings.dataset_name) as recorder:
        settings.check_dataset()
        store = settings.open_store()
        report = describe(settings.probe, store, progress=terminal)
        setup.log_report(recorder, report, settings)
        setup.print_result(report, recorder.hint)
        click.echo(f"store: {store.path}")


@click.command()
@options(NullSettings)
def null(settings: NullSettings) -> None:
    """Register the null baseline, which only downsamples the image."""
    _register(settings)


@click.command()
@options(ConvNextSettings)
def convnext(settings: ConvNextSettings) -> None:
    """Register a ConvNeXt of timm's with its weights and their origin."""
    _register(settings)


@click.command()
@options(ProbeSettings)
def probe(settings: ProbeSettings) -> None:
    """Fit a linear probe on a frozen encoder, exactly, and measure it beside its controls."""
    config = settings.probe
    subject = (settings.encoder.name, find_target(config.target).name, settings.dataset_name)
    with settings.shared_run("probe", *subject) as (world, recorder):
        settings.check_dataset()
        encoder = world.after_first(lambda: settings.build_encoder(settings.encoder))
        check(config, encoder)
        store = world.after_first(settings.open_store)
        result = fit_probe(
            config,
            store,
            encoder,
            settings.run.cache_folder,
            progress=setup.progress_shown(),
            world=world,
            before_test=lambda split: setup.note_test_reading(recorder, store, split),
        )
        if recorder is not None:
            setup.finish(recorder, result, encoder, settings)


def _register(settings: NullSettings | ConvNextSettings) -> None:
    if not this_process().is_first:
        return  # nothing to share among ranks
    with settings.tracked_run(settings.encoder.name, settings.dataset_name) as recorder:
        settings.check_dataset()
        encoder = settings.build_encoder(settings.encoder)
        check(settings.probe, encoder)
        made = materialise(settings.probe, settings.open_store(), encoder, progress=terminal)
        setup.finish(recorder, made, encoder, settings)
