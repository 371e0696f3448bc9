"""The command that lists registered probes, filtered and ranked: `models`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import click

from idl.cli.options import options
from idl.errors import InputError
from idl.settings import setting
from idl.tracking import registry
from idl.tracking.registry import RegisteredVersion

HIGHER_IS_BETTER = ("test_delta", "test_r2", "test_under_")
# In the target's own unit: metres for one target, their logarithms for another.
IN_TARGET_UNITS = ("train_loss", "val_loss", "test_loss", "loss_over_null")
SHOWN_DIGITS = 8
# Tags that an option is compared with: names in full, digests by their beginning.
FILTERS: Mapping[str, tuple[str, ...]] = {
    "target": ("target",),
    "dataset": ("dataset", "dataset_digest"),
    "encoder": ("encoder", "encoder_digest"),
    "protocol": ("protocol", "protocol_digest"),
    "split": ("split_digest",),
}
# Versions are compared only where these are equal.
CONDITIONS = ("dataset", "split", "protocol")
COLUMNS = ("model", "weights/task", "k", "val loss", "test loss", "error")


@dataclass(frozen=True)
class ModelsSettings:
    """Settings of `idl models`."""

    target: str = setting("", "Only probes of this target: depth, log-depth, inverse-depth, normals.")
    dataset: str = setting("", "Only probes of this dataset: its name, or the beginning of its digest.")
    encoder: str = setting("", "Only probes of this encoder: its name, or the beginning of its digest.")
    protocol: str = setting("", "Only probes of this protocol: its name, or the beginning of its digest.")
    split: str = setting("", "Only probes of this split: the beginning of its digest.")
    sort: str = setting("", "Metric to rank by, best first: test_rmse, test_delta1, val_loss, ...")
    as_json: bool = setting(False, "Print JSON, with all that the registry knows.", option="json")


@click.command()
@options(ModelsSettings)
def models(settings: ModelsSettings) -> None:
    """List registered probes, with what they were fitted on and how well they do."""
    everything = registry.list_probes()
    versions = selected(everything, {name: getattr(settings, name) for name in FILTERS})
    order = ranked(versions, settings.sort) if settings.sort and versions else versions
    lacking = [version for version in versions if version not in order]
    if settings.as_json:
        click.echo(json.dumps([_described(version) for version in (*order, *lacking)], indent=1))
    elif not everything:
        click.echo("no registered probes here: `idl probe` registers one, MLFLOW_TRACKING_URI says where.", err=True)
    else:
        for line in table(order, settings.sort):
            click.echo(line)
        if lacking:
            click.echo(f"\nwithout {settings.sort}: {', '.join(version.uri for version in lacking)}")


def _described(version: RegisteredVersion) -> dict[str, Any]:
    fields = {**asdict(version), "uri": version.uri, **version.tags}
    numbers = {name: int(value) if value.is_integer() else value for name, value in version.metrics.items()}
    return {name: value for name, value in {**fields, **numbers}.items() if name != "tags"}


def selected(versions: Sequence[RegisteredVersion], filters: Mapping[str, str]) -> tuple[RegisteredVersion, ...]:
    """Return the versions that pass all filters, by name in FILTERS. Raises InputError where one leaves none."""
    left = tuple(versions)
    for name, value in filters.items():
        if not value or not left:
            continue
        kept = tuple(version for version in left if _passes(version, FILTERS[name], value))
        if not kept:
            there = sorted({_label(version, name) for version in left})
            raise InputError(f"{name}={value}: no registered probe has it. There is: {', '.join(there)}.")
        left = kept
    return left


def ranked(versions: Sequence[RegisteredVersion], metric: str) -> tuple[RegisteredVersion, ...]:
    """Return the versions that have a metric, the best first. Raises InputError: none has it; they do not compare."""
    having = [version for version in versions if metric in version.metrics]
    if not having:
        metrics = sorted({name for version in versions for name in version.metrics})
        raise InputError(f"sort={metric}: no such figure. There is: {', '.join(metrics) or 'none'}.")
    names = (*CONDITIONS, *(["target"] if metric in IN_TARGET_UNITS else []))
    # Of what occurs together: the commonest dataset need not have the commonest split.
    together = [tuple(version.tags[FILTERS[name][-1]] for name in names) for version in having]
    differences, advice = [], []
    for name, most, *values in zip(names, max(sorted(together), key=together.count), *together, strict=True):
        tag = FILTERS[name][-1]
        if len(set(values)) > 1:
            differences.append(f"{name} ({', '.join(sorted({_label(version, name) for version in having}))})")
            advice.append(f"--{name} {most[:SHOWN_DIGITS] if tag.endswith('_digest') else most}")
    if differences:
        raise InputError(
            f"sort={metric}: figures are not ranked over a different {' and '.join(differences)}. "
            f"Choose one, as with {' '.join(advice)}."
        )
    sign = -1.0 if metric.startswith(HIGHER_IS_BETTER) else 1.0
    return tuple(
        sorted(having, key=lambda each: (sign * each.metrics[metric], each.created_ms, each.name, each.version))
    )


def table(versions: Sequence[RegisteredVersion], sort: str) -> list[str]:
    """Return the lines of a table: for each set of conditions a head and a row a version, its aliases at the end."""

    def conditions(version: RegisteredVersion) -> list[str]:
        return [_label(version, name, full=True) for name in CONDITIONS]

    more = [sort] if sort and sort not in ("k", "val_loss", "test_loss", "test_rmse", "test_angle_mean_deg") else []
    lines: list[str] = []
    for _, group in groupby(sorted(versions, key=conditions), conditions):
        alike = list(group)
        rows = [[*COLUMNS, *more, ""], *(_row(version, more) for version in alike)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["", ", ".join(f"{name} {_label(alike[0], name)}" for name in CONDITIONS)]
        for row in rows:
            # Words to the left, numbers to the right.
            words = [cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False)]
            numbers = [cell.rjust(width) for cell, width in zip(row[2:-1], widths[2:-1], strict=True)]
            lines.append("  ".join([*words, *numbers, row[-1]]).rstrip())
    return lines[1:]


def _row(version: RegisteredVersion, more: Sequence[str]) -> list[str]:
    words = "/".join(dict.fromkeys(version.tags[tag] for tag in ("weights", "task") if version.tags.get(tag)))
    texts = {name: f"{version.metrics[name]:.4g}" for name in version.metrics}
    errors = [
        f"{texts[name]}{unit}" for name, unit in (("test_rmse", " m"), ("test_angle_mean_deg", "°")) if name in texts
    ]
    figures = [texts.get(name, "-") for name in ("k", "val_loss", "test_loss")]
    further = [texts.get(name, "-") for name in more]
    aliases = " ".join(f"@{alias}" for alias in version.aliases)
    return [f"{version.name}/{version.version}", words, *figures, *(errors or ["-"])[:1], *further, aliases]


def _label(version: RegisteredVersion, name: str, full: bool = False) -> str:
    """Return what an option of FILTERS chooses by, digests cut: "rooms 7d67d9c4"."""
    values = [(tag, version.tags[tag]) for tag in FILTERS[name] if version.tags.get(tag)]
    return " ".join(value[:SHOWN_DIGITS] if tag.endswith("_digest") and not full else value for tag, value in values)


def _passes(version: RegisteredVersion, tags: Sequence[str], value: str) -> bool:
    values = {tag: version.tags.get(tag, "") for tag in tags}
    # "timm:resnet18" is registered as resnet18.
    names = {*values.values(), values.get("encoder", "").removeprefix("timm:")}
    digests = [each for tag, each in values.items() if tag.endswith("_digest")]
    return value in names or (len(value) >= 4 and any(each.startswith(value) for each in digests))
