"""A study on planted data: what was planted is found, what was not is not, and what nobody may conclude is not said."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import PlantedReader, SmallNetwork, one_weight, write_pairs
from planted_features import Colours, FoldedReader, Folding, foreign
from torch import Tensor, nn

from idl.data.folder import FolderReader
from idl.data.preparation import prepare
from idl.data.reader import Sample
from idl.data.splits import split_by_scene
from idl.data.store import Store
from idl.encoders import Encoder
from idl.errors import InputError
from idl.pipeline import ProbeConfig
from idl.protocol import Protocol
from idl.study.cells import clusters_of, questions, shared_scenes
from idl.study.config import StudyConfig
from idl.study.fixed import Subject
from idl.study.page import page, page_content, provenance
from idl.study.report import study_report, with_answers
from idl.study.run import Study, check, plan, study
from idl.study.wording import markdown, meaning
from idl.verdict import Outcome

PROBE = ProbeConfig(batch_size=8)
# 64 scenes: 12 of them in the test split.
CONFIG = StudyConfig(ks="2,all", draws=2000, untrained_seeds=2)
SIZE = (256, 256)


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Store:
    reader = FoldedReader(num_scenes=64, views=2, name="folded", source="made by the tests, folded")
    return prepare(reader, Protocol(resolution=64), tmp_path_factory.mktemp("folded"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def judged(store: Store, cache: Path, *encoders: Encoder) -> Study:
    subjects = [Subject(encoder, "planting") for encoder in encoders]
    check(PROBE, CONFIG, subjects, store.protocol.size)
    return study(plan(PROBE, CONFIG, store, subjects), cache)


@pytest.fixture(scope="module")
def found(folded: Store, cache: Path) -> Study:
    planted = foreign(Folding(), 3, "folding")
    pixels = foreign(Colours(), 3, "colours")
    twin = foreign(SmallNetwork(seed=2), 8, "twin")
    return judged(folded, cache, planted, pixels, twin)


def outcomes(found: Study, position: int) -> dict[int, Outcome]:
    return {question.k: verdict.outcome for question, verdict in found.of_encoder(position)}


def test_a_feature_that_is_built_in_is_beyond_the_pixels_and_not_learned(found: Study) -> None:
    # Its twins mix the same three channels, which hold the feature as well: it is beyond the pixels, and built in.
    assert set(outcomes(found, 0).values()) <= {Outcome.NOT_LEARNED, Outcome.INCONCLUSIVE}
    for _, verdict in found.of_encoder(0):
        assert verdict.beyond_pixels.log_ratio.low > CONFIG.rules.margin
        # A word of caution about LEARNED stands beside no other answer.
        assert verdict.caution is not None
        assert verdict.caution not in markdown(
            replace(found, questions=found.questions[:2], verdicts=found.verdicts[:2])
        )
        said = replace(verdict, outcome=Outcome.LEARNED)
        assert verdict.caution in meaning(found, found.questions[0], said)


def test_what_the_pixels_hold_is_not_learned(found: Study) -> None:
    assert set(outcomes(found, 1).values()) == {Outcome.NOT_LEARNED}


def test_a_random_network_is_learned_no_more_often_than_it_is_the_best_of_its_twins(folded: Store, cache: Path) -> None:
    """Small networks differ by more than the margin: each may be the best of itself and two twins in a third of cases.

    The method looks at one trained network: that every seed alone must pass is all that it has against this.
    """
    networks = [foreign(SmallNetwork(seed=seed), 8, f"network {seed}") for seed in range(1, 7)]
    answers = list(judged(folded, cache, *networks).verdicts)
    for verdict in answers:
        if verdict.outcome is Outcome.LEARNED:
            assert min(seed.log_ratio.estimate for seed in verdict.seeds) > CONFIG.rules.margin
    assert sum(verdict.outcome is Outcome.LEARNED for verdict in answers) <= len(answers) / 3


def test_every_question_is_in_the_one_family(found: Study) -> None:
    assert [question.name for question in found.questions] == [
        "folding, k = 2",
        "folding, k = 3 (all)",
        "colours, k = 2",
        "colours, k = 3 (all)",
        "twin, k = 2",
        "twin, k = 8 (all)",
    ]
    assert {verdict.num_tested for verdict in found.verdicts} == {6}


def test_few_scenes_conclude_nothing(tmp_path: Path) -> None:
    store = prepare(PlantedReader(num_scenes=8), Protocol(resolution=64), tmp_path)
    found = judged(store, tmp_path, foreign(SmallNetwork(), 8))
    first = found.verdicts[0]
    assert first.outcome is Outcome.INVALID
    assert "clusters" in first.reason
    # In words that need no glossary, and first.
    few = f"only {first.num_clusters} scenes were tested, and 10 are needed"
    assert meaning(found, found.questions[0], first).endswith(f": {few}.")


def test_every_condition_has_words(found: Study) -> None:
    """Whatever fails is said without the method's own names."""
    verdict = found.verdicts[0]
    assert all(gate.passed for gate in verdict.gates)
    sentences = set()
    for failed in verdict.gates:
        gates = tuple(replace(gate, passed=gate is not failed) for gate in verdict.gates)
        said = meaning(found, found.questions[0], replace(verdict, outcome=Outcome.INVALID, gates=gates))
        assert failed.name not in said
        sentences.add(said)
    assert len(sentences) == len(verdict.gates) == 7


