"""What a verdict says of losses whose truth is known, and what must not change it."""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
from planted_losses import PlantedLosses, fit, with_fits

from idl.verdict.baselines import Arm
from idl.verdict.decision import decide
from idl.verdict.document import plain
from idl.verdict.result import Cell, Clustering, Outcome, Verdict
from idl.verdict.settings import StudyConfig, VerdictConfig

FEW_DRAWS = VerdictConfig(draws=2000)


def planted(beyond_pixels: float = 1.0, learned: float = 1.0, scenes: int = 40, seed: int = 0) -> Cell:
    return PlantedLosses(scenes, "normal", beyond_pixels, learned).cell(np.random.default_rng(seed))


def verdict_on(cell: Cell, config: VerdictConfig = FEW_DRAWS) -> Verdict:
    return decide([cell], config)[0]


def errors_of(cell: Cell, arm: str) -> np.ndarray:
    return cell.arms[arm].squared_error


def with_errors(cell: Cell, changed: dict[str, np.ndarray]) -> Cell:
    arms = {name: replace(cell.arms[name], squared_error=errors) for name, errors in changed.items()}
    return replace(cell, arms={**cell.arms, **arms})


def figures(verdict: Verdict) -> list[float]:
    """All numbers that decide."""
    of_comparisons = [[*asdict(each.log_ratio).values(), each.p] for each in verdict.comparisons]
    return [verdict.p, *np.concatenate(of_comparisons)]


def assert_same(one: Cell, other: Cell) -> None:
    np.testing.assert_allclose(figures(verdict_on(one)), figures(verdict_on(other)), rtol=1e-9, atol=1e-12)


def in_blocks(cell: Cell, recordings: tuple[str, ...]) -> Clustering:
    return Clustering(cell.clusters.of_image, "block", recordings)


def each_error(cell: Cell, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Arm]:
    return {
        name: replace(arm, squared_error=change(arm.squared_error), aligned_error=change(arm.aligned_error))
        for name, arm in cell.arms.items()
    }


def subset(cell: Cell, kept: Sequence[int]) -> Cell:
    of_image, recordings = (
        tuple(labels[index] for index in kept if labels)
        for labels in (cell.clusters.of_image, cell.clusters.recordings)
    )
    clusters = replace(cell.clusters, of_image=of_image, recordings=recordings)
    arms = each_error(cell, lambda errors: errors[kept])
    return replace(cell, arms=arms, shuffled={}, num_valid=cell.num_valid[kept], clusters=clusters)


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
    verdict = verdict_on(planted(beyond_pixels, learned))
    assert verdict.outcome == outcome, verdict.reason
    assert said in verdict.reason
    assert verdict.beyond_pixels.log_ratio.low < beyond_pixels < verdict.beyond_pixels.log_ratio.high
    assert verdict.learned.log_ratio.low < learned < verdict.learned.log_ratio.high


