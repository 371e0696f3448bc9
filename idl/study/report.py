"""What a study leaves in MLflow; no number is computed here that decides."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from idl import figures
from idl.arms import ArmsResult
from idl.report import Image, RunReport
from idl.reporting.shared import CONTEXTS, dataset_inputs, model_slug
from idl.study.cells import COMMON_NULL, Question
from idl.study.page import PageContent, document, page
from idl.study.run import Study
from idl.study.wording import markdown
from idl.verdict import Comparison, Interval, Verdict

PAGE, DOCUMENT = "verdict.html", "verdict.json"


def study_report(study: Study, content: PageContent) -> RunReport:
    """All answers of a study in one run. content: of its page, and of the same as JSON."""
    metrics = {
        f"{_slug(study, question)}/{name}": value
        for question, verdict in _answers(study)
        for name, value in _metrics(study.results[question.encoder], question, verdict).items()
    }
    everyone = range(len(study.subjects))
    return RunReport(
        params=_params(study) | {"encoders": ", ".join(subject.encoder.name for subject in study.subjects)},
        metrics=metrics | {"test_reads_before": float(content.provenance.test_reads)},
        figures={name: image for position in everyone for name, image in _figures(study, position).items()},
        tables={"arms.csv": _arms_table(study, everyone)},
        texts=documents(content),
        datasets=dataset_inputs(study.plan.store, study.plan.split, tuple(CONTEXTS)),
        description=markdown(study),
        tags=_tags(study) | {f"verdict {_slug(study, q)} k{q.k}": str(v.outcome) for q, v in _answers(study)},
    )


def documents(content: PageContent) -> dict[str, str]:
    """The report for people and for programs, by artifact path."""
    return {PAGE: page(content), DOCUMENT: json.dumps(document(content), indent=1, allow_nan=False)}


def with_answers(report: RunReport, study: Study, position: int, test_reads: int) -> RunReport:
    """Add to the report of an encoder's probe what the study says of that encoder."""
    metrics: dict[str, float] = {}
    tags = _tags(study)
    for question, verdict in study.of_encoder(position):
        metrics |= _metrics(study.results[position], question, verdict)
        tags[f"verdict k{question.k}"] = str(verdict.outcome)
    return replace(
        report,
        params={**report.params, **_params(study)},
        metrics={**report.metrics, **metrics, "test_reads_before": float(test_reads)},
        figures={**_figures(study, position), **report.figures},
        tables={**report.tables, "arms.csv": _arms_table(study, [position])},
        description=f"{markdown(study.alone(position))}\n\n{report.description}",
        tags={**report.tags, **tags},
    )


def _answers(study: Study) -> Iterator[tuple[Question, Verdict]]:
    return zip(study.questions, study.verdicts, strict=True)


def _slug(study: Study, question: Question) -> str:
    return model_slug(study.subjects[question.encoder].encoder.name)


def _params(study: Study) -> dict[str, Any]:
    config = study.plan.config
    return {
        "feature": study.plan.probe.target,
        "dataset": study.plan.store.name,
        "split": study.plan.probe.split,
        "split_seed": study.plan.probe.split_seed,
        "test_images": study.plan.probe.test_images,
        "test_seed": study.plan.probe.test_seed,
        "ks": config.ks,
        "margin": config.margin,
        "level": config.level,
        "draws": config.draws,
        "bootstrap_seed": config.bootstrap_seed,
        "clusters": study.plan.clusters.kind,
        "untrained_seeds": config.untrained_seeds,
        "shuffle_seed": config.shuffle_seed,
        "common_stride": config.common_stride,
    }


def _tags(study: Study) -> dict[str, str]:
    store = study.plan.store
    return {
        "verdict_digest": study.plan.digest,
        "dataset": store.name,
        "dataset_digest": store.digest,
        "split_digest": study.plan.split.digest,
        **study.plan.split.looks(store),
        "target": study.plan.probe.target,
    }


