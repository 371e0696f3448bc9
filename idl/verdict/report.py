"""What a study leaves in MLflow and on the terminal, and its words; no number is computed here that decides."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from idl.encoders import Encoder
from idl.pipeline import probe
from idl.probes.linear_probe import DepthModel
from idl.progress import Progress, prefixed, silent
from idl.report import Image, Run, RunReport, charts, tiles
from idl.report.encoder import CONTEXTS, dataset_inputs, model_slug
from idl.report.views import shown_range
from idl.targets import target
from idl.verdict.baselines import COMMON_NULL, NULL, PIXELS, TRAINED
from idl.verdict.cues import CueTable, Reading, cues
from idl.verdict.document import EncoderRun, Provenance, document, matrix, meaning, notes, plain, shown_names
from idl.verdict.page import Pictures, page
from idl.verdict.study import Answer, Study

Panels = Mapping[str, Image]


def probe_run(
    study: Study, encoder: Encoder, cache_folder: Path, *, k: str = "auto", progress: Progress = silent
) -> Run:
    """Run the ordinary probe of an encoder, from the cache where it was judged: the same images are shown of all.

    study: of one feature.
    """
    shown = {name for encoder, _ in study.results for name in shown_names(study.part(encoder))}
    config = replace(study.plan.probe, k=k)
    return probe(config, study.plan.store, encoder, cache_folder, progress=progress, shown_names=shown)


def encoder_runs(
    study: Study,
    encoder: Encoder,
    null_panels: Mapping[str, Panels],
    given: Provenance,
    cache_folder: Path,
    *,
    progress: Progress = silent,
) -> list[EncoderRun]:
    """Run the probes that an encoder's answers rest on, one a feature, with answers, cues and a page beside each.

    A probe reads its feature's largest k, and the model carries the answer at that k.
    null_panels: by feature, of the null's `probe_run`. given: where the figures come from.
    """
    plan, parts, runs = study.plan, dict[str, Study](), dict[str, Run]()
    for feature in plan.features:
        parts[feature] = study.part(encoder.name, feature)
        # All encoders show the same images.
        of_all, k = study.part(feature=feature), parts[feature].answers[-1].k
        runs[feature] = probe_run(of_all, encoder, cache_folder, k=str(k), progress=progress)
    models = {feature: run.model.module for feature, run in runs.items()}
    probes = {
        feature: (model.probe, target(feature)) for feature, model in models.items() if isinstance(model, DepthModel)
    }
    tables: dict[str, CueTable] = {}
    if plan.config.cues and probes:
        made = cues(
            plan.store,
            plan.split,
            encoder,
            list(probes.values()),
            plan.config,
            plan.probe.batch_size,
            clusters=plan.clusters.of_image,
            progress=prefixed(progress, encoder.name),
        )
        tables = dict(zip(probes, made, strict=True))
    return [
        _encoder_run(parts[feature], encoder.name, run, tables.get(feature), null_panels[feature], given, cache_folder)
        for feature, run in runs.items()
    ]


def _encoder_run(
    study: Study,
    encoder: str,
    run: Run,
    table: CueTable | None,
    null_panels: Panels,
    given: Provenance,
    cache_folder: Path,
) -> EncoderRun:
    """Put answers, cues and a page beside a probe's run. study: of this encoder and feature."""
    plan, (feature,) = study.plan, study.plan.features
    report = with_answers(run.report, study, given.test_reads)
    if table is not None:
        report = with_cues(report, table, shown_range(plan.store, plan.split, target(feature), cache_folder / "ranges"))
    tags = {**run.model.tags, "verdict": str(study.answers[-1].verdict.outcome), "verdict_digest": plan.digest}
    own = EncoderRun(encoder, feature, Run(report, replace(run.model, tags=tags)), table)
    texts = {**report.texts, **_texts(study, {feature: null_panels}, [own], given)}
    return replace(own, run=replace(own.run, report=replace(report, texts=texts)))


