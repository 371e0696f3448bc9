"""What a study leaves in MLflow and on the terminal, and its words; no number is computed here that decides."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from idl.report import RunReport, charts, tiles
from idl.report.dataset import CONTEXTS, dataset_inputs
from idl.report.encoder import model_slug
from idl.verdict.baselines import COMMON_NULL, NULL, PIXELS, TRAINED, ArmsAtK
from idl.verdict.cues import CueTable, Reading
from idl.verdict.result import Outcome, Verdict
from idl.verdict.study import Question, Study

_MEANINGS = {
    Outcome.LEARNED: (
        "Trained for {task}, {encoder} has learned something about {feature}: a linear probe reads there what it does "
        "not read in the image's own pixels, nor in the same network without its training."
    ),
    Outcome.NOT_LEARNED: (
        "Trained for {task}, {encoder} adds less than the margin of {margin} to what a linear probe reads of {feature} "
        "in the image's own pixels, or in the same network without its training."
    ),
    Outcome.INCONCLUSIVE: (
        "Whether {encoder}, trained for {task}, has learned something about {feature} cannot be told from these images."
    ),
    Outcome.INVALID: "Nothing is concluded about {encoder} and {feature}: {failed}.",
}
# Of the gates of `idl.verdict.decision`, where they fail.
_FAILED = {
    "no fit worse than constant": "a probe is worse than a constant guess on the very images that it was fitted to",
    "fits converged": "a probe was not fitted to its end",
    "every column counts": "numbers that a probe reads got lost in its fit",
    "no joint arm worse than its part": "a probe of encoder and pixels together does worse than one of them alone",
    "twins differ from pixels": "an untrained twin was not read at all",
    "enough clusters": "only {clusters} tested, and {fewest} are needed",
    "splits apart": "the same scenes or images were learned from and tested on",
}


def meaning(study: Study, question: Question, verdict: Verdict) -> str:
    """Return what the answer means, for people who do not know statistics, in a sentence or two."""
    subject, config = study.subjects[question.encoder], study.plan.config
    clusters = f"{verdict.counted_clusters} {'was' if verdict.num_clusters == 1 else 'were'}"
    failed = [
        _FAILED[gate.name].format(clusters=clusters, fewest=config.rules.min_clusters)
        for gate in verdict.gates
        if not gate.passed
    ]
    words = _MEANINGS[verdict.outcome].format(
        encoder=subject.encoder.name,
        task=subject.task,
        feature=study.plan.probe.target,
        margin=f"{100 * (config.margin - 1):.3g} %",
        failed=" and ".join(failed),
    )
    beside = verdict.caution if verdict.outcome is Outcome.LEARNED else verdict.block_caution
    return f"{words} {beside}" if beside else words


def notes(study: Study) -> tuple[str, ...]:
    """Return what a reader of the answers must know, a sentence each."""
    lines = [*study.plan.store.notes]
    for subject, result in zip(study.subjects, study.results, strict=True):
        if subject.encoder.origin.warning:
            lines.append(subject.encoder.origin.warning)
        lines += [f"{subject.encoder.name}: {sentence}" for sentence in result.missing]
    lines.append(
        "One trained network stands for itself: about a task, several trained from different seeds would speak."
    )
    return tuple(dict.fromkeys(lines))


def markdown(study: Study) -> str:
    """Return all answers for a run's page, and the notes."""
    lines = [
        f"**{question.name}: {verdict.outcome}.** {meaning(study, question, verdict)} {verdict.reason}"
        for question, verdict in study.answers
    ]
    return "\n\n".join(lines) + "".join(f"\n\n> {note}" for note in notes(study))


