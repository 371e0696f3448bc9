"""The command that lists registered probes."""

import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import click

from idl import tracking
from idl.cli.group import cli
from idl.cli.options import option
from idl.tracking import ProbeVersion
from idl.tracking.ranking import grouped, is_text, ranked, selected, shown

GAP = "  "
# Narrower than this, a column of words says nothing.
LEAST_WORDS = 8
WORDS = 1


@cli.command()
@option("--target", "", "depth, log-depth, inverse-depth or normals.")
@option("--dataset", "", "Name of a dataset, or the beginning of its digest.")
@option("--encoder", "", "Name of an encoder, or the beginning of its digest.")
@option("--protocol", "", "Name of a protocol, or the beginning of its digest.")
@option("--split", "", "Beginning of a split's digest.")
@option("--sort", "", "Best first by a figure of equal conditions: test_rmse, test_delta1, val_loss, ...")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with all that the registry knows.")
def models(as_json: bool, sort: str, **filters: str) -> None:
    """List registered probes, with what they were fitted on and how well they do."""
    everything = tracking.list_probes()
    versions, lacking = selected(everything, filters), ()
    if sort and versions:
        versions, lacking = ranked(versions, sort)
    if as_json:
        click.echo(json.dumps([_described(version) for version in (*versions, *lacking)], indent=1))
        return
    if not everything:
        click.echo("no registered probes here: `idl probe` registers one, MLFLOW_TRACKING_URI says where.", err=True)
        return
    # What is piped into another program is not cut.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in table(versions, sort, width):
        click.echo(line)
    if lacking:
        click.echo(f"\nwithout {sort}: {', '.join(version.uri for version in lacking)}")


def table(versions: Sequence[ProbeVersion], sort: str, width: int | None) -> list[str]:
    """Return lines of at most `width` characters, where that can be: a head and rows for each set of conditions.

    Inside it the versions keep their order. Aliases go into a line of their own, and words are cut, where a row
    would not fit.
    """
    lines: list[str] = []
    for group in grouped(versions):
        first = group[0]
        head = (
            f"dataset {shown(first, ('dataset', 'dataset_digest'))}",
            f"split {shown(first, ('split_digest',))}",
            f"protocol {shown(first, ('protocol', 'protocol_digest'))}",
        )
        lines += ([""] if lines else []) + [", ".join(head), *_rows(group, sort, width)]
    return lines


def _rows(group: Sequence[ProbeVersion], sort: str, width: int | None) -> list[str]:
    names = ["model", "weights/task", "k", "val loss", "test loss", "error"]
    cells = [_cells(version) for version in group]
    if sort and sort not in ("k", "val_loss", "test_loss", "test_rmse", "test_angle_mean_deg"):
        names.append(sort)
        for row, version in zip(cells, group, strict=True):
            row.append(_figure(version, sort))
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    aliases = [" ".join(f"@{alias}" for alias in version.aliases) for version in group]
    used = sum(widths) + len(GAP) * (len(widths) - 1)
    is_beside = width is None or used + len(GAP) + max(map(len, aliases)) <= width
    if width is not None and used > width:
        widths[WORDS] = max(LEAST_WORDS, widths[WORDS] - (used - width))
    lines = [_line(names, widths) + (f"{GAP}aliases" if is_beside and any(aliases) else "")]
    for row, alias in zip(cells, aliases, strict=True):
        lines.append(_line(row, widths) + (GAP + alias if is_beside and alias else ""))
        if alias and not is_beside:
            lines.append(f"    {alias}")
    return [line.rstrip() for line in lines]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, figures to the right."""
    cut = [cell if len(cell) <= width else cell[: width - 1] + "…" for cell, width in zip(row, widths, strict=True)]
    return GAP.join(
        cell.ljust(width) if number <= WORDS else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cut, widths, strict=True))
    )


def _cells(version: ProbeVersion) -> list[str]:
    tags = version.tags
    words = dict.fromkeys(tags[tag] for tag in ("weights", "task") if tags.get(tag))
    error = "-"
    if "test_rmse" in tags:
        error = f"{_figure(version, 'test_rmse')} m"
    elif "test_angle_mean_deg" in tags:
        error = f"{_figure(version, 'test_angle_mean_deg')}°"
    losses = [_figure(version, name) for name in ("val_loss", "test_loss")]
    return [f"{version.name}/{version.version}", "/".join(words), tags.get("k", "-"), *losses, error]


def _figure(version: ProbeVersion, name: str) -> str:
    try:
        return f"{float(version.tags[name]):.4g}"
    except (KeyError, ValueError):
        return "-"


def _described(version: ProbeVersion) -> dict[str, Any]:
    tags = {name: value if is_text(name) else _plain(value) for name, value in version.tags.items()}
    return {
        "name": version.name,
        "version": version.version,
        "uri": version.uri,
        "aliases": list(version.aliases),
        "run_id": version.run_id,
        "created_ms": version.created_ms,
        **tags,
    }


def _plain(text: str) -> object:
    """Return a number where `text` is a finite one; JSON has no other."""
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text