def test_a_common_grid_that_does_not_fit_is_refused_before_there_is_a_dataset() -> None:
    subjects = [Subject(foreign(Colours(), 3), "planting")]
    with pytest.raises(InputError, match=r"does not divide images of 288 x 384 pixels\. Pass one of 2, 3, 4, 6, 8, 12"):
        check(PROBE, replace(CONFIG, common_stride=7), subjects, (288, 384))
    check(PROBE, replace(CONFIG, common_stride=6), subjects, (288, 384))


def test_the_report_says_what_was_found(found: Study) -> None:
    content = page_content(found, {}, (), (), provenance(found, 4, "idl compare", "today"))
    report = study_report(found, content)
    document = json.loads(report.texts["verdict.json"])
    assert [cell["outcome"] for cell in document["cells"]] == [str(verdict.outcome) for verdict in found.verdicts]
    assert document["digest"] == found.plan.digest == report.tags["verdict_digest"]
    assert report.metrics["test_reads_before"] == 4
    arms = report.tables["arms.csv"]
    assert set(zip(arms["encoder"], arms["k"], strict=True)) == {
        (encoder, k)
        for encoder, k in (("folding", 2), ("folding", 3), ("colours", 2), ("colours", 3), ("twin", 2), ("twin", 8))
    }
    row = [list(arms["arm"]), list(arms["encoder"]), list(arms["test_loss"])]
    trained = next(loss for arm, name, loss in zip(*row, strict=True) if (arm, name) == ("trained", "folding"))
    assert report.metrics["folding/k2/arms/trained_test_loss"] == pytest.approx(trained, rel=1e-9)
    # Scale and shift fitted for each image take something off every arm, and all that is left is in three places.
    aligned = list(arms["test_loss_aligned"])
    assert all(0 < one < all_of for one, all_of in zip(aligned, arms["test_loss"], strict=True))  # pyright: ignore[reportOperatorIssue]
    described = document["cells"][0]["description"]["arms"]
    assert [arm["aligned_mse"]["estimate"] for arm in described] == pytest.approx(aligned[: len(described)], rel=1e-9)
    assert report.metrics["folding/k2/arms/trained_test_loss_aligned"] == pytest.approx(
        next(
            loss
            for arm, name, loss in zip(arms["arm"], arms["encoder"], aligned, strict=True)
            if (arm, name) == ("trained", "folding")
        ),
        rel=1e-9,
    )
    added = with_answers(replace(report, metrics={}), found, 1, 4)
    assert {name.partition("/")[0] for name in added.metrics} == {"k2", "k3", "test_reads_before"}


def _planned(store: Store, config: StudyConfig = CONFIG, probe: ProbeConfig = PROBE, *encoders: Encoder) -> str:
    named = encoders or (foreign(Colours(), 3, "colours"),)
    return plan(probe, config, store, [Subject(encoder, "planting") for encoder in named]).digest


