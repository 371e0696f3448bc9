"""The commands that answer: `verdict` of one encoder, `compare` and `main` of several beside the null."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

import click
import numpy as np

from idl import tracking
from idl.cli.building import (
    cache_folder,
    configured,
    dataset_of,
    encoder_of,
    progress_shown,
    require_layer,
    store_of,
    tracked_run,
    warn,
)
from idl.cli.cueing import cues_of, say_cues, with_cues_of
from idl.cli.finishing import finish
from idl.cli.group import cli
from idl.cli.options import (
    crops_options,
    dataset_options,
    encoder_options,
    grouped,
    option,
    run_options,
    scene_split_options,
)
from idl.cli.repeating import command_line
from idl.data.store import Store
from idl.distributed import announced
from idl.encoders import Encoder
from idl.errors import InputError
from idl.figures import squared
from idl.pipeline import ProbeConfig
from idl.pipeline import probe as run_probe
from idl.report import Image, Run
from idl.study.cells import COMMON_NULL, Clusters
from idl.study.config import StudyConfig
from idl.study.fixed import Subject
from idl.study.page import EncoderCues, PageContent, cues_part, page_content, provenance
from idl.study.report import documents, study_report, with_answers
from idl.study.run import Plan, Study, check, plan, study
from idl.study.wording import meaning
from idl.targets import target as find_target
from idl.tasks import encoder_for_task, task_of

_STUDY = StudyConfig()
_PROBE = ProbeConfig()
NULL = "null"
# Of the original study.
COMPARED = "autoencoder,convnext"

study_options = grouped(
    option("--ks", _STUDY.ks, "Numbers read at a cell, with commas between, or all; each is a question of its own."),
    option("--margin", _STUDY.margin, "Ratio of losses up to which an effect counts as none."),
    option("--level", _STUDY.level, "Of the two-sided intervals."),
    option("--draws", _STUDY.draws, "Bootstrap draws."),
    option("--bootstrap-seed", _STUDY.bootstrap_seed, "Seed of the draws.", type=click.IntRange(min=0)),
    option("--clusters", _STUDY.clusters, "What is drawn as a whole.", type=click.Choice(get_args(Clusters))),
    option("--untrained-seeds", _STUDY.untrained_seeds, "Untrained twins of each form."),
    option("--shuffle-seed", _STUDY.shuffle_seed, "Seed of who lends depth maps to whom.", type=click.IntRange(min=0)),
    option("--common-stride", _STUDY.common_stride, "Stride of the null that all are held against, pixels."),
    option("--cues", "true", "Measure which cues each probe reads.", type=click.Choice(["true", "false"])),
)


feature_option = option(
    "--feature", _PROBE.target, "depth, log-depth, inverse-depth, normals, or package.module:factory."
)

batch_option = option("--batch-size", _PROBE.batch_size, "Images encoded at once.")

compare_options = grouped(
    feature_option,
    option("--encoders", COMPARED, "Encoders that are judged, with commas between; the null stands beside them."),
    option("--weights", "auto", "Of a ConvNeXt or timm model: auto, imagenet, shipped or random."),
    dataset_options,
    scene_split_options,
    crops_options,
    batch_option,
    study_options,
    run_options,
)


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
    options["target"] = options["feature"]
    config, asked = _settings(options)
    chosen = _chosen(options)
    with tracked_run("verdict", f"verdict {chosen['encoder']} {options['target']}", options) as recorder:
        dataset = dataset_of(options)
        require_layer(find_target(config.target), dataset, options)
        encoder = encoder_of(chosen["encoder"], chosen)
        subject = Subject(encoder, task_of(encoder.origin, options["task"]))
        check(config, asked, [subject])
        store = store_of(dataset, options)
        planned, reads = _fixed(recorder, plan(config, asked, store, [subject]))
        found = study(planned, cache_folder(options), progress=progress_shown())
        run = _probed(found, 0, encoder, store, options)
        report = with_answers(run.report, found, 0, reads)
        panels = {encoder.name: run.report.panels}
        if found.results[0].common_null is not None:
            # Only what the null has too: stage, normalisation and arguments are the encoder's.
            null = encoder_of(NULL, {"device": options["device"], "stride": asked.common_stride})
            panels = {NULL: _null_probed(found, null, options).report.panels, **panels}
        table = cues_of(found, 0, run, options)
        parts = []
        if table is not None:
            report = with_cues_of(report, found, table, options)
            parts.append(cues_part(table, report.figures))
        report = replace(report, texts={**report.texts, **documents(_content(found, panels, parts, reads))})
        finish(recorder, _judged(replace(run, report=report), found, 0), encoder, options)
        _say(found)
        say_cues([] if table is None else [table])


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
    options["target"] = options["feature"]
    config, asked = _settings(options)
    names = [name.strip() for name in options["encoders"].split(",") if name.strip()]
    if not names or NULL in names:
        raise InputError(f"encoders={options['encoders']}: name those that are judged; {NULL} stands beside them.")
    with tracked_run(entry_point, f"{entry_point} {options['target']}", options) as recorder:
        dataset = dataset_of(options)
        require_layer(find_target(config.target), dataset, options)
        null = encoder_of(NULL, {**_weights_for(NULL, options), "stride": asked.common_stride})
        encoders = [encoder_of(name, _weights_for(name, options)) for name in names]
        subjects = [Subject(encoder, task_of(encoder.origin)) for encoder in encoders]
        check(config, asked, subjects)
        store = store_of(dataset, options)
        size = store.protocol.size
        if any(side % asked.common_stride for side in size):
            raise InputError(
                f"common_stride={asked.common_stride}: does not divide images of {size[0]} x {size[1]} pixels. Pass 8."
            )
        planned, reads = _fixed(recorder, plan(config, asked, store, subjects))
        found = study(planned, cache_folder(options), progress=progress_shown())
        panels = {}
        with tracking.child(recorder, f"{NULL} {options['target']}") as child:
            run = _null_probed(found, null, options)
            panels[NULL] = run.report.panels
            finish(child, run, null, options)
        tables, parts = [], []
        for position, encoder in enumerate(encoders):
            with tracking.child(recorder, f"{encoder.name} {options['target']}") as child:
                run = _probed(found, position, encoder, store, options)
                panels[encoder.name] = run.report.panels
                report = with_answers(run.report, found, position, reads)
                table = cues_of(found, position, run, options)
                if table is not None:
                    report = with_cues_of(report, found, table, options)
                    tables.append(table)
                    parts.append(cues_part(table, report.figures))
                finish(child, _judged(replace(run, report=report), found, position), encoder, options)
        left_out = recorder.log(study_report(found, _content(found, panels, parts, reads)))
        if left_out:
            warn(f"not finite, and not logged: {', '.join(left_out)}")
        _say(found)
        say_cues(tables)
        click.echo(f"study: {recorder.hint}")


def _settings(options: Mapping[str, Any]) -> tuple[ProbeConfig, StudyConfig]:
    """Read both configurations before anything is built."""
    config = configured(ProbeConfig, options)
    find_target(config.target)
    return config, configured(StudyConfig, options)


def _chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the encoder that is meant, which a task may stand for."""
    if options["encoder"] or not options["task"]:
        return {**options, "encoder": options["encoder"] or "convnext"}
    named = encoder_for_task(options["task"])
    # Weights that were asked for beside the task are those of the task's encoder.
    weights = named.weights if options["weights"] == "auto" else options["weights"]
    return {**options, "encoder": named.name, "weights": weights}


