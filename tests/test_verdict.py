"""What a verdict says of losses whose truth is known, and what must not change it."""

import hashlib
import json
import math
import re
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from planted_losses import PlantedLosses, record, sound_training

from idl.errors import InputError
from idl.verdict import Cell, Evidence, Outcome, Training, Verdict, VerdictConfig, decide, document

FEW_DRAWS = VerdictConfig(draws=2000)


def _planted(beyond_pixels: float = 1.0, learned: float = 1.0, scenes: int = 40, seed: int = 0) -> Evidence:
    return PlantedLosses(scenes, "normal", beyond_pixels, learned).draw(np.random.default_rng(seed))


def _verdict(evidence: Evidence, config: VerdictConfig = FEW_DRAWS, training: Training | None = None) -> Verdict:
    return decide([Cell("a cell", evidence, training or sound_training())], config)[0]


def _changed(evidence: Evidence, **arms: np.ndarray) -> Evidence:
    """Replace arms; `_` in a keyword stands for `+`."""
    return replace(evidence, squared_error={**evidence.squared_error, **arms})


def _figures(verdict: Verdict) -> list[float]:
    """All numbers that decide."""
    found = [verdict.p]
    for each in verdict.comparisons:
        found += [
            each.log_ratio.estimate,
            each.log_ratio.low,
            each.log_ratio.high,
            each.log_ratio.standard_error,
            each.p,
        ]
    return found


@pytest.mark.parametrize(
    ("beyond_pixels", "learned", "outcome", "said"),
    [
        (0.6, 0.5, Outcome.LEARNED, "both above the margin of 1.050 times"),
        (-0.2, 0.5, Outcome.NOT_LEARNED, "With the pixels alone the loss is"),
        (0.6, -0.2, Outcome.NOT_LEARNED, "With an untrained encoder with the pixels the loss is"),
        (0.05, 0.5, Outcome.INCONCLUSIVE, "Beyond pixels: the loss is"),
        (0.6, 0.05, Outcome.INCONCLUSIVE, "Learned, not built in: the loss is"),
    ],
)
def test_a_planted_effect_gets_its_answer(beyond_pixels: float, learned: float, outcome: Outcome, said: str) -> None:
    verdict = _verdict(_planted(beyond_pixels, learned))
    assert verdict.outcome == outcome, verdict.reason
    assert said in verdict.reason
    assert verdict.beyond_pixels.log_ratio.low < beyond_pixels < verdict.beyond_pixels.log_ratio.high
    assert verdict.learned.log_ratio.low < learned < verdict.learned.log_ratio.high