def test_whatever_decides_the_answer_is_in_the_digest(folded: Store) -> None:
    colours = foreign(Colours(), 3, "colours")
    brighter = Colours()
    brighter.weight.data *= 2
    rounded = Encoder(Colours(), name="colours", stride=8, channels=3, origin=colours.origin, arithmetic="bfloat16")
    changed = {
        "as it is": _planned(folded),
        **{
            f"{name}={value}": _planned(folded, replace(CONFIG, **{name: value}))
            for name, value in {
                "ks": "2",
                "margin": 1.1,
                "level": 0.9,
                "draws": 3000,
                "bootstrap_seed": 1,
                "clusters": "scan",
                "untrained_seeds": 3,
                "shuffle_seed": 1,
                "common_stride": 16,
            }.items()
        },
        "seed of the split": _planned(folded, CONFIG, replace(PROBE, split_seed=1)),
        "shares of the split": _planned(folded, CONFIG, replace(PROBE, split="2:1:1")),
        "target": _planned(folded, CONFIG, replace(PROBE, target="log-depth")),
        "data": _planned(replace(folded, digest="of other data")),
        "weights": _planned(folded, CONFIG, PROBE, foreign(brighter, 3, "colours")),
        "arithmetic": _planned(folded, CONFIG, PROBE, rounded),
        "one more": _planned(folded, CONFIG, PROBE, colours, foreign(Folding(), 3, "folding")),
    }
    assert len(set(changed.values())) == len(changed)
    # What the rules' own default is, and what a person types.
    assert StudyConfig().rules == StudyConfig(margin=1.05).rules
    # What moves the rounding alone.
    assert _planned(folded, CONFIG, replace(PROBE, batch_size=5)) == changed["as it is"]


def test_one_image_in_two_splits_is_found(folded: Store, tmp_path: Path) -> None:
    split = split_by_scene(folded.scenes)
    assert shared_scenes(folded, split) == ()

    class Copying(PlantedReader):
        """The last scene shows what the first does."""

        def read(self, index: int) -> list[Sample]:
            samples = super().read(index)
            copied = super().read(0) if index == self.num_scenes - 1 else samples
            return [replace(new, name=old.name, scene=old.scene) for old, new in zip(samples, copied, strict=True)]

    store = prepare(Copying(), Protocol(resolution=64), tmp_path)
    names = ["train", *["val"] * 6, "test"]
    scenes = {name: tuple(f"scene_{i:02d}" for i, each in enumerate(names) if each == name) for name in set(names)}
    path = tmp_path / "split.json"
    path.write_text(json.dumps(scenes))
    shared = shared_scenes(store, split_by_scene(store.scenes, str(path)))
    assert len(shared) == 3
    assert all(scene.startswith("scene_07 (image scene_07_") for scene in shared)


def test_frames_of_one_colour_are_no_leak(tmp_path: Path) -> None:
    class DroppingOut(PlantedReader):
        """Every scene's first view is black, its second one grey: what a camera gives that drops out."""

        def read(self, index: int) -> list[Sample]:
            levels = (0, 128)
            return [
                replace(sample, rgb=np.full_like(sample.rgb, levels[view])) if view < 2 else sample
                for view, sample in enumerate(super().read(index))
            ]

    store = prepare(DroppingOut(), Protocol(resolution=64), tmp_path)
    assert len({store.read(("rgb",), [index])["rgb"].tobytes() for index in range(store.num_images)}) < store.num_images
    assert shared_scenes(store, split_by_scene(store.scenes)) == ()


def test_scans_stand_in_where_scenes_are_few(folded: Store) -> None:
    names = tuple(f"scan_{index % 12}/{index}" for index in range(len(folded.names)))
    few = replace(folded, names=names, scenes=tuple(str(index % 3) for index in range(len(names))))
    order = range(24)
    found = clusters_of(few, order, "auto", 10)
    assert (len(set(found.of_image)), found.kind) == (12, "scan")
    # No scan spans two scenes.
    assert found.of_image == tuple(f"{index % 3}/scan_{index % 12}" for index in order)
    assert clusters_of(few, order, "auto", 3).kind == "scene"
    assert clusters_of(few, order, "scene", 10).kind == "scene"
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


def _as_walk(store: Store) -> Store:
    """The same images, as 64 blocks of one walk."""
    blocks = tuple(scene.replace("scene_", "block_") for scene in store.scenes)
    return replace(store, scenes=blocks, is_sequential=True)


def _judged_walk(store: Store, cache: Path, config: StudyConfig) -> Study:
    subjects = [Subject(foreign(Folding(), 3, "folding"), "planting")]
    return study(plan(PROBE, replace(config, ks="2"), _as_walk(store), subjects), cache)


