"""The arms of one encoder: what it, the image itself, untrained twins and shuffled truth come to on the test split.

Each arm is a set of columns of one joint system. A control is an ordinary run: its maps, statistics and fits come from
the same code as those of the trained encoder, and go to the same cache. All is fitted before the test split is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from idl import cache
from idl.data.loading import batches, images_of
from idl.data.splits import SPLITS, Split
from idl.data.store import Store
from idl.encoders import Encoder, EncoderConfig, build
from idl.encoders.null import patches
from idl.encoders.untrained import KINDS, NoTwinError, twins
from idl.errors import InputError
from idl.features import EncodedDataset, NoFeaturesError, features_key
from idl.fitting import fit_statistics
from idl.probe_config import EXACT, ProbeConfig, split_of
from idl.probe_config import check as check_probe
from idl.probes.basis import NUM_NULL, Columns
from idl.probes.exact import Curve, Solution, fit, fit_joint, recovered
from idl.probes.statistics import FoldedStatistics
from idl.progress import Progress, prefixed, silent
from idl.targets import Target, target
from idl.verdict.maps import ArmMaps, derangement, squared_errors
from idl.verdict.settings import StudyConfig

CONSTANT, NULL, PIXELS = "constant", "null", "pixels"
TRAINED, JOINT = "trained", "trained+pixels"
# The same at every k.
FIXED = (CONSTANT, "position", NULL, "null+position")
ARMS = (*FIXED, "patches", PIXELS, TRAINED, JOINT)
COMMON_NULL = "common null"

# Batch norms are calibrated on so many of the first training images, in float32.
CALIBRATION_IMAGES = 128
_CALIBRATION_BATCH = 32


@dataclass(frozen=True)
class FittedArm:
    """An arm, before it has seen the test split.

    columns: what it reads of the joint system, the bias first.
    weights: (columns, out), float64, with the target's offset in the bias.
    solution: its penalty, rank and losses; the penalty of a joint arm is that of its pixels.
    features_penalty: of a joint arm, on its features. None for other arms.
    expected_rank: of a joint arm, from its parts' ranks; of any other its own.
    recovered: log ratio that an effect of the margin's size, planted in a joint arm's features, comes to on these
      images; nan where none was planted.
    """

    name: str
    columns: tuple[int, ...]
    weights: Float64[Tensor, "columns out"]
    solution: Solution
    features_penalty: float | None = None
    expected_rank: int = 0
    recovered: float = float("nan")


@dataclass(frozen=True)
class MeasuredArm:
    """A fitted arm and its errors on the test split, target units squared.

    squared_error: of each image, summed over its valid pixels and the outputs.
    aligned_error: the same once each prediction has the scale and shift that fit its own image's truth best.
    """

    fitted: FittedArm
    squared_error: Float64[np.ndarray, " images"]
    aligned_error: Float64[np.ndarray, " images"]


@dataclass(frozen=True)
class TwinRecord:
    """An untrained twin. name: of its arm without pixels. form: "random" or "permuted". seed: of its weights."""

    name: str
    form: str
    seed: int
    digest: str
    weights_digest: str


@dataclass(frozen=True)
class ArmsAtK:
    """All arms of one encoder at one k.

    arms: those of `ARMS`, and "untrained-FORM-SEED" alone and with "+pixels".
    shuffled: "trained" and those of `FIXED`, fitted to the truth of images of other scenes, and measured on it; empty
      where there is none. An error stands at the image whose truth it was held against, so that it goes over the same
      pixels as `arms`.
    """

    k: int
    arms: Mapping[str, MeasuredArm]
    shuffled: Mapping[str, MeasuredArm]


@dataclass(frozen=True)
class ArmsResult:
    """The arms of one encoder and one target.

    unit, num_outputs: of the target.
    ks: as typed ("10", "all") and the number that it is here. at: by that number.
    images: names of the test images, in the order of all arrays. num_valid: valid pixels of each.
    common_null: three colours at the common stride, alike for every encoder; None where it does not divide the image.
    curves: losses over k of "trained" and of each twin.
    twins: of both forms. missing: a sentence for each control that cannot be had.
    """

    unit: str
    num_outputs: int
    ks: Mapping[str, int]
    at: Mapping[int, ArmsAtK]
    images: tuple[str, ...]
    num_valid: Float64[np.ndarray, " images"]
    common_null: MeasuredArm | None
    curves: Mapping[str, Curve]
    twins: tuple[TwinRecord, ...]
    missing: tuple[str, ...]

    def mse(self, k: int, arm: str) -> float:
        """Return the mean squared error over the test split's valid pixels and outputs, target units squared."""
        return float(self.at[k].arms[arm].squared_error.sum() / (self.num_valid.sum() * self.num_outputs))