def test_estimands_are_ratios_of_losses_pooled_over_pixels() -> None:
    evidence = _planted(0.4, 0.3)
    verdict = _verdict(evidence)
    error, pixels = evidence.squared_error, evidence.num_valid.sum()
    # The permuted twins have the lower cross-validated loss.
    twins = [error[f"untrained-permuted-{seed}+pixels"].sum() / pixels for seed in range(3)]
    trained = error["trained+pixels"].sum() / pixels
    assert verdict.forms[0].name == "permuted"
    assert math.exp(verdict.beyond_pixels.log_ratio.estimate) == pytest.approx(error["pixels"].sum() / pixels / trained)
    geometric = math.prod(twins) ** (1 / 3)
    assert math.exp(verdict.learned.log_ratio.estimate) == pytest.approx(geometric / trained)
    assert [math.exp(each.log_ratio.estimate) for each in verdict.seeds] == pytest.approx(
        [twin / trained for twin in twins]
    )
    # Figures that decide nothing.
    assert verdict.description is not None
    arms = {arm.name: arm for arm in verdict.description.arms}
    constant = error["constant"].sum() / pixels
    assert arms["trained"].mse.estimate == pytest.approx(error["trained"].sum() / pixels)
    assert arms["trained"].aligned_mse is not None
    aligned = arms["trained"].aligned_mse
    assert aligned.estimate == pytest.approx(evidence.aligned_error["trained"].sum() / pixels)
    assert aligned.low < aligned.estimate < aligned.high < arms["trained"].mse.low
    assert arms["trained"].r2 is not None
    assert arms["trained"].r2.estimate == pytest.approx(1 - error["trained"].sum() / pixels / constant)
    assert arms["trained"].r2.low < arms["trained"].r2.estimate < arms["trained"].r2.high
    assert verdict.description.trained_over_null is not None
    assert verdict.description.trained_over_null.estimate == pytest.approx(error["trained"].sum() / error["null"].sum())
    assert verdict.description.selectivity is not None
    assert evidence.shuffled is not None
    control = 1 - evidence.shuffled.squared_error.sum() / evidence.shuffled.constant_squared_error.sum()
    assert verdict.description.selectivity.estimate == pytest.approx(arms["trained"].r2.estimate - control)
    ratios = np.log(error["pixels"] / error["trained+pixels"])
    by_image = verdict.description.beyond_pixels_by_image
    assert by_image.estimate == pytest.approx(np.sort(ratios)[(len(ratios) - 1) // 2])
    assert by_image.low < by_image.estimate < by_image.high


def test_the_standard_error_is_that_of_the_ratio_over_many_datasets() -> None:
    verdicts = [
        decide([Cell("a", _planted(seed=seed), sound_training())], VerdictConfig(draws=200), described=False)[0]
        for seed in range(150)
    ]
    for estimand in ("beyond_pixels", "learned"):
        found = [getattr(verdict, estimand).log_ratio for verdict in verdicts]
        spread = np.std([each.estimate for each in found], ddof=1)
        # Of 150, a standard deviation is known to 6 %.
        assert np.mean([each.standard_error for each in found]) == pytest.approx(spread, rel=0.2)


def test_the_stronger_form_is_chosen_by_cross_validated_loss_alone() -> None:
    evidence = _planted(0.6, 0.5)
    strong = evidence.squared_error["trained+pixels"]
    # The random twins are as good as trained on test; only cross-validation may bring that to light.
    arms = {f"untrained-random-{seed}+pixels": strong for seed in range(3)}
    evidence = _changed(evidence, **arms)
    assert _verdict(evidence).outcome == Outcome.LEARNED
    better = {arm: record(1.1, 0.95 + 0.01 * seed) for seed, arm in enumerate(arms)}
    verdict = _verdict(evidence, training=sound_training(**better))
    assert verdict.outcome == Outcome.NOT_LEARNED
    assert [form.name for form in verdict.forms] == ["random", "permuted"]


def test_every_seed_alone_must_pass() -> None:
    evidence = _planted(0.6, 0.5)
    verdict = _verdict(
        _changed(evidence, **{"untrained-permuted-1+pixels": evidence.squared_error["trained+pixels"] * 1.04})
    )
    assert verdict.learned.p < 0.001
    assert verdict.outcome == Outcome.INCONCLUSIVE
    assert "untrained-permuted-1+pixels alone" in verdict.reason


def test_an_arm_against_its_duplicate_is_never_learned() -> None:
    evidence = _planted(0.6, 0.5)
    trained = evidence.squared_error["trained+pixels"]
    verdict = _verdict(_changed(evidence, pixels=trained.copy()))
    assert verdict.outcome == Outcome.NOT_LEARNED
    assert verdict.p == 1
    # Without a margin nothing lies below it either.
    assert _verdict(_changed(evidence, pixels=trained), VerdictConfig(margin=0.0)).outcome == Outcome.INCONCLUSIVE


def test_the_unit_of_the_target_does_not_count() -> None:
    evidence = _planted(0.3, 0.2)
    scaled = {arm: 1e6 * values for arm, values in evidence.squared_error.items()}
    np.testing.assert_allclose(
        _figures(_verdict(replace(evidence, squared_error=scaled))), _figures(_verdict(evidence)), rtol=1e-9, atol=1e-12
    )


def _reordered(evidence: Evidence, order: np.ndarray) -> Evidence:
    scenes = np.asarray(evidence.clusters)[order]
    return Evidence(
        scenes.tolist(),
        evidence.num_valid[order],
        {arm: values[order] for arm, values in evidence.squared_error.items()},
    )


def test_the_order_of_images_and_scenes_does_not_count() -> None:
    evidence = _planted(0.3, 0.2)
    order = np.random.default_rng(1).permutation(len(evidence.clusters))
    np.testing.assert_allclose(
        _figures(_verdict(_reordered(evidence, order))), _figures(_verdict(evidence)), rtol=1e-9, atol=1e-12
    )


def test_images_of_a_scene_may_be_merged() -> None:
    evidence = _planted(0.3, 0.2)
    pairs = evidence.num_valid.reshape(-1, 2)
    assert list(evidence.clusters[::2]) == list(evidence.clusters[1::2])
    merged = Evidence(
        list(evidence.clusters[::2]),
        pairs.sum(1),
        {arm: values.reshape(-1, 2).sum(1) for arm, values in evidence.squared_error.items()},
    )
    verdict, whole = _verdict(merged), _verdict(evidence)
    np.testing.assert_allclose(_figures(verdict), _figures(whole), rtol=1e-9, atol=1e-12)
    assert (verdict.num_images, whole.num_images) == (120, 240)


def test_images_and_scenes_without_a_valid_pixel_count_for_nothing() -> None:
    evidence = _planted(0.3, 0.2)
    empty = {arm: np.append(values, [0.0, 0.0]) for arm, values in evidence.squared_error.items()}
    more = Evidence(
        [*evidence.clusters, evidence.clusters[0], "an empty scene"],
        np.append(evidence.num_valid, [0.0, 0.0]),
        empty,
    )
    assert _figures(_verdict(more)) == _figures(_verdict(evidence))
    assert _verdict(more).num_clusters == 40


def test_same_seed_same_verdict_and_another_seed_other_draws() -> None:
    evidence = _planted(0.3, 0.2)
    assert _verdict(evidence) == _verdict(evidence)
    assert _figures(_verdict(evidence)) != _figures(_verdict(evidence, replace(FEW_DRAWS, seed=1)))


def _with_joint(**others: float) -> Training:
    return sound_training(**{"trained+pixels": replace(record(1.0, 0.9), **others)})  # pyright: ignore[reportArgumentType]


def test_a_rank_that_is_expected_and_a_part_within_its_error_are_sound() -> None:
    for training in (_with_joint(rank=3, expected_rank=3), _with_joint(val_loss=1.29), _with_joint(cv_loss=1.29)):
        assert _verdict(_planted(0.6, 0.5), training=training).outcome == Outcome.LEARNED


def test_a_twin_that_cross_validation_left_out_is_sound() -> None:
    twin = {"untrained-random-1+pixels": record(2.0, 2.0, is_left_out=True)}
    assert _verdict(_planted(0.6, 0.5), training=sound_training(**twin)).outcome == Outcome.LEARNED


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (FEW_DRAWS.margin, Outcome.NOT_LEARNED),
        # More than was planted, by chance: the margin counts.
        (1.0, Outcome.NOT_LEARNED),
        (0.001, Outcome.INCONCLUSIVE),
        # Nothing at all is found of it, even where the encoder does harm.
        (-0.5, Outcome.INCONCLUSIVE),
        (math.nan, Outcome.INCONCLUSIVE),
    ],
)
def test_what_would_have_been_missed_is_not_called_absent(found: float, outcome: Outcome) -> None:
    """found: what an effect of the margin's size comes to on the same images."""
    verdict = _verdict(_planted(-0.04, 0.5), training=_with_joint(recovered=found))
    assert verdict.beyond_pixels.log_ratio.high < FEW_DRAWS.margin
    assert verdict.outcome == outcome, verdict.reason
    if outcome is Outcome.INCONCLUSIVE:
        assert "effect of that size" in verdict.reason