def whole_report(
    study: Study, null_panels: Mapping[str, Panels], runs: Sequence[EncoderRun], given: Provenance
) -> RunReport:
    """Return the report of the run that holds all answers.

    null_panels: by feature. runs: of all encoders and features, those that were trained for nothing among them.
    """
    rows = matrix(study, runs)
    report = RunReport(
        params={"encoders": ", ".join(subject.encoder.name for subject in study.plan.subjects)},
        metrics={},
        tables={"matrix.csv": {name: [row[name] for row in rows] for name in rows[0]}},
        texts=_texts(study, null_panels, runs, given),
        datasets=dataset_inputs(study.plan.store, study.plan.split, tuple(CONTEXTS)),
    )
    return with_answers(report, study, given.test_reads, is_whole=True)


def _texts(
    study: Study, null_panels: Mapping[str, Panels], runs: Sequence[EncoderRun], given: Provenance
) -> dict[str, str]:
    """Return the page, and the same for programs, by artifact path."""
    content, pictures = document(study, runs, given), []
    for feature in study.plan.features:
        own = [each for each in runs if (each.encoder, each.feature) in study.results and each.feature == feature]
        panels = {NULL: null_panels[feature], **{each.encoder: each.run.report.panels for each in own}}
        strips = {each.encoder: each.run.report.figures[_strip_path(each.encoder)] for each in own if each.cues}
        pictures.append(Pictures(panels, strips))
    written = json.dumps(plain(content), indent=1, allow_nan=False)
    return {"verdict.html": page(content, *pictures), "verdict.json": written}


def markdown(study: Study) -> str:
    """Return all answers for a run's page, and the notes."""
    lines = []
    for answer in study.answers:
        verdict = answer.verdict
        lines.append(f"**{verdict.cell}: {verdict.outcome}.** {meaning(study.plan, answer)} {verdict.reason}")
    return "\n\n".join(lines) + "".join(f"\n\n> {note}" for note in notes(study))


def summary(study: Study, runs: Sequence[EncoderRun]) -> str:
    """Return what the terminal shows: the losses that the answers rest on, the answers, and what each probe reads."""
    rows: list[Sequence[str]] = [("encoder, k", "test loss", "interval", "/ null", "/ common null", "/ pixels")]
    lines = []
    for answer in study.answers:
        verdict = answer.verdict
        mse = {arm.name: arm.mse for arm in verdict.described.arms}
        loss = mse[TRAINED]
        ratios = (
            f"{loss.estimate / mse[name].estimate:.3f}" if mse[name].estimate > 0 else "-"
            for name in (NULL, COMMON_NULL, PIXELS)
        )
        interval = f"{loss.low:.4g} to {loss.high:.4g}"
        unit = charts.squared(target(answer.feature).unit)
        rows.append((verdict.cell, f"{loss.estimate:.4g} {unit}".strip(), interval, *ratios))
        lines.append(f"\n{verdict.cell}: {verdict.outcome}\n  {meaning(study.plan, answer)}\n  {verdict.reason}")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([*table, *lines, *("\n{}\n  {}".format(*each.cues.sentences) for each in runs if each.cues)])


