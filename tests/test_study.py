"""A study on planted data: what was planted is found, what was not is not, and what nobody may conclude is not said."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import PlantedReader, SmallNetwork, one_weight, write_pairs
from planted_features import Colours, FoldedReader, Folding, foreign
from torch import Tensor

from idl.data.folder import FolderReader
from idl.data.preparation import prepare
from idl.data.reader import Sample
from idl.data.splits import split_by_scene
from idl.data.store import Store
from idl.encoders import Encoder, EncoderConfig
from idl.errors import InputError
from idl.probe_config import ProbeConfig
from idl.protocol import Protocol
from idl.verdict.document import Provenance, meaning
from idl.verdict.report import encoder_runs, markdown, probe_run, summary, whole_report
from idl.verdict.result import Outcome, StudyConfig
from idl.verdict.study import (
    Study,
    Subject,
    check,
    chosen_encoder,
    clusters_of,
    compared_encoders,
    leaked_scenes,
    plan,
    study,
)

PROBE = ProbeConfig(batch_size=8)
# 64 scenes: 12 of them in the test split.
CONFIG = StudyConfig(ks="2,all", draws=2000, untrained_seeds=2, cues=False)


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Store:
    reader = FoldedReader(num_scenes=64, views=2, name="folded", source="made by the tests, folded")
    return prepare(reader, Protocol(resolution=64), tmp_path_factory.mktemp("folded"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def judged(store: Store, cache: Path, *encoders: Encoder, config: StudyConfig = CONFIG) -> Study:
    subjects = [Subject(encoder, "planting") for encoder in encoders]
    check(PROBE, config, subjects, store.protocol.size)
    return study(plan(PROBE, config, store, subjects), cache)


@pytest.fixture(scope="module")
def found(folded: Store, cache: Path) -> Study:
    planted = foreign(Folding(), 3, "folding")
    return judged(folded, cache, planted, foreign(Colours(), 3, "colours"), foreign(SmallNetwork(seed=2), 8, "twin"))


def test_what_is_built_in_or_the_pixels_own_is_not_learned(found: Study) -> None:
    built_in, of_pixels = found.part("folding").answers, found.part("colours").answers
    assert {answer.verdict.outcome for answer in of_pixels} == {Outcome.NOT_LEARNED}
    # Its twins mix the same three channels, which hold the feature as well: it is beyond the pixels, and built in.
    for answer in built_in:
        verdict = answer.verdict
        assert verdict.outcome in (Outcome.NOT_LEARNED, Outcome.INCONCLUSIVE)
        assert verdict.beyond_pixels.log_ratio.low > CONFIG.log_margin
        # A word of caution about LEARNED stands beside no other answer.
        assert verdict.few_clusters
        assert "Only 12 clusters" not in meaning(found.plan, answer)
        assert "Only 12 clusters" in meaning(
            found.plan, replace(answer, verdict=replace(verdict, outcome=Outcome.LEARNED))
        )


def test_every_question_is_in_the_one_family(found: Study, folded: Store, cache: Path) -> None:
    assert [answer.verdict.cell for answer in found.answers] == [
        "folding, k = 2",
        "folding, k = 3 (all)",
        "colours, k = 2",
        "colours, k = 3 (all)",
        "twin, k = 2",
        "twin, k = 8 (all)",
    ]
    assert {answer.verdict.num_tested for answer in found.answers} == {6}
    # ks that are one number are one question.
    (answer,) = judged(folded, cache, foreign(Colours(), 3, "colours"), config=replace(CONFIG, ks="3,all")).answers
    assert (answer.k, answer.is_all, answer.verdict.num_tested) == (3, True, 1)


def test_features_share_the_maps_and_the_family_and_nothing_else(
    folded: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, colours = ("depth", "normals", "log-depth"), foreign(Colours(), 3, "colours")
    forward, encoded = Encoder.forward, [0]

    def counting(self: Encoder, rgb: Tensor) -> Tensor:
        encoded[0] += len(rgb)
        return forward(self, rgb)

    def answered(folder: Path, *names: str) -> tuple[int, Study]:
        encoded[0] = 0
        config = replace(CONFIG, ks="2,all", untrained_seeds=1)
        check(PROBE, config, [Subject(colours, "planting")], folded.protocol.size, names)
        done = study(plan(PROBE, config, folded, [Subject(colours, "planting")], names), folder)
        return encoded[0], done

    monkeypatch.setattr(Encoder, "forward", counting)
    (of_one, one), (of_three, three) = answered(tmp_path / "one", "depth"), answered(tmp_path / "three", *features)
    assert of_one == of_three > folded.num_images
    assert [answer.feature for answer in three.answers] == ["depth"] * 2 + ["normals"] * 2 + ["log-depth"] * 2
    assert three.answers[3].verdict.cell == "colours, normals, k = 3 (all)"
    for name in features:
        of_feature, alone = three.part(feature=name), answered(tmp_path / "three", name)[1]
        assert of_feature.plan.probe.target == alone.plan.probe.target == name
        for cell, own in zip(of_feature.answers, alone.answers, strict=True):
            assert cell.verdict.p == pytest.approx(own.verdict.p, rel=1e-9)
            found, expected = (vars(each.verdict.learned.log_ratio) for each in (cell, own))
            assert found == pytest.approx(expected, rel=1e-9)
            for arm, fitted in own.arms.items():
                np.testing.assert_allclose(fitted.squared_error, cell.arms[arm].squared_error, rtol=1e-12)
    # Holm's by hand: the smallest p times all six, the next one times five, ..., never falling.
    ps, largest = [answer.verdict.p for answer in three.answers], 0.0
    for rank, index in enumerate(np.argsort(ps, kind="stable")):
        largest = max(largest, min(1.0, (6 - rank) * ps[index]))
        assert three.answers[index].verdict.adjusted_p == pytest.approx(largest)
    assert {answer.verdict.num_tested for answer in three.answers} == {6}
    # What was asked is part of the plan, in its order or another.
    assert one.plan.digest != three.plan.digest


def test_every_condition_has_words(found: Study) -> None:
    """Whatever fails is said without the method's own names."""
    answer = found.answers[0]
    gates = answer.verdict.gates
    assert all(gate.passed for gate in gates)
    sentences = set()
    for failed in gates:
        other = tuple(replace(gate, passed=gate is not failed) for gate in gates)
        invalid = replace(answer.verdict, outcome=Outcome.INVALID, gates=other)
        said = meaning(found.plan, replace(answer, verdict=invalid))
        assert failed.name not in said
        sentences.add(said)
    assert len(sentences) == len(gates) == 7


