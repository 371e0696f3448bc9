"""The command that fits and measures a linear probe: `probe`."""

from dataclasses import dataclass
from pathlib import Path

import click

from idl.cli import setup
from idl.cli.options import options, part
from idl.cli.setup import RunSettings
from idl.data.datasets import DatasetConfig
from idl.encoders import EncoderConfig
from idl.pipeline import probe as fit_probe
from idl.probe_config import ProbeConfig, check
from idl.targets import target as find_target


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of `idl probe`."""

    dataset: DatasetConfig = part(DatasetConfig())
    encoder: EncoderConfig = part(EncoderConfig())
    probe: ProbeConfig = part(ProbeConfig())
    run: RunSettings = part(RunSettings())


@click.command()
@options(ProbeSettings)
def probe(settings: ProbeSettings) -> None:
    """Fit a linear probe on a frozen encoder, exactly, and measure it beside its controls."""
    dataset, config, run = settings.dataset, settings.probe, settings.run
    name = f"probe {settings.encoder.name} {find_target(config.target).name} {Path(dataset.dataset).stem}"
    with setup.shared_run("probe", name, run) as (world, recorder):
        setup.check_dataset(dataset, config, run)
        encoder = world.after_first(lambda: setup.encoder_of(settings.encoder, run, dataset))
        check(config, encoder)
        store = world.after_first(lambda: setup.store_of(dataset, config, run))
        result = fit_probe(
            config,
            store,
            encoder,
            run.cache_folder,
            progress=setup.progress_shown(),
            world=world,
            before_test=lambda split: setup.note_test_reading(recorder, store, split),
        )
        if recorder is not None:
            setup.finish(recorder, result, encoder, settings)