def overview(study: Study, runs: Sequence[EncoderRun]) -> str:
    """Return the matrix for the terminal: each encoder's answer at its largest k, and how much of the loss is left."""
    features = [target(each).name for each in study.plan.features]
    found = {
        (row["encoder"], row["feature"]): f"{row['answer']} {row['loss_over_null']:.3f}" for row in matrix(study, runs)
    }
    rows = [("loss over null", *features)]
    rows += [(name, *(found[name, each] for each in features)) for name in dict.fromkeys(name for name, _ in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def with_answers(report: RunReport, study: Study, test_reads: int, *, is_whole: bool = False) -> RunReport:
    """Return a report with all answers of `study`. is_whole: figures are named by their encoder, too."""
    plan, feature = study.plan, ",".join(study.plan.features)
    metrics = {"test_reads_before": float(test_reads)}
    tags = {
        "verdict_digest": plan.digest,
        "dataset": plan.store.name,
        "dataset_digest": plan.store.digest,
        "split_digest": plan.split.digest,
        **plan.split.test_tags(plan.store),
        "target": feature,
    }
    for answer in study.answers:
        slug = [model_slug(answer.encoder)] if is_whole else []
        slug += [target(answer.feature).name] if len(plan.features) > 1 else []
        metrics |= {"/".join([*slug, f"k{answer.k}", name]): value for name, value in _metrics(answer).items()}
        tags[" ".join(["verdict", *slug, f"k{answer.k}"])] = str(answer.verdict.outcome)
    return replace(
        report,
        params={**report.params, "feature": feature, "clusters": plan.clusters.kind},
        metrics={**report.metrics, **metrics},
        description="\n\n".join(filter(None, (markdown(study), report.description))),
        tags={**report.tags, **tags},
    )


def _metrics(answer: Answer) -> dict[str, float]:
    verdict, described = answer.verdict, answer.verdict.described
    metrics = {"p": verdict.p, "smallest_detectable": verdict.smallest_detectable}
    if verdict.adjusted_p is not None:
        metrics["adjusted_p"] = verdict.adjusted_p
    for name, interval in (
        ("beyond_pixels", verdict.beyond_pixels.log_ratio),
        ("learned", verdict.learned.log_ratio),
        ("trained_over_null", described.trained_over_null),
        ("selectivity", described.selectivity),
    ):
        if interval is not None:
            metrics |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    for arm in described.arms:
        key = f"arms/{arm.name.replace('+', '_').replace(' ', '_')}"
        metrics |= {f"{key}_test_loss": arm.mse.estimate, f"{key}_test_loss_aligned": arm.aligned_mse.estimate}
        # The common null is fitted on another grid.
        if arm.name != COMMON_NULL:
            fit = answer.arms[arm.name].solution
            metrics |= {f"{key}_val_loss": fit.val_loss, f"{key}_cv_loss": fit.cv_loss}
    return metrics


def with_cues(report: RunReport, table: CueTable, limits: tuple[float, float]) -> RunReport:
    """Return the report of an encoder's run with the cues of its probe. limits: of the predictions' colours."""
    metrics = {"cues/clean_loss": table.clean_loss}
    for edit, _ in table.rows:
        key = f"cues/{edit.name.replace(' ', '_').replace('-', '_')}"
        ratio = edit.ratio
        metrics |= {f"{key}_ratio": ratio.estimate, f"{key}_ratio_low": ratio.low, f"{key}_ratio_high": ratio.high}
        if not math.isnan(edit.lost):
            metrics[f"{key}_lost"] = edit.lost
    for (whose, where), correlation in table.correlations.items():
        metrics[f"cues/luminance_{whose}_{where}"] = correlation.estimate
    read = ", ".join(finding.cue for finding in table.named(Reading.READ))
    # "none" only where that is known of all of them.
    is_open = not table.leads or table.named(Reading.UNDECIDED)
    strip = tiles.cue_strip(
        ["clean", *(edit.name for edit in table.edits)],
        *zip(*table.examples, strict=True),
        kind=table.kind,
        limits=limits,
        unit={"depth": "m", "normals": ""}.get(table.kind, "" if table.unit == "1" else table.unit),
        title=f"{table.encoder}: images with one cue removed, and what the probe makes of them",
    )
    return replace(
        report,
        metrics={**report.metrics, **metrics},
        figures={**report.figures, _strip_path(table.encoder): strip},
        description=f"{report.description}\n\n**Cues.** {' '.join(table.sentences)}",
        tags={**report.tags, "cues": read or ("undecided" if is_open else "none")},
    )


def _strip_path(encoder: str) -> str:
    return f"cues/{model_slug(encoder)}_examples.png"
