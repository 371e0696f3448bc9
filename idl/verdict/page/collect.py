"""From a study to what its report says; no number is computed here that decides."""

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np

from idl import __version__
from idl.figures import panel_parts
from idl.report import Image
from idl.targets import target
from idl.verdict.baselines import ArmsResult
from idl.verdict.cues import CueTable
from idl.verdict.page.content import (
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
from idl.verdict.report import meaning, notes
from idl.verdict.result import Verdict
from idl.verdict.study import Study

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
    """Return what the page and the JSON of a study are made from.

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
    """Return what the page says of a probe's cues. pictures: of its run, the examples' strip among them."""
    readings = {finding.edit.name: str(finding.reading) for finding in table.findings}
    edits = (
        EditLine(edit.name, edit.removed, edit.loss, edit.log_ratio, edit.lost, readings.get(edit.name, ""))
        for edit in (*table.edits, table.constant)
    )
    correlations = (
        Correlation(f"{whose} {table.target}, {where}", value)
        for whose, found in (("predicted", table.predicted), ("true", table.true))
        if found is not None
        for where, value in (("within an image", found.within), ("over all pixels", found.overall))
    )
    return EncoderCues(
        table.encoder,
        table.clean_loss,
        table.num_images,
        tuple(edits),
        tuple(correlations),
        table.sentences,
        next((picture for path, picture in pictures.items() if path.endswith(_STRIP)), None),
    )


def provenance(study: Study, test_reads: int, command: str, made_at: str) -> Provenance:
    """Return where the figures come from. test_reads, command, made_at: as in `Provenance`."""
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
    answers = (
        Answer(
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
        for question, verdict in study.of_encoder(position)
    )
    return EncoderPart(
        encoder.name,
        subject.task,
        encoder.origin.architecture,
        encoder.origin.weights,
        encoder.origin.source,
        encoder.digest,
        encoder.stride,
        encoder.channels,
        tuple(answers),
        _curves(result),
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
        TypicalError(name, math.prod(mse[arm] ** (0.5 / len(arms)) for arm in arms))
        for name, arms in groups
        if all(arm in mse for arm in arms)
    )


def _curves(result: ArmsResult) -> tuple[LossCurve, ...]:
    """Losses of the encoder and of each form of its untrained twins, at ks that are spread evenly by their ratio."""
    forms = {"trained": ["trained"]}
    for twin in result.twins:
        forms.setdefault(f"untrained-{twin.form}", []).append(twin.name)
    found = []
    for name, arms in forms.items():
        curves = [result.curves[arm] for arm in arms if arm in result.curves]
        if not curves:
            continue
        # A twin may have fewer components than another.
        ks = _spread_ks(min(int(curve.k[-1]) for curve in curves), tuple(result.at))
        rows = [np.searchsorted(curve.k.numpy(), ks) for curve in curves]
        train, cv = (
            np.mean([losses.numpy()[row] for losses, row in zip(all_losses, rows, strict=True)], axis=0).tolist()
            for all_losses in ([curve.train_loss for curve in curves], [curve.cv_loss for curve in curves])
        )
        found.append(LossCurve(name, ks, tuple(train), tuple(cv)))
    return tuple(found)


def _spread_ks(last: int, asked: Sequence[int]) -> tuple[int, ...]:
    """Return 1, 2, 3, 4, 6, 8, 12, ... up to the last, with those that were asked for."""
    steps = {step << power for step in (2, 3) for power in range(last.bit_length())} | {1}
    return tuple(sorted(k for k in {*steps, *asked, last} if 1 <= k <= last))


def _shown(study: Study, panels: Mapping[str, Mapping[str, Image]], role: str, name: str) -> ShownImage:
    # The key's folder is the view's: "depth/<image>".
    parts = {
        encoder: panel_parts(picture)
        for encoder, pictures in panels.items()
        for key, picture in pictures.items()
        if key.partition("/")[2] == name
    }
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
    """Return the root mean squared error on one test image, of an encoder's largest k or of the common null."""
    for subject, result in zip(study.subjects, study.results, strict=True):
        is_null = encoder == _NULL
        arm = result.common_null if is_null else result.at[max(result.at)].arms["trained"]
        if arm is not None and (is_null or subject.encoder.name == encoder):
            place = result.images.index(image)
            return math.sqrt(arm.squared_error[place] / (result.num_valid[place] * result.num_outputs))
    return None