def _weights_for(name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    # null has none, and the autoencoder none of a hub.
    return {**options, "weights": "auto"} if name in (NULL, "autoencoder") else options


def _fixed(recorder: tracking.Recorder, planned: Plan) -> tuple[Plan, int]:
    """Write down what is fixed before the test split is read, and count who read it before."""
    store = planned.store
    reads = tracking.count_test_readers(store.digest, planned.split.digest, planned.split.test_digest)
    for name, value in (
        ("verdict_digest", planned.digest),
        ("dataset_digest", store.digest),
        ("split_digest", planned.split.digest),
        ("test_digest", planned.split.test_digest),
        ("test_reads_before", str(reads)),
    ):
        recorder.tag(name, value)
    return planned, reads


def _shown(found: Study) -> tuple[str, ...]:
    """Name the test images that the last encoder's probe does best on, worst, and as well as on half of them."""
    result = found.results[-1]
    arm = result.at[max(result.at)].arms["trained"]
    seen = np.flatnonzero(result.num_valid > 0)
    order = seen[np.argsort(arm.squared_error[seen] / result.num_valid[seen], kind="stable")]
    return tuple(result.images[order[rank]] for rank in (0, len(order) // 2, -1))


def _probed(found: Study, position: int, encoder: Encoder, store: Store, options: Mapping[str, Any]) -> Run:
    """Run the probe that the answers rest on, at the largest k: from the cache."""
    k = max(found.results[position].at)
    config = replace(found.plan.probe, k=str(k))
    folder = cache_folder(options)
    return run_probe(config, store, encoder, folder, progress=progress_shown(), shown_names=_shown(found))


def _null_probed(found: Study, null: Encoder, options: Mapping[str, Any]) -> Run:
    """Run the ordinary probe of the null, on the grid that all are held against."""
    config, store, folder = found.plan.probe, found.plan.store, cache_folder(options)
    return run_probe(config, store, null, folder, progress=progress_shown(), shown_names=_shown(found))


def _content(
    found: Study, panels: Mapping[str, Mapping[str, Image]], cues: Sequence[EncoderCues], reads: int
) -> PageContent:
    """Bring all that the report says together."""
    made_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return page_content(found, panels, _shown(found), cues, provenance(found, reads, command_line(), made_at))


def _judged(run: Run, found: Study, position: int) -> Run:
    """Let the registered probe carry its answer at the k that it reads."""
    k = max(found.results[position].at)
    answer = next(verdict for question, verdict in found.of_encoder(position) if question.k == k)
    tags = {**run.model.tags, "verdict": str(answer.outcome), "verdict_digest": found.plan.digest}
    return replace(run, model=replace(run.model, tags=tags))


def _say(found: Study) -> None:
    """Write the answers, and the losses that they rest on."""
    click.echo()
    for line in _table(found):
        click.echo(line)
    for question, verdict in zip(found.questions, found.verdicts, strict=True):
        click.echo(f"\n{question.name}: {verdict.outcome}")
        click.echo(f"  {meaning(found, question, verdict)}\n  {verdict.reason}")


def _table(found: Study) -> list[str]:
    rows: list[Sequence[str]] = [("encoder, k", "test loss", "interval", "/ null", "/ common null", "/ pixels")]
    for question in found.questions:
        result = found.results[question.encoder]
        verdict = found.verdicts[found.questions.index(question)]
        arms = {arm.name: arm.mse for arm in verdict.description.arms} if verdict.description else {}
        loss = arms["trained"]
        ratios = [
            f"{loss.estimate / arms[name].estimate:.3f}" if name in arms and arms[name].estimate > 0 else "-"
            for name in ("null", COMMON_NULL, "pixels")
        ]
        interval = f"{loss.low:.4g} to {loss.high:.4g}"
        rows.append((question.name, f"{loss.estimate:.4g} {squared(result.unit)}".strip(), interval, *ratios))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