@pytest.mark.parametrize(
    ("training", "scenes", "said"),
    [
        (sound_training(trained=record(4.1)), 40, "no fit worse than constant: .*trained 4.1"),
        (sound_training(trained=record(math.nan)), 40, "no fit worse than constant"),
        (sound_training(trained=record(1.2, excess_loss=0.011)), 40, r"excess loss at most 1.10% \(trained\)"),
        (sound_training(trained=record(1.2, excess_loss=math.nan)), 40, "fits converged"),
        (replace(sound_training(), shared_scenes=("attic", "hall")), 40, "2 found in two splits: attic, hall"),
        (_with_joint(rank=4), 40, r"directions lost: trained\+pixels 4 of 5\)"),
        (
            _with_joint(cv_loss=1.35),
            40,
            r"trained\+pixels 1.35 by cross-validation, trained alone 1.2 \(standard error 0.1",
        ),
        (_with_joint(val_loss=1.35), 40, r"trained\+pixels 1.35 on validation, trained alone 1.2"),
        (_with_joint(val_loss=math.nan), 40, "no joint arm worse than its part"),
        (
            sound_training(**{"untrained-random-1+pixels": record(2.0, 2.0)}),
            40,
            "equal to the pixels: untrained-random-1",
        ),
        (sound_training(), 9, "enough clusters: 9 scenes, of 10 or more"),
        (sound_training(), 1, "enough clusters: 1 scene, of 10 or more"),
    ],
)
def test_a_failed_gate_is_invalid_with_its_figures(training: Training, scenes: int, said: str) -> None:
    verdict = _verdict(_planted(0.6, 0.5, scenes), training=training)
    assert verdict.outcome == Outcome.INVALID
    assert [gate.passed for gate in verdict.gates].count(False) == 1
    assert re.search(said, verdict.reason)
    assert verdict.adjusted_p is None
    assert verdict.beyond_pixels.log_ratio.estimate == pytest.approx(0.6, abs=0.3)
    assert verdict.description is not None