def check(probe: ProbeConfig, encoder: Encoder, ks: Sequence[str]) -> Mapping[str, int]:
    """Return the numbers that `ks` are here, once it is sure that the arms can be had. Raises InputError."""
    check_probe(replace(probe, k="all"), encoder)
    if probe.solver != EXACT:
        raise InputError(f"solver={probe.solver}: arms are compared at their optimum. Pass solver={EXACT}.")
    numbers = {}
    for k in ks:
        # No "auto": arms are compared at the same k.
        numbers[k] = encoder.channels if k == "all" else int(k) if k.isdecimal() else 0
        if not 1 <= numbers[k] <= encoder.channels:
            raise InputError(
                f"ks={','.join(ks)}: {k} is no number from 1 to {encoder.channels}, the channels of {encoder.name}. "
                "Pass such numbers, or all."
            )
    return numbers


def measure(
    probe: ProbeConfig,
    config: StudyConfig,
    store: Store,
    encoder: Encoder,
    cache_folder: Path,
    *,
    progress: Progress = silent,
) -> ArmsResult:
    """Fit every arm at every k, then measure all of them on the test split.

    probe: target, split and batch size of every run; its k is not looked at.
    Interrupted, it goes on from the cache: what was encoded or accumulated is not done again.
    Raises InputError for anything that does not fit the store or the encoder, and where no untrained twin can be had.
    Any other control that cannot be had is named in the result.
    """
    numbers = check(probe, encoder, config.requested_ks)
    feature = target(probe.target)
    split = split_of(probe, store, feature)
    encoder.require(*store.protocol.size)
    run = _Runs(store, split, feature, probe.batch_size, cache_folder, progress)
    ks = tuple(numbers.values())

    beside = run.patches(encoder, max(ks))
    trained = run.fit(TRAINED, run.maps(TRAINED, encoder, beside), ARMS, ks, planted_effect=config.rules.margin)
    shuffled, missing = None, []
    if lenders := run.lenders(config.shuffle_seed):
        maps = ArmMaps(trained.maps.encoded, beside, probe.batch_size, lenders)
        shuffled = run.fit("shuffled", maps, (*FIXED, TRAINED), ks, offset=trained.offset)
    else:
        missing.append("shuffled: one scene has more than half of the images of a split.")
    untrained: dict[TwinRecord, _Fitted] = {}
    for form in KINDS:
        try:
            made = twins(encoder, form, config.untrained_seeds, run.calibration_images)
        except NoTwinError as error:
            missing.append(f"untrained, {form}: {error}")
            continue
        for twin in made:
            seed = twin.origin.seed or 0
            name = f"untrained-{form}-{seed}"
            record = TwinRecord(name, form, seed, twin.digest, twin.origin.weights_digest)
            try:
                maps = run.maps(name, twin, beside)
                untrained[record] = run.fit(name, maps, (TRAINED, JOINT), ks, pixels=trained.at)
            except NoFeaturesError as error:
                # Weights in another order may leave a network dead, or let it run away.
                missing.append(f"{name}: {error}")
    _require_twin(encoder, untrained, missing)
    common = None
    if all(side % config.common_stride == 0 for side in store.protocol.size):
        null = build(EncoderConfig("null", stride=config.common_stride), encoder.device)
        common = run.fit(COMMON_NULL, run.maps(COMMON_NULL, null), (*FIXED, TRAINED), (0,))

    # From here on the test split is read, and nothing is chosen any more.
    num_valid, arms = run.test(trained)
    for record, fitted in list(untrained.items()):
        try:
            measured = run.test(fitted)[1]
        except NoFeaturesError as error:
            # It runs away on a test image alone, whatever its loss is.
            missing.append(f"{record.name}: {error}")
            del untrained[record]
            continue
        for k, by_name in measured.items():
            arms[k] |= {record.name: by_name[TRAINED], f"{record.name}+pixels": by_name[JOINT]}
    _require_twin(encoder, untrained, missing)
    of_shuffled = run.test(shuffled)[1] if shuffled else {}
    return ArmsResult(
        unit=feature.unit,
        num_outputs=feature.num_outputs,
        ks=numbers,
        at={k: ArmsAtK(k, by_name, of_shuffled.get(k, {})) for k, by_name in arms.items()},
        images=tuple(store.names[index] for index in split.indices["test"]),
        num_valid=num_valid,
        common_null=run.test(common)[1][0][NULL] if common else None,
        curves={fitted.name: fitted.curve for fitted in (trained, *untrained.values())},
        twins=tuple(untrained),
        missing=tuple(missing),
    )


