"""The main path: dataset -> encoder -> statistics -> probe -> metrics -> report."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from idl import cache
from idl.data.loading import batches
from idl.data.splits import Split
from idl.data.store import Store
from idl.distributed import ALONE, World
from idl.encoders import Encoder
from idl.evaluate import evaluate, require_native
from idl.features import EncodedDataset, features_key
from idl.fitting import PROBE, ArmFit, arm_of, fit_arms, fit_statistics, read_target, train_trials, training_set
from idl.probe_config import EXACT, EncodedData, ProbeConfig, check, components_of, split_of
from idl.probes.exact import Solution, fit
from idl.probes.gradient_fit import TrainResult
from idl.probes.statistics import FoldedStatistics, Statistics
from idl.progress import Progress, silent
from idl.report import Run, RunReport
from idl.report.encoder import encoder_run, prepare_report
from idl.report.probe import probe_run
from idl.report.views import shown_range
from idl.targets import Target, target


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

    The test split is read once, when all is chosen. Each rank of `world` encodes and measures its share of the images;
    all return the same run.
    shown_names: test images with a panel beside the usual ones.
    before_test: called when everything is fitted, right before the first test image is read.
    Raises InputError for anything in `config` that does not fit the store or the encoder.
    """
    check(config, encoder)
    with encode(config, store, encoder, cache_folder, progress, world) as data:
        k = components_of(config.k, encoder.channels)
        arms = world.once(lambda: fit_arms(data.statistics, data.encoded.columns, k))
        descent = None
        if config.solver != EXACT:
            # With k=auto, as many components as the exact solver chose.
            trial = config.trial(arms[PROBE].fit.solution.k)
            training = training_set(data.encoded, data.target, data.statistics, trial.k, progress)
            (descent,) = train_trials(training, [trial])
            arms |= {PROBE: arm_of(descent, arms[PROBE])}
        before_test(data.split)
        return evaluate_and_report(data, arms, descent, progress, shown_names)


@contextmanager
def encode(
    config: ProbeConfig,
    store: Store,
    encoder: Encoder,
    cache_folder: Path,
    progress: Progress = silent,
    world: World = ALONE,
) -> Iterator[EncodedData]:
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
        (statistics,) = fit_statistics(encoded, [wanted], progress)
        yield EncodedData(config, store, split, protocol, wanted, encoder, encoded, statistics, limits)


def evaluate_and_report(
    data: EncodedData,
    arms: Mapping[str, ArmFit],
    descent: TrainResult | None = None,
    progress: Progress = silent,
    shown_names: Collection[str] = (),
) -> Run:
    """Read the test split, once, under every arm; return the report and the model."""
    return probe_run(data, arms, evaluate(data, arms, progress, shown_names), descent)


def describe(config: ProbeConfig, store: Store, *, progress: Progress = silent) -> RunReport:
    """Report on a prepared dataset: what its images look like, and the constant arm's losses on train and val."""
    return prepare_report(store, *_constant(config, store, progress))


def materialise(config: ProbeConfig, store: Store, encoder: Encoder, *, progress: Progress = silent) -> Run:
    """Report on an encoder by itself: its origin, a panel of feature maps, and the constant arm's losses.

    The test split is not read.
    """
    encoder.require(*store.protocol.size)
    split, wanted, constant = _constant(config, store, progress)
    return encoder_run(store, split, wanted, encoder, constant)


def _constant(config: ProbeConfig, store: Store, progress: Progress) -> tuple[Split, Target, Solution]:
    """Fit the constant arm without an encoder: a grid of one cell holds a bias exactly."""
    wanted = target(config.target)
    split = split_of(config, store, wanted)
    by_split = []
    for name in ("train", "val"):
        order = split.indices[name]
        statistics = Statistics.empty(1, wanted.num_outputs)
        with progress(f"{name} statistics", len(order)) as advance:
            for layers in batches(store, (wanted.layer, "valid"), order, config.batch_size):
                truth, valid = read_target(wanted, layers)
                statistics = statistics.accumulate(torch.ones(len(truth), 1, 1, 1), truth, valid)
                advance(len(truth))
        by_split.append((statistics,))
    return split, wanted, fit(FoldedStatistics(*by_split), num_fixed=1, k=0, penalties=(0.0,)).solution