@pytest.mark.parametrize(("scenes", "flagged"), [(9, False), (10, True), (19, True), (20, False)])
def test_ten_to_nineteen_scenes_are_flagged(scenes: int, flagged: bool) -> None:
    verdict = _verdict(_planted(scenes=scenes))
    assert verdict.few_clusters is flagged
    assert (verdict.caution is not None) is flagged
    if flagged:
        assert verdict.caution is not None
        assert verdict.caution.startswith(f"Only {scenes} clusters")


def _in_blocks(evidence: Evidence, num_recordings: int) -> Evidence:
    """The same losses, as if the scenes were blocks of recordings."""
    walks = [f"walk {int(scene.split()[1]) % num_recordings}" for scene in evidence.clusters]
    return replace(evidence, clusters_are="block", recordings=walks)


def test_an_answer_from_blocks_says_of_how_many_recordings() -> None:
    evidence = _planted(0.3, 0.2)
    whole, blocks = _verdict(evidence), _verdict(_in_blocks(evidence, 3))
    assert blocks.caution is not None
    assert blocks.caution.startswith("The clusters are 40 blocks of 3 recordings: neighbouring blocks resemble each")
    assert whole.caution is None
    # Blocks that were asked for are clusters like any: the answer is the same, and so is every figure.
    assert (blocks.outcome, blocks.reason) == (whole.outcome, whole.reason)
    assert _figures(blocks) == _figures(whole)
    few = _verdict(_in_blocks(_planted(scenes=12), 1))
    assert few.caution is not None
    assert re.fullmatch(r"The clusters are 12 blocks of 1 recording: .*\. Only 12 clusters: .*", few.caution)


def test_recordings_without_a_valid_pixel_count_for_nothing() -> None:
    evidence = _in_blocks(_planted(0.3, 0.2), 3)
    kept = np.asarray(evidence.recordings) != "walk 2"
    empty = replace(
        evidence,
        num_valid=evidence.num_valid * kept,
        squared_error={arm: values * kept for arm, values in evidence.squared_error.items()},
        aligned_error={},
        shuffled=None,
    )
    verdict = _verdict(empty)
    assert (verdict.num_clusters, verdict.num_recordings) == (27, 2)


@pytest.mark.parametrize(("num", "counted"), [(1, "1 recording"), (9, "9 recordings"), (10, None)])
def test_too_few_recordings_are_told_what_to_do(num: int, counted: str | None) -> None:
    verdict = _verdict(replace(_planted(scenes=num), clusters_are="recording"))
    assert (verdict.outcome == Outcome.INVALID) is (counted is not None)
    if counted is not None:
        assert f"{counted}, of 10 or more: blocks of one recording are no independent scenes" in verdict.reason
        assert "clusters=block takes them as such" in verdict.reason


def _at(distance: float, name: str) -> Cell:
    """A cell whose first estimand lies `distance` standard errors above the margin."""
    evidence = _planted(0.3, 1.0)
    found = decide([Cell("a", evidence, sound_training())], FEW_DRAWS, described=False)[0].beyond_pixels.log_ratio
    factor = math.exp(FEW_DRAWS.margin + distance * found.standard_error - found.estimate)
    return Cell(name, _changed(evidence, pixels=factor * evidence.squared_error["pixels"]), sound_training())