def test_one_walk_is_invalid_unless_its_blocks_are_asked_for(folded: Store, cache: Path) -> None:
    whole = _judged_walk(folded, cache, CONFIG)
    blocks = _judged_walk(folded, cache, replace(CONFIG, clusters="block"))
    few = "1 recording, of 10 or more: blocks of one recording are no independent scenes; clusters=block takes them"
    # Before anything is measured, and in the answer.
    assert few in whole.plan.warning
    assert blocks.plan.warning == ""
    (invalid,), (valid,) = whole.verdicts, blocks.verdicts
    assert invalid.outcome is Outcome.INVALID
    assert few in invalid.reason
    assert meaning(whole, whole.questions[0], invalid).endswith(": only 1 recording was tested, and 10 are needed.")
    assert valid.outcome is not Outcome.INVALID
    # Losses are of use all the same, and are those of the same fits; only the order of the sums is another.
    losses = [[arm.mse.estimate for arm in each.description.arms] for each in (invalid, valid) if each.description]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    # Whatever the answer is, and wherever it stands, it names the blocks.
    named = "The clusters are 12 blocks of 1 recording: neighbouring blocks resemble each other"
    for outcome in (Outcome.LEARNED, Outcome.NOT_LEARNED, Outcome.INCONCLUSIVE):
        assert named in meaning(blocks, blocks.questions[0], replace(valid, outcome=outcome))
    for found, says in ((whole, False), (blocks, True)):
        content = page_content(found, {}, (), (), provenance(found, 0, "idl verdict", "today"))
        report = study_report(found, content)
        (cell,) = json.loads(report.texts["verdict.json"])["cells"]
        for text in (markdown(found), page(content), cell["meaning"], cell["caution"] or ""):
            assert (named in text) is says
        assert (cell["clusters"], cell["num_recordings"]) == (("block", 1) if says else ("recording", None))
        counted = "12 blocks of folded" if says else "1 recording of folded"
        assert counted in page(content)
        assert report.params["clusters"] == cell["clusters"]


def test_blocks_of_scenes_are_refused_before_anything_is_measured(folded: Store) -> None:
    with pytest.raises(
        InputError, match=r"clusters=block: the scenes of dataset folded are no blocks of frames\. Pass"
    ):
        _planned(folded, replace(CONFIG, clusters="block"))
    assert _planned(_as_walk(folded), replace(CONFIG, clusters="block")) != _planned(_as_walk(folded))


def test_ks_that_are_one_number_are_one_question() -> None:
    asked = questions(["a", "b"], [{"10": 10, "all": 10}, {"10": 10, "all": 160}])
    assert [(question.encoder, question.k) for question in asked] == [(0, 10), (1, 10), (1, 160)]
    assert asked[0].name == "a, k = 10 (all)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ks": " , "}, "ks: none given"),
        ({"margin": 0.9}, "margin=0.9: expected a ratio"),
        ({"margin": float("nan")}, "margin=nan"),
        ({"clusters": "house"}, "clusters=house"),
        ({"level": 1.5}, "level=1.5"),
        ({"draws": 5}, "draws=5"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StudyConfig(**settings)  # pyright: ignore[reportArgumentType]


def test_untrained_and_twice_named_encoders_are_refused() -> None:
    encoder = foreign(Colours(), 3)
    with pytest.raises(InputError, match="was not trained for anything"):
        check(PROBE, CONFIG, [Subject(encoder, "none")], SIZE)
    with pytest.raises(InputError, match="one is there twice"):
        check(PROBE, CONFIG, [Subject(encoder, "planting")] * 2, SIZE)
    with pytest.raises(InputError, match="no verdict without an untrained twin"):
        check(PROBE, CONFIG, [Subject(foreign(one_weight(), 3), "planting")], SIZE)


def test_an_encoder_whose_twins_are_dead_is_refused_before_the_test_images_are_read(
    folded: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Alive(nn.Module):
        """Gives features while its weights are in their order, and nothing else."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.arange(64.0))

        def forward(self, x: Tensor) -> Tensor:
            is_sorted = bool((self.weight.diff() > 0).all())
            return nn.functional.avg_pool2d(x, 8) * float(is_sorted)

    subjects = [Subject(foreign(Alive(), 3), "planting")]
    check(PROBE, CONFIG, subjects, SIZE)
    planned = plan(PROBE, CONFIG, folded, subjects)
    tested = set(planned.split.indices["test"])
    seen: set[int] = set()
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda *asked: seen.update(asked[2]) or read(*asked))
    # The images of all splits are held against each other before, by their pixels alone.
    monkeypatch.setattr("idl.study.run.shared_scenes", lambda *_: ())
    with pytest.raises(InputError, match="no verdict without a control"):
        study(planned, tmp_path)
    assert seen
    assert not seen & tested


def test_an_image_counts_once_whatever_its_order(found: Study) -> None:
    result = found.results[0]
    assert len(result.images) == len(set(result.images))
    assert np.all(result.num_valid > 0)
