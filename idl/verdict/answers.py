"""From a finished study to the runs that hold its answers: a probe of each encoder, its cues, its page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from idl.encoders import Encoder
from idl.pipeline import probe
from idl.probes.linear_probe import DepthModel
from idl.progress import Progress, prefixed, silent
from idl.report import Image, Run, RunReport
from idl.report.views import shown_range
from idl.targets import target
from idl.verdict.baselines import TRAINED
from idl.verdict.cues import CueTable, cues
from idl.verdict.page import EncoderCues, Provenance, cues_part, document, page, page_content
from idl.verdict.report import study_report, with_answers, with_cues
from idl.verdict.settings import CuesConfig
from idl.verdict.study import NULL, Study

Panels = Mapping[str, Image]


@dataclass(frozen=True)
class EncoderRun:
    """A judged encoder's probe with its answers, and its cues; None where they were not measured."""

    run: Run
    cues: CueTable | None
    part: EncoderCues | None


def shown_names(study: Study) -> tuple[str, ...]:
    """Return the test images that the last encoder's probe does best on, worst, and as well as on half of them."""
    result = study.results[-1]
    arm = result.at[max(result.at)].arms[TRAINED]
    seen = np.flatnonzero(result.num_valid > 0)
    order = seen[np.argsort(arm.squared_error[seen] / result.num_valid[seen], kind="stable")]
    return tuple(result.images[order[rank]] for rank in (0, len(order) // 2, -1))


def probe_run(
    study: Study, encoder: Encoder, cache_folder: Path, *, k: str = "auto", progress: Progress = silent
) -> Run:
    """Run the ordinary probe of an encoder, from the cache where it was judged: the same images are shown of all."""
    shown = {name for position in range(len(study.subjects)) for name in shown_names(study.alone(position))}
    config = replace(study.plan.probe, k=k)
    return probe(config, study.plan.store, encoder, cache_folder, progress=progress, shown_names=shown)


def encoder_run(
    study: Study,
    position: int,
    null_panels: Panels,
    given: Provenance,
    cache_folder: Path,
    *,
    progress: Progress = silent,
) -> EncoderRun:
    """Run the probe that an encoder's answers rest on, at its largest k, and put answers, cues and a page beside it.

    The model carries the answer at the k that it reads.
    null_panels: of the null's `probe_run`. given: where the figures come from.
    """
    alone, plan = study.alone(position), study.plan
    encoder, k = alone.subjects[0].encoder, max(alone.results[0].at)
    run = probe_run(study, encoder, cache_folder, k=str(k), progress=progress)
    report, table, part = with_answers(run.report, alone, given.test_reads), None, None
    model, feature = run.model.module, target(plan.probe.target)
    if plan.config.cues and isinstance(model, DepthModel):
        table = cues(
            plan.store,
            plan.split,
            encoder,
            model.probe,
            feature,
            CuesConfig(plan.probe.batch_size, plan.config.rules),
            clusters=plan.clusters.of_image,
            progress=prefixed(progress, encoder.name),
        )
        report = with_cues(report, table, shown_range(plan.store, plan.split, feature, cache_folder / "ranges"))
        part = cues_part(table, report.figures)
    panels = {NULL: null_panels, encoder.name: run.report.panels}
    texts = {**report.texts, **_texts(alone, panels, [part] if part else [], given)}
    answer = next(verdict for question, verdict in alone.answers if question.k == k)
    tags = {**run.model.tags, "verdict": str(answer.outcome), "verdict_digest": plan.digest}
    return EncoderRun(Run(replace(report, texts=texts), replace(run.model, tags=tags)), table, part)


def whole_report(
    study: Study, panels: Mapping[str, Panels], runs: Sequence[EncoderRun], given: Provenance
) -> RunReport:
    """Return the report of the run that holds all answers.

    panels: of the null's run ("null") and of each of `runs`, by the encoder's name.
    """
    parts = [each.part for each in runs if each.part is not None]
    return study_report(study, _texts(study, panels, parts, given), given.test_reads)


def _texts(
    study: Study, panels: Mapping[str, Panels], cues: Sequence[EncoderCues], given: Provenance
) -> dict[str, str]:
    """Return the report for people and for programs, by artifact path."""
    content = page_content(study, panels, shown_names(study), cues, given)
    return {"verdict.html": page(content), "verdict.json": json.dumps(document(content), indent=1, allow_nan=False)}