def test_holm_over_a_grid() -> None:
    strong, weak = _at(8.0, "strong"), _at(2.2, "weak")
    invalid = replace(_at(2.2, "invalid"), training=sound_training(trained=record(1.2, excess_loss=1.0)))
    assert decide([weak], FEW_DRAWS)[0].outcome == Outcome.LEARNED
    # Of two, the weaker one counts once: the stronger one is rejected first.
    both = decide([weak, strong], FEW_DRAWS)
    assert [each.outcome for each in both] == [Outcome.LEARNED, Outcome.LEARNED]
    # Two weak ones and a third: p times 2 is too much for the smaller of the two, and so for both.
    three = decide([weak, strong, replace(weak, name="weak too")], FEW_DRAWS)
    assert [each.outcome for each in three] == [Outcome.INCONCLUSIVE, Outcome.LEARNED, Outcome.INCONCLUSIVE]
    assert three[0].adjusted_p == pytest.approx(2 * three[0].p)
    assert "not after correction for 3 questions" in three[0].reason
    assert all(low.log_ratio.low > FEW_DRAWS.margin for low in three[0].comparisons)
    # A cell that a gate stopped was never asked.
    with_invalid = decide([weak, strong, invalid], FEW_DRAWS)
    assert [each.outcome for each in with_invalid] == [Outcome.LEARNED, Outcome.LEARNED, Outcome.INVALID]
    assert {each.num_tested for each in with_invalid} == {2}


def test_learned_is_every_lower_bound_above_the_margin_of_one_cell() -> None:
    for distance in np.linspace(1.0, 4.0, 13):
        verdict = decide([_at(distance, "a")], FEW_DRAWS, described=False)[0]
        above = all(each.log_ratio.low > FEW_DRAWS.margin for each in verdict.comparisons)
        assert (verdict.outcome == Outcome.LEARNED) == above


def test_a_perfect_prediction_is_learned() -> None:
    evidence = _planted(0.6, 0.5)
    nothing = {"trained+pixels": np.zeros(len(evidence.clusters))}
    verdict = _verdict(_changed(evidence, **nothing))
    assert verdict.outcome == Outcome.LEARNED
    assert "more than a million times" in verdict.reason
    content = document([verdict], FEW_DRAWS, {})
    assert json.loads(json.dumps(content, allow_nan=False))["cells"][0]["beyond_pixels"]["log_ratio"]["low"] is None


def test_an_effect_of_a_single_image_is_no_effect() -> None:
    evidence = _planted(0.6, 0.5)
    one = np.zeros(len(evidence.clusters))
    one[7] = 1.0
    verdict = _verdict(_changed(evidence, **{"trained+pixels": one}))
    assert verdict.outcome == Outcome.INCONCLUSIVE
    assert "hangs on a single cluster" in verdict.reason


def test_the_document_is_json_and_holds_every_field() -> None:
    verdicts = decide([_at(2.0, "one"), _at(5.0, "two")], FEW_DRAWS)
    content = document(verdicts, FEW_DRAWS, {})
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    for verdict, cell in zip(verdicts, json.loads(json.dumps(content))["cells"], strict=True):
        assert set(asdict(verdict)) < set(cell)
        assert cell["beyond_pixels"]["log_ratio"]["low"] == verdict.beyond_pixels.log_ratio.low
    assert [cell["outcome"] for cell in json.loads(json.dumps(content))["cells"]] == ["INCONCLUSIVE", "LEARNED"]


def test_the_digest_holds_every_rule_and_all_else_that_is_fixed() -> None:
    base = VerdictConfig()
    others = [
        VerdictConfig(margin=0.1),
        VerdictConfig(level=0.9),
        VerdictConfig(draws=5000),
        VerdictConfig(seed=1),
        VerdictConfig(min_clusters=12),
        VerdictConfig(few_clusters=30),
        VerdictConfig(max_excess_loss=0.02),
    ]
    one, two = {"split": "a", "ks": ["10"]}, {"split": "a", "ks": ["10", "all"]}
    digests = {base.digest(one), base.digest(two), *(other.digest(one) for other in others)}
    assert len(digests) == 9
    # The order in which things are named says nothing.
    assert VerdictConfig().digest({"ks": ["10"], "split": "a"}) == base.digest(one)


