"""What is said of a probe on encoders that read one cue only, and what must not change it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import PlantedReader
from planted_cues import STRIDE, CuesReader, one_cue

from idl.cues import Cue, CuesConfig, CueTable, EditLoss, Reading, cue_figures, cues, with_cues
from idl.cues.reading import REMOVED, find
from idl.cues.wording import sentences
from idl.data.preparation import prepare
from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import Encoder
from idl.errors import InputError
from idl.pipeline import ProbeConfig, probe, split_of
from idl.probes.linear_probe import DepthModel, LinearProbe
from idl.protocol import Protocol
from idl.report import Run, RunReport
from idl.targets import target
from idl.verdict import Interval

CONFIG = ProbeConfig(split="4:2:2", batch_size=16)
CUES = CuesConfig(draws=500, batch_size=4, num_examples=1)
DEPTH = target("depth")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(CuesReader(), Protocol(resolution=128), tmp_path_factory.mktemp("cues"))


def fitted(store: Store, encoder: Encoder, folder: Path) -> tuple[Run, LinearProbe, Split]:
    run = probe(CONFIG, store, encoder, folder)
    assert isinstance(run.model.module, DepthModel)
    return run, run.model.module.probe, split_of(CONFIG, store, DEPTH)


def images(store: Store, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    read = {name: torch.from_numpy(values) for name, values in store.read(("rgb", "depth", "valid"), indices).items()}
    return read["rgb"].permute(0, 3, 1, 2).float() / 255, read["depth"], read["valid"]


def measured(store: Store, cue: str, folder: Path, config: CuesConfig = CUES) -> CueTable:
    encoder = one_cue(cue)
    _, linear, split = fitted(store, encoder, folder)
    return cues(store, split, encoder, linear, DEPTH, config)


@pytest.mark.parametrize("cue", ["colour", "brightness", "texture", "position"])
def test_an_encoder_of_one_cue_is_named_by_it(store: Store, tmp_path: Path, cue: str) -> None:
    table = measured(store, cue, tmp_path)
    assert [finding.cue for finding in table.named(Reading.READ)] == [Cue(cue)], table.findings
    # What goes with a cue is never said to be read, and nothing is left open.
    goes_with = {"texture": [Cue.BRIGHTNESS], "position": [Cue.LAYOUT]}.get(cue, [])
    assert [finding.cue for finding in table.named(Reading.IMPLIED)] == goes_with
    assert not table.named(Reading.UNDECIDED)
    first, second = table.sentences
    assert not any(word in second for word in ("predicted farther", "predicted nearer")) or cue == "brightness"
    assert ("predicted farther" in second) is (cue == "brightness")
    said = {"colour": "hues", "brightness": "luminance", "texture": "blurred", "position": "upside down"}
    assert said[cue] in first


def test_an_encoder_that_looks_elsewhere_reads_layout(tmp_path: Path) -> None:
    store = prepare(CuesReader(beside=2.0), Protocol(resolution=128), tmp_path / "store")
    table = measured(store, "layout", tmp_path, replace(CUES, tile=32))
    assert {finding.cue for finding in table.named(Reading.READ)} == {Cue.LAYOUT, Cue.COLOUR}


def test_losses_are_those_of_the_whole_model_on_edited_images(store: Store, tmp_path: Path) -> None:
    encoder = one_cue("brightness")
    run, linear, split = fitted(store, encoder, tmp_path)
    table = cues(store, split, encoder, linear, DEPTH, CUES)
    assert table.clean_loss == pytest.approx(run.report.metrics["test_loss"], rel=1e-4)
    rgb, depth_m, valid = images(store, list(split.indices["test"]))
    level = 0.2126 * rgb[:, 0] + 0.7152 * rgb[:, 1] + 0.0722 * rgb[:, 2]
    chroma = rgb - level[:, None]
    # The planted colours stay in [0, 1] here, so that nothing has to be brought back.
    flat = chroma + level.mean(dim=(1, 2))[:, None, None, None]
    assert flat.min() > 0
    assert flat.max() < 1
    by_name = {edit.name: edit.loss for edit in table.edits}
    with torch.inference_mode():
        for name, edited in (("luminance flat", flat), ("upside down", rgb.flip(2)), ("grey", rgb - chroma)):
            predicted = run.model.module(edited)[:, 0]
            if name == "upside down":
                predicted = predicted.flip(1)
            assert by_name[name] == pytest.approx(float((predicted - depth_m)[valid].square().mean()), rel=1e-4)
    assert table.constant.loss == pytest.approx(float(depth_m[valid].double().var(correction=0)), rel=1e-6)
    # Pearson's correlation, by the library.
    assert table.true is not None
    values, levels = depth_m[valid].double().numpy(), level[valid].double().numpy()
    assert table.true.overall.estimate == pytest.approx(np.corrcoef(values, levels)[0, 1], abs=1e-5)
    centred = [
        (depth_m[row][valid[row]].double().numpy(), level[row][valid[row]].double().numpy()) for row in range(len(rgb))
    ]
    values, levels = (np.concatenate([pair[each] - pair[each].mean() for pair in centred]) for each in (0, 1))
    assert table.true.within.estimate == pytest.approx(np.corrcoef(values, levels)[0, 1], abs=1e-5)
    assert table.true.within.low < table.true.within.estimate < table.true.within.high


def test_batches_do_not_count_and_images_are_spread(store: Store, tmp_path: Path) -> None:
    encoder = one_cue("layout")
    _, linear, split = fitted(store, encoder, tmp_path)
    one, other = (cues(store, split, encoder, linear, DEPTH, replace(CUES, batch_size=size)) for size in (3, 16))
    np.testing.assert_allclose([each.loss for each in one.edits], [each.loss for each in other.edits], rtol=1e-6)
    fewer = cues(store, split, encoder, linear, DEPTH, replace(CUES, max_images=8, num_examples=2))
    assert (fewer.num_images, fewer.num_test, fewer.num_clusters) == (8, 16, 8)
    assert len({example.name for example in fewer.examples}) == 2
    assert fewer.examples[0].rgb.shape == (7, 128, 128, 3)
    assert fewer.examples[0].prediction.shape == (7, 1, 128, 128)
    # The pictures are the edits: grey is grey, and upside down is the clean one turned.
    clean, grey, turned = (fewer.examples[0].rgb[place] for place in (0, 1, 6))
    assert np.ptp(grey, axis=2).max() == 0
    np.testing.assert_array_equal(turned, clean[::-1])


def test_one_cluster_leaves_everything_open(store: Store, tmp_path: Path) -> None:
    encoder = one_cue("colour")
    _, linear, split = fitted(store, encoder, tmp_path)
    same = ["a walk"] * len(split.indices["test"])
    table = cues(store, split, encoder, linear, DEPTH, CUES, clusters=same, clusters_are="scan")
    assert {finding.reading for finding in table.findings} == {Reading.UNDECIDED}
    assert "not better than a constant beyond doubt" in table.sentences[0]
    # There is no lead to take shares of, and nothing is known of any cue: least of all that none is read.
    assert "%" not in table.sentences[1]
    assert "times as high" in table.sentences[1]
    assert "whether lighter pixels are predicted farther or nearer cannot be told" in table.sentences[1]
    assert cue_figures(table, (0.0, 10.0))["cues/only-colour_losses.png"].dtype == np.uint8
    report = with_cues(RunReport({}, {}), table, (0.0, 10.0))
    assert report.tags["cues"] == "undecided"
    metrics = report.metrics
    assert metrics["cues/hue_rotated_ratio"] > 1.1
    assert metrics["cues/hue_rotated_ratio_high"] == math.inf


@pytest.mark.parametrize(
    ("low", "estimate", "high", "said"),
    [
        (-0.05, 0.01, 0.06, "predicted no different from"),
        (0.02, 0.05, 0.08, "predicted no different from"),
        (0.12, 0.2, 0.3, "are predicted farther ("),
        (-0.3, -0.2, -0.12, "are predicted nearer ("),
        (-0.1, 0.14, 0.4, "farther or nearer cannot be told"),
        (0.02, 0.08, 0.3, "farther or nearer cannot be told"),
    ],
)
def test_what_luminance_says_is_said_as_far_as_it_is_known(
    store: Store, tmp_path: Path, low: float, estimate: float, high: float, said: str
) -> None:
    table = measured(store, "colour", tmp_path)
    assert table.predicted is not None
    within = replace(table.predicted.within, estimate=estimate, low=low, high=high)
    told = sentences(replace(table, predicted=replace(table.predicted, within=within)))
    assert said in told.sentences[1]


def test_a_weak_reader_is_named_as_a_strong_one_is(tmp_path: Path) -> None:
    # The probe can lose a few hundredths of its loss, no more.
    store = prepare(CuesReader(spread_m=0.1, noise_m=0.3), Protocol(resolution=128), tmp_path / "store")
    table = measured(store, "brightness", tmp_path)
    assert table.constant.ratio < 1.1
    assert [finding.cue for finding in table.named(Reading.READ)] == [Cue.BRIGHTNESS], table.findings


def test_normals_and_a_strided_grid(tmp_path: Path) -> None:
    store = prepare(PlantedReader(num_scenes=12), Protocol(resolution=64), tmp_path / "store")
    wanted = target("normals")
    run = probe(replace(CONFIG, target="normals"), store, one_cue("colour"), tmp_path)
    assert isinstance(run.model.module, DepthModel)
    split = split_of(replace(CONFIG, target="normals"), store, wanted)
    table = cues(store, split, one_cue("colour"), run.model.module.probe, wanted, CUES)
    assert (table.predicted, table.true) == (None, None)
    # A tile of 64 pixels would be the whole image.
    assert table.tile == 32
    assert table.tile % STRIDE == 0
    assert set(cue_figures(table, (0.0, 90.0))) == {"cues/only-colour_losses.png", "cues/only-colour_examples.png"}


def _edits(logs: Mapping[str, tuple[float, float]]) -> dict[str, EditLoss]:
    """Edits whose loss lies between these ends about the threshold, as logarithms; the others are far below."""
    ends = {name: Interval(sum(each) / 2, *each, 0.1) for name in REMOVED for each in [logs.get(name, (-0.5, -0.4))]}
    return {name: EditLoss(name, REMOVED[name], 1.0, each, each.estimate, each) for name, each in ends.items()}


@pytest.mark.parametrize(
    ("logs", "is_more", "said"),
    [
        ({}, True, {}),
        ({"grey": (-0.05, 0.3)}, True, {Cue.COLOUR: Reading.UNDECIDED}),
        ({"grey": (0.2, 0.3)}, True, {Cue.COLOUR: Reading.READ}),
        ({"luminance flat": (0.5, 0.6)}, False, {Cue.BRIGHTNESS: Reading.READ}),
        (
            {"luminance flat": (0.5, 0.6), "low-passed": (0.4, 0.5)},
            False,
            {Cue.BRIGHTNESS: Reading.IMPLIED, Cue.TEXTURE: Reading.READ},
        ),
        (
            {"luminance flat": (1.5, 1.6), "low-passed": (0.4, 0.5)},
            True,
            {Cue.BRIGHTNESS: Reading.READ, Cue.TEXTURE: Reading.READ},
        ),
        (
            {"tiles": (0.5, 0.6), "upside down": (-0.05, 0.3)},
            False,
            {Cue.LAYOUT: Reading.READ, Cue.POSITION: Reading.UNDECIDED},
        ),
        (
            {"tiles": (0.5, 0.6), "upside down": (0.2, 0.3)},
            False,
            {Cue.LAYOUT: Reading.IMPLIED, Cue.POSITION: Reading.READ},
        ),
    ],
)
def test_rules_of_reading(logs: Mapping[str, tuple[float, float]], is_more: bool, said: dict[Cue, Reading]) -> None:
    figure = Interval(0.1, 0.05, 0.2, 0.1) if is_more else Interval(0.1, -0.05, 0.2, 0.1)
    found = {finding.cue: finding.reading for finding in find(_edits(logs), lambda above, below: figure, leads=True)}
    assert found == dict.fromkeys(Cue, Reading.NOT_READ) | said
    nothing = find(_edits(logs), lambda above, below: figure, leads=False)
    assert {finding.reading for finding in nothing} == {Reading.UNDECIDED}


@pytest.mark.parametrize(("wrong", "said"), [({"tile": 0}, "tile=0"), ({"sigma": 0.0}, "sigma=0")])
def test_settings_that_cannot_be(wrong: Mapping[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        CuesConfig(**wrong)  # pyright: ignore[reportArgumentType]


def test_a_report_gets_the_cues(store: Store, tmp_path: Path) -> None:
    table = measured(store, "colour", tmp_path)
    report = with_cues(RunReport({}, {"test_loss": 1.0}, description="before"), table, (0.0, 10.0))
    columns = report.tables["cues/cues.csv"]
    assert list(columns["images"]) == ["clean", *REMOVED, "constant"]
    row = list(columns["images"]).index("hue rotated")
    assert (columns["cue"][row], columns["reading"][row]) == ("colour", "read")
    assert columns["ratio"][row] == pytest.approx(columns["loss"][row] / table.clean_loss)  # pyright: ignore[reportOperatorIssue]
    assert report.metrics["test_loss"] == 1.0
    assert report.tags["cues"] == "colour"
    assert report.description.startswith("before")
    assert table.sentences[0] in report.description
    assert len(report.figures) == 2
