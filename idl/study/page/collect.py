"""From a study to what its report says; no number is computed here that decides."""

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np

from idl import __version__
from idl.arms import ArmsResult
from idl.cues import CueTable
from idl.figures import panel_parts
from idl.report import Image
from idl.study.cells import Question
from idl.study.page.content import (
    Answer,
    ArmLosses,
    Correlation,
    EditLine,
    EncoderCues,
    EncoderPart,
    LossCurve,
    PageContent,
    Prediction,
    Provenance,
    ShownImage,
    SplitSize,
    TypicalError,
)
from idl.study.run import Study
from idl.study.wording import meaning, notes
from idl.targets import target
from idl.verdict import Verdict

# Those that the figures depend on.
_PACKAGES = ("torch", "timm", "numpy", "h5py", "pillow")
# Of the images on the page, in the order in which they are named.
ROLES = ("best", "median", "worst")
_NULL = "null"
# End of the path that the cues' examples are kept under.
_STRIP = "_examples.png"


def page_content(
    study: Study,
    panels: Mapping[str, Mapping[str, Image]],
    shown: Sequence[str],
    cues: Sequence[EncoderCues],
    given: Provenance,
) -> PageContent:
    """Bring a study into the form that its page and its JSON are made from.

    panels: by encoder, "null" among them, the pictures of its probe's run by key, "depth/<image>".
    shown: names of the best, the median and the worst test image, or none. cues: of each encoder, where they were
      measured.
    """
    wanted = target(study.plan.probe.target)
    return PageContent(
        wanted.name,
        wanted.kind,
        wanted.unit,
        study.plan.config.rules,
        study.plan.fixed,
        tuple(_encoder(study, position) for position in range(len(study.subjects))),
        tuple(_shown(study, panels, role, name) for role, name in zip(ROLES, shown, strict=bool(shown))),
        tuple(cues),
        notes(study),
        given,
    )


def cues_part(table: CueTable, pictures: Mapping[str, Image]) -> EncoderCues:
    """Bring the cues of a probe into the form of the page. pictures: of its run, the examples' strip among them."""
    readings = {finding.edit.name: str(finding.reading) for finding in table.findings}
    edits = [
        EditLine(edit.name, edit.removed, edit.loss, edit.log_ratio, edit.lost, readings.get(edit.name, ""))
        for edit in (*table.edits, table.constant)
    ]
    correlations = [
        Correlation(f"{whose} {table.target}, {where}", value)
        for whose, found in (("predicted", table.predicted), ("true", table.true))
        if found is not None
        for where, value in (("within an image", found.within), ("over all pixels", found.overall))
    ]
    strip = next((picture for path, picture in pictures.items() if path.endswith(_STRIP)), None)
    return EncoderCues(
        table.encoder,
        table.clean_loss,
        table.num_images,
        tuple(edits),
        tuple(correlations),
        table.sentences,
        strip,
        f"Test images with one cue removed each, and what the probe of {table.encoder} makes of them",
    )


