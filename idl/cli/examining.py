"""The command that examines a dataset on disk."""

import json
import shutil
import sys
from dataclasses import replace
from typing import Any

import click

from idl.cli.building import configured
from idl.cli.group import cli
from idl.cli.options import option, reading_options
from idl.data.datasets import DatasetConfig
from idl.doctor import SAMPLE, diagnose
from idl.doctor.table import lines
from idl.errors import InputError
from idl.progress import terminal

_LEAST_WIDTH, _WIDTH = 60, 80


@cli.command()
@click.argument("what", nargs=-1, metavar="[DATASET] [PATH]")
@option("--dataset", "", "rooms, folder, nyu, diode, or the path of a prepared store (.h5).")
@option("--data", "", "Path of the data, as for `prepare`.")
@reading_options
@option("--sample", SAMPLE, "Images whose pixels are looked at, spread over all; 0: all.", type=click.IntRange(min=0))
@click.option("--checksums", is_flag=True, help="Take the files' checksums too; that reads all of them.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(what: tuple[str, ...], sample: int, checksums: bool, as_json: bool, **options: Any) -> None:
    """Say what is there of a dataset, what is missing or suspicious, and whether probing can go ahead.

    Nothing is changed. The exit code is 0 where probing can go ahead, 1 where it cannot.
    """
    config = _asked(what, configured(DatasetConfig, options))
    found = diagnose(config, sample, checksums=checksums, progress=terminal)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        width = max(shutil.get_terminal_size((_WIDTH, 24)).columns, _LEAST_WIDTH)
        for line in lines(found, min(width, 110)):
            click.echo(line)
    if found.reason:
        sys.exit(1)


def _asked(what: tuple[str, ...], config: DatasetConfig) -> DatasetConfig:
    if len(what) > 2:
        raise InputError(f"{' '.join(what)}: expected a dataset and a path, as in `idl doctor nyu PATH`.")
    dataset = what[0] if what else config.dataset
    if not dataset:
        raise InputError("dataset: none given. Pass one, and its path, as in `idl doctor nyu PATH`.")
    data = what[1] if len(what) == 2 else config.data
    # `idl doctor rooms STORE.h5`: the store says itself what it is of.
    return replace(config, dataset=data if data.endswith(".h5") else dataset, data=data)
