"""The arms of one encoder: what it, the image itself, untrained twins and shuffled truth come to on the test split.

Each arm is a set of columns of one joint system. A control is an ordinary run: its maps, statistics and fits come from
the same code as those of the trained encoder, and go to the same cache. All is fitted before the test split is read.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64
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
from idl.probe_config import ProbeConfig, split_of
from idl.probes.basis import NUM_NULL, Columns
from idl.probes.exact import Curve, fit, fit_joint, recovered
from idl.probes.statistics import FoldedStatistics
from idl.progress import Progress, prefixed, silent
from idl.targets import Target, target
from idl.verdict.maps import ArmMaps, Lenders, derangement, squared_errors
from idl.verdict.result import Arm, StudyConfig

CONSTANT, NULL, PIXELS = "constant", "null", "pixels"
TRAINED, JOINT = "trained", "trained+pixels"
# The same at every k.
FIXED = (CONSTANT, "position", NULL, "null+position")
ARMS = (*FIXED, "patches", PIXELS, TRAINED, JOINT)
COMMON_NULL = "common null"
# An untrained twin, alone and with the pixels.
UNTRAINED = re.compile(r"untrained-(?P<form>[a-z]+)-(?P<seed>\d+)(?P<pixels>\+pixels)?")

# Batch norms are calibrated on so many of the first training images, in float32.
CALIBRATION_IMAGES = 128
_CALIBRATION_BATCH = 32


# By k and name.
Arms = Mapping[tuple[int, str], Arm]


@dataclass(frozen=True)
class ArmsResult:
    """The arms of one encoder and one target.

    ks: as typed ("10", "all") and the number that it is here.
    arms: by k and name: `ARMS`, "untrained-FORM-SEED" alone and with "+pixels", and "common null": three colours at the
      common stride, alike for every encoder.
    shuffled: by k, "trained" and those of `FIXED`, fitted to the truth of images of other scenes, and measured on it;
      empty where there is none. An error stands at the image whose truth it was held against, so that it goes over the
      same pixels as `arms`.
    images: names of the test images, in the order of all arrays. num_valid: valid pixels of each, times the outputs.
    curves: losses over k of "trained" and of each twin.
    missing: a sentence for each control that cannot be had.
    """

    ks: Mapping[str, int]
    arms: Mapping[int, Mapping[str, Arm]]
    shuffled: Mapping[int, Mapping[str, Arm]]
    images: tuple[str, ...]
    num_valid: Float64[np.ndarray, " images"]
    curves: Mapping[str, Curve]
    missing: tuple[str, ...]


def numbers_of(ks: Sequence[str], encoder: Encoder) -> Mapping[str, int]:
    """Return the number that each of `ks` is for an encoder. Raises InputError for one that it has not."""
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
    features: Sequence[str] = (),
    *,
    progress: Progress = silent,
) -> list[ArmsResult]:
    """Fit every arm at every k, then measure all of them on the test split, for each of the features.

    probe: split and batch size of every run; its k is not looked at. features: targets; none: the probe's.
    Interrupted, it goes on from the cache: what was encoded or accumulated is not done again.
    Raises InputError for anything that does not fit the store or the encoder, and where no untrained twin can be had.
    Any other control that cannot be had is named in the result.
    """
    numbers = numbers_of(config.requested_ks, encoder)
    ks, targets = sorted(set(numbers.values())), tuple(target(each) for each in features or (probe.target,))
    split = split_of(probe, store, targets[0])
    run = _Runs(store, split, targets, probe.batch_size, cache_folder, progress)

    beside = run.patches(encoder, max(ks))
    encoded = run.encoded(TRAINED, encoder)
    if len(targets) > 1:
        # Of the ordinary probes, which read no patches: here for all features at once.
        with cache.locked(encoded.folder):
            fit_statistics(encoded, targets, prefixed(progress, TRAINED))
    trained = run.fit(TRAINED, (encoded, beside), ARMS, ks, planted_effect=config.log_margin)
    shuffled, missing = None, []
    lenders = {
        name: lent
        for name in SPLITS
        if (lent := derangement([store.scenes[at] for at in split.indices[name]], config.shuffle_seed)) is not None
    }
    if len(lenders) == len(SPLITS):
        names = (*FIXED, TRAINED)
        shuffled = run.fit("shuffled", (encoded, beside), names, ks, lenders=lenders, offsets=trained.offsets)
    else:
        missing.append("shuffled: one scene has more than half of the images of a split.")
    untrained: dict[str, _Fitted] = {}
    for form in KINDS:
        try:
            made = twins(encoder, form, config.untrained_seeds, run.calibration_images)
        except NoTwinError as error:
            missing.append(f"untrained, {form}: {error}")
            continue
        for twin in made:
            name = f"untrained-{form}-{twin.origin.seed or 0}"
            try:
                maps = (run.encoded(name, twin), beside)
                untrained[name] = run.fit(name, maps, (TRAINED, JOINT), ks, pixels=trained.arms)
            except NoFeaturesError as error:
                # Weights in another order may leave a network dead, or let it run away.
                missing.append(f"{name}: {error}")
    _require_twin(encoder, untrained, missing)
    null = build(EncoderConfig(NULL, stride=config.common_stride), encoder.device)
    common = run.fit(COMMON_NULL, (run.encoded(COMMON_NULL, null), None), (NULL, TRAINED), [0])

    # From here on the test split is read, and nothing is chosen any more.
    tested = run.test(trained)
    of_twins: dict[str, Sequence[_Tested]] = {}
    for name, fitted in untrained.items():
        try:
            of_twins[name] = run.test(fitted)
        except NoFeaturesError as error:
            # It runs away on a test image alone, whatever its loss is.
            missing.append(f"{name}: {error}")
    _require_twin(encoder, of_twins, missing)
    of_shuffled, of_null = run.test(shuffled) if shuffled else None, run.test(common)
    results = []
    for at, (num_valid, arms) in enumerate(tested):
        arms = dict(arms)
        for name, k in itertools.product(of_twins, ks):
            _, of_twin = of_twins[name][at]
            arms |= {(k, name): of_twin[k, TRAINED], (k, f"{name}+{PIXELS}"): of_twin[k, JOINT]}
        arms |= {(k, COMMON_NULL): of_null[at][1][0, NULL] for k in ks}
        both = (arms, of_shuffled[at][1] if of_shuffled else {})
        results.append(
            ArmsResult(
                numbers,
                *({k: {name: arm for (each, name), arm in arms.items() if each == k} for k in ks} for arms in both),
                images=tuple(store.names[index] for index in split.indices["test"]),
                num_valid=num_valid * targets[at].num_outputs,
                curves={TRAINED: trained.curves[at], **{name: untrained[name].curves[at] for name in of_twins}},
                missing=tuple(missing),
            )
        )
    return results


def _require_twin(encoder: Encoder, untrained: Mapping[str, object], missing: Sequence[str]) -> None:
    if not untrained:
        raise InputError(f"encoder={encoder.name}: no verdict without a control ({'; '.join(missing)})")


@dataclass(frozen=True)
class _Fitted:
    """What was fitted on a control's maps, for each target: arms, and the losses over all k up to the largest.

    offsets: of the targets, by key.
    """

    maps: ArmMaps
    progress: Progress
    offsets: Mapping[str, tuple[float, ...]]
    arms: Sequence[Arms]
    curves: Sequence[Curve]


# The valid pixels of each test image, and the arms.
_Tested = tuple[Float64[np.ndarray, " images"], Mapping[tuple[int, str], Arm]]


@dataclass(frozen=True)
class _Runs:
    """One control after the other on the ordinary path: maps, statistics, fits, and errors on the test split."""

    store: Store
    split: Split
    targets: tuple[Target, ...]
    batch_size: int
    cache_folder: Path
    progress: Progress

    def encoded(self, name: str, encoder: Encoder, most: int | None = None) -> EncodedDataset:
        """Return an encoder's maps. most: components that are kept, if not all."""
        key = features_key(self.store, self.split, encoder.digest, encoder.arithmetic)
        folder = self.cache_folder / "features" / (key if most is None else f"{key}-{most}")
        progress = prefixed(self.progress, name)
        with cache.locked(folder):
            return EncodedDataset(
                self.store, self.split, encoder, folder, self.batch_size, encoder.device, progress, most=most
            )

    def patches(self, encoder: Encoder, k: int) -> EncodedDataset | None:
        """Return the patches of the encoder's stride: k components, or as many as there are.

        None where the image does not vary within a cell: at stride 1, or where it was enlarged.
        """
        made = patches(encoder.stride, encoder.device).sized(encoder.size, encoder.image_size)
        try:
            # The mean of each colour is taken out.
            return self.encoded("patches", made, min(k, made.channels - NUM_NULL))
        except NoFeaturesError:
            return None

    def calibration_images(self) -> Iterable[Float32[Tensor, "batch 3 H W"]]:
        """Yield the first training images, RGB in [0, 1]."""
        order = self.split.indices["train"][:CALIBRATION_IMAGES]
        for read in batches(self.store, ("rgb",), order, _CALIBRATION_BATCH):
            yield images_of(read["rgb"])

    def fit(
        self,
        label: str,
        maps: tuple[EncodedDataset, EncodedDataset | None],
        names: Sequence[str],
        ks: Sequence[int],
        *,
        lenders: Lenders | None = None,
        offsets: Mapping[str, tuple[float, ...]] | None = None,
        pixels: Sequence[Arms] | None = None,
        planted_effect: float | None = None,
    ) -> _Fitted:
        """Fit arms on an encoder's maps beside the patches, for each target.

        lenders: as in `ArmMaps`. offsets: as in `fit_statistics`. pixels, planted_effect: as in `fit_all`.
        """
        source, progress = ArmMaps(*maps, self.batch_size, lenders), prefixed(self.progress, label)
        with source.locked():
            statistics = fit_statistics(source, self.targets, progress, offsets)
        fitted = [
            fit_all(
                folds,
                source.columns,
                ks,
                names,
                pixels=None if pixels is None else pixels[at],
                planted_effect=planted_effect,
            )
            for at, folds in enumerate(statistics)
        ]
        keys = [each.key for each in self.targets]
        by_key = {key: folds.offset for key, folds in zip(keys, statistics, strict=True)}
        return _Fitted(source, progress, by_key, *zip(*fitted, strict=True))

    def test(self, fitted: _Fitted) -> Sequence[_Tested]:
        """Return, for each target, the valid pixels of the test images, and every arm with its errors there."""
        read = [[(arm.columns, arm.solution.weights) for arm in arms.values()] for arms in fitted.arms]
        with fitted.maps.locked():
            measured = squared_errors(fitted.maps, "test", self.targets, read, fitted.progress)
        # Those of lent truth go to the images whose it is: each of them has lent it once.
        lenders = fitted.maps.lenders
        order = slice(None) if lenders is None else np.argsort(lenders["test"])
        return [
            (
                num_valid[order],
                {
                    key: replace(arm, squared_error=plain[order], aligned_error=aligned[order])
                    for (key, arm), plain, aligned in zip(arms.items(), *errors, strict=True)
                },
            )
            for arms, (num_valid, *errors) in zip(fitted.arms, measured, strict=True)
        ]


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
    pixels: Arms | None = None,
    planted_effect: float | None = None,
) -> tuple[Arms, Curve]:
    """Return the arms `names`, `TRAINED` among them, and the features' losses up to the largest k.

    Penalties are chosen by cross-validation.
    ks: rising.
    pixels: where the arm of the pixels is fitted already, which `JOINT` starts from; None: it is among `names`.
    planted_effect: of `JOINT`, a log ratio: what an effect so large would come to is measured; None: it is not.
    """
    arms, curves = dict[tuple[int, str], Arm](), list[Curve]()
    for k, name in itertools.product(ks, names):
        if name in FIXED and k > ks[0]:
            arms[k, name] = arms[ks[0], name]
            continue
        image, features = columns_of(columns, name, k)
        read, num_pixels = (*image, *features), len(image)
        system = folds.subset(torch.tensor(read))
        if name == JOINT:
            parts = ((pixels or arms)[k, PIXELS].solution.penalty, arms[k, TRAINED].solution.penalty)
            joint = fit_joint(system, num_pixels=num_pixels, parts=parts)
            found = float("nan")
            if planted_effect is not None:
                chosen = (joint.penalty, joint.features_penalty)
                found = recovered(system, num_pixels=num_pixels, chosen=chosen, effect=planted_effect)
            arms[k, name] = Arm(read, joint, found)
        else:
            # One penalty, and losses over the leading features, beside what else it reads.
            alone = fit(system, num_fixed=num_pixels, k=len(features))
            arms[k, name] = Arm(read, alone.solution)
            if name == TRAINED:
                curves.append(alone.curve)
    return arms, curves[-1]