def test_a_run_holds_what_was_found(found: Study, cache: Path) -> None:
    given = Provenance("idl compare", "today", 4)
    encoders = [subject.encoder for subject in found.plan.subjects]
    null = probe_run(found, encoders[1], cache).report.panels
    runs = [run for encoder in encoders for run in encoder_runs(found, encoder, {"depth": null}, given, cache)]
    report = whole_report(found, {"depth": null}, runs, given)
    document = json.loads(report.texts["verdict.json"])
    assert document["digest"] == found.plan.digest == report.tags["verdict_digest"]
    assert report.metrics["test_reads_before"] == document["provenance"]["test_reads"] == 4
    for cell, answer in zip(document["cells"], found.answers, strict=True):
        assert cell["outcome"] == answer.verdict.outcome
        num_valid = found.results[cell["encoder"], "depth"].num_valid
        assert {arm["name"] for arm in cell["description"]["arms"]} == set(answer.arms)
        for arm in cell["description"]["arms"]:
            errors = answer.arms[arm["name"]]
            loss, aligned = (each.sum() / num_valid.sum() for each in (errors.squared_error, errors.aligned_error))
            # Scale and shift fitted for each image take something off every arm.
            assert 0 < aligned < loss
            assert (arm["mse"]["estimate"], arm["aligned_mse"]["estimate"]) == pytest.approx((loss, aligned), rel=1e-9)
            key = f"{cell['encoder']}/k{cell['k']}/arms/{arm['name'].replace('+', '_').replace(' ', '_')}_test_loss"
            assert (report.metrics[key], report.metrics[f"{key}_aligned"]) == pytest.approx((loss, aligned), rel=1e-9)
    # One of each judged encoder alone: the same answers, corrected for all that was asked.
    own = runs[1].run
    alone = json.loads(own.report.texts["verdict.json"])
    assert alone["cells"] == document["cells"][2:4]
    assert (alone["digest"], alone["fixed"]) == (document["digest"], document["fixed"])
    assert own.report.metrics["k3/arms/trained_test_loss"] == pytest.approx(own.report.metrics["test_loss"], rel=1e-4)
    assert own.report.tags["verdict k3"] == own.model.tags["verdict"] == "NOT LEARNED"
    # The same images are shown of all, and the terminal has every answer.
    assert all(set(each.run.report.panels) == set(null) for each in runs)
    for answer in found.answers:
        assert f"{answer.verdict.cell}: {answer.verdict.outcome}" in summary(found, [])


