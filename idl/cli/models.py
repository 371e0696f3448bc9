"""The command that lists registered probes, filtered and ranked: `models`."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import click

from idl import tracking
from idl.cli.options import options
from idl.errors import InputError
from idl.settings import setting
from idl.tracking import RegisteredVersion

# Tags that describe a version and are no metrics; nor is any digest, though it may look like a number.
IDENTITY = ("dataset", "protocol", "target", "encoder", "weights", "task", "kind", "shown_range")
IDENTITY += ("target_identity", "test_scenes")
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
    everything = tracking.list_probes()
    versions, lacking = selected(everything, {name: getattr(settings, name) for name in FILTERS}), ()
    if settings.sort and versions:
        versions, lacking = ranked(versions, settings.sort)
    if settings.as_json:
        click.echo(json.dumps([_described(version) for version in (*versions, *lacking)], indent=1))
        return
    if not everything:
        click.echo("no registered probes here: `idl probe` registers one, MLFLOW_TRACKING_URI says where.", err=True)
        return
    for line in table(versions, settings.sort):
        click.echo(line)
    if lacking:
        click.echo(f"\nwithout {settings.sort}: {', '.join(version.uri for version in lacking)}")


def selected(versions: Sequence[RegisteredVersion], filters: Mapping[str, str]) -> tuple[RegisteredVersion, ...]:
    """Return the versions that pass all filters, in their order.

    filters: by name in FILTERS; "" lets all pass. A digest may be cut to its first four digits or more.
    Raises InputError where a filter leaves none of the versions that passed those before it, and names theirs.
    """
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


def ranked(
    versions: Sequence[RegisteredVersion], metric: str
) -> tuple[tuple[RegisteredVersion, ...], tuple[RegisteredVersion, ...]]:
    """Return the versions with the best `metric` first, and apart from them those that do not have it.

    Of equals the older one comes first. Raises InputError: no version has such a metric; the versions differ in
    dataset, split or protocol, or in the target where the metric is in its unit.
    """
    metrics = sorted({name for version in versions for name in version.tags if _number(version, name) is not None})
    if metric not in metrics:
        raise InputError(f"sort={metric}: no such figure. There is: {', '.join(metrics) or 'none'}.")
    having = [version for version in versions if _number(version, metric) is not None]
    _require_comparable(having, metric)
    sign = -1.0 if metric.startswith(HIGHER_IS_BETTER) else 1.0
    order = sorted(having, key=lambda each: (sign * float(each.tags[metric]), each.created_ms, each.name, each.version))
    return tuple(order), tuple(version for version in versions if _number(version, metric) is None)


def table(versions: Sequence[RegisteredVersion], sort: str) -> list[str]:
    """Return the lines of a table: a head and rows for each set of conditions, aliases beneath a row."""

    def conditions(version: RegisteredVersion) -> list[str]:
        return [_label(version, name, full=True) for name in CONDITIONS]

    lines: list[str] = []
    for _, group in groupby(sorted(versions, key=conditions), conditions):
        alike = list(group)
        head = ", ".join(f"{name} {_label(alike[0], name)}" for name in CONDITIONS)
        lines += ([""] if lines else []) + [head, *_rows(alike, sort)]
    return lines


def _rows(group: Sequence[RegisteredVersion], sort: str) -> list[str]:
    more = [sort] if sort and sort not in ("k", "val_loss", "test_loss", "test_rmse", "test_angle_mean_deg") else []
    rows = [[*COLUMNS, *more]]
    for version in group:
        words = "/".join(dict.fromkeys(version.tags[tag] for tag in ("weights", "task") if version.tags.get(tag)))
        degrees, metres = _figure(version, "test_angle_mean_deg"), _figure(version, "test_rmse")
        error = f"{metres} m" if metres != "-" else f"{degrees}°" if degrees != "-" else "-"
        figures = [_figure(version, name) for name in ("k", "val_loss", "test_loss")]
        rows.append(
            [f"{version.name}/{version.version}", words, *figures, error, *(_figure(version, name) for name in more)]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # Words to the left, numbers to the right.
    sides = [str.ljust, str.ljust, *[str.rjust] * (len(widths) - 2)]
    lines = []
    for row, aliases in zip(rows, [(), *(version.aliases for version in group)], strict=True):
        cells = (to_side(cell, most) for to_side, cell, most in zip(sides, row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
        lines += ["    " + " ".join(f"@{alias}" for alias in aliases)] if aliases else []
    return lines


def _label(version: RegisteredVersion, name: str, full: bool = False) -> str:
    """Return what an option of FILTERS chooses by, digests cut: "rooms 7d67d9c4"."""
    values = [(tag, version.tags[tag]) for tag in FILTERS[name] if version.tags.get(tag)]
    return " ".join(value[:SHOWN_DIGITS] if tag.endswith("_digest") and not full else value for tag, value in values)


def _passes(version: RegisteredVersion, tags: Sequence[str], wanted: str) -> bool:
    values = {tag: version.tags.get(tag, "") for tag in tags}
    # "timm:resnet18" is registered as resnet18.
    names = {*values.values(), values.get("encoder", "").removeprefix("timm:")}
    digests = [value for tag, value in values.items() if tag.endswith("_digest")]
    return wanted in names or (len(wanted) >= 4 and any(digest.startswith(wanted) for digest in digests))


def _is_text(tag: str) -> bool:
    return tag in IDENTITY or tag.endswith("_digest")


def _number(version: RegisteredVersion, name: str) -> float | None:
    """Return a metric of a version; None where it has none, or none that is finite."""
    try:
        number = float(version.tags[name])
    except (KeyError, ValueError):
        return None
    return number if math.isfinite(number) and not _is_text(name) else None


def _figure(version: RegisteredVersion, name: str) -> str:
    number = _number(version, name)
    return "-" if number is None else f"{number:.4g}"


def _require_comparable(versions: Sequence[RegisteredVersion], metric: str) -> None:
    names = [*CONDITIONS, *(["target"] if metric in IN_TARGET_UNITS else [])]
    differences, advice = [], []
    # Of what occurs together: the commonest dataset need not have the commonest split.
    together = [tuple(version.tags[FILTERS[name][-1]] for name in names) for version in versions]
    for name, most in zip(names, max(sorted(set(together)), key=together.count), strict=True):
        tag = FILTERS[name][-1]
        if len({version.tags[tag] for version in versions}) > 1:
            labels = sorted({_label(version, name) for version in versions})
            differences.append(f"{name} ({', '.join(labels)})")
            advice.append(f"--{name} {most[:SHOWN_DIGITS] if tag.endswith('_digest') else most}")
    if differences:
        raise InputError(
            f"sort={metric}: figures are not ranked over a different {' and '.join(differences)}. "
            f"Choose one, as with {' '.join(advice)}."
        )


def _described(version: RegisteredVersion) -> dict[str, Any]:
    described = {**asdict(version), "uri": version.uri}
    tags = described.pop("tags")
    return {**described, **{name: value if _is_text(name) else _plain(value) for name, value in tags.items()}}


def _plain(text: str) -> object:
    """Return a number where `text` is a finite one; JSON has no other."""
    try:
        return json.loads(text, parse_constant=str)
    except ValueError:
        return text
