"""The main path: dataset -> encoder -> statistics -> probe -> metrics -> report."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from idl import cache
from idl.data.crops import CroppedStore
from idl.data.loading import batches, images_of
from idl.data.splits import AUTO, Split, require_rule, split_store
from idl.data.store import Store
from idl.descending import arm_of, train_trials, training_set
from idl.distributed import ALONE, World
from idl.encoders import Encoder
from idl.errors import InputError
from idl.evaluation import evaluate
from idl.features import EncodedDataset, features_key
from idl.fitting import PROBE, ArmFit, SplitStatistics, fit_arms, read_target, split_statistics
from idl.measures import measure_of
from idl.native import NativeMeasure, require_native
from idl.probes.exact import Solution, fit
from idl.probes.linear_probe import DepthModel, LinearProbe, ProbeCard
from idl.probes.statistics import FoldedStatistics, Statistics
from idl.probes.trial import Descent, Solver, Trial
from idl.progress import Progress, silent
from idl.protocol import Alignment, Protocol
from idl.ranges import shown_range
from idl.report import Run, RunReport
from idl.reporting import (
    NUM_SHEET_IMAGES,
    EncoderFindings,
    Findings,
    encoder_report,
    encoder_version,
    prepare_report,
    probe_report,
    probe_version,
)
from idl.targets import Target, check_output, target

EXACT = "exact"
SOLVERS = (EXACT, *get_args(Solver))
_OF_DESCENT = ("lr", "weight_decay", "epochs", "step_images", "patience", "order_seed")


@dataclass(frozen=True)
class ProbeConfig:
    """What a probe is asked for, besides the dataset and the encoder.

    target: name in `idl.targets.TARGETS`, or "package.module:factory".
    k: components read: a number, "all", or "auto" for the one of lowest cross-validated loss.
    alignment: what a prediction may borrow from its image's truth before it is measured in metres.
    split, split_seed: rule and seed of `split_by_scene`.
    test_images: random crops that are the test split, which the store must have (`idl.data.crops`); 0: its test images
      as they are. test_seed: of the crops.
    batch_size: images encoded at once.
    solver: "exact", or "sgd" or "adam", which what follows is about; "auto" is then the k of the exact solver.
    lr, weight_decay, epochs, step_images, patience: as in `Trial`; step_images is its batch_size.
    order_seed: of the images' order.
    """

    target: str = "depth"
    k: str = "auto"
    alignment: Alignment = "none"
    split: str = AUTO
    split_seed: int = 0
    test_images: int = 0
    test_seed: int = 0
    batch_size: int = 32
    solver: str = "exact"
    lr: float = Trial.lr
    weight_decay: float = Trial.weight_decay
    epochs: int = Trial.epochs
    step_images: int = Trial.batch_size
    patience: int = Trial.patience
    order_seed: int = Trial.seed


@dataclass(frozen=True)
class Ground:
    """What probes are fitted on: a dataset as one encoder sees it, and its statistics for one target.

    limits: of the colours of its panels, the same for every run of the dataset.
    """

    config: ProbeConfig
    store: Store
    split: Split
    protocol: Protocol
    target: Target
    encoder: Encoder
    encoded: EncodedDataset
    train: SplitStatistics
    val: SplitStatistics
    limits: tuple[float, float]


def check(config: ProbeConfig, encoder: Encoder) -> None:
    """Make sure, before a dataset is made or read, that `config` can be had of `encoder`. Raises InputError."""
    target(config.target)
    k = components_of(config.k, encoder.channels)
    if config.solver not in SOLVERS:
        near = get_close_matches(config.solver, SOLVERS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"solver={config.solver}: no such solver.{hint} Pass one of {', '.join(SOLVERS)}.")
    if config.solver != EXACT:
        if config.step_images < 1:
            raise InputError(f"step_images={config.step_images}: expected 1 or more.")
        _trial(config, k or 1)
    require_rule(config.split)
    if config.test_images < 0:
        raise InputError(f"test_images={config.test_images}: expected 1 or more, or 0 for the test images as they are.")
    if config.batch_size < 1:
        raise InputError(f"batch_size={config.batch_size}: expected 1 or more.")


def probe(
    config: ProbeConfig,
    store: Store,
    encoder: Encoder,
    cache_folder: Path,
    *,
    progress: Progress = silent,
    world: World = ALONE,
    shown_names: Collection[str] = (),
    before_test: Callable[[Split], None] = lambda _: None,
) -> Run:
    """Fit a linear probe on a frozen encoder and measure it on the test split, beside its control arms.

    The penalty, and k where it is "auto", are chosen by cross-validation over training and validation scenes; the
    test split is read once, after that. Each rank of `world` encodes and measures its share of the images; all return
    the same run.
    shown_names: test images whose panels are wanted beside the usual ones.
    before_test: called when everything is fitted, right before the first test image is read.
    Raises InputError for anything in `config` that does not fit the store or the encoder.
    """
    check(config, encoder)
    with prepared(config, store, encoder, cache_folder, progress, world) as ground:
        k = components_of(config.k, encoder.channels)
        arms = world.once(lambda: fit_arms(ground.train, ground.val, ground.encoded.columns, k))
        descended = None
        if config.solver != EXACT:
            # As many components as were asked for, and there are; those of the exact solver where that is open.
            trial = _trial(config, arms[PROBE].fit.solution.k)
            data = training_set(ground.encoded, ground.target, ground.train, ground.val, trial.k, progress)
            (descended,) = train_trials(data, [trial])
            arms |= {PROBE: arm_of(descended, arms[PROBE], data)}
        before_test(ground.split)
        return concluded(ground, arms, descended, progress, shown_names)


@contextmanager
def prepared(
    config: ProbeConfig,
    store: Store,
    encoder: Encoder,
    cache_folder: Path,
    progress: Progress = silent,
    world: World = ALONE,
) -> Iterator[Ground]:
    """Encode training and validation split, or take them from the cache, and accumulate their statistics.

    Until the block ends other processes are kept from encoding the same.
    """
    wanted = target(config.target)
    protocol = replace(store.protocol, alignment=config.alignment)
    split = split_of(config, store, wanted)
    require_native(store, wanted, split.indices["test"])
    encoder.require(*protocol.size)
    limits = world.once(lambda: shown_range(store, split, wanted, cache_folder / "ranges"))
    folder = cache_folder / "features" / features_key(store, split, encoder.digest, encoder.arithmetic)
    with cache.locked(folder) if world.is_first else nullcontext():
        encoded = EncodedDataset(store, split, encoder, folder, config.batch_size, encoder.device, progress, world)
        train = split_statistics(encoded, "train", wanted, progress)
        val = split_statistics(encoded, "val", wanted, progress, train.offset)
        yield Ground(config, store, split, protocol, wanted, encoder, encoded, train, val, limits)


def concluded(
    ground: Ground,
    arms: Mapping[str, ArmFit],
    descended: Descent | None = None,
    progress: Progress = silent,
    shown_names: Collection[str] = (),
) -> Run:
    """Read the test split, once, under every arm; report on it, and make the model."""
    store, wanted, protocol, train = ground.store, ground.target, ground.protocol, ground.train
    encoder, encoded = ground.encoder, ground.encoded
    measure = measure_of(wanted, protocol, train.mean_layer, train.mean)
    native = NativeMeasure.of(store, wanted, protocol, train.mean_layer)
    test = evaluate(encoded, wanted, arms, measure, progress, native, shown_names)
    encoded.add_up_throughput()
    asked, limits = _asked(ground.config), ground.limits
    findings = Findings(asked, store, ground.split, protocol, wanted, encoder, encoded, arms, test, limits, descended)
    solution = arms[PROBE].fit.solution
    probe = linear_probe(ground, arms[PROBE].weights, solution.k, solution.penalty)
    range_m = (protocol.min_depth_m, protocol.max_depth_m) if wanted.kind == "depth" else None
    model = DepthModel(encoder.exportable(), probe, wanted.decode, range_m).eval()
    return Run(probe_report(findings), probe_version(findings, model, probe))


def describe(config: ProbeConfig, store: Store, *, progress: Progress = silent) -> RunReport:
    """Report on a prepared dataset: what its images look like, and the constant arm's losses on train and val."""
    wanted = target(config.target)
    split = split_of(config, store, wanted)
    constant = _constant(config, store, split, wanted, progress)
    order = split.indices["train"][:NUM_SHEET_IMAGES]
    layers = [layer for layer in ("rgb", "depth", "valid", "normals") if layer in store.layers]
    names = tuple(store.names[index] for index in order)
    return prepare_report(store, split, wanted, constant, store.read(layers, order), names)


