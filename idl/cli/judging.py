"""The commands that answer: `verdict` of one encoder, `compare` and `main` of several beside the null."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import click
import numpy as np

from idl import tracking
from idl.cli.answering import say
from idl.cli.asking import (
    NULL,
    chosen_encoder,
    compare_options,
    compared_encoders,
    feature_option,
    named_as_typed,
    settings,
    study_options,
)
from idl.cli.building import (
    cache_folder,
    dataset_of,
    encoder_of,
    progress_shown,
    require_layer,
    size_of,
    store_of,
    tracked_run,
    warn,
)
from idl.cli.cueing import cues_of, say_cues, with_cues_of
from idl.cli.finishing import finish, log_report, note_look
from idl.cli.group import cli
from idl.cli.options import (
    batch_option,
    crops_options,
    dataset_options,
    encoder_options,
    option,
    run_options,
    scene_split_options,
)
from idl.cli.repeating import command_line
from idl.cues import CueTable
from idl.distributed import announced
from idl.encoders import Encoder
from idl.pipeline import probe as run_probe
from idl.report import Image, Run
from idl.study.fixed import Subject
from idl.study.page import EncoderCues, PageContent, cues_part, page_content, provenance
from idl.study.report import documents, study_report, with_answers
from idl.study.run import Plan, Study, check, plan, study
from idl.tasks import task_of


@dataclass(frozen=True)
class _Judged:
    """What there is of one judged encoder: its probe's run with its answers, and the cues where they were measured."""

    run: Run
    cues: tuple[CueTable, ...]
    parts: tuple[EncoderCues, ...]


@cli.command()
@feature_option
@option("--task", "", "What the encoder was trained for; names the encoder where none is given.")
@option("--encoder", "", "As for probe; empty: the one that stands for the task, or convnext.")
@dataset_options
@encoder_options
@scene_split_options
@crops_options
@batch_option
@study_options
@run_options
def verdict(**options: Any) -> None:
    """Answer whether an encoder has learned a feature that nobody asked it for."""
    if not announced().is_first:
        return  # nothing to share among ranks
    with named_as_typed(target="feature"):
        config, asked, feature = settings(options)
    chosen = chosen_encoder(options)
    name = f"verdict {chosen['encoder']} {config.target}"
    with tracked_run("verdict", name, options) as recorder, named_as_typed(target="feature"):
        dataset = dataset_of(options)
        require_layer(feature, dataset, options)
        encoder = encoder_of(chosen["encoder"], chosen)
        subject = Subject(encoder, task_of(encoder.origin, options["task"]))
        check(config, asked, [subject], size_of(dataset))
        store = store_of(dataset, options)
        planned = plan(config, asked, store, [subject])
        reads = _written_down(recorder, planned)
        found = study(planned, cache_folder(options), progress=progress_shown())
        # Only what the null has too: stage, normalisation and arguments are the encoder's.
        null = encoder_of(NULL, {"device": options["device"], "stride": asked.common_stride})
        judged = _judged(found, 0, _probed(found, null, options).report.panels, reads, options)
        finish(recorder, judged.run, encoder, options)
        say(found)
        say_cues(judged.cues)


@cli.command()
@compare_options
def compare(**options: Any) -> None:
    """Hold null, autoencoder and ConvNeXt against each other: the whole study in one command."""
    _compare("compare", options)


@cli.command(name="main")
@compare_options
def whole_study(**options: Any) -> None:
    """The study, which a bare `mlflow run .` is: the same as compare."""
    _compare("main", options)