def _require_twin(encoder: Encoder, untrained: Mapping[TwinRecord, object], missing: Sequence[str]) -> None:
    if not untrained:
        raise InputError(f"encoder={encoder.name}: no verdict without a control ({'; '.join(missing)})")


@dataclass(frozen=True)
class _Fitted:
    """Maps, and what was fitted on them: arms by k and name, and the features' losses over all k up to the largest."""

    name: str
    maps: ArmMaps
    offset: tuple[float, ...]
    at: Mapping[int, Mapping[str, FittedArm]]
    curve: Curve


@dataclass(frozen=True)
class _Runs:
    """One control after the other on the ordinary path: maps, statistics, fits, and errors on the test split."""

    store: Store
    split: Split
    target: Target
    batch_size: int
    cache_folder: Path
    progress: Progress

    def maps(self, name: str, encoder: Encoder, beside: EncodedDataset | None = None) -> ArmMaps:
        """Return the maps of an encoder beside the patches, where there are any."""
        return ArmMaps(self._open(name, encoder), beside, self.batch_size)

    def patches(self, encoder: Encoder, k: int) -> EncodedDataset | None:
        """Return the patches of the encoder's stride: k components, or as many as there are.

        None where the image does not vary within a cell: at stride 1, or where it was enlarged.
        """
        made = patches(encoder.stride, encoder.device).sized(encoder.size, encoder.image_size)
        try:
            # The mean of each colour is taken out.
            return self._open("patches", made, min(k, made.channels - NUM_NULL))
        except NoFeaturesError:
            return None

    def _open(self, name: str, encoder: Encoder, most: int | None = None) -> EncodedDataset:
        key = features_key(self.store, self.split, encoder.digest, encoder.arithmetic)
        folder = self.cache_folder / "features" / (key if most is None else f"{key}-{most}")
        progress = prefixed(self.progress, name)
        with cache.locked(folder):
            return EncodedDataset(
                self.store, self.split, encoder, folder, self.batch_size, encoder.device, progress, most=most
            )

    def lenders(self, seed: int) -> dict[str, Int64[np.ndarray, " images"]] | None:
        """Return by split whose truth each image gets in the shuffled control; None where none can be lent."""
        lenders = {}
        for name in SPLITS:
            lenders[name] = derangement([self.store.scenes[index] for index in self.split.indices[name]], seed)
        return None if any(each is None for each in lenders.values()) else lenders

    def fit(
        self,
        name: str,
        maps: ArmMaps,
        arms: Sequence[str],
        ks: Sequence[int],
        *,
        offset: tuple[float, ...] | None = None,
        pixels: Mapping[int, Mapping[str, FittedArm]] | None = None,
        planted_effect: float | None = None,
    ) -> _Fitted:
        """Fit `arms` on maps. offset: of the target, where it is fixed. pixels, planted_effect: as in `fit_all`."""
        progress = prefixed(self.progress, name)
        with maps.locked():
            folds = fit_statistics(maps, self.target, progress, offset)
        at, curve = fit_all(folds, maps.columns, ks, arms, pixels=pixels, planted_effect=planted_effect)
        return _Fitted(name, maps, folds.offset, at, curve)

    def test(self, fitted: _Fitted) -> tuple[Float64[np.ndarray, " images"], dict[int, dict[str, MeasuredArm]]]:
        """Return the valid pixels of the test images, and every arm by k and name with its errors on their truth."""
        arms = [(k, arm) for k, by_name in fitted.at.items() for arm in by_name.values()]
        read = [(arm.columns, arm.weights) for _, arm in arms]
        progress = prefixed(self.progress, fitted.name)
        with fitted.maps.locked():
            num_valid, plain, aligned = squared_errors(fitted.maps, "test", self.target, read, progress)
        lenders = fitted.maps.lenders
        # To the images whose truth it is: each of them has lent it once.
        order = np.arange(len(num_valid)) if lenders is None else np.argsort(lenders["test"])
        measured: dict[int, dict[str, MeasuredArm]] = {k: {} for k in fitted.at}
        for (k, arm), of_arm, of_aligned in zip(arms, plain, aligned, strict=True):
            measured[k][arm.name] = MeasuredArm(arm, of_arm[order], of_aligned[order])
        return num_valid[order], measured

    def calibration_images(self) -> Iterable[Float32[Tensor, "batch 3 H W"]]:
        """Yield the first training images, RGB in [0, 1]."""
        order = self.split.indices["train"][:CALIBRATION_IMAGES]
        for read in batches(self.store, ("rgb",), order, _CALIBRATION_BATCH):
            yield images_of(read["rgb"])


