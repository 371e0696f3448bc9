"""The report of a study: what the page shows, what the JSON says, and that the two are one."""

import base64
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image as Pillow
from planted_losses import PlantedLosses, plain_solution, sound_training

from idl.arms import ArmsAtK, ArmsResult, MeasuredArm, TwinRecord
from idl.arms.fits import FittedArm
from idl.cli.repeating import command_line
from idl.cues import Correlation as Luminance
from idl.cues import Cue as CueName
from idl.cues import CueFinding, CueTable, EditLoss, Reading
from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import EncoderConfig, build
from idl.figures import depth_panel, panel_parts
from idl.pipeline import ProbeConfig
from idl.probes.exact import Curve
from idl.protocol import Protocol
from idl.study.cells import Clustering, Question
from idl.study.config import StudyConfig
from idl.study.fixed import Subject, fixed
from idl.study.page import (
    EncoderCues,
    PageContent,
    Provenance,
    cues_part,
    document,
    page,
    page_content,
    provenance,
)
from idl.study.page.content import (
    Answer,
    ArmLosses,
    Correlation,
    EditLine,
    EncoderPart,
    LossCurve,
    Prediction,
    ShownImage,
    SplitSize,
    TypicalError,
)
from idl.study.page.style import STYLE
from idl.study.run import Plan, Study
from idl.verdict import Cell, Evidence, Interval, Outcome, Verdict, VerdictConfig, decide

RULES = VerdictConfig(draws=500)
FIXED: Mapping[str, object] = {
    "target": {"name": "depth", "identity": ""},
    "dataset": "d1",
    "protocol": "d3",
    "split": "d2",
    "encoders": [
        {"name": name, "task": "sorting", "digest": "ab12", "weights_digest": "cd34", "arithmetic": "float32"}
        for name in ("one", "two")
    ],
    "ks": ["10", "all"],
    "clusters": "auto",
    "controls": {
        "untrained_forms": ["random", "permuted"],
        "untrained_seeds": 3,
        "calibration_images": 129,
        "shuffle_seed": 17,
        "common_stride": 8,
    },
    "fit": {"solver": "exact", "basis_images": 257, "penalties": [0.0, 1e-8], "folds": 7},
}
VOID = {"br", "hr", "img", "meta"}


