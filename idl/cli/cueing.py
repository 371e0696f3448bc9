"""The cues of a judged encoder's probe, for the commands that answer."""

from collections.abc import Iterable, Mapping
from typing import Any

import click

from idl.cli.building import cache_folder, progress_shown
from idl.cues import CuesConfig, CueTable, cues, with_cues
from idl.probes.linear_probe import DepthModel
from idl.progress import prefixed
from idl.ranges import shown_range
from idl.report import Run, RunReport
from idl.study.run import Study
from idl.targets import target as find_target


def cues_of(found: Study, position: int, run: Run, options: Mapping[str, Any]) -> CueTable | None:
    """Measure which cues the probe of `run` reads, if that was asked for."""
    model, plan = run.model.module, found.plan
    if options["cues"] != "true" or not isinstance(model, DepthModel):
        return None
    encoder, rules = found.subjects[position].encoder, plan.config.rules
    config = CuesConfig(
        batch_size=plan.probe.batch_size, draws=rules.draws, level=rules.level, bootstrap_seed=rules.seed
    )
    return cues(
        plan.store,
        plan.split,
        encoder,
        model.probe,
        find_target(plan.probe.target),
        config,
        clusters=plan.clusters.of_image,
        clusters_are=plan.clusters.kind,
        progress=prefixed(progress_shown(), encoder.name),
    )


def with_cues_of(report: RunReport, found: Study, table: CueTable, options: Mapping[str, Any]) -> RunReport:
    """Add the cues to the report of the probe's run."""
    plan = found.plan
    folder = cache_folder(options) / "ranges"
    return with_cues(report, table, shown_range(plan.store, plan.split, find_target(plan.probe.target), folder))


def say_cues(tables: Iterable[CueTable]) -> None:
    """Write what each probe reads."""
    for table in tables:
        click.echo(f"\n{table.sentences[0]}\n  {table.sentences[1]}")