def materialise(config: ProbeConfig, store: Store, encoder: Encoder, *, progress: Progress = silent) -> Run:
    """Report on an encoder by itself: its origin, a panel of feature maps, and the constant arm's losses.

    The test split is not read.
    """
    wanted = target(config.target)
    split = split_of(config, store, wanted)
    encoder.require(*store.protocol.size)
    constant = _constant(config, store, split, wanted, progress)
    shown = split.indices["val"][0]
    rgb = store.read(("rgb",), [shown])["rgb"]
    with torch.inference_mode():
        image = images_of(torch.from_numpy(rgb).to(encoder.device))
        features = encoder(image)[0].cpu()
    findings = EncoderFindings(store, split, wanted, encoder, constant, store.names[shown], rgb[0], features)
    return Run(encoder_report(findings), encoder_version(findings))


def _asked(config: ProbeConfig) -> dict[str, object]:
    """Return the settings by name, those of gradient descent only where it was used."""
    unused = _OF_DESCENT if config.solver == EXACT else ()
    return {name: value for name, value in asdict(config).items() if name not in unused}


def _trial(config: ProbeConfig, k: int) -> Trial:
    """Return the trial that `config` asks for. Raises InputError where there can be none."""
    return Trial(
        k=k,
        solver=config.solver,  # pyright: ignore[reportArgumentType]
        lr=config.lr,
        weight_decay=config.weight_decay,
        batch_size=config.step_images,
        epochs=config.epochs,
        patience=config.patience,
        seed=config.order_seed,
    )


