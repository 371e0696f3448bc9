"""What is said of a study: `verdict.json`, which the page is filled from, and the words of the answers.

No number is computed here that decides.
"""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from idl import __version__
from idl.report import Run
from idl.targets import target
from idl.verdict.baselines import COMMON_NULL, CONSTANT, JOINT, NULL, PIXELS, TRAINED, UNTRAINED, ArmsResult
from idl.verdict.cues import CueTable
from idl.verdict.result import Outcome, counted
from idl.verdict.study import Answer, Plan, Study

# Of verdict.json. 2: the digest covers `fixed` too. 3: each arm's loss after alignment. 4: what the clusters are;
# recovered; forms by cross-validated loss. 5: of a matrix, what is of one feature stands in `features`.
SCHEMA_VERSION = 5
# Those that the figures depend on.
_PACKAGES = ("torch", "timm", "numpy", "h5py", "pillow")
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


@dataclass(frozen=True)
class Provenance:
    """Where the figures come from. command: that gives them again. made_at: day and time, UTC.

    test_reads: how many runs had read at least one of these test scenes before.
    """

    command: str
    made_at: str
    test_reads: int


@dataclass(frozen=True)
class EncoderRun:
    """The run of an encoder's probe of one feature.

    An encoder that was trained for nothing has no answer in the study, and its losses alone are shown.
    cues: of it; None where they were not measured.
    """

    encoder: str
    feature: str
    run: Run
    cues: CueTable | None = None


def meaning(plan: Plan, answer: Answer) -> str:
    """Return what the answer means, for people who do not know statistics, in a sentence or two."""
    verdict = answer.verdict
    clusters = f"{counted(verdict.num_clusters, verdict.clusters)} {'was' if verdict.num_clusters == 1 else 'were'}"
    failed = [
        _FAILED[gate.name].format(clusters=clusters, fewest=plan.config.min_clusters)
        for gate in verdict.gates
        if not gate.passed
    ]
    words = _MEANINGS[verdict.outcome].format(
        encoder=answer.encoder,
        task=answer.task,
        feature=answer.feature,
        margin=f"{100 * (plan.config.margin - 1):.3g} %",
        failed=" and ".join(failed),
    )
    return f"{words} {verdict.caution}" if verdict.caution else words


def notes(study: Study) -> tuple[str, ...]:
    """Return what a reader of the answers must know, a sentence each."""
    lines = [*study.plan.store.notes]
    for subject in study.plan.subjects:
        encoder = subject.encoder
        if encoder.origin.warning:
            lines.append(encoder.origin.warning)
        for feature in study.plan.features:
            lines += [f"{encoder.name}: {sentence}" for sentence in study.results[encoder.name, feature].missing]
    lines.append(
        "One trained network stands for itself: about a task, several trained from different seeds would speak."
    )
    return tuple(dict.fromkeys(lines))