def planned(store: Store, config: StudyConfig = CONFIG, probe: ProbeConfig = PROBE, *encoders: Encoder) -> str:
    named = encoders or (foreign(Colours(), 3, "colours"),)
    return plan(probe, config, store, [Subject(encoder, "planting") for encoder in named]).digest


def test_whatever_decides_the_answer_is_in_the_digest(folded: Store) -> None:
    colours = foreign(Colours(), 3, "colours")
    brighter = Colours()
    brighter.weight.data *= 2
    rounded = Encoder(Colours(), name="colours", stride=8, channels=3, origin=colours.origin, arithmetic="bfloat16")
    of_study = {
        "ks": "2",
        "margin": 1.1,
        "level": 0.9,
        "draws": 3000,
        "bootstrap_seed": 1,
        "clusters": "scan",
        "untrained_seeds": 3,
        "shuffle_seed": 1,
        "common_stride": 16,
    }
    as_it_is = planned(folded)
    changed = [
        as_it_is,
        *(planned(folded, replace(CONFIG, **{name: value})) for name, value in of_study.items()),
        planned(folded, CONFIG, replace(PROBE, split_seed=1)),
        planned(folded, CONFIG, replace(PROBE, split="2:1:1")),
        planned(folded, CONFIG, replace(PROBE, target="log-depth")),
        planned(replace(folded, digest="of other data")),
        planned(folded, CONFIG, PROBE, foreign(brighter, 3, "colours")),
        planned(folded, CONFIG, PROBE, rounded),
        planned(folded, CONFIG, PROBE, colours, foreign(Folding(), 3, "folding")),
    ]
    assert len(set(changed)) == len(changed)
    # What moves the rounding alone, or no answer.
    assert planned(folded, replace(CONFIG, cues=True), replace(PROBE, batch_size=5)) == as_it_is


def test_one_image_in_two_splits_is_found_but_frames_of_one_colour_are_no_leak(folded: Store, tmp_path: Path) -> None:
    assert leaked_scenes(folded, split_by_scene(folded.scenes)) == ()

    class Copying(PlantedReader):
        """The last scene shows what the first does; every other scene's first view is black, as of a broken camera."""

        def read(self, index: int) -> list[Sample]:
            first, *rest = super().read(index)
            if index == 0:
                return [first, *rest]
            if index < self.num_scenes - 1:
                return [replace(first, rgb=np.zeros_like(first.rgb)), *rest]
            pairs = zip([first, *rest], super().read(0), strict=True)
            return [replace(copied, name=old.name, scene=old.scene) for old, copied in pairs]

    store = prepare(Copying(), Protocol(resolution=64), tmp_path)
    names = ["train", *["val"] * 5, "test", "test"]
    scenes = {name: tuple(f"scene_{i:02d}" for i, each in enumerate(names) if each == name) for name in set(names)}
    (tmp_path / "split.json").write_text(json.dumps(scenes))
    leaked = leaked_scenes(store, split_by_scene(store.scenes, str(tmp_path / "split.json")))
    assert len(leaked) == 3
    assert all(scene.startswith("scene_07 (image scene_07_") for scene in leaked)