def components_of(text: str, num_channels: int) -> int | None:
    """Return k as a number; None for "auto". Raises InputError where the encoder has not as many."""
    if text == "auto":
        return None
    if text == "all":
        return num_channels
    try:
        k = int(text)
    except ValueError:
        k = 0
    if k < 1:
        raise InputError(f"k={text}: expected a whole number from 1 to {num_channels}, all or auto.")
    if k > num_channels:
        raise InputError(f"k={k}: the encoder has {num_channels} channels. Pass k={num_channels} or less.")
    return k


def split_of(config: ProbeConfig, store: Store, wanted: Target) -> Split:
    """Divide the store's scenes. Raises InputError where it lacks the target's layer, or cannot be divided."""
    if wanted.layer not in store.layers:
        have = ", ".join(store.layers)
        raise InputError(f"target={wanted.name}: {store.path} has no layer {wanted.layer!r}. It has: {have}.")
    num_crops = len(store.crops) if isinstance(store, CroppedStore) else 0
    if num_crops != config.test_images:
        raise ValueError(f"{config.test_images} test images are asked for, and the store has {num_crops} crops")
    split = split_store(store, config.split, config.split_seed)
    if wanted.identity:
        # What comes from outside is tried before the work starts.
        read = store.read((wanted.layer, "valid"), split.indices["train"][:2])
        check_output(wanted, torch.from_numpy(read[wanted.layer]).float(), torch.from_numpy(read["valid"]))
    return split


def _constant(config: ProbeConfig, store: Store, split: Split, wanted: Target, progress: Progress) -> Solution:
    """Fit the constant arm without an encoder."""
    train, val = (
        _constant_statistics(store, split, name, wanted, config.batch_size, progress) for name in ("train", "val")
    )
    return fit(FoldedStatistics((train,), (val,)), num_fixed=1, k=0, penalties=(0.0,)).solution


def _constant_statistics(
    store: Store, split: Split, name: str, wanted: Target, batch_size: int, progress: Progress
) -> Statistics:
    """Statistics of a bias alone: a grid of one cell holds it exactly."""
    order = split.indices[name]
    statistics = Statistics.empty(1, wanted.num_outputs)
    with progress(f"{name} statistics", len(order)) as advance:
        for layers in batches(store, (wanted.layer, "valid"), order, batch_size):
            truth, valid = read_target(wanted, layers)
            statistics = statistics.accumulate(torch.ones(len(truth), 1, 1, 1), truth, valid)
            advance(len(truth))
    return statistics


def linear_probe(ground: Ground, weights: Float64[Tensor, "columns out"], k: int, penalty: float) -> LinearProbe:
    """Make the probe that reads `k` components, with the target's offset in the bias, which comes first."""
    card = ProbeCard(
        target=ground.target.name,
        unit=ground.target.unit,
        k=k,
        penalty=penalty,
        encoder=ground.encoder.name,
        encoder_digest=ground.encoder.digest,
        dataset=ground.store.name,
        dataset_digest=ground.store.digest,
        protocol_digest=ground.protocol.digest,
        resolution=ground.protocol.resolution,
        width=ground.protocol.width,
        target_factory=ground.config.target if ground.target.identity else "",
        target_identity=ground.target.identity,
    )
    basis, weights = ground.encoded.basis, weights.float()
    return LinearProbe(basis.feature_mean, basis.projection[:, :k], weights[1 : 1 + k].T, weights[0], card)