class Reader(HTMLParser):
    """Elements, attributes and text of a page, as another program reads them. Raises where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"{tag}: an attribute is there twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.words)


def _noise(seed: int, height: int = 12, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _verdicts() -> list[Verdict]:
    """One of each outcome."""
    planted = [
        PlantedLosses(40, "normal", 1.0, 1.0),
        PlantedLosses(40, "normal", 0.0, 1.0),
        PlantedLosses(12, "skewed", 0.06, 1.0),
        PlantedLosses(5, "normal", 1.0, 1.0),
    ]
    found = []
    for place, (losses, name) in enumerate(zip(planted, ("a", "b", "c", "d"), strict=True)):
        found += decide([losses.cell(np.random.default_rng(place), f"encoder, {name}")], RULES)
    return found


def _answer(verdict: Verdict, k: int, *, is_all: bool = False) -> Answer:
    fits = (ArmLosses("constant", 0, 4.125, 4.375, 4.25), ArmLosses("pixels", k, 3.5, 3.625, 3.5625))
    typical = (TypicalError("constant", 2.0312), TypicalError("trained+pixels", 1.0078))
    return Answer(k, is_all, f"What {verdict.cell} means.", verdict, fits, typical)


def _encoder(name: str, answers: tuple[Answer, ...]) -> EncoderPart:
    curves = (
        LossCurve("trained", (1, 2, 3), (3.25, 3.125, 3.0625), (3.375, 3.1875, 3.09375)),
        LossCurve("untrained-random", (1, 2), (3.75, 3.6875), (3.8125, 3.71875)),
    )
    return EncoderPart(name, "sorting", "net", "file", "net.safetensors", "ab12", 16, 160, answers, curves)


@pytest.fixture(scope="module")
def content() -> PageContent:
    learned, not_learned, inconclusive, invalid = _verdicts()
    encoders = (
        _encoder("one", (_answer(learned, 10), _answer(not_learned, 160, is_all=True))),
        _encoder("two", (_answer(inconclusive, 10), _answer(invalid, 96, is_all=True))),
    )
    predictions = (Prediction("null", 1.3434, _noise(3), _noise(4)), Prediction("two", None, _noise(5), _noise(6)))
    images = (ShownImage("best", "room/0001", _noise(1), _noise(2), predictions, (_noise(7), _noise(8))),)
    edits = (
        EditLine("grey", "colour", 0.8787, Interval(0.3131, 0.2121, 0.4141, 0.0515), 0.2727, "read"),
        EditLine("a constant", "everything", 2.9292, Interval(1.1717, 1.0606, 1.2828, 0.0414), math.nan, ""),
    )
    correlation = Correlation("true depth", Interval(-0.2323, -0.3434, -0.1212, 0.0616))
    given = Provenance(
        "rooms",
        "rendered",
        (SplitSize("train", 1320, 220), SplitSize("val", 240, 40), SplitSize("test", 361, 61)),
        {"dataset": "d1", "split": "d2", "protocol": "d3", "verdict": RULES.digest(FIXED)},
        {"idl": "9.8.7", "torch": "6.5.4"},
        "idl compare --ks 10",
        "2030-01-02 03:04 UTC",
        7,
    )
    cues = (EncoderCues("two", 0.6464, 359, edits, (correlation,), ("It reads colour.",), _noise(9), "strip"),)
    return PageContent("depth", "depth", "m", RULES, FIXED, encoders, images, cues, ("A note.",), given)


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def test_the_json_is_plain(content: PageContent) -> None:
    found = document(content)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_every_figure_of_the_json_is_on_the_page(content: PageContent) -> None:
    text = Reader(page(content)).text.replace("\N{MINUS SIGN}", "-").replace(",", "")
    shown = np.array([float(each) for each in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\+?\d+)?", text)])
    found = document(content)
    # The version of the format is for programs.
    figures = [each for name, part in found.items() if name != "schema_version" for each in _numbers(part)]
    assert len(figures) > 300
    # Four digits: half of the last one may be lost.
    missing = [each for each in figures if not np.any(np.abs(shown - each) <= 5.001e-4 * abs(each))]
    assert missing == []


def test_every_word_of_the_json_is_on_the_page(content: PageContent) -> None:
    text = Reader(page(content)).text
    for encoder in content.encoders:
        for word in (encoder.name, encoder.task, encoder.architecture, encoder.source, encoder.digest):
            assert word in text
    given = content.provenance
    for word in (given.command, given.made_at, given.source, *given.digests.values(), *given.versions.values()):
        assert word in text
    # What was hashed is the plan; the verdict came later.
    assert f"digest of the plan\n{given.digests['verdict']}" in text
    assert "digest of the verdict" not in text
    assert "at least one of them, by 7 runs" in text
    assert all(note in text for note in content.notes)
    for answer in content.answers:
        assert answer.meaning in text
        assert answer.verdict.reason in text


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(content: PageContent) -> None:
    read = Reader(page(content))
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "link", "iframe", "object", "base", "a", "form"})
    for tag, attributes in read.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert "://" not in (value or "")
            if name in ("src", "href", "srcset", "action"):
                assert (value or "").startswith("data:image/png;base64,"), tag
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    metas = [attributes for tag, attributes in read.tags if tag == "meta"]
    assert metas[0] == {"charset": "utf-8"}
    assert any(each.get("name") == "viewport" for each in metas)


def test_the_answers_come_first(content: PageContent) -> None:
    text = Reader(page(content)).text
    start = text.index("What the answers mean")
    for outcome in Outcome:
        assert text.index(str(outcome)) < start
    for answer in content.answers:
        assert text.index(answer.meaning) < start < text.index(answer.verdict.reason)


def test_one_sentence_serves_two_ks_that_have_the_same_answer(content: PageContent) -> None:
    first = content.encoders[0].answers[0]
    twice = replace(content.encoders[0], answers=(first, replace(first, k=160, is_all=True)))
    text = Reader(page(replace(content, encoders=(twice,)))).text
    assert text.count(first.meaning) == 1
    assert "10 and all 160 numbers" in text


def test_names_with_markup_are_text(content: PageContent) -> None:
    evil = '<script>alert("1")</script>&amp;'
    named = replace(
        content,
        feature=evil,
        notes=(evil,),
        encoders=(replace(content.encoders[0], name=evil, task=evil, source=evil), content.encoders[1]),
        images=(replace(content.images[0], name=evil),),
        cues=(replace(content.cues[0], sentences=(evil,), strip_words=evil),),
        provenance=replace(content.provenance, command=evil, source=evil, versions={evil: evil}),
    )
    read = Reader(page(named))
    assert "script" not in {tag for tag, _ in read.tags}
    assert read.text.count(evil) >= 9
    assert any(evil in (attributes.get("alt") or "") for tag, attributes in read.tags if tag == "img")


def test_pictures_are_whole_and_have_words(content: PageContent) -> None:
    few = np.zeros((5, 7, 3), dtype=np.uint8)
    few[2, 3] = (255, 0, 128)
    shown = replace(content.images[0], truth=few)
    images = [each for tag, each in Reader(page(replace(content, images=(shown,)))).tags if tag == "img"]
    decoded = []
    for each in images:
        assert (each["alt"] or "").strip()
        data = base64.b64decode((each["src"] or "").partition(",")[2])
        decoded.append(np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB")))
    expected = [shown.rgb, few, *(pixels for each in shown.predictions for pixels in (each.prediction, each.error))]
    for found, pixels in zip(decoded, [*expected, *shown.legends, content.cues[0].strip], strict=True):
        np.testing.assert_array_equal(found, pixels)


def test_what_was_not_measured_is_left_out(content: PageContent) -> None:
    bare = replace(
        content,
        images=(),
        cues=(),
        encoders=tuple(
            replace(
                encoder,
                curves=(),
                answers=tuple(
                    replace(answer, verdict=replace(answer.verdict, description=None), fits=(), typical=())
                    for answer in encoder.answers
                ),
            )
            for encoder in content.encoders
        ),
    )
    text = Reader(page(bare)).text
    for title in ("Which cue", "three test images", "How many numbers it takes", "Everything that was compared"):
        assert title in Reader(page(content)).text
        assert title not in text
    assert "What decides" in text
    assert document(bare).keys() == document(content).keys()


def test_a_bound_that_is_infinite_is_said_and_is_null_in_the_json(content: PageContent) -> None:
    answer = content.encoders[0].answers[0]
    open_ended = replace(
        answer.verdict.beyond_pixels,
        log_ratio=Interval(1.0, -math.inf, math.inf, math.inf),
        smallest_detectable=math.inf,
    )
    changed = replace(answer, verdict=replace(answer.verdict, beyond_pixels=open_ended))
    alone = replace(content, encoders=(replace(content.encoders[0], answers=(changed,)),))
    read = Reader(page(alone))
    assert "0 to \N{INFINITY}" in read.text
    assert "nan" not in " ".join(str(value) for _, each in read.tags for value in each.values() if value)
    cells = document(alone)["cells"]
    assert isinstance(cells, list)
    assert cells[0]["beyond_pixels"]["log_ratio"]["high"] is None


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_words_can_be_read_by_day_and_by_night(dark: bool) -> None:
    # Web Content Accessibility Guidelines 2.2, success criterion 1.4.3.
    part = STYLE.partition("@media (prefers-color-scheme:dark)")[2 if dark else 0].partition("*{")[0]
    colours = dict(re.findall(r"--([a-z-]+):(#[0-9a-f]{6})", part))
    pairs = [(text, ground) for text in ("ink", "faint") for ground in ("paper", "ground")]
    pairs += [(name, f"{name}-ground") for name in ("yes", "no", "open", "bad")]
    for text, ground in pairs:
        low, high = sorted((_luminance(colours[text]), _luminance(colours[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def test_the_parts_of_a_panel_are_its_tiles() -> None:
    rgb, other = _noise(1, 256, 256), _noise(2, 256, 256)
    depth, valid = np.full((256, 256), 2.0, np.float32), np.ones((256, 256), bool)
    made = [
        depth_panel(image, depth, depth + step, valid, (0.0, 8.0), 2.0, "name", "caption")
        for image, step in ((rgb, 0.0), (other, 1.5))
    ]
    one, two = (panel_parts(each) for each in made)
    np.testing.assert_array_equal(one.rgb, rgb)
    np.testing.assert_array_equal(two.rgb, other)
    np.testing.assert_array_equal(one.prediction, one.truth)
    np.testing.assert_array_equal(one.truth, two.truth)
    assert len(np.unique(two.prediction.reshape(-1, 3), axis=0)) == 1
    # White is right, red is too far.
    assert one.error.min() > 240
    assert two.error[0, 0, 0] > two.error[0, 0, 2]
    np.testing.assert_array_equal(one.value_key, two.value_key)
    np.testing.assert_array_equal(one.error_key, two.error_key)


def _planted_study(tmp_path: Path) -> tuple[Study, Evidence]:
    evidence = PlantedLosses(12, "normal", 0.5, 0.5, images_per_scene=2).draw(np.random.default_rng(0))
    names = tuple(f"scene{index // 2}/{index}" for index in range(24))
    store = Store(
        tmp_path / "a.h5", "planted", "digest", Protocol(), "drawn", names, tuple(evidence.clusters), (), False, 8.0, ()
    )
    split = Split(
        {"train": (), "val": (), "test": tuple(range(24))},
        {"train": (), "val": (), "test": tuple(dict.fromkeys(evidence.clusters))},
        "split",
    )
    losses = (torch.linspace(high, low, 6).double() for high, low in ((6, 1), (12, 2), (9, 3)))
    curve = Curve(torch.arange(6), torch.zeros(6), *losses)
    higher = replace(curve, cv_loss=curve.cv_loss + 1)
    solution = plain_solution(5)
    arms = {
        name: MeasuredArm(FittedArm(name, (), torch.zeros(1, 1), solution), error, 0.5 * error)
        for name, error in evidence.squared_error.items()
    }
    twins = tuple(TwinRecord(f"untrained-random-{seed}", "random", seed, "", "") for seed in (0, 1))
    result = ArmsResult(
        target="depth",
        unit="m",
        num_outputs=1,
        encoder="null",
        encoder_digest="",
        task="sorting",
        stride=8,
        channels=5,
        ks={"3": 3, "all": 5},
        at={k: ArmsAtK(k, arms, {}) for k in (3, 5)},
        images=names,
        scenes=tuple(evidence.clusters),
        num_valid=evidence.num_valid,
        common_null=arms["null"],
        curves={"trained": curve, "untrained-random-0": curve, "untrained-random-1": higher},
        twins=twins,
        missing=(),
        images_per_s={},
    )
    encoder = build(EncoderConfig("null"), torch.device("cpu"))
    config = StudyConfig(draws=500)
    questions = (Question("null, k = 3", 0, 3), Question("null, k = 5 (all)", 0, 5))
    verdicts = decide([Cell(each.name, evidence, sound_training()) for each in questions], config.rules)
    subjects = (Subject(encoder, "sorting"),)
    planned = Plan(
        ProbeConfig(),
        config,
        store,
        split,
        subjects,
        fixed(ProbeConfig(), config, store, split, subjects),
        Clustering(tuple(evidence.clusters), "scene"),
    )
    return Study(planned, (result,), questions, verdicts), evidence


def test_a_study_comes_to_its_page(tmp_path: Path) -> None:
    study, evidence = _planted_study(tmp_path)
    valid, depth = np.ones((256, 256), bool), np.ones((256, 256), np.float32)
    names = ("scene0/0", "scene3/7", "scene11/23")
    panels = {
        f"depth/{name}": depth_panel(_noise(place, 256, 256), depth, depth, valid, (0.0, 8.0), 2.0, name)
        for place, name in enumerate(names)
    }
    made = page_content(study, {"null": panels}, names, (), provenance(study, 3, "idl verdict", "today"))
    (encoder,) = made.encoders
    assert [answer.is_all for answer in encoder.answers] == [False, True]
    # Errors again, from the sums.
    pixels = evidence.num_valid.sum()
    typical = {each.name: each.value for each in encoder.answers[0].typical}
    for arm in ("constant", "pixels", "trained+pixels"):
        assert typical[arm] == pytest.approx(np.sqrt(evidence.squared_error[arm].sum() / pixels))
    twins = encoder.answers[0].verdict.learned.above
    logs = [np.log(evidence.squared_error[arm].sum() / pixels) for arm in twins]
    assert typical["untrained+pixels"] ** 2 == pytest.approx(np.exp(np.mean(logs)))
    # Means over the seeds of a form, at ks that were fitted; k = 0 has no place on a logarithmic axis.
    trained, random = encoder.curves
    assert trained.k == (1, 2, 3, 4, 5)
    assert random.cv_loss == pytest.approx([each + 0.5 for each in trained.cv_loss])
    assert random.train_loss == trained.train_loss
    shown = made.images[1]
    assert (shown.role, shown.name) == ("median", "scene3/7")
    np.testing.assert_array_equal(shown.rgb, _noise(1, 256, 256))
    assert shown.predictions[0].typical == pytest.approx(
        np.sqrt(evidence.squared_error["null"][7] / evidence.num_valid[7])
    )
    assert made.provenance.test_reads == 3
    assert made.provenance.digests["verdict"] == document(made)["digest"]
    Reader(page(made))


def test_cues_come_to_the_page_with_what_is_said_of_them() -> None:
    grey = EditLoss("grey", "colour", 2.0, Interval(math.log(2), 0.5, 0.9, 0.1), 0.5, Interval(0.3, 0.1, 0.5, 0.1))
    hue = replace(grey, name="hue rotated")
    constant = replace(grey, name="constant", removed="everything", loss=3.0, lost=1.0)
    table = CueTable(
        encoder="two",
        target="depth",
        unit="m",
        kind="depth",
        clean_loss=1.0,
        constant=constant,
        edits=(grey, hue),
        findings=(CueFinding(CueName.COLOUR, Reading.READ, grey),),
        predicted=Luminance(Interval(0.25, 0.125, 0.375, 0.0625), Interval(0.5, 0.4, 0.6, 0.05)),
        true=None,
        num_images=12,
        num_test=24,
        num_clusters=6,
        clusters="scene",
        level=0.95,
        tile=64,
        sigma=4.0,
        sentences=("It reads colour.", "Nothing else."),
        examples=(),
    )
    strip = _noise(0)
    found = cues_part(table, {"cues/two_losses.png": _noise(1), "cues/two_examples.png": strip})
    assert [(line.name, line.reading) for line in found.edits] == [
        ("grey", "read"),
        ("hue rotated", ""),
        ("constant", ""),
    ]
    assert [(each.name, each.value.estimate) for each in found.correlations] == [
        ("predicted depth, within an image", 0.25),
        ("predicted depth, over all pixels", 0.5),
    ]
    np.testing.assert_array_equal(found.strip, strip)
    assert cues_part(table, {}).strip is None


def test_an_image_without_a_panel_is_said(tmp_path: Path) -> None:
    study, _ = _planted_study(tmp_path)
    with pytest.raises(ValueError, match="no encoder has a panel of image 'scene0/0'"):
        page_content(study, {"null": {}}, ("scene0/0",) * 3, (), provenance(study, 0, "", ""))


def test_the_command_names_what_is_not_at_its_default() -> None:
    @click.command(name="tell")
    @click.option("--ks", default="10,all")
    @click.option("--num-scenes", default=320)
    @click.option("--data", default="")
    @click.option("--cues", default=True, type=bool)
    def tell(**_: object) -> None:
        click.echo(command_line())

    given = ["--ks", "10,all", "--num-scenes", "40", "--data", "my rooms", "--cues", "false"]
    assert CliRunner().invoke(tell, given).output == "idl tell --num-scenes 40 --data 'my rooms' --cues false\n"
    assert CliRunner().invoke(tell, []).output == "idl tell\n"
