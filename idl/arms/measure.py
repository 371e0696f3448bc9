"""The evidence of a verdict, from the store to every arm's error on every test image.

All is fitted before the test split is read. A control is an ordinary run: its maps, statistics and fits come from
the same code as those of the trained encoder, and go to the same cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from idl.arms.columns import ARMS, FIXED, JOINT, TRAINED
from idl.arms.result import ArmsAtK, ArmsResult, TwinRecord
from idl.arms.running import FittedSource, Measuring
from idl.data.store import Store
from idl.encoders import Encoder, EncoderConfig, build
from idl.encoders.patches import patches
from idl.encoders.untrained import FORMS, NoTwinError, twins
from idl.errors import InputError
from idl.features import EncodedDataset, NoFeaturesError
from idl.pipeline import EXACT, ProbeConfig, split_of
from idl.pipeline import check as check_probe
from idl.probes.basis import NUM_NULL
from idl.progress import Progress, silent
from idl.targets import target


@dataclass(frozen=True)
class Controls:
    """Which controls stand beside the trained encoder. Raises InputError for what cannot be.

    untrained_seeds: twins of each untrained form.
    shuffle_seed: of who lends the truth to whom.
    common_stride: of the null arm that is the same for every encoder, pixels.
    planted_effect: log ratio of losses; what an effect so large, planted in the features, would come to is measured.
    needs_twin: an encoder without any untrained twin is refused, before its test images are read.
    """

    untrained_seeds: int = 3
    shuffle_seed: int = 0
    common_stride: int = 8
    planted_effect: float = 0.0
    needs_twin: bool = False

    def __post_init__(self) -> None:
        for name, least in (("untrained_seeds", 1), ("shuffle_seed", 0), ("common_stride", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)}: expected {least} or more.")


def check(config: ProbeConfig, encoder: Encoder, ks: Sequence[str]) -> Mapping[str, int]:
    """Make sure, before a dataset is made or read, that all this can be had. Return the numbers that `ks` are here.

    Raises InputError.
    """
    check_probe(replace(config, k="all"), encoder)
    if config.solver != EXACT:
        raise InputError(f"solver={config.solver}: arms are compared at their optimum. Pass solver={EXACT}.")
    numbers = {}
    for k in ks:
        # No "auto": arms are compared at the same k.
        number = encoder.channels if k == "all" else int(k) if k.isdecimal() else 0
        if not 1 <= number <= encoder.channels:
            raise InputError(
                f"ks={','.join(ks)}: {k} is no number from 1 to {encoder.channels}, the channels of {encoder.name}. "
                "Pass such numbers, or all."
            )
        numbers[k] = number
    if not numbers:
        raise InputError("ks: none given. Pass numbers or all.")
    return numbers


def measure(
    config: ProbeConfig,
    store: Store,
    encoder: Encoder,
    cache_folder: Path,
    ks: Sequence[str],
    controls: Controls = Controls(),
    *,
    progress: Progress = silent,
) -> ArmsResult:
    """Fit every arm at every k of `ks`, then measure all of them on the test split.

    config: target, split and batch size of every run; its k is not looked at.
    ks: numbers or "all", as a `ProbeConfig` has them; several cost no further pass.
    Interrupted, it goes on from the cache: what was encoded or accumulated is not done again.
    Raises InputError for anything that does not fit the store or the encoder. A control that cannot be had is no
    error, but named in the result, unless it is a twin that is needed.
    """
    numbers = check(config, encoder, ks)
    wanted = target(config.target)
    split = split_of(config, store, wanted)
    encoder.require(*store.protocol.size)
    run = Measuring(store, split, wanted, config.batch_size, cache_folder, tuple(numbers.values()), progress)

    beside = _patches(run, encoder)
    trained = run.fit(encoder, beside, TRAINED, ARMS, planted_effect=controls.planted_effect)
    shuffled = run.fit_shuffled(trained, controls.shuffle_seed, "shuffled", (*FIXED, TRAINED))
    missing = [] if shuffled else ["shuffled: one scene has more than half of the images of a split."]
    untrained: list[tuple[TwinRecord, FittedSource]] = []
    # The null encoder has learned nothing: that it has no twin needs no word.
    for form in FORMS if encoder.origin.weights != "none" else ():
        try:
            made = twins(encoder, form, controls.untrained_seeds, run.calibration_images)
        except NoTwinError as error:
            missing.append(f"untrained, {form}: {error}")
            continue
        for twin in made:
            seed = twin.origin.seed or 0
            name = f"untrained-{form}-{seed}"
            try:
                fitted = run.fit(twin, beside, name, (TRAINED, JOINT), trained=trained)
            except NoFeaturesError as error:
                # Weights in another order may leave a network dead, or let it run away.
                missing.append(f"{name}: {error}")
                continue
            untrained.append((TwinRecord(name, form, seed, twin.digest, twin.origin.weights_digest), fitted))
    _require_twin(encoder, controls, untrained, missing)
    common = None
    if all(side % controls.common_stride == 0 for side in store.protocol.size):
        null = build(EncoderConfig("null", stride=controls.common_stride), encoder.device)
        common = run.fit_null(null, "common null")

    # From here on the test split is read, and nothing is chosen any more.
    num_valid, of_trained = run.test(trained)
    arms = {k: dict(by_name) for k, by_name in of_trained.items()}
    tested: list[tuple[TwinRecord, FittedSource]] = []
    for record, fitted in untrained:
        try:
            measured = run.test(fitted)[1]
        except NoFeaturesError as error:
            # It runs away on a test image alone, whatever its loss is.
            missing.append(f"{fitted.name}: {error}")
            continue
        tested.append((record, fitted))
        for k, by_name in measured.items():
            arms[k] |= {fitted.name: by_name[TRAINED], f"{fitted.name}+pixels": by_name[JOINT]}
    _require_twin(encoder, controls, tested, missing)
    of_shuffled = run.test(shuffled)[1] if shuffled else {}
    order = split.indices["test"]
    return ArmsResult(
        target=wanted.name,
        unit=wanted.unit,
        num_outputs=wanted.num_outputs,
        encoder=encoder.name,
        encoder_digest=encoder.digest,
        task=encoder.origin.task,
        stride=encoder.stride,
        channels=encoder.channels,
        ks=numbers,
        at={k: ArmsAtK(k, by_name, of_shuffled.get(k, {})) for k, by_name in arms.items()},
        images=tuple(store.names[index] for index in order),
        scenes=tuple(store.scenes[index] for index in order),
        num_valid=num_valid,
        common_null=run.test(common)[1][0]["null"] if common else None,
        curves={fitted.name: fitted.fits.curve for fitted in (trained, *(fitted for _, fitted in tested))},
        twins=tuple(record for record, _ in tested),
        missing=tuple(missing),
        images_per_s=run.images_per_s(),
    )


def _require_twin(encoder: Encoder, controls: Controls, twins: Sequence[object], missing: Sequence[str]) -> None:
    """Raise InputError where a twin is needed, and there is none."""
    if controls.needs_twin and not twins:
        raise InputError(f"encoder={encoder.name}: no verdict without a control ({'; '.join(missing)})")


def _patches(run: Measuring, encoder: Encoder) -> EncodedDataset | None:
    """Open the patches of the encoder's stride: as many components as the largest k reads, or there are.

    Returns None where the image does not vary within a cell: at stride 1, or where it was enlarged.
    """
    made = patches(encoder.stride, encoder.device)
    # The mean of each colour is taken out.
    most = min(max(run.ks), made.channels - NUM_NULL)
    try:
        return run.open(made, "patches", most=most)
    except NoFeaturesError:
        return None