def test_scans_stand_in_where_scenes_are_few(folded: Store) -> None:
    names = tuple(f"scan_{index % 12}/{index}" for index in range(len(folded.names)))
    few = replace(folded, names=names, scenes=tuple(str(index % 3) for index in range(len(names))))
    order = range(24)
    found = clusters_of(few, order, "auto", 10)
    assert (len(set(found.of_image)), found.kind) == (12, "scan")
    # No scan spans two scenes.
    assert found.of_image == tuple(f"{index % 3}/scan_{index % 12}" for index in order)
    assert clusters_of(few, order, "auto", 3).kind == clusters_of(few, order, "scene", 10).kind == "scene"
    assert clusters_of(folded, order, "auto", 100) == clusters_of(folded, order, "scene", 10)
    assert clusters_of(folded, order, "scene", 10).of_image == folded.scenes[:24]


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_twelve_walks_are_twelve_recordings_however_they_are_cut(frames: int, folded: Store, tmp_path: Path) -> None:
    walks = [f"floor_{number % 2}/block_{number:05d} again" for number in range(12)]
    for walk in walks:
        write_pairs(tmp_path / walk, num=4, size=(8, 8))
    pairs = FolderReader(tmp_path, Protocol(resolution=64), scene=f"block:{frames}").groups
    names = tuple(name for pair in pairs for name in pair.names)
    store = replace(folded, names=names, scenes=tuple(pair.scene for pair in pairs), is_sequential=True)
    # Backwards: the order of the images does not count.
    order = range(47, -1, -1)
    for clusters in ("auto", "scene", "scan"):
        found = clusters_of(store, order, clusters, 10)
        assert (found.kind, found.recordings) == ("recording", ())
        assert found.of_image == tuple(names[index].rpartition("/")[0] for index in order)
    blocks = clusters_of(store, order, "block", 10)
    assert blocks.kind == "block"
    assert len(set(blocks.of_image)) == 12 * -(-4 // frames)
    assert blocks.recordings == found.of_image


def test_one_walk_is_invalid_unless_its_blocks_are_asked_for(folded: Store, cache: Path) -> None:
    names = tuple(scene.replace("scene_", "block_") for scene in folded.scenes)
    walk = replace(folded, scenes=names, is_sequential=True)
    one_k, planted = replace(CONFIG, ks="2"), foreign(Folding(), 3, "folding")
    whole = judged(walk, cache, planted, config=one_k)
    blocks = judged(walk, cache, planted, config=replace(one_k, clusters="block"))
    few = "1 recording, of 10 or more: blocks of one recording are no independent scenes; clusters=block takes them"
    # Before anything is measured, and in the answer.
    assert few in whole.plan.warning
    assert blocks.plan.warning == ""
    (invalid,), (valid,) = whole.answers, blocks.answers
    assert invalid.verdict.outcome is Outcome.INVALID
    assert few in invalid.verdict.reason
    # In words that need no glossary.
    assert meaning(whole.plan, invalid).endswith(": only 1 recording was tested, and 10 are needed.")
    assert valid.verdict.outcome is not Outcome.INVALID
    # Beside any answer from blocks, it is said that they are no independent scenes.
    for of, says in ((blocks, True), (whole, False)):
        assert ("The clusters are 12 blocks of 1 recording: neighbouring blocks" in markdown(of)) is says
    with pytest.raises(
        InputError, match=r"clusters=block: the scenes of dataset folded are no blocks of frames\. Pass"
    ):
        planned(folded, replace(CONFIG, clusters="block"))


def test_an_encoder_without_a_twin_is_refused_before_there_is_a_dataset() -> None:
    with pytest.raises(InputError, match="no verdict without an untrained twin"):
        check(PROBE, CONFIG, [Subject(foreign(one_weight(), 3), "planting")], (288, 384))


def test_a_task_stands_for_an_encoder_and_weights_are_of_those_that_take_any() -> None:
    convnext = EncoderConfig("", stage=2)
    assert chosen_encoder(convnext, "") == EncoderConfig("convnext", stage=2)
    assert chosen_encoder(convnext, "autoencoding") == EncoderConfig("autoencoder", stage=2, weights="shipped")
    assert chosen_encoder(replace(convnext, weights="a.pth"), "imagenet").weights == "a.pth"
    assert chosen_encoder(EncoderConfig("timm:resnet18"), "imagenet").name == "timm:resnet18"
    encoders = compared_encoders("autoencoder, convnext", "imagenet")
    assert encoders == [EncoderConfig("autoencoder"), EncoderConfig("convnext", weights="imagenet")]