def test_estimands_are_ratios_of_losses_pooled_over_pixels() -> None:
    cell = planted(0.4, 0.3)
    verdict = verdict_on(cell)
    mse = {name: arm.squared_error.sum() / cell.num_valid.sum() for name, arm in cell.arms.items()}
    # The permuted twins have the lower cross-validated loss.
    twins = [mse[f"untrained-permuted-{seed}+pixels"] for seed in range(3)]
    assert verdict.forms[0].name == "permuted"
    assert math.exp(verdict.beyond_pixels.log_ratio.estimate) == pytest.approx(mse["pixels"] / mse["trained+pixels"])
    geometric = math.prod(twins) ** (1 / 3)
    assert math.exp(verdict.learned.log_ratio.estimate) == pytest.approx(geometric / mse["trained+pixels"])
    alone = [math.exp(each.log_ratio.estimate) for each in verdict.seeds]
    assert alone == pytest.approx([twin / mse["trained+pixels"] for twin in twins])
    # Figures that decide nothing.
    described = verdict.described
    trained = {arm.name: arm for arm in described.arms}["trained"]
    aligned, lent = (
        {name: each.sum() for name, each in errors.items()}
        for errors in (
            {name: arm.aligned_error for name, arm in cell.arms.items()},
            {name: arm.squared_error for name, arm in cell.shuffled.items()},
        )
    )
    ratios = np.sort(np.log(errors_of(cell, "pixels") / errors_of(cell, "trained+pixels")))
    r2 = 1 - mse["trained"] / mse["constant"]
    for found, expected in (
        (trained.mse, mse["trained"]),
        (trained.aligned_mse, aligned["trained"] / cell.num_valid.sum()),
        (trained.r2, r2),
        (described.trained_over_null, mse["trained"] / mse["null"]),
        (described.selectivity, r2 - (1 - lent["trained"] / lent["constant"])),
        (described.beyond_pixels_by_image, ratios[(len(ratios) - 1) // 2]),
    ):
        assert found is not None
        assert found.estimate == pytest.approx(expected)
        assert found.low < found.estimate < found.high


def test_the_standard_error_is_that_of_the_ratio_over_many_datasets() -> None:
    verdicts = [decide([planted(seed=seed)], VerdictConfig(draws=200), described=False)[0] for seed in range(150)]
    for estimand in ("beyond_pixels", "learned"):
        found = [getattr(verdict, estimand).log_ratio for verdict in verdicts]
        spread = np.std([each.estimate for each in found], ddof=1)
        # Of 150, a standard deviation is known to 6 %.
        assert np.mean([each.standard_error for each in found]) == pytest.approx(spread, rel=0.2)


def test_the_stronger_form_is_chosen_by_cross_validated_loss_alone() -> None:
    cell = planted(0.6, 0.5)
    # The random twins are as good as trained on test; only cross-validation may bring that to light.
    random = [f"untrained-random-{seed}+pixels" for seed in range(3)]
    cell = with_errors(cell, dict.fromkeys(random, errors_of(cell, "trained+pixels")))
    assert verdict_on(cell).outcome == Outcome.LEARNED
    verdict = verdict_on(with_fits(cell, {arm: fit(1.1, 0.95 + 0.01 * seed) for seed, arm in enumerate(random)}))
    assert verdict.outcome == Outcome.NOT_LEARNED
    assert [form.name for form in verdict.forms] == ["random", "permuted"]


def test_every_seed_alone_must_pass() -> None:
    cell = planted(0.6, 0.5)
    verdict = verdict_on(with_errors(cell, {"untrained-permuted-1+pixels": errors_of(cell, "trained+pixels") * 1.04}))
    assert verdict.learned.p < 0.001
    assert verdict.outcome == Outcome.INCONCLUSIVE
    assert "untrained-permuted-1+pixels alone" in verdict.reason


def test_an_arm_against_its_duplicate_is_never_learned() -> None:
    cell = planted(0.6, 0.5)
    same = with_errors(cell, {"pixels": errors_of(cell, "trained+pixels").copy()})
    assert verdict_on(same).outcome == Outcome.NOT_LEARNED
    assert verdict_on(same).p == 1
    # Without a margin nothing lies below it either.
    assert verdict_on(same, VerdictConfig(margin=0.0)).outcome == Outcome.INCONCLUSIVE


def test_neither_unit_nor_order_nor_the_images_of_a_scene_count() -> None:
    cell = planted(0.3, 0.2)
    assert_same(cell, with_errors(cell, {arm: 1e6 * errors_of(cell, arm) for arm in cell.arms}))
    assert_same(cell, subset(cell, np.random.default_rng(1).permutation(len(cell.num_valid)).tolist()))
    pairs = replace(cell.clusters, of_image=cell.clusters.of_image[::2])
    arms = each_error(cell, lambda errors: errors.reshape(-1, 2).sum(1))
    merged = replace(cell, arms=arms, num_valid=cell.num_valid.reshape(-1, 2).sum(1), clusters=pairs, shuffled={})
    assert cell.clusters.of_image[::2] == cell.clusters.of_image[1::2]
    assert_same(cell, merged)
    assert (verdict_on(merged).num_images, verdict_on(cell).num_images) == (120, 240)


def test_images_and_scenes_without_a_valid_pixel_count_for_nothing() -> None:
    cell = planted(0.3, 0.2)
    walks = tuple(f"walk {int(scene.split()[1]) % 3}" for scene in cell.clusters.of_image)
    cell = replace(cell, clusters=in_blocks(cell, walks))
    keep = np.flatnonzero(np.array(walks) != "walk 2")
    empty = replace(cell, shuffled={}, num_valid=np.where(np.array(walks) != "walk 2", cell.num_valid, 0.0))
    assert verdict_on(empty) == verdict_on(subset(cell, keep.tolist()))
    assert (verdict_on(empty).num_clusters, verdict_on(empty).num_recordings) == (27, 2)


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
    verdict = verdict_on(with_fits(planted(-0.04, 0.5), {"trained+pixels": fit(1.0, 0.9, recovered=found)}))
    assert verdict.beyond_pixels.log_ratio.high < FEW_DRAWS.margin
    assert verdict.outcome == outcome, verdict.reason
    assert ("effect of that size" in verdict.reason) is (outcome is Outcome.INCONCLUSIVE)


def joint(**others: float) -> dict[str, object]:
    return {"trained+pixels": fit(1.0, 0.9, **others)}


@pytest.mark.parametrize(
    ("fits", "said"),
    [
        # A rank that is expected, a part within its error, a twin that cross-validation left out.
        (joint(rank=3, expected_rank=3), ""),
        (joint(val_loss=1.29), ""),
        (joint(cv_loss=1.29), ""),
        ({"untrained-random-1+pixels": fit(2.0, 2.0, features_penalty=1e8)}, ""),
        ({"trained": fit(4.1)}, "no fit worse than constant: .*trained 4.1"),
        ({"trained": fit(math.nan)}, "no fit worse than constant"),
        ({"trained": fit(1.2, excess_loss=0.011)}, r"excess loss at most 1.10% \(trained\)"),
        ({"trained": fit(1.2, excess_loss=math.nan)}, "fits converged"),
        (joint(rank=4), r"directions lost: trained\+pixels 4 of 5\)"),
        (joint(cv_loss=1.35), r"trained\+pixels 1.35 by cross-validation, trained alone 1.2 \(standard error 0.1"),
        (joint(val_loss=1.35), r"trained\+pixels 1.35 on validation, trained alone 1.2"),
        (joint(val_loss=math.nan), "no joint arm worse than its part"),
        ({"untrained-random-1+pixels": fit(2.0, 2.0)}, "equal to the pixels: untrained-random-1"),
    ],
)
def test_a_fit_passes_the_gates_or_the_cell_is_invalid(fits: dict, said: str) -> None:
    verdict = verdict_on(with_fits(planted(0.6, 0.5), fits))
    assert verdict.outcome == (Outcome.INVALID if said else Outcome.LEARNED)
    assert [gate.passed for gate in verdict.gates].count(False) == bool(said)
    assert re.search(said, verdict.reason)
    # Figures are there all the same.
    assert verdict.description is not None
    assert (verdict.adjusted_p is None) is bool(said)


@pytest.mark.parametrize(("scenes", "said"), [(1, "1 scene, of"), (9, "9 scenes, of"), (10, ""), (20, "")])
def test_few_clusters_are_invalid_or_flagged(scenes: int, said: str) -> None:
    verdict = verdict_on(planted(scenes=scenes))
    assert (verdict.outcome is Outcome.INVALID, verdict.few_clusters) == (bool(said), scenes == 10)
    assert (verdict.caution or "").startswith(f"Only {scenes} clusters" if scenes == 10 else "")
    assert (f"enough clusters: {said} 10 or more" in verdict.reason) is bool(said)


def test_leaks_and_frames_of_few_recordings_are_invalid() -> None:
    leaking = verdict_on(replace(planted(), leaked=("attic", "hall")))
    assert leaking.outcome == Outcome.INVALID
    assert "2 found in two splits: attic, hall" in leaking.reason
    walks = planted(scenes=9)
    few = verdict_on(replace(walks, clusters=replace(walks.clusters, kind="recording")))
    assert "9 recordings, of 10 or more: blocks of one recording are no independent scenes" in few.reason


def test_an_answer_from_blocks_says_of_how_many_recordings() -> None:
    cell = planted(0.3, 0.2)
    walks = tuple(f"walk {int(scene.split()[1]) % 3}" for scene in cell.clusters.of_image)
    whole, blocks = (verdict_on(each) for each in (cell, replace(cell, clusters=in_blocks(cell, walks))))
    assert whole.caution is None
    assert (blocks.caution or "").startswith("The clusters are 40 blocks of 3 recordings: neighbouring blocks resemble")
    # Blocks that were asked for are clusters like any: the answer is the same, and so is every figure.
    assert (blocks.outcome, blocks.reason, figures(blocks)) == (whole.outcome, whole.reason, figures(whole))


def above_margin(distance: float, name: str) -> Cell:
    """A cell whose first estimand lies `distance` standard errors above the margin."""
    cell = planted(0.3, 1.0)
    found = decide([cell], FEW_DRAWS, described=False)[0].beyond_pixels.log_ratio
    factor = math.exp(FEW_DRAWS.margin + distance * found.standard_error - found.estimate)
    return replace(with_errors(cell, {"pixels": factor * errors_of(cell, "pixels")}), name=name)


def test_holm_over_a_grid() -> None:
    strong, weak = above_margin(8.0, "strong"), above_margin(2.2, "weak")
    invalid = with_fits(replace(weak, name="invalid"), {"trained": fit(1.2, excess_loss=1.0)})
    assert verdict_on(weak).outcome == Outcome.LEARNED
    # Of two, the weaker one counts once: the stronger one is rejected first.
    assert [each.outcome for each in decide([weak, strong], FEW_DRAWS)] == [Outcome.LEARNED] * 2
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


def test_a_perfect_prediction_is_learned_and_one_of_all_images_but_one_is_not() -> None:
    cell = planted(0.6, 0.5)
    verdict = verdict_on(with_errors(cell, {"trained+pixels": np.zeros(240)}))
    assert verdict.outcome == Outcome.LEARNED
    assert "more than a million times" in verdict.reason
    assert plain(asdict(verdict.beyond_pixels.log_ratio)) == {
        **dict.fromkeys(("estimate", "low", "high")),
        "standard_error": 0.0,
    }
    verdict = verdict_on(with_errors(cell, {"trained+pixels": np.eye(240)[7]}))
    assert verdict.outcome == Outcome.INCONCLUSIVE
    assert "hangs on a single cluster" in verdict.reason


def test_the_digest_is_of_every_rule_and_all_else_that_is_fixed_as_it_is_said() -> None:
    base = VerdictConfig()
    changed = {"margin": 0.1, "level": 0.9, "draws": 5000, "seed": 1, "min_clusters": 12, "few_clusters": 30}
    others = [replace(base, **{name: value}) for name, value in {**changed, "max_excess_loss": 0.02}.items()]
    one, two = {"split": "a", "ks": ["10"]}, {"split": "a", "ks": ["10", "all"]}
    assert len({base.digest(one), base.digest(two), *(other.digest(one) for other in others)}) == 9
    # The order in which things are named says nothing.
    assert base.digest({"ks": ["10"], "split": "a"}) == base.digest(one)
    # Typed, not made: what the words of `VerdictConfig.digest` say.
    text = (
        r'{"config":{"draws":10000,"few_clusters":20,"level":0.9,"margin":0.0,"max_excess_loss":0.01,'
        r'"min_clusters":10,"seed":0},"fixed":{"name":"T\u00fcbingen","penalties":[0.0,1e-08,1e+16]}}'
    )
    fixed = {"name": "Tübingen", "penalties": [0.0, 1e-8, 1e16]}
    config = VerdictConfig(margin=0.0, level=0.9)
    assert config.digest(fixed) == hashlib.sha256(text.encode()).hexdigest()[:16]
    # What the rules' own default is, and what a person types.
    assert StudyConfig().rules == StudyConfig(margin=1.05).rules