def test_another_program_finds_the_digest_again() -> None:
    digest = VerdictConfig(margin=0.0, level=0.9).digest({"name": "Tübingen", "penalties": [0.0, 0.5]})
    # Typed, not made: what the words of `VerdictConfig.digest` say.
    text = (
        r'{"config":{"draws":10000,"few_clusters":20,"level":0.9,"margin":0.0,"max_excess_loss":0.01,'
        r'"min_clusters":10,"seed":0},"fixed":{"name":"T\u00fcbingen","penalties":[0.0,0.5]}}'
    )
    assert digest == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_it_is_said_what_writes_what_is_hashed() -> None:
    # Numbers that other languages write in another way.
    config, fixed = VerdictConfig(margin=1e-7), {"name": "Tübingen", "penalties": [1e-8, 1e16, 100.0, 1e22]}
    content = document(decide([_at(2.0, "one")], FEW_DRAWS), config, fixed)
    found = re.search(r"json\.dumps\(\.\.\., (.*)\)`", VerdictConfig.digest.__doc__ or "")
    assert found is not None
    settings = eval(f"dict({found[1]})")
    text = json.dumps({name: content[name] for name in ("fixed", "config")}, **settings)
    assert content["digest"] == hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("margin", -0.1, "margin=-0.1: expected 0 or more"),
        ("margin", math.nan, "margin=nan: expected 0 or more"),
        ("level", 1.0, "level=1.0: expected more than 0 and less than 1"),
        ("draws", 99, "draws=99: expected 100 or more"),
        ("seed", -1, "seed=-1: expected 0 or more"),
        ("min_clusters", 1, "min_clusters=1: expected 2 or more"),
        ("few_clusters", 5, r"few_clusters=5: expected 10 \(min_clusters\) or more"),
        ("max_excess_loss", -1.0, "max_excess_loss=-1.0: expected 0 or more"),
    ],
)
def test_rules_that_cannot_be_are_refused(name: str, value: float, told: str) -> None:
    with pytest.raises(InputError, match=told):
        VerdictConfig(**{name: value})  # pyright: ignore[reportArgumentType]


def test_a_grid_that_cannot_be_decided_is_refused() -> None:
    cell = Cell("a", _planted(), sound_training())
    with pytest.raises(InputError, match="cell 'a' is there twice"):
        decide([cell, cell], FEW_DRAWS)
    grid = [replace(cell, name=str(number)) for number in range(20)]
    with pytest.raises(InputError, match=r"draws=2000: too few for 20 questions\. Pass 3200 or more"):
        decide(grid, FEW_DRAWS)


def test_evidence_that_cannot_be_is_refused() -> None:
    evidence = _planted()
    error = evidence.squared_error
    with pytest.raises(ValueError, match="pixels: image 3 has nan"):
        _changed(evidence, pixels=np.where(np.arange(len(error["pixels"])) == 3, np.nan, error["pixels"]))
    with pytest.raises(ValueError, match="trained: image 0 has -"):
        _changed(evidence, trained=-error["trained"])
    with pytest.raises(ValueError, match="expected one number for 240 images"):
        _changed(evidence, trained=error["trained"][1:])
    with pytest.raises(ValueError, match="arm 'pixels' is missing"):
        replace(evidence, squared_error={arm: values for arm, values in error.items() if arm != "pixels"})
    with pytest.raises(ValueError, match="arm 'other' is aligned, and has no errors"):
        replace(evidence, aligned_error={"other": error["trained"]})
    with pytest.raises(ValueError, match="trained aligned: image 0 has nan"):
        replace(evidence, aligned_error={"trained": error["trained"] * np.nan})
    with pytest.raises(ValueError, match="no arm untrained-FORM-SEED"):
        replace(evidence, squared_error={arm: values for arm, values in error.items() if "untrained" not in arm})
    with pytest.raises(ValueError, match="'untrained-permuted-0\\+pixels' needs a fit with a finite cross-validated"):
        Cell("a", evidence, Training({"constant": record(4.0)}))
    with pytest.raises(ValueError, match="recordings: 0 of 240 images, each in a block"):
        replace(evidence, clusters_are="block")
    with pytest.raises(ValueError, match="recordings: 240 of 240 images, each in a scene"):
        replace(evidence, recordings=evidence.clusters)
    with pytest.raises(ValueError, match="no image has a valid pixel"):
        replace(evidence, num_valid=np.zeros(240))
    with pytest.raises(ValueError, match="the constant arm is missing"):
        Training({})


def test_the_verdict_needs_neither_torch_nor_mlflow() -> None:
    heavy = ("torch", "mlflow", "optuna", "scipy.stats")
    code = f"import sys, idl.verdict; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
