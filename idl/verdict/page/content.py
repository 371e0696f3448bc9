"""What the report of a study says, as plain values: all that the page and `verdict.json` are made from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from idl.report import Image
from idl.verdict.intervals import Interval
from idl.verdict.result import Verdict, plain
from idl.verdict.result import document as verdict_document
from idl.verdict.settings import VerdictConfig


@dataclass(frozen=True)
class ArmLosses:
    """An arm before it saw the test split: mean squared errors in target units squared. k: components it reads."""

    name: str
    k: int
    train_loss: float
    val_loss: float
    cv_loss: float


@dataclass(frozen=True)
class TypicalError:
    """Root of a mean squared error on the test split, target units, of what people compare first."""

    name: str
    value: float


@dataclass(frozen=True)
class Answer:
    """One encoder at one k. is_all: k is all that the encoder has. meaning: the answer for people.

    typical: what is known without the network, then with it untrained and trained; empty where it was not measured.
    """

    k: int
    is_all: bool
    meaning: str
    verdict: Verdict
    fits: tuple[ArmLosses, ...]
    typical: tuple[TypicalError, ...]


@dataclass(frozen=True)
class LossCurve:
    """Losses over k of one arm, target units squared; of a form of untrained twins, the means over its seeds."""

    name: str
    k: tuple[int, ...]
    train_loss: tuple[float, ...]
    cv_loss: tuple[float, ...]


@dataclass(frozen=True)
class EncoderPart:
    """A frozen encoder, its answers and its curves. task: what it was trained for; source: where its weights are from.

    answers: by rising k.
    """

    name: str
    task: str
    architecture: str
    weights: str
    source: str
    digest: str
    stride: int
    channels: int
    answers: tuple[Answer, ...]
    curves: tuple[LossCurve, ...]


@dataclass(frozen=True)
class Prediction:
    """What one encoder's probe makes of a test image. typical: root of its mean squared error there, if known."""

    encoder: str
    typical: float | None
    prediction: Image
    error: Image


@dataclass(frozen=True)
class ShownImage:
    """A test image. role: "best", "median" or "worst" for the last encoder. legends: of values and of errors."""

    role: str
    name: str
    rgb: Image
    truth: Image
    predictions: tuple[Prediction, ...]
    legends: tuple[Image, Image]


@dataclass(frozen=True)
class EditLine:
    """The frozen probe on images that were edited. removed: the cue that is gone, in words.

    loss: mean squared error, target units squared. log_ratio: ln(loss / loss on the images as they are).
    lost: share of the probe's lead over a constant that is lost; NaN where it has none.
    reading: what is said of the cue, "" where the edit decides about none.
    """

    name: str
    removed: str
    loss: float
    log_ratio: Interval
    lost: float
    reading: str


@dataclass(frozen=True)
class Correlation:
    """Pearson's, with luminance. name: of what."""

    name: str
    value: Interval


@dataclass(frozen=True)
class EncoderCues:
    """What an encoder's probe reads.

    clean_loss: on the images as they are, target units squared. num_images: that were measured.
    edits: the best constant is the last. sentences: derived from the figures.
    strip: example images, predictions beneath.
    """

    encoder: str
    clean_loss: float
    num_images: int
    edits: tuple[EditLine, ...]
    correlations: tuple[Correlation, ...]
    sentences: tuple[str, ...]
    strip: Image | None = None


@dataclass(frozen=True)
class SplitSize:
    """A split of the dataset."""

    name: str
    num_images: int
    num_scenes: int


@dataclass(frozen=True)
class Provenance:
    """Where the figures come from.

    digests: of dataset, split, protocol, and of all that was fixed beforehand, the plan ("verdict"), by these names.
    versions: of packages, by name. command: that gives these figures again. made_at: day and time, UTC.
    test_reads: how many runs had read at least one of these test scenes before.
    """

    dataset: str
    source: str
    splits: tuple[SplitSize, ...]
    digests: Mapping[str, str]
    versions: Mapping[str, str]
    command: str
    made_at: str
    test_reads: int


@dataclass(frozen=True)
class PageContent:
    """A report.

    feature, kind, unit: the target's name, its kind ("depth", "field" or "normals") and unit.
    fixed: all that was fixed beforehand beside the rules, as in `idl.study.fixed`.
    cues: empty where none were measured. notes: what a reader must know.
    """

    feature: str
    kind: str
    unit: str
    rules: VerdictConfig
    fixed: Mapping[str, object]
    encoders: tuple[EncoderPart, ...]
    images: tuple[ShownImage, ...]
    cues: tuple[EncoderCues, ...]
    notes: tuple[str, ...]
    provenance: Provenance

    @property
    def answers(self) -> tuple[Answer, ...]:
        """All answers, encoder by encoder."""
        return tuple(answer for encoder in self.encoders for answer in encoder.answers)


def document(content: PageContent) -> dict[str, object]:
    """Return `verdict.json`: the verdicts as `idl.verdict.document` gives them, and the rest of the page but pictures.

    A number that is not finite is null.
    """
    verdicts = verdict_document([answer.verdict for answer in content.answers], content.rules, content.fixed)
    cells = verdicts["cells"]
    assert isinstance(cells, list)
    owners = [encoder.name for encoder in content.encoders for _ in encoder.answers]
    for cell, owner, answer in zip(cells, owners, content.answers, strict=True):
        cell |= {"encoder": owner, **_values(answer, "verdict", "typical")}
        cell["typical_errors"] = plain([asdict(each) for each in answer.typical])
    return verdicts | {
        "feature": content.feature,
        "kind": content.kind,
        "unit": content.unit,
        "notes": list(content.notes),
        "encoders": [_values(encoder, "answers") for encoder in content.encoders],
        "images": [
            {
                "role": image.role,
                "name": image.name,
                "errors": [{"encoder": each.encoder, "typical_error": each.typical} for each in image.predictions],
            }
            for image in content.images
        ],
        "cues": [_values(cues, "strip") for cues in content.cues],
        "provenance": _values(content.provenance),
    }


def _values(part: Answer | EncoderPart | EncoderCues | Provenance, *left_out: str) -> dict[str, object]:
    return {name: plain(value) for name, value in asdict(part).items() if name not in left_out}