def summary(study: Study, cues: Sequence[CueTable | None]) -> str:
    """Return what the terminal shows: the losses that the answers rest on, the answers, and what each probe reads."""
    rows: list[Sequence[str]] = [("encoder, k", "test loss", "interval", "/ null", "/ common null", "/ pixels")]
    for question, verdict in study.answers:
        mse = {arm.name: arm.mse for arm in verdict.described.arms}
        loss, unit = mse[TRAINED], charts.squared(study.results[question.encoder].unit)
        ratios = (
            f"{loss.estimate / mse[name].estimate:.3f}" if name in mse and mse[name].estimate > 0 else "-"
            for name in (NULL, COMMON_NULL, PIXELS)
        )
        interval = f"{loss.low:.4g} to {loss.high:.4g}"
        rows.append((question.name, f"{loss.estimate:.4g} {unit}".strip(), interval, *ratios))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    for question, verdict in study.answers:
        lines.append(f"\n{question.name}: {verdict.outcome}")
        lines.append(f"  {meaning(study, question, verdict)}\n  {verdict.reason}")
    lines += ["\n{}\n  {}".format(*table.sentences) for table in cues if table is not None]
    return "\n".join(lines)


def study_report(study: Study, texts: Mapping[str, str], test_reads: int) -> RunReport:
    """Return the report of a run that holds all answers.

    texts: its page, and the same as JSON, by artifact path. test_reads: how many runs had read its test scenes before.
    """
    names = [subject.encoder.name for subject in study.subjects]
    report = RunReport(
        params={"encoders": ", ".join(names)},
        metrics={},
        texts=texts,
        datasets=dataset_inputs(study.plan.store, study.plan.split, tuple(CONTEXTS)),
    )
    return with_answers(report, study, test_reads, [model_slug(name) for name in names])


def with_answers(report: RunReport, study: Study, test_reads: int, slugs: Sequence[str] = ()) -> RunReport:
    """Return a report with all answers of `study`. slugs: of its encoders; none: it is about one, which has its run."""
    plan = study.plan
    store, split = plan.store, plan.split
    metrics = {"test_reads_before": float(test_reads)}
    tags = {
        "verdict_digest": plan.digest,
        "dataset": store.name,
        "dataset_digest": store.digest,
        "split_digest": split.digest,
        **split.test_tags(store),
        "target": plan.probe.target,
    }
    for question, verdict in study.answers:
        slug = slugs[question.encoder] if slugs else ""
        of_question = _metrics(study.results[question.encoder].at[question.k], verdict)
        metrics |= {f"{slug}/{name}".lstrip("/"): value for name, value in of_question.items()}
        tags[" ".join(filter(None, ("verdict", slug, f"k{question.k}")))] = str(verdict.outcome)
    return replace(
        report,
        params={**report.params, "feature": plan.probe.target, "clusters": plan.clusters.kind},
        metrics={**report.metrics, **metrics},
        description="\n\n".join(filter(None, (markdown(study), report.description))),
        tags={**report.tags, **tags},
    )


def _metrics(at: ArmsAtK, verdict: Verdict) -> dict[str, float]:
    """Return figures whose names begin with k, so that runs of different encoders stand side by side."""
    described, metrics = verdict.described, {"p": verdict.p, "smallest_detectable": verdict.smallest_detectable}
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
        key = _key(arm.name)
        metrics |= {f"{key}_test_loss": arm.mse.estimate, f"{key}_test_loss_aligned": arm.aligned_mse.estimate}
    for name, arm in at.arms.items():
        fit, key = arm.fitted.solution, _key(name)
        metrics |= {f"{key}_val_loss": fit.val_loss, f"{key}_cv_loss": fit.cv_loss}
    return {f"k{at.k}/{name}": value for name, value in metrics.items()}


def _key(arm: str) -> str:
    return f"arms/{arm.replace('+', '_').replace(' ', '_')}"


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
    images = {}
    if table.examples:
        images[f"cues/{model_slug(table.encoder)}_examples.png"] = tiles.cue_strip(
            ["clean", *(edit.name for edit in table.edits)],
            [example.name for example in table.examples],
            [example.rgb for example in table.examples],
            [example.prediction for example in table.examples],
            table.kind,
            limits,
            {"depth": "m", "normals": ""}.get(table.kind, "" if table.unit == "1" else table.unit),
            title=f"{table.encoder}: images with one cue removed, and what the probe makes of them",
        )
    return replace(
        report,
        metrics={**report.metrics, **metrics},
        figures={**report.figures, **images},
        description=f"{report.description}\n\n**Cues.** {' '.join(table.sentences)}",
        tags={**report.tags, "cues": read or ("undecided" if is_open else "none")},
    )
