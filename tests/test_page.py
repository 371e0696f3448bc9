"""The report of a study: what the page shows, what the JSON says, and that the two are one."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from planted_losses import PlantedLosses, plain_solution

from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import Origin
from idl.probe_config import ProbeConfig
from idl.probes.exact import Curve
from idl.protocol import Protocol
from idl.report.tiles import panel
from idl.verdict.baselines import ArmsResult
from idl.verdict.cues import CueFinding, CueTable, EditLoss, Reading
from idl.verdict.decision import decide
from idl.verdict.document import Provenance, Untrained, document, plain
from idl.verdict.intervals import Interval
from idl.verdict.page import Pictures, number, page
from idl.verdict.result import Clustering, Outcome
from idl.verdict.settings import StudyConfig
from idl.verdict.study import Answer, Plan, Study, Subject

CSS = files("idl.verdict").joinpath("templates/page.css").read_text()
# One of each outcome: of encoder one at 3 and all 5 numbers, then of encoder two.
PLANTED = (
    PlantedLosses(40, "normal", 1.0, 1.0, images_per_scene=2),
    PlantedLosses(40, "normal", 0.0, 1.0),
    PlantedLosses(12, "skewed", 0.06, 1.0),
    PlantedLosses(5, "normal", 1.0, 1.0),
)
CELL = PLANTED[0].cell(np.random.default_rng(0))
IMAGES = tuple(f"room{index // 2}/<b>{index}" for index in range(80))
# In every name that users give: markup is text.
ONE, TWO, EVIL = (f'<script>alert("{each}")</script>&amp;' for each in ("one", "two", "evil"))
FIXED: Mapping[str, object] = {
    "dataset": "d1",
    "encoders": [{"name": name, "digest": "ab12", "arithmetic": "float32"} for name in (ONE, TWO)],
    "ks": ["3", "all"],
    "controls": {"untrained_forms": ["random", "permuted"], "untrained_seeds": 3, "shuffle_seed": 17},
    "fit": {"solver": "exact", "basis_images": 257, "penalties": [0.0, 1e-8], "folds": 7},
}


Panels = dict[str, dict[str, np.ndarray]]


class Reader(HTMLParser):
    """Elements, attributes and text of a page, as another program reads them. Raises where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text.replace("/>", ">"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        assert len(dict(attrs)) == len(attrs), f"{tag}: an attribute is there twice"
        # Those have no end.
        if tag not in ("img", "meta", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _noise(seed: int, side: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def _result() -> ArmsResult:
    losses = (torch.linspace(high, low, 6).double() for high, low in ((6, 1), (12, 2), (9, 3)))
    curve = Curve(torch.arange(6), torch.zeros(6), *losses)
    arms = {name: replace(arm, solution=plain_solution(5)) for name, arm in CELL.arms.items()}
    arms |= {"position": arms["null"], "common null": arms["null"]}
    return ArmsResult(
        ks={"3": 3, "all": 5},
        arms=dict.fromkeys((3, 5), arms),
        shuffled={k: {} for k in (3, 5)},
        images=IMAGES,
        num_valid=CELL.num_valid,
        curves={"trained": curve}
        | {f"untrained-random-{seed}": replace(curve, cv_loss=curve.cv_loss + seed) for seed in (0, 1)},
        missing=(),
    )


def _cues() -> CueTable:
    grey = EditLoss("grey", EVIL, 2.02, Interval(0.71, 0.5, 0.9, 0.1), 0.51, Interval(0.3, 0.1, 0.5, 0.1))
    return CueTable(
        encoder=TWO,
        target="depth",
        unit="m",
        kind="depth",
        clean_loss=1.013,
        constant=replace(grey, name="constant", removed="everything", loss=3.03, lost=math.nan),
        edits=(grey, replace(grey, name="hue rotated")),
        findings=(CueFinding("colour", Reading.READ, grey),),
        correlations={
            ("predicted", "within"): Interval(0.25, 0.125, 0.375, 0.0625),
            ("predicted", "overall"): Interval(-0.5, -0.6, -0.4, 0.05),
            ("true", "within"): Interval(0.3, 0.2, 0.4, 0.05),
        },
        num_images=359,
        examples=(),
    )


@pytest.fixture(scope="module")
def study() -> Study:
    scenes = tuple(CELL.clusters.of_image)
    store = Store(Path("a.h5"), EVIL, "d1", Protocol(), EVIL, IMAGES, scenes, (), False, 8.0, (EVIL,))
    of_split = {"train": (), "val": (), "test": tuple(range(80))}
    split = Split(of_split, {"train": (), "val": (), "test": tuple(dict.fromkeys(scenes))}, "split")
    config = StudyConfig(draws=500)
    origin = Origin(EVIL, "file", "cd34", "", None, EVIL)
    encoders: list[Any] = [
        SimpleNamespace(name=name, origin=origin, digest="ab12", stride=16, channels=96) for name in (ONE, TWO)
    ]
    subjects = tuple(Subject(encoder, EVIL) for encoder in encoders)
    result, answers = _result(), []
    # Each by itself, so that an outcome does not hang on the others.
    for place, planted in enumerate(PLANTED):
        subject, k = subjects[place // 2], (3, 5)[place % 2]
        cell = planted.cell(np.random.default_rng(place), f"{('one', 'two')[place // 2]}, k = {k}")
        answers.append(
            Answer(subject.encoder.name, EVIL, "depth", k, k == 5, result.arms[k], *decide([cell], config.rules))
        )
    assert {answer.verdict.outcome for answer in answers} == set(Outcome)
    plan = Plan(ProbeConfig(), config, store, split, subjects, FIXED, Clustering(scenes, "scene"), ("depth",))
    return Study(plan, {(ONE, "depth"): result, (TWO, "depth"): result}, tuple(answers))


@pytest.fixture(scope="module")
def content(study: Study) -> dict[str, Any]:
    given = Provenance(f"idl compare --data {EVIL}", "2030-01-02 03:04 UTC", 7)
    return {**document(study, [_cues()], given), "feature": EVIL, "unit": "<m>"}


@pytest.fixture(scope="module")
def panels(content: dict[str, Any]) -> Panels:
    valid, depth = np.ones((256, 256), bool), np.ones((256, 256), np.float32)
    pictures = {
        f"depth/{image['name']}": panel(_noise(place), depth, depth + place, valid, (0.0, 8.0), 2.0, image["name"])
        for place, image in enumerate(content["images"])
    }
    return dict.fromkeys(("null", ONE, TWO), pictures)


@pytest.fixture(scope="module")
def text(content: dict[str, Any], panels: Panels) -> str:
    return page(content, Pictures(panels, {TWO: _noise(9)}))


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(each)
    else:
        yield value


def test_a_study_comes_to_its_document(study: Study, content: dict[str, Any]) -> None:
    assert [cell["is_all"] for cell in content["cells"]] == [False, True, False, True]
    # Errors again, from the sums.
    typical = {error["name"]: error["value"] for error in content["cells"][0]["typical_errors"]}
    mse = {arm: each.squared_error.sum() / CELL.num_valid.sum() for arm, each in CELL.arms.items()}
    for arm in ("constant", "pixels", "trained+pixels"):
        assert typical[arm] == pytest.approx(np.sqrt(mse[arm]))
    twins = study.answers[0].verdict.learned.above
    assert typical["untrained+pixels"] ** 2 == pytest.approx(np.exp(np.mean([np.log(mse[arm]) for arm in twins])))
    # Means over the seeds of a form, at ks that were fitted; k = 0 has no place on a logarithmic axis.
    trained, random = content["encoders"][0]["curves"]
    assert trained["k"] == [1, 2, 3, 4, 5]
    assert trained["cv_loss"] == pytest.approx((7.8, 6.6, 5.4, 4.2, 3.0))
    assert random["cv_loss"] == pytest.approx([each + 0.5 for each in trained["cv_loss"]])
    assert random["train_loss"] == trained["train_loss"]
    # The image that as many are better on as worse.
    of_images = CELL.arms["trained"].squared_error / CELL.num_valid
    median = content["images"][1]
    at = IMAGES.index(median["name"])
    assert (median["role"], np.argsort(of_images).tolist().index(at)) == ("median", 40)
    errors = {error["encoder"]: error["typical_error"] for error in median["errors"]}
    assert errors[TWO] == pytest.approx(np.sqrt(of_images[at]))
    assert errors["null"] == pytest.approx(np.sqrt(CELL.arms["null"].squared_error[at] / CELL.num_valid[at]))
    (cues,) = content["cues"]
    assert [(edit["name"], edit["reading"]) for edit in cues["edits"]] == [
        ("grey", "read"),
        ("hue rotated", ""),
        ("constant", ""),
    ]
    assert [each["name"] for each in cues["correlations"]][1:] == [
        "predicted depth, over all pixels",
        "true depth, within an image",
    ]
    assert content["provenance"]["digests"]["verdict"] == study.plan.digest == content["digest"]


def test_the_page_and_the_json_say_the_same(content: dict[str, Any], text: str) -> None:
    found = plain(content)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    words = Reader(text).text
    written = re.findall(r"-?\d+(?:\.\d+)?(?:e-?\+?\d+)?", words.replace("\N{MINUS SIGN}", "-").replace(",", ""))
    shown = np.array([float(each) for each in written])
    # The version of the format is for programs.
    leaves = [*_leaves({**content, "schema_version": ""})]
    figures = [each for each in leaves if isinstance(each, int | float) and not isinstance(each, bool)]
    assert len(figures) > 300
    # Four digits: half of the last one may be lost.
    lost = [each for each in figures if not np.any(np.abs(shown - each) <= 5.001e-4 * abs(each))]
    assert [each for each in lost if math.isfinite(each)] == []
    assert [each for each in leaves if isinstance(each, str) and each not in words] == []


def test_the_page_needs_nothing_from_elsewhere_and_names_with_markup_are_text(text: str) -> None:
    assert text.startswith("<!doctype html>")
    assert CSS.strip() in text
    assert not re.search(r"url\(|@import", CSS)
    read = Reader(text)
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "link", "iframe", "object", "base", "a", "form", "m"})
    for tag, attributes in read.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert "://" not in value
            assert name not in ("href", "srcset", "action")
            assert name != "src" or value.startswith("data:image/png;base64,"), tag
    assert read.text.count(EVIL) > 20
    assert all("<b>" in each["alt"] for each in read.all("img")[:-3])
    assert read.all("meta")[0] == {"charset": "utf-8"}


@pytest.fixture(scope="module")
def matrix(study: Study) -> dict[str, Any]:
    """The document of two features, of which the second has the answers of the first in the other order."""
    plan = replace(study.plan, features=("depth", "normals"))
    outcomes = [answer.verdict.outcome for answer in reversed(study.answers)]
    others = [
        replace(answer, feature="normals", verdict=replace(answer.verdict, outcome=outcome))
        for answer, outcome in zip(study.answers, outcomes, strict=True)
    ]
    results = {(name, feature): each for (name, _), each in study.results.items() for feature in plan.features}
    untrained = [Untrained(EVIL, feature, 320, loss, loss / 4) for feature, loss in (("depth", 3.7), ("normals", 1.3))]
    whole = Study(plan, results, (*study.answers, *others))
    return document(whole, [], Provenance("idl compare", "2030-01-02 03:04 UTC", 0), untrained)


def test_the_matrix_comes_first_and_has_every_answer(matrix: dict[str, Any], panels: Panels) -> None:
    # One answer each at k = all, of encoders one and two, and how much of the loss is left; the page in that order.
    left = [f"{row['loss_over_null']:#.3g}" for row in matrix["matrix"] if row["is_all"] and row["task"] != "none"]
    expected = [
        f"depth NOT LEARNED {left[0]}",
        f"normals INCONCLUSIVE {left[2]}",
        f"depth INVALID {left[1]}",
        f"normals LEARNED {left[3]}",
        "depth untrained 0.925",
        "normals untrained 0.325",
    ]
    words = Reader(page(matrix, *[Pictures(panels, {})] * 2)).text
    screen = words[: words.index("What the answers mean")]
    places = [screen.index(each) for each in expected]
    assert places == sorted(places)
    # Both parts follow, each with its own evidence, and every figure of the matrix can be looked up.
    assert words.count("Two comparisons decide") == words.count("On three test images") == 2
    for row in matrix["matrix"]:
        for figure in ("loss", "loss_over_null", "low", "high", "p"):
            value = row[figure]
            assert value is None or number(value) in words
    assert [row["answer"] for row in matrix["matrix"] if row["task"] == "none"] == ["untrained"] * 2
    assert [part["feature"] for part in matrix["features"]] == ["depth", "normals"]


def test_the_answers_come_first_and_one_sentence_serves_two_that_are_the_same(
    content: dict[str, Any], panels: Panels, text: str
) -> None:
    words = Reader(text).text
    start = words.index("What the answers mean")
    for cell in content["cells"]:
        assert words.index(cell["outcome"]) < start
        assert words.index(cell["meaning"]) < start < words.index(cell["reason"])
    first, _, *others = content["cells"]
    twice = {**first, "k": 160, "is_all": True}
    words = Reader(page({**content, "cells": [first, twice, *others]}, Pictures(panels, {TWO: _noise(9)}))).text
    assert words.count(first["meaning"]) == 1
    assert "3 and all 160 numbers" in words


def test_a_bound_that_is_infinite_is_said_and_cues_that_were_not_measured_are_left_out(
    content: dict[str, Any], panels: Panels
) -> None:
    changed = deepcopy({**content, "cues": []})
    unbounded = {"estimate": 1.0, "low": -math.inf, "high": math.inf, "standard_error": math.inf}
    changed["cells"][0]["beyond_pixels"] |= {"log_ratio": unbounded, "smallest_detectable": math.inf}
    read = Reader(page(changed, Pictures(panels, {})))
    assert "0 to \N{INFINITY}" in read.text
    assert not [each for _, each in read.tags if re.search("nan|inf", each.get("d", "") + each.get("style", ""))]
    assert "Which cue" not in read.text
    assert json.loads(json.dumps(plain(unbounded), allow_nan=False))["high"] is None


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_words_can_be_read_by_day_and_by_night(dark: bool) -> None:
    # Web Content Accessibility Guidelines 2.2, success criterion 1.4.3.
    colours = dict(re.findall(r"--([a-z-]+):(#[0-9a-f]{6})", CSS.split(":root{")[2 if dark else 1]))
    pairs = [(text, ground) for text in ("ink", "faint") for ground in ("paper", "ground")]
    for text, ground in [*pairs, *((name, f"{name}-ground") for name in ("yes", "no", "open", "bad"))]:
        low, high = sorted((_luminance(colours[text]), _luminance(colours[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)