def _compare(entry_point: str, options: dict[str, Any]) -> None:
    if not announced().is_first:
        return  # nothing to share among ranks
    with named_as_typed(target="feature"):
        config, asked, feature = settings(options)
    compared = compared_encoders(options)
    name = f"{entry_point} {config.target}"
    with tracked_run(entry_point, name, options) as recorder, named_as_typed(target="feature", encoder="encoders"):
        dataset = dataset_of(options)
        require_layer(feature, dataset, options)
        null, *encoders = (encoder_of(name, each) for name, each in compared.items())
        subjects = [Subject(encoder, task_of(encoder.origin)) for encoder in encoders]
        check(config, asked, subjects, size_of(dataset))
        store = store_of(dataset, options)
        planned = plan(config, asked, store, subjects)
        reads = _written_down(recorder, planned)
        found = study(planned, cache_folder(options), progress=progress_shown())
        with tracking.child(recorder, f"{NULL} {config.target}") as child:
            run = _probed(found, null, options)
            finish(child, run, null, options)
        panels = {NULL: run.report.panels}
        judged = []
        for position, encoder in enumerate(encoders):
            with tracking.child(recorder, f"{encoder.name} {config.target}") as child:
                each = _judged(found, position, panels[NULL], reads, options)
                panels[encoder.name] = each.run.report.panels
                judged.append(each)
                finish(child, each.run, encoder, options)
        parts = [part for each in judged for part in each.parts]
        log_report(recorder, study_report(found, _content(found, panels, parts, reads)))
        say(found)
        say_cues(table for each in judged for table in each.cues)
        click.echo(f"study: {recorder.hint}")


def _written_down(recorder: tracking.Recorder, planned: Plan) -> int:
    """Write down the digests of what is fixed before the test split is read; count who read of it before.

    Where no answer can be valid, say so now: fits and losses, which follow all the same, may take an hour.
    """
    if planned.warning:
        warn(planned.warning)
    store, split = planned.store, planned.split
    reads = tracking.count_test_readers(store.digest, split.digest, split.looks(store))
    recorder.tag("verdict_digest", planned.digest)
    recorder.tag("test_reads_before", str(reads))
    note_look(recorder, store, split)
    return reads


def _shown(found: Study) -> tuple[str, ...]:
    """Name the test images that the last encoder's probe does best on, worst, and as well as on half of them."""
    result = found.results[-1]
    arm = result.at[max(result.at)].arms["trained"]
    seen = np.flatnonzero(result.num_valid > 0)
    order = seen[np.argsort(arm.squared_error[seen] / result.num_valid[seen], kind="stable")]
    return tuple(result.images[order[rank]] for rank in (0, len(order) // 2, -1))


def _probed(found: Study, encoder: Encoder, options: Mapping[str, Any], k: str = "auto") -> Run:
    """Run the ordinary probe of an encoder, from the cache where it was judged: the same images are shown of all."""
    shown = {name for position in range(len(found.subjects)) for name in _shown(found.alone(position))}
    config, folder = replace(found.plan.probe, k=k), cache_folder(options)
    return run_probe(config, found.plan.store, encoder, folder, progress=progress_shown(), shown_names=shown)


def _judged(
    found: Study, position: int, null_panels: Mapping[str, Image], reads: int, options: Mapping[str, Any]
) -> _Judged:
    """Run the probe that an encoder's answers rest on, at the largest k, and put them and a page of its own beside it.

    The registered probe carries its answer at the k that it reads.
    """
    alone = found.alone(position)
    (encoder,) = (subject.encoder for subject in alone.subjects)
    k = max(alone.results[0].at)
    run = _probed(found, encoder, options, str(k))
    report = with_answers(run.report, found, position, reads)
    table = cues_of(found, position, run, options)
    cues = () if table is None else (table,)
    for each in cues:
        report = with_cues_of(report, found, each, options)
    parts = tuple(cues_part(each, report.figures) for each in cues)
    panels = {NULL: null_panels, encoder.name: run.report.panels}
    report = replace(report, texts={**report.texts, **documents(_content(alone, panels, parts, reads))})
    answer = next(verdict for question, verdict in alone.of_encoder(0) if question.k == k)
    tags = {**run.model.tags, "verdict": str(answer.outcome), "verdict_digest": found.plan.digest}
    return _Judged(Run(report, replace(run.model, tags=tags)), cues, parts)


def _content(
    found: Study, panels: Mapping[str, Mapping[str, Image]], cues: Sequence[EncoderCues], reads: int
) -> PageContent:
    """Bring all that the report says together."""
    made_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return page_content(found, panels, _shown(found), cues, provenance(found, reads, command_line(), made_at))