def _metrics(result: ArmsResult, question: Question, verdict: Verdict) -> dict[str, float]:
    """Name figures by k, so that runs of different encoders stand side by side."""
    metrics = {"p": verdict.p, "smallest_detectable": verdict.smallest_detectable}
    if verdict.adjusted_p is not None:
        metrics["adjusted_p"] = verdict.adjusted_p
    for name, comparison in (("beyond_pixels", verdict.beyond_pixels), ("learned", verdict.learned)):
        metrics |= _interval(name, comparison.log_ratio)
    description = verdict.description
    if description is not None:
        for arm in description.arms:
            metrics[f"arms/{_key(arm.name)}_test_loss"] = arm.mse.estimate
            if arm.aligned_mse is not None:
                metrics[f"arms/{_key(arm.name)}_test_loss_aligned"] = arm.aligned_mse.estimate
        if description.trained_over_null is not None:
            metrics |= _interval("trained_over_null", description.trained_over_null)
        if description.selectivity is not None:
            metrics |= _interval("selectivity", description.selectivity)
    for name, arm in result.at[question.k].arms.items():
        metrics[f"arms/{_key(name)}_val_loss"] = arm.fitted.solution.val_loss
        metrics[f"arms/{_key(name)}_cv_loss"] = arm.fitted.solution.cv_loss
    return {f"k{question.k}/{name}": value for name, value in metrics.items()}


def _interval(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _key(arm: str) -> str:
    return arm.replace("+", "_").replace(" ", "_")


def _figures(study: Study, position: int) -> dict[str, Image]:
    """Intervals of every arm's loss, and of what is compared, a picture each a question."""
    slug = model_slug(study.subjects[position].encoder.name)
    images = {}
    for question, verdict in study.of_encoder(position):
        if verdict.description is not None:
            images[f"verdict/{slug}_k{question.k}_arms.png"] = _arms_chart(study, question, verdict)
        images[f"verdict/{slug}_k{question.k}_comparisons.png"] = _comparisons_chart(study, question, verdict)
    return images


def _arms_chart(study: Study, question: Question, verdict: Verdict) -> Image:
    assert verdict.description is not None
    arms = verdict.description.arms
    square = figures.squared(study.results[question.encoder].unit)
    return figures.interval_chart(
        [arm.name for arm in arms],
        [arm.mse.estimate for arm in arms],
        [arm.mse.low for arm in arms],
        [arm.mse.high for arm in arms],
        title=f"{study.plan.probe.target} from {question.name}",
        subtitle=f"test loss{f', {square}' if square else ''}, with {100 * study.plan.config.level:g} % intervals over "
        f"{verdict.counted_clusters}; less is better",
        highlighted=("trained", "trained+pixels"),
    )


def _comparisons_chart(study: Study, question: Question, verdict: Verdict) -> Image:
    rows: Sequence[Comparison] = verdict.comparisons
    return figures.interval_chart(
        [comparison.name for comparison in rows],
        [comparison.log_ratio.estimate for comparison in rows],
        [comparison.log_ratio.low for comparison in rows],
        [comparison.log_ratio.high for comparison in rows],
        title=f"{question.name}: {verdict.outcome}",
        subtitle="ln of the loss without it over the loss with it; LEARNED needs all of them right of the margin",
        highlighted=(rows[0].name, rows[1].name),
        reference=study.plan.config.rules.margin,
        reference_name="margin",
    )


def _arms_table(study: Study, positions: Sequence[int]) -> Mapping[str, list[object]]:
    rows = [
        row
        for position in positions
        for question, verdict in study.of_encoder(position)
        for row in _arm_rows(study, question, verdict)
    ]
    return {key: [row[key] for row in rows] for key in rows[0]}


def _arm_rows(study: Study, question: Question, verdict: Verdict) -> Iterator[dict[str, object]]:
    result = study.results[question.encoder]
    described = {} if verdict.description is None else {arm.name: arm for arm in verdict.description.arms}
    arms = dict(result.at[question.k].arms)
    if result.common_null is not None:
        arms[COMMON_NULL] = result.common_null
    null = result.mse(question.k, "null")
    for name, arm in arms.items():
        count = result.num_valid.sum() * result.num_outputs
        loss = float(arm.squared_error.sum() / count)
        figure = described.get(name)
        yield {
            "encoder": study.subjects[question.encoder].encoder.name,
            "k": question.k,
            "arm": name,
            "columns": len(arm.fitted.columns),
            "rank": arm.fitted.solution.rank,
            "penalty": arm.fitted.penalty,
            "features_penalty": arm.fitted.features_penalty,
            "train_loss": arm.fitted.solution.train_loss,
            "val_loss": arm.fitted.solution.val_loss,
            "cv_loss": arm.fitted.solution.cv_loss,
            "test_loss": loss,
            "test_loss_low": figure.mse.low if figure else None,
            "test_loss_high": figure.mse.high if figure else None,
            "test_loss_aligned": float(arm.aligned_error.sum() / count),
            "r2": figure.r2.estimate if figure and figure.r2 else None,
            "over_null": loss / null if null > 0 else None,
        }