def columns_of(columns: Columns, arm: str, k: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what an arm reads of the image itself, the bias first, and of the features.

    k: numbers that the probe reads at a cell: the k leading components of the features, and as many patches; all that
    there are where they are fewer.
    """
    features = tuple(columns.of_arm("probe")[1 : 1 + k]) if arm in (TRAINED, JOINT) else ()
    patches = columns.of_arm("patches")[: 1 + min(k, columns.num_patches)]
    if arm in (PIXELS, JOINT):
        return (*columns.of_arm("null+position"), *patches[1:]), features
    return tuple(patches if arm == "patches" else columns.of_arm(CONSTANT if arm == TRAINED else arm)), features


def fit_all(
    folds: FoldedStatistics,
    columns: Columns,
    ks: Sequence[int],
    names: Sequence[str],
    *,
    pixels: Mapping[int, Mapping[str, FittedArm]] | None = None,
    planted_effect: float | None = None,
) -> tuple[dict[int, dict[str, FittedArm]], Curve]:
    """Return the arms `names`, `TRAINED` among them, by k and name, and the features' losses up to the largest k.

    Penalties are chosen by cross-validation.
    pixels: where the arm of the pixels is fitted already, which `JOINT` starts from; None: it is among `names`.
    planted_effect: of `JOINT`, a log ratio: what an effect so large would come to is measured; None: it is not.
    """

    def alone(name: str, k: int) -> tuple[FittedArm, Curve]:
        """Fit an arm of one penalty, and losses over its k leading components, beside what else it reads."""
        image, features = columns_of(columns, name, k)
        read = (*image, *features)
        result = fit(folds.subset(torch.tensor(read)), num_fixed=len(image), k=len(features))
        solution = result.solution
        return FittedArm(name, read, solution.weights, solution, expected_rank=solution.rank), result.curve

    def joint(k: int, parts: tuple[float, float]) -> FittedArm:
        """Fit features and pixels together. parts: penalties of the pixels and of the features alone."""
        image, features = columns_of(columns, JOINT, k)
        system = folds.subset(torch.tensor((*image, *features)))
        solution = fit_joint(system, num_pixels=len(image), parts=parts)
        penalty, rank = solution.features_penalty, solution.expected_rank
        of_planted = float("nan")
        if planted_effect is not None:
            chosen = (solution.penalty, penalty)
            of_planted = recovered(system, num_pixels=len(image), chosen=chosen, effect=planted_effect)
        return FittedArm(JOINT, (*image, *features), solution.weights, solution, penalty, rank, of_planted)

    fixed = {name: alone(name, 0)[0] for name in names if name in FIXED}
    at: dict[int, dict[str, FittedArm]] = {}
    curves: list[Curve] = []
    for k in sorted(set(ks)):
        arms = at[k] = {}
        for name in names:
            if name in fixed:
                arms[name] = fixed[name]
            elif name == JOINT:
                of_pixels = (pixels[k] if pixels else arms)[PIXELS]
                arms[name] = joint(k, (of_pixels.solution.penalty, arms[TRAINED].solution.penalty))
            else:
                arms[name], curve = alone(name, k)
                if name == TRAINED:
                    curves.append(curve)
    return at, curves[-1]