def provenance(study: Study, test_reads: int, command: str, made_at: str) -> Provenance:
    """Say where the figures come from. test_reads, command, made_at: as in `Provenance`."""
    store, split = study.plan.store, study.plan.split
    return Provenance(
        store.name,
        store.source,
        tuple(SplitSize(name, len(split.indices[name]), len(split.scenes[name])) for name in split.indices),
        {
            "dataset": store.digest,
            "split": split.digest,
            "protocol": store.protocol.digest,
            "verdict": study.plan.digest,
        },
        {"idl": __version__, "python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        command,
        made_at,
        test_reads,
    )


def _encoder(study: Study, position: int) -> EncoderPart:
    subject, result = study.subjects[position], study.results[position]
    encoder = subject.encoder
    return EncoderPart(
        encoder.name,
        subject.task,
        encoder.origin.architecture,
        encoder.origin.weights,
        encoder.origin.source,
        encoder.digest,
        encoder.stride,
        encoder.channels,
        tuple(_answer(study, question, verdict) for question, verdict in study.of_encoder(position)),
        _curves(result),
    )


def _answer(study: Study, question: Question, verdict: Verdict) -> Answer:
    result = study.results[question.encoder]
    return Answer(
        question.k,
        result.ks.get("all") == question.k,
        meaning(study, question, verdict),
        verdict,
        tuple(
            ArmLosses(name, fit.k, fit.train_loss, fit.val_loss, fit.cv_loss)
            for name, fit in ((name, arm.fitted.solution) for name, arm in result.at[question.k].arms.items())
        ),
        _typical(verdict),
    )


def _typical(verdict: Verdict) -> tuple[TypicalError, ...]:
    """Root mean squared errors; of the untrained twins that decided the geometric mean, as the estimand averages."""
    mse = {arm.name: arm.mse.estimate for arm in verdict.description.arms} if verdict.description else {}
    groups = (
        ("constant", ("constant",)),
        ("pixels", verdict.beyond_pixels.above),
        ("untrained+pixels", verdict.learned.above),
        ("trained+pixels", (verdict.learned.below,)),
    )
    return tuple(
        TypicalError(name, math.exp(sum(_log(mse[arm]) for arm in arms) / len(arms) / 2))
        for name, arms in groups
        if all(arm in mse for arm in arms)
    )


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _curves(result: ArmsResult) -> tuple[LossCurve, ...]:
    """Losses of the encoder and of each form of its untrained twins, at ks that are spread evenly by their ratio."""
    grouped = {"trained": ["trained"]}
    for twin in result.twins:
        grouped.setdefault(f"untrained-{twin.form}", []).append(twin.name)
    found = []
    for name, arms in grouped.items():
        curves = [result.curves[arm] for arm in arms if arm in result.curves]
        if not curves:
            continue
        # A twin may have fewer components than another.
        last = min(int(curve.k[-1]) for curve in curves)
        ks = _spread_ks(last, tuple(result.at))
        at = [[int(each) for each in curve.k].index for curve in curves]
        places = [[find(k) for k in ks] for find in at]
        train, cv = (
            np.mean([getattr(curve, which).numpy()[chosen] for curve, chosen in zip(curves, places, strict=True)], 0)
            for which in ("train_loss", "cv_loss")
        )
        found.append(LossCurve(name, ks, tuple(train.tolist()), tuple(cv.tolist())))
    return tuple(found)


def _spread_ks(last: int, asked: Sequence[int]) -> tuple[int, ...]:
    """Give 1, 2, 3, 4, 6, 8, 12, ... up to the last, with those that were asked for."""
    steps = {step << power for step in (2, 3) for power in range(last.bit_length())} | {1}
    return tuple(sorted(k for k in {*steps, *asked, last} if 1 <= k <= last))


def _shown(study: Study, panels: Mapping[str, Mapping[str, Image]], role: str, name: str) -> ShownImage:
    parts = {}
    for encoder, pictures in panels.items():
        # The key's folder is the view's: "depth/<image>".
        found = [picture for key, picture in pictures.items() if key.partition("/")[2] == name]
        if found:
            parts[encoder] = panel_parts(found[0])
    if not parts:
        raise ValueError(f"no encoder has a panel of image {name!r}")
    # All panels of an image share the image, the truth and the colours.
    first = next(iter(parts.values()))
    predictions = tuple(
        Prediction(encoder, _error_of(study, encoder, name), each.prediction, each.error)
        for encoder, each in parts.items()
    )
    return ShownImage(role, name, first.rgb, first.truth, predictions, (first.value_key, first.error_key))


def _error_of(study: Study, encoder: str, image: str) -> float | None:
    """Root mean squared error of an encoder's probe at its largest k, or of the common null, on one test image."""
    for subject, result in zip(study.subjects, study.results, strict=True):
        is_null = encoder == _NULL
        arm = result.common_null if is_null else result.at[max(result.at)].arms["trained"]
        if arm is not None and (is_null or subject.encoder.name == encoder):
            place = result.images.index(image)
            return math.sqrt(arm.squared_error[place] / (result.num_valid[place] * result.num_outputs))
    return None
