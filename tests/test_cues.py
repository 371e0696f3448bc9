"""Laws of the edits that remove a cue, and what is said of a probe on encoders that read one cue only."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import PlantedReader
from planted_cues import CuesReader, one_cue
from scipy.ndimage import gaussian_filter
from torch import Tensor

from idl.data.preparation import prepare
from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import Encoder
from idl.pipeline import probe
from idl.probe_config import ProbeConfig, split_of
from idl.probes.linear_probe import DepthModel, LinearProbe
from idl.protocol import Protocol
from idl.report import Run, RunReport
from idl.targets import target
from idl.verdict import cue_edits as edits
from idl.verdict.cues import CUES, CueTable, EditLoss, Reading, cues, find
from idl.verdict.intervals import Interval
from idl.verdict.report import with_cues
from idl.verdict.result import StudyConfig

PROBE = ProbeConfig(split="4:2:2", batch_size=16)
CONFIG = StudyConfig(draws=500)
DEPTH = target("depth")
SIZE = (48, 80)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(CuesReader(), Protocol(resolution=128), tmp_path_factory.mktemp("cues"))


@pytest.fixture
def rgb() -> Tensor:
    return torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def level_of(rgb: Tensor) -> Tensor:
    return 0.2126 * rgb[:, 0] + 0.7152 * rgb[:, 1] + 0.0722 * rgb[:, 2]


def chroma_of(rgb: Tensor) -> Tensor:
    return rgb - level_of(rgb)[:, None]


def assert_close(one: Tensor, other: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


def test_grey_and_flat_take_chroma_or_luminance_and_leave_the_other(rgb: Tensor) -> None:
    grey, flat = edits.grey(rgb), edits.luminance_flattened(rgb)
    assert torch.equal(grey, grey[:, :1].expand_as(grey))
    assert_close(level_of(grey), level_of(rgb))
    assert_close(edits.grey(grey), grey)
    assert_close(level_of(flat), level_of(rgb).mean(dim=(1, 2))[:, None, None].expand(-1, *SIZE))
    assert_close(chroma_of(flat), chroma_of(rgb))


def test_opposite_colours_have_the_same_luminance_and_the_opposite_chroma(rgb: Tensor) -> None:
    assert_close(level_of(edits.opposite(rgb)), level_of(rgb))
    assert_close(chroma_of(edits.opposite(rgb)), -chroma_of(rgb))


def test_fitting_keeps_luminance_and_leaves_alone_what_fits(rgb: Tensor) -> None:
    outside = edits.opposite(rgb)
    assert ((outside < 0) | (outside > 1)).any()
    fitted = edits.fitted(outside)
    assert fitted.min() >= 0
    assert fitted.max() <= 1
    assert_close(level_of(fitted), level_of(rgb), 1e-5)
    inside = ((outside >= 0) & (outside <= 1)).all(dim=1, keepdim=True).expand_as(rgb)
    assert_close(fitted[inside], outside[inside])
    black_and_white = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert_close(edits.fitted(black_and_white), black_and_white)


def test_the_low_pass_keeps_means_and_is_a_mirrored_gaussian(rgb: Tensor) -> None:
    blurred = edits.low_passed(rgb, 4.0)
    assert_close(blurred.mean(dim=(2, 3)), rgb.mean(dim=(2, 3)))
    expected = gaussian_filter(rgb.double().numpy(), (0, 0, 4.0, 4.0), mode="reflect", truncate=4.0)
    np.testing.assert_allclose(blurred.numpy(), expected, atol=1e-5)


def test_tiles_are_permuted_and_put_back_and_what_is_no_whole_tile_stays(rgb: Tensor) -> None:
    orders = edits.tile_orders(15, [1, 2, 1])
    shuffled = edits.shuffled(rgb, orders, 16)
    assert torch.equal(edits.shuffled(shuffled, orders.argsort(dim=1), 16), rgb)
    before, after = (
        each.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).reshape(3, 15, -1)
        for each in (rgb, shuffled)
    )
    # No tile stays, and each is there once.
    assert not (before == after).all(dim=2).any()
    assert torch.equal(before.sum(2).sort(dim=1).values, after.sum(2).sort(dim=1).values)
    # The same seed, the same order; another one, another.
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    # Tiles of the grid move as those of the image.
    of_shuffled = torch.nn.functional.avg_pool2d(shuffled, 8)
    assert_close(edits.shuffled(of_shuffled, orders.argsort(dim=1), 2), torch.nn.functional.avg_pool2d(rgb, 8))
    orders = edits.tile_orders(8, [3, 4, 5])
    shuffled = edits.shuffled(rgb, orders, 20)
    assert torch.equal(shuffled[:, :, 40:], rgb[:, :, 40:])
    assert torch.equal(edits.shuffled(shuffled, orders.argsort(dim=1), 20), rgb)
    # An image without a second tile.
    assert torch.equal(edits.shuffled(rgb, edits.tile_orders(1, [1, 2, 3]), 48), rgb)


def fitted(store: Store, encoder: Encoder, folder: Path, config: ProbeConfig = PROBE) -> tuple[Run, LinearProbe, Split]:
    run = probe(config, store, encoder, folder)
    assert isinstance(run.model.module, DepthModel)
    return run, run.model.module.probe, split_of(config, store, target(config.target))


def measured(store: Store, cue: str, folder: Path) -> CueTable:
    encoder = one_cue(cue)
    _, linear, split = fitted(store, encoder, folder)
    return cues(store, split, encoder, [(linear, DEPTH)], CONFIG, 4)[0]


@pytest.mark.parametrize("cue", ["colour", "brightness", "texture", "position"])
def test_an_encoder_of_one_cue_is_named_by_it(store: Store, tmp_path: Path, cue: str) -> None:
    table = measured(store, cue, tmp_path)
    assert [finding.cue for finding in table.named(Reading.READ)] == [cue], table.findings
    # What goes with a cue is never said to be read, and nothing is left open.
    goes_with = {"texture": ["brightness"], "position": ["layout"]}.get(cue, [])
    assert [finding.cue for finding in table.named(Reading.IMPLIED)] == goes_with
    assert not table.named(Reading.UNDECIDED)
    assert ("predicted farther" in table.sentences[1]) is (cue == "brightness")
    report = with_cues(RunReport({}, {"test_loss": 1.0}, description="before"), table, (0.0, 10.0))
    assert report.tags["cues"] == cue
    assert report.metrics["test_loss"] == 1.0
    assert report.description.startswith("before")
    assert table.sentences[0] in report.description
    assert list(report.figures) == [f"cues/only-{cue}_examples.png"]


def test_an_encoder_that_looks_elsewhere_reads_layout_and_a_weak_one_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepare(CuesReader(beside=2.0), Protocol(resolution=128), tmp_path / "beside")
    monkeypatch.setattr("idl.verdict.cue_edits.TILE", 32)
    table = measured(store, "layout", tmp_path)
    assert {finding.cue for finding in table.named(Reading.READ)} == {"layout", "colour"}
    # The probe can lose a few hundredths of its loss, no more.
    store = prepare(CuesReader(spread_m=0.1, noise_m=0.3), Protocol(resolution=128), tmp_path / "weak")
    table = measured(store, "brightness", tmp_path)
    assert table.constant.ratio.estimate < 1.1
    assert [finding.cue for finding in table.named(Reading.READ)] == ["brightness"], table.findings


def test_losses_are_those_of_the_whole_model_on_edited_images(store: Store, tmp_path: Path) -> None:
    encoder = one_cue("brightness")
    run, linear, split = fitted(store, encoder, tmp_path)
    (table,) = cues(store, split, encoder, [(linear, DEPTH)], CONFIG, 4)
    assert table.clean_loss == pytest.approx(run.report.metrics["test_loss"], rel=1e-4)
    read = store.read(("rgb", "depth", "valid"), split.indices["test"])
    rgb, depth_m, valid = (torch.from_numpy(read[name]) for name in ("rgb", "depth", "valid"))
    rgb = rgb.permute(0, 3, 1, 2).float() / 255
    level, chroma = level_of(rgb), chroma_of(rgb)
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
    pairs = [
        (depth_m[row][valid[row]].double().numpy(), level[row][valid[row]].double().numpy()) for row in range(len(rgb))
    ]
    overall = np.corrcoef(np.concatenate([np.stack(pair) for pair in pairs], axis=1))[0, 1]
    centred = [np.stack(pair) - np.mean(pair, axis=1, keepdims=True) for pair in pairs]
    within = np.corrcoef(np.concatenate(centred, axis=1))[0, 1]
    assert table.correlations["true", "overall"].estimate == pytest.approx(overall, abs=1e-5)
    found = table.correlations["true", "within"]
    assert found.estimate == pytest.approx(within, abs=1e-5)
    assert found.low < found.estimate < found.high


def test_batches_do_not_count_and_images_are_spread(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = one_cue("layout")
    _, linear, split = fitted(store, encoder, tmp_path)
    one, other = (cues(store, split, encoder, [(linear, DEPTH)], CONFIG, size)[0] for size in (3, 16))
    np.testing.assert_allclose([each.loss for each in one.edits], [each.loss for each in other.edits], rtol=1e-6)
    monkeypatch.setattr("idl.verdict.cues.MAX_IMAGES", 8)
    (fewer,) = cues(store, split, encoder, [(linear, DEPTH)], CONFIG, 4)
    assert (fewer.num_images, one.num_images) == (8, 16)
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
    (table,) = cues(store, split, encoder, [(linear, DEPTH)], CONFIG, 4, clusters=same)
    assert {finding.reading for finding in table.findings} == {Reading.UNDECIDED}
    # There is no lead to take shares of, and nothing is known of any cue: least of all that none is read.
    assert "%" not in table.sentences[1]
    report = with_cues(RunReport({}, {}), table, (0.0, 10.0))
    assert report.tags["cues"] == "undecided"
    assert report.metrics["cues/hue_rotated_ratio"] > 1.1
    assert report.metrics["cues/hue_rotated_ratio_high"] == math.inf


def test_normals_and_a_strided_grid_beside_another_probe(tmp_path: Path) -> None:
    store = prepare(PlantedReader(num_scenes=12), Protocol(resolution=64), tmp_path / "store")
    encoder = one_cue("colour")
    _, linear, split = fitted(store, encoder, tmp_path, replace(PROBE, target="normals"))
    _, of_depth, _ = fitted(store, encoder, tmp_path, PROBE)
    table, beside = cues(store, split, encoder, [(linear, target("normals")), (of_depth, DEPTH)], CONFIG, 4)
    (alone,) = cues(store, split, encoder, [(of_depth, DEPTH)], CONFIG, 4)
    assert (beside.clean_loss, beside.edits, beside.correlations) == (alone.clean_loss, alone.edits, alone.correlations)
    assert [each.name for each in beside.examples] == [each.name for each in alone.examples]
    assert not table.correlations
    # A tile of 64 pixels would be the whole image: it is of whole cells, and of single cells nothing is lost.
    assert {edit.name: edit.ratio.estimate for edit in table.edits}["tiles"] == pytest.approx(1, rel=1e-6)
    assert "cues/only-colour_examples.png" in with_cues(RunReport({}, {}), table, (0.0, 90.0)).figures


def edit_losses(logs: Mapping[str, tuple[float, float]]) -> dict[str, EditLoss]:
    """Edits whose loss lies between these ends about the threshold, as logarithms; the others are far below."""
    ends = {name: logs.get(name, (-0.5, -0.4)) for name in edits.REMOVED}
    found = {name: Interval(sum(each) / 2, *each, 0.1) for name, each in ends.items()}
    return {name: EditLoss(name, edits.REMOVED[name], 1.0, each, each.estimate, each) for name, each in found.items()}


FLAT, BLUR, TILES, TURN = "luminance flat", "low-passed", "tiles", "upside down"
READ, IMPLIED, UNDECIDED = Reading.READ, Reading.IMPLIED, Reading.UNDECIDED


@pytest.mark.parametrize(
    ("logs", "is_more", "said"),
    [
        ({}, True, {}),
        ({"grey": (-0.05, 0.3)}, True, {"colour": UNDECIDED}),
        ({"grey": (0.2, 0.3)}, True, {"colour": READ}),
        ({FLAT: (0.5, 0.6)}, False, {"brightness": READ}),
        ({FLAT: (0.5, 0.6), BLUR: (0.4, 0.5)}, False, {"brightness": IMPLIED, "texture": READ}),
        ({FLAT: (1.5, 1.6), BLUR: (0.4, 0.5)}, True, {"brightness": READ, "texture": READ}),
        ({TILES: (0.5, 0.6), TURN: (-0.05, 0.3)}, False, {"layout": READ, "position": UNDECIDED}),
        ({TILES: (0.5, 0.6), TURN: (0.2, 0.3)}, False, {"layout": IMPLIED, "position": READ}),
    ],
)
def test_rules_of_reading(logs: Mapping[str, tuple[float, float]], is_more: bool, said: dict[str, Reading]) -> None:
    figure = Interval(0.1, 0.05 if is_more else -0.05, 0.2, 0.1)
    found = {finding.cue: finding.reading for finding in find(edit_losses(logs), lambda *_: figure, leads=True)}
    assert found == dict.fromkeys(CUES, Reading.NOT_READ) | said
    nothing = find(edit_losses(logs), lambda *_: figure, leads=False)
    assert {finding.reading for finding in nothing} == {Reading.UNDECIDED}
