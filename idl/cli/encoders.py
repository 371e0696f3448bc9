"""The commands that prepare a dataset, or register an encoder by itself: `prepare`, `null` and `convnext`."""

from dataclasses import dataclass
from pathlib import Path

import click

from idl.cli import setup
from idl.cli.options import options, part
from idl.cli.setup import RunSettings
from idl.data.datasets import DatasetConfig
from idl.distributed import this_process
from idl.encoders import EncoderConfig
from idl.pipeline import describe, materialise
from idl.probe_config import ProbeConfig, check
from idl.progress import terminal

SPLIT = ("target", "split", "split_seed", "batch_size")


@dataclass(frozen=True)
class PrepareSettings:
    """Settings of `idl prepare`."""

    dataset: DatasetConfig = part(DatasetConfig())
    probe: ProbeConfig = part(ProbeConfig(), only=SPLIT)
    run: RunSettings = part(RunSettings())


@dataclass(frozen=True)
class NullSettings(PrepareSettings):
    """Settings of `idl null`."""

    encoder: EncoderConfig = part(EncoderConfig(name="null"), only=("stride",))


@dataclass(frozen=True)
class ConvNextSettings(PrepareSettings):
    """Settings of `idl convnext`."""

    encoder: EncoderConfig = part(EncoderConfig(name="convnext"), without=("name", "stride"))


@click.command()
@options(PrepareSettings)
def prepare(settings: PrepareSettings) -> None:
    """Prepare a dataset: make or read it once, into one HDF5 store."""
    if not this_process().is_first:
        return  # nothing to share among ranks
    dataset, probe, run = settings.dataset, settings.probe, settings.run
    with setup.tracked_run("prepare", f"prepare {Path(dataset.dataset).stem}", run) as recorder:
        setup.check_dataset(dataset, probe, run)
        store = setup.store_of(dataset, probe, run)
        report = describe(probe, store, progress=terminal)
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


def _register(settings: NullSettings | ConvNextSettings) -> None:
    if not this_process().is_first:
        return  # nothing to share among ranks
    dataset, probe, run, name = settings.dataset, settings.probe, settings.run, settings.encoder.name
    with setup.tracked_run(name, f"{name} {Path(dataset.dataset).stem}", run) as recorder:
        setup.check_dataset(dataset, probe, run)
        encoder = setup.encoder_of(settings.encoder, run, dataset)
        check(probe, encoder)
        store = setup.store_of(dataset, probe, run)
        setup.finish(recorder, materialise(probe, store, encoder, progress=terminal), encoder, settings)
