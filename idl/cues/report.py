"""What the cues leave in MLflow; no number is computed here that decides."""

import math
from collections.abc import Mapping
from dataclasses import replace

from idl import figures
from idl.cues.result import CueTable, Reading
from idl.report import Image, RunReport
from idl.reporting.shared import model_slug
from idl.verdict import counted

TABLE = "cues/cues.csv"


def with_cues(report: RunReport, table: CueTable, limits: tuple[float, float]) -> RunReport:
    """Add the cues of an encoder's probe to the report of its run. limits: of the predictions' colours."""
    return replace(
        report,
        metrics={**report.metrics, **_metrics(table)},
        figures={**report.figures, **cue_figures(table, limits)},
        tables={**report.tables, TABLE: cue_table(table)},
        description=f"{report.description}\n\n**Cues.** {' '.join(table.sentences)}",
        tags={**report.tags, "cues": _read(table)},
    )


def _read(table: CueTable) -> str:
    """Name the cues that are read; "none" only where that is known of all of them."""
    read = ", ".join(found.cue for found in table.named(Reading.READ))
    is_open = not table.leads or table.named(Reading.UNDECIDED)
    return read or ("undecided" if is_open else "none")


def cue_table(table: CueTable) -> Mapping[str, list[object]]:
    """Give the losses as columns: the clean images first, then every edit, then the constant."""
    decides = {id(found.edit): found for found in table.findings}
    rows: list[dict[str, object]] = [
        {
            "images": "clean",
            "removed": None,
            "loss": table.clean_loss,
            "ratio": 1.0,
            "low": 1.0,
            "high": 1.0,
            "lost": 0.0,
            "cue": None,
            "reading": None,
            "explained_by": None,
        }
    ]
    for edit in (*table.edits, table.constant):
        found = decides.get(id(edit))
        rows.append(
            {
                "images": edit.name,
                "removed": edit.removed,
                "loss": edit.loss,
                "ratio": edit.ratio,
                "low": edit.low,
                "high": edit.high,
                "lost": edit.lost,
                "cue": str(found.cue) if found else None,
                "reading": str(found.reading) if found else None,
                "explained_by": str(found.explained_by) if found and found.explained_by else None,
            }
        )
    return {key: [row[key] for row in rows] for key in rows[0]}


def cue_figures(table: CueTable, limits: tuple[float, float]) -> dict[str, Image]:
    """Draw the losses, and examples: by artifact path."""
    slug = model_slug(table.encoder)
    images = {f"cues/{slug}_losses.png": _bars(table)}
    if table.examples:
        images[f"cues/{slug}_examples.png"] = _strip(table, limits)
    return images


def _bars(table: CueTable) -> Image:
    read = {found.edit.name for found in table.named(Reading.READ)}
    labels = [f"{edit.name} ({edit.removed})" for edit in table.edits]
    return figures.cue_bars(
        labels,
        [edit.ratio for edit in table.edits],
        [edit.low for edit in table.edits],
        [edit.high for edit in table.edits],
        constant=table.constant.ratio,
        title=f"{table.target} from {table.encoder}: which cues are read",
        subtitle=f"test loss with a cue removed / clean, {100 * table.level:g} % intervals over "
        f"{counted(table.num_clusters, table.clusters)}; blue: read",
        highlighted=[label for label, edit in zip(labels, table.edits, strict=True) if edit.name in read],
    )


def _strip(table: CueTable, limits: tuple[float, float]) -> Image:
    unit = {"depth": "m", "normals": ""}.get(table.kind, "" if table.unit == "1" else table.unit)
    return figures.cue_strip(
        ["clean", *(edit.name for edit in table.edits)],
        [example.name for example in table.examples],
        [example.rgb for example in table.examples],
        [example.prediction for example in table.examples],
        table.kind,
        limits,
        unit,
        title=f"{table.encoder}: images with one cue removed, and what the probe makes of them",
    )


def _metrics(table: CueTable) -> dict[str, float]:
    metrics = {"cues/clean_loss": table.clean_loss}
    for edit in (*table.edits, table.constant):
        key = f"cues/{edit.name.replace(' ', '_').replace('-', '_')}"
        metrics |= {f"{key}_ratio": edit.ratio, f"{key}_ratio_low": edit.low, f"{key}_ratio_high": edit.high}
        if not math.isnan(edit.lost):
            metrics[f"{key}_lost"] = edit.lost
    for name, found in (("predicted", table.predicted), ("true", table.true)):
        if found is not None:
            metrics[f"cues/luminance_{name}_within"] = found.within.estimate
            metrics[f"cues/luminance_{name}_overall"] = found.overall.estimate
    return metrics