def shown_names(study: Study) -> tuple[str, str, str]:
    """Return the test images that the last encoder's probe does best on, as well as on half of them, and worst on.

    study: of one feature.
    """
    last = study.answers[-1]
    result = study.results[last.encoder, last.feature]
    seen = np.flatnonzero(result.num_valid > 0)
    order = seen[np.argsort(last.arms[TRAINED].squared_error[seen] / result.num_valid[seen], kind="stable")]
    best, median, worst = (result.images[order[rank]] for rank in (0, len(order) // 2, -1))
    return best, median, worst


def document(study: Study, runs: Sequence[EncoderRun], given: Provenance) -> dict[str, Any]:
    """Return `verdict.json`, numbers that are not finite among them: `plain` makes JSON of it.

    runs: of all encoders and features.

    schema_version. digest: of "config" (the rules) and "fixed" (all else that was fixed before the test split was
      read). notes: what a reader must know.
    provenance: `Provenance` and where data and code come from.
    Where there are several features, or untrained networks, beside these: matrix (see `matrix`), and features, an entry
      of the following for each; else the following itself.
    feature, kind, unit: of the target.
    cells: a `Verdict` each, and: encoder, k, is_all (k is all that the encoder has); meaning (the answer for people);
      fits (every arm before it saw the test split: losses are mean squared errors, target units squared);
      typical_errors (roots of mean squared errors on the test split, target units: what is known without the network,
      then with it untrained and trained); smallest_detectable; caution.
    encoders: task (what each was trained for), and curves: losses over k of the encoder and of each form of its
      untrained twins, means over its seeds.
    images: those that the last encoder does best, as on half of them, and worst on; typical_error: the root of each
      probe's mean squared error there.
    cues: an `EditLoss` for each edit with what is said of the cue, and correlations with luminance.
    """
    plan, store, split = study.plan, study.plan.store, study.plan.split
    tables = [each.cues for each in runs if each.cues]
    features = [_of_feature(study.part(feature=each), tables) for each in plan.features]
    rows = matrix(study, runs)
    is_matrix = len(features) > 1 or len(rows) > len(study.answers)
    return {
        "schema_version": SCHEMA_VERSION,
        "digest": plan.digest,
        "fixed": plan.fixed,
        "config": plan.config.rules,
        "notes": notes(study),
        **({"matrix": rows, "features": features} if is_matrix else features[0]),
        "provenance": {
            "dataset": store.name,
            "source": store.source,
            "splits": [
                {"name": name, "num_images": len(indices), "num_scenes": len(split.scenes[name])}
                for name, indices in split.indices.items()
            ],
            "digests": {
                "dataset": store.digest,
                "split": split.digest,
                "protocol": store.protocol.digest,
                "verdict": plan.digest,
            },
            "versions": {"idl": __version__, "python": platform.python_version()}
            | {name: version(name) for name in _PACKAGES},
            **asdict(given),
        },
    }


def matrix(study: Study, runs: Sequence[EncoderRun]) -> list[dict[str, Any]]:
    """Return a row for each answer, and one for each loss of a network that was trained for nothing.

    loss: mean squared error of the network's probe on the test split, target units squared. loss_over_null: how much
    of the null's is left, with its interval. What an untrained network has not is None.
    """
    rows = []
    for answer in study.answers:
        verdict = answer.verdict
        left = verdict.described.trained_over_null
        rows.append(
            {
                **_picked(answer, "encoder", "task"),
                "feature": target(answer.feature).name,
                **_picked(answer, "k", "is_all"),
                "answer": str(verdict.outcome),
                "loss": next(arm.mse.estimate for arm in verdict.described.arms if arm.name == TRAINED),
                "loss_over_null": left.estimate,
                **_picked(left, "low", "high"),
                **_picked(verdict, "p", "adjusted_p"),
            }
        )
    for each in runs:
        if (each.encoder, each.feature) not in study.results:
            report = each.run.report
            own = {"encoder": each.encoder, "task": "none", "feature": target(each.feature).name, "is_all": True}
            losses = {"loss": report.metrics["test_loss"], "loss_over_null": report.metrics["loss_over_null"]}
            own |= {"k": int(str(report.params["k_chosen"])), "answer": "untrained", **losses}
            rows.append({name: own.get(name) for name in rows[0]})
    return rows


def _of_feature(study: Study, tables: Sequence[CueTable]) -> dict[str, Any]:
    feature = target(study.plan.probe.target)
    return {
        **_picked(feature, "kind", "unit"),
        "feature": feature.name,
        "cells": [_cell(study.plan, answer) for answer in study.answers],
        "encoders": [
            {
                **_picked(subject.encoder, "name", "digest", "stride", "channels"),
                **_picked(subject.encoder.origin, "architecture", "weights", "source"),
                "task": subject.task,
                "curves": _curves(study.results[subject.encoder.name, study.plan.probe.target]),
            }
            for subject in study.plan.subjects
        ],
        "images": _images(study),
        "cues": [_cues(table) for table in tables if table.target == feature.name],
    }


def plain(value: object) -> object:
    """Return nested mappings, sequences and numbers as JSON holds them: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, str) else value


def _cell(plan: Plan, answer: Answer) -> dict[str, Any]:
    verdict = answer.verdict
    mse = {arm.name: arm.mse.estimate for arm in verdict.described.arms}
    # Of the untrained twins that decided the geometric mean, as the estimand averages.
    groups = {CONSTANT: [CONSTANT], PIXELS: [PIXELS], "untrained+pixels": verdict.learned.above, JOINT: [JOINT]}
    return {
        **asdict(verdict),
        **_picked(verdict, "smallest_detectable", "caution"),
        **_picked(answer, "encoder", "k", "is_all"),
        "meaning": meaning(plan, answer),
        "fits": [
            {"name": name, **_picked(arm.solution, "k", "train_loss", "val_loss", "cv_loss")}
            for name, arm in answer.arms.items()
            if name != COMMON_NULL
        ],
        "typical_errors": [
            {"name": name, "value": math.prod(mse[arm] ** (0.5 / len(arms)) for arm in arms)}
            for name, arms in groups.items()
        ],
    }


def _curves(result: ArmsResult) -> list[dict[str, Any]]:
    """Losses over k, at ks that are spread evenly by their ratio."""
    forms: dict[str, list[str]] = {}
    for arm in result.curves:
        match = UNTRAINED.fullmatch(arm)
        forms.setdefault(f"untrained-{match['form']}" if match else arm, []).append(arm)
    found = []
    for name, arms in forms.items():
        curves = [result.curves[arm] for arm in arms]
        # A twin may have fewer components than another.
        last = min(int(curve.k[-1]) for curve in curves)
        # 1, 2, 3, 4, 6, 8, 12, ... up to the last, with those that were asked for.
        steps = {step << power for step in (2, 3) for power in range(last.bit_length())}
        ks = sorted(k for k in {1, *steps, *result.arms, last} if 1 <= k <= last)
        at = [np.searchsorted(curve.k.numpy(), ks) for curve in curves]
        losses = {
            loss: np.mean([getattr(curve, loss).numpy()[row] for curve, row in zip(curves, at, strict=True)], axis=0)
            for loss in ("train_loss", "cv_loss")
        }
        found.append({"name": name, "k": ks, **{loss: values.tolist() for loss, values in losses.items()}})
    return found


def _images(study: Study) -> list[dict[str, Any]]:
    # The last answer of each encoder is that at its largest k.
    shown = [(NULL, study.answers[0], COMMON_NULL)]
    shown += {answer.encoder: (answer.encoder, answer, TRAINED) for answer in study.answers}.values()
    images = []
    for role, name in zip(("best", "median", "worst"), shown_names(study), strict=True):
        errors = []
        for encoder, answer, arm in shown:
            result = study.results[answer.encoder, answer.feature]
            at = result.images.index(name)
            typical = math.sqrt(answer.arms[arm].squared_error[at] / result.num_valid[at])
            errors.append({"encoder": encoder, "typical_error": typical})
        images.append({"role": role, "name": name, "errors": errors})
    return images


def _cues(table: CueTable) -> dict[str, Any]:
    places = {"within": "within an image", "overall": "over all pixels"}
    return {
        **_picked(table, "encoder", "clean_loss", "num_images", "sentences"),
        "edits": [
            {
                **_picked(edit, "name", "removed", "loss", "lost"),
                "log_ratio": asdict(edit.log_ratio),
                "reading": reading,
            }
            for edit, reading in table.rows
        ],
        "correlations": [
            {"name": f"{whose} {table.target}, {places[where]}", "value": asdict(value)}
            for (whose, where), value in table.correlations.items()
        ],
    }


def _picked(record: object, *names: str) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}
