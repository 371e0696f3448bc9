"""What the report of a study says: the values that the page is filled from, and the same as `verdict.json`.

No number is computed here that decides.
"""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

import numpy as np

from idl import __version__
from idl.probes.exact import Solution
from idl.report import Image
from idl.report.tiles import PanelParts, panel_parts
from idl.targets import Target, target
from idl.verdict.baselines import CONSTANT, JOINT, PIXELS, TRAINED, ArmsResult
from idl.verdict.cues import CueTable
from idl.verdict.intervals import Interval
from idl.verdict.report import meaning, notes
from idl.verdict.result import Verdict, plain
from idl.verdict.result import document as verdict_document
from idl.verdict.study import NULL, Study, Subject

# Those that the figures depend on.
_PACKAGES = ("torch", "timm", "numpy", "h5py", "pillow")
# End of the path that the cues' examples are kept under.
_STRIP = "_examples.png"


@dataclass(frozen=True)
class Answer:
    """One encoder at one k. is_all: k is all that the encoder has. meaning: the answer for people.

    fits: every arm before it saw the test split: losses are mean squared errors in target units squared.
    typical_errors: roots of mean squared errors on the test split, target units: what is known without the network,
      then with it untrained and trained; empty where it was not measured.
    """

    k: int
    is_all: bool
    meaning: str
    verdict: Verdict
    fits: Mapping[str, Solution]
    typical_errors: Mapping[str, float]


@dataclass(frozen=True)
class LossCurve:
    """Losses over k of one arm, target units squared; of a form of untrained twins, the means over its seeds."""

    name: str
    k: tuple[int, ...]
    train_loss: tuple[float, ...]
    cv_loss: tuple[float, ...]


@dataclass(frozen=True)
class EncoderPart:
    """A frozen encoder with the task that it was trained for, its answers by rising k, and its curves."""

    subject: Subject
    answers: tuple[Answer, ...]
    curves: tuple[LossCurve, ...]

    @property
    def name(self) -> str:
        """Of the encoder."""
        return self.subject.encoder.name


@dataclass(frozen=True)
class ShownImage:
    """A test image. role: "best", "median" or "worst" for the last encoder.

    panels: the parts of each encoder's picture of it; all have the same image, truth and colours.
    typical_errors: by encoder, the root of its probe's mean squared error there, if known.
    """

    role: str
    name: str
    panels: Mapping[str, PanelParts]
    typical_errors: Mapping[str, float | None]


@dataclass(frozen=True)
class EncoderCues:
    """What an encoder's probe reads. strip: example images, predictions beneath."""

    table: CueTable
    strip: Image | None = None

    @property
    def correlations(self) -> Mapping[str, Interval]:
        """With luminance, by what is correlated: "true depth, within an image"."""
        places = {"within": "within an image", "overall": "over all pixels"}
        of_pair = self.table.correlations.items()
        return {f"{whose} {self.table.target}, {places[where]}": value for (whose, where), value in of_pair}


@dataclass(frozen=True)
class Provenance:
    """Where the figures come from.

    splits: name, num_images and num_scenes of each.
    digests: of dataset, split, protocol, and of all that was fixed beforehand, the plan ("verdict"), by these names.
    versions: of packages, by name. command: that gives these figures again. made_at: day and time, UTC.
    test_reads: how many runs had read at least one of these test scenes before.
    """

    dataset: str
    source: str
    splits: tuple[Mapping[str, str | int], ...]
    digests: Mapping[str, str]
    versions: Mapping[str, str]
    command: str
    made_at: str
    test_reads: int


