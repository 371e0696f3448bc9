"""The command that looks for what is missing or suspicious in a dataset on disk: `doctor`."""

import json
import shutil
import sys
from dataclasses import dataclass, replace

import click

from idl.cli.options import options, part
from idl.data.datasets import DatasetConfig
from idl.doctor import SAMPLE, diagnose
from idl.errors import InputError
from idl.progress import terminal
from idl.settings import setting


@dataclass(frozen=True)
class DoctorSettings:
    """Settings of `idl doctor`."""

    dataset: DatasetConfig = part(
        DatasetConfig(dataset=""),
        only=(
            *("dataset", "data", "depth_scale", "depth_format", "invalid_values", "scene"),
            *("layout", "pairs", "rgb_pattern", "depth_pattern", "subset", "depths"),
            *("min_valid_share", "min_depth", "max_depth"),
        ),
    )
    sample: int = setting(SAMPLE, "Images whose pixels are read, spread over all; 0: all.", at_least=0)
    checksums: bool = setting(False, "Compare the files' checksums too, which reads all of them.")
    as_json: bool = setting(False, "Print JSON.", option="json")


@click.command()
@click.argument("what", nargs=-1, metavar="[DATASET] [PATH]")
@options(DoctorSettings)
def doctor(settings: DoctorSettings, what: tuple[str, ...]) -> None:
    """Say what is there of a dataset, what is missing or suspicious, and whether probing can go ahead.

    Nothing is changed. The exit code is 0 where probing can go ahead, 1 where it cannot.
    """
    diagnosis = diagnose(
        _dataset(what, settings.dataset), settings.sample, checksums=settings.checksums, progress=terminal
    )
    width = min(max(shutil.get_terminal_size((80, 24)).columns, 60), 110)
    lines = [json.dumps(diagnosis.to_dict(), indent=1)] if settings.as_json else diagnosis.lines(width)
    click.echo("\n".join(lines))
    if diagnosis.reason:
        sys.exit(1)


def _dataset(what: tuple[str, ...], config: DatasetConfig) -> DatasetConfig:
    """Return the dataset that the arguments name, which go before the options."""
    if len(what) > 2:
        raise InputError(f"{' '.join(what)}: expected a dataset and a path, as in `idl doctor nyu PATH`.")
    dataset = what[0] if what else config.dataset
    if not dataset:
        raise InputError("dataset: none given. Pass one, and its path, as in `idl doctor nyu PATH`.")
    data = what[1] if len(what) == 2 else config.data
    # `idl doctor rooms STORE.h5`: the store says itself what it is of.
    return replace(config, dataset=data if data.endswith(".h5") else dataset, data=data)