@dataclass(frozen=True)
class PageContent:
    """A report. cues: empty where none were measured."""

    study: Study
    feature: Target
    encoders: tuple[EncoderPart, ...]
    images: tuple[ShownImage, ...]
    cues: tuple[EncoderCues, ...]
    provenance: Provenance

    @property
    def answers(self) -> tuple[Answer, ...]:
        """All answers, encoder by encoder."""
        return tuple(answer for encoder in self.encoders for answer in encoder.answers)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know."""
        return notes(self.study)


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
    encoders = tuple(
        EncoderPart(subject, _answers(study, position), _curves(study.results[position]))
        for position, subject in enumerate(study.subjects)
    )
    arms = {NULL: (study.results[0], study.results[0].common_null)}
    for encoder, result in zip(encoders, study.results, strict=True):
        arms[encoder.name] = result, result.at[max(result.at)].arms[TRAINED]
    images = []
    for role, name in zip(("best", "median", "worst"), shown, strict=bool(shown)):
        # The key's folder is the view's.
        parts = {
            encoder: panel_parts(picture)
            for encoder, pictures in panels.items()
            for key, picture in pictures.items()
            if key.partition("/")[2] == name
        }
        if not parts:
            raise ValueError(f"no encoder has a panel of image {name!r}")
        typical: dict[str, float | None] = dict.fromkeys(parts)
        for encoder in typical.keys() & arms.keys():
            result, arm = arms[encoder]
            if arm is not None:
                at = result.images.index(name)
                typical[encoder] = math.sqrt(arm.squared_error[at] / (result.num_valid[at] * result.num_outputs))
        images.append(ShownImage(role, name, parts, typical))
    return PageContent(study, target(study.plan.probe.target), encoders, tuple(images), tuple(cues), given)


def cues_part(table: CueTable, pictures: Mapping[str, Image]) -> EncoderCues:
    """Return what the page says of a probe's cues. pictures: of its run, the examples' strip among them."""
    return EncoderCues(table, next((each for path, each in pictures.items() if path.endswith(_STRIP)), None))


def provenance(study: Study, test_reads: int, command: str, made_at: str) -> Provenance:
    """Return where the figures come from. test_reads, command, made_at: as in `Provenance`."""
    store, split = study.plan.store, study.plan.split
    return Provenance(
        store.name,
        store.source,
        tuple(
            {"name": name, "num_images": len(indices), "num_scenes": len(split.scenes[name])}
            for name, indices in split.indices.items()
        ),
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


def _answers(study: Study, position: int) -> tuple[Answer, ...]:
    result = study.results[position]
    return tuple(
        Answer(
            question.k,
            result.ks.get("all") == question.k,
            meaning(study, question, verdict),
            verdict,
            {name: arm.fitted.solution for name, arm in result.at[question.k].arms.items()},
            _typical_errors(verdict),
        )
        for question, verdict in study.of_encoder(position)
    )


def _typical_errors(verdict: Verdict) -> Mapping[str, float]:
    """Root mean squared errors; of the untrained twins that decided the geometric mean, as the estimand averages."""
    mse = {arm.name: arm.mse.estimate for arm in verdict.description.arms} if verdict.description else {}
    groups = {
        CONSTANT: (CONSTANT,),
        PIXELS: verdict.beyond_pixels.above,
        "untrained+pixels": verdict.learned.above,
        JOINT: (verdict.learned.below,),
    }
    return {
        name: math.prod(mse[arm] ** (0.5 / len(arms)) for arm in arms)
        for name, arms in groups.items()
        if all(arm in mse for arm in arms)
    }


def _curves(result: ArmsResult) -> tuple[LossCurve, ...]:
    """Losses of the encoder and of each form of its untrained twins, at ks that are spread evenly by their ratio."""
    forms = {TRAINED: [TRAINED]}
    for twin in result.twins:
        forms.setdefault(f"untrained-{twin.form}", []).append(twin.name)
    found = []
    for name, arms in forms.items():
        curves = [result.curves[arm] for arm in arms if arm in result.curves]
        if not curves:
            continue
        # A twin may have fewer components than another.
        last = min(int(curve.k[-1]) for curve in curves)
        # 1, 2, 3, 4, 6, 8, 12, ... up to the last, with those that were asked for.
        steps = {step << power for step in (2, 3) for power in range(last.bit_length())}
        ks = tuple(sorted(k for k in {1, *steps, *result.at, last} if 1 <= k <= last))
        rows = [np.searchsorted(curve.k.numpy(), ks) for curve in curves]
        losses = ([curve.train_loss for curve in curves], [curve.cv_loss for curve in curves])
        train, cv = (
            np.mean([each.numpy()[row] for each, row in zip(of_kind, rows, strict=True)], axis=0).tolist()
            for of_kind in losses
        )
        found.append(LossCurve(name, ks, tuple(train), tuple(cv)))
    return tuple(found)


def document(content: PageContent) -> dict[str, object]:
    """Return `verdict.json`: the verdicts as `idl.verdict.document` gives them, and the rest of the page but pictures.

    A number that is not finite is null.
    """
    plan, feature = content.study.plan, content.feature
    verdicts = verdict_document([answer.verdict for answer in content.answers], plan.config.rules, plan.fixed)
    cells = verdicts["cells"]
    assert isinstance(cells, list)
    owners = [encoder.name for encoder in content.encoders for _ in encoder.answers]
    for cell, owner, answer in zip(cells, owners, content.answers, strict=True):
        cell |= {"encoder": owner, **_picked(answer, "k", "is_all", "meaning")}
        losses = ("k", "train_loss", "val_loss", "cv_loss")
        cell["fits"] = plain([{"name": name, **_picked(fit, *losses)} for name, fit in answer.fits.items()])
        cell["typical_errors"] = plain([{"name": name, "value": each} for name, each in answer.typical_errors.items()])
    encoders = [
        {
            **_picked(encoder.subject.encoder, "name", "digest", "stride", "channels"),
            **_picked(encoder.subject.encoder.origin, "architecture", "weights", "source"),
            "task": encoder.subject.task,
            "curves": [asdict(curve) for curve in encoder.curves],
        }
        for encoder in content.encoders
    ]
    images = [
        {
            "role": image.role,
            "name": image.name,
            "errors": [{"encoder": each, "typical_error": error} for each, error in image.typical_errors.items()],
        }
        for image in content.images
    ]
    cues = [
        {
            **_picked(table, "encoder", "clean_loss", "num_images", "sentences"),
            "edits": [
                {
                    **_picked(edit, "name", "removed", "loss", "lost"),
                    "log_ratio": asdict(edit.log_ratio),
                    "reading": reading,
                }
                for edit, reading in table.rows
            ],
            "correlations": [{"name": name, "value": asdict(value)} for name, value in each.correlations.items()],
        }
        for each in content.cues
        for table in [each.table]
    ]
    rest = {"encoders": encoders, "images": images, "cues": cues, "provenance": asdict(content.provenance)}
    named = {"feature": feature.name, **_picked(feature, "kind", "unit"), "notes": content.notes}
    return verdicts | {name: plain(value) for name, value in {**named, **rest}.items()}


def _picked(record: object, *names: str) -> dict[str, object]:
    return {name: getattr(record, name) for name in names}
