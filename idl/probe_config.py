"""The settings of a probe, and the encoded dataset that it is fitted on."""

from dataclasses import dataclass
from typing import get_args

import torch

from idl.data.crops import CroppedStore
from idl.data.splits import AUTO, Split, require_rule, split_store
from idl.data.store import Store
from idl.encoders import Encoder
from idl.errors import InputError
from idl.features import EncodedDataset
from idl.probes.gradient_fit import Solver, Trial
from idl.probes.statistics import FoldedStatistics
from idl.protocol import Alignment, Protocol
from idl.settings import setting
from idl.targets import Target, check_output, target

EXACT = "exact"
SOLVERS = (EXACT, *get_args(Solver))


@dataclass(frozen=True)
class ProbeConfig:
    """Settings of a probe, besides its dataset and its encoder. From `lr` on, those of its `Trial`."""

    target: str = setting("depth", "depth, log-depth, inverse-depth, normals, or package.module:factory.")
    k: str = setting("auto", "Components that the probe reads: a number, all, or auto (by cross-validation).")
    alignment: Alignment = setting("none", "What a prediction may borrow from its image's truth before it is measured.")
    split: str = setting(
        AUTO,
        "auto (the published split, else 11:2:3), shares train:val:test of the scenes, or a JSON file of scene lists.",
    )
    split_seed: int = setting(0, "Seed of the split and of the training order.", at_least=0)
    test_images: int = setting(
        0,
        "Random crops of the test scenes' native images that are tested on; 0: the test images as they are.",
        at_least=0,
    )
    test_seed: int = setting(0, "Seed of the crops.", at_least=0)
    batch_size: int = setting(32, "Images encoded at once.", at_least=1)
    solver: str = setting(EXACT, "exact, or sgd or adam, which the following options are about.", choices=SOLVERS)
    lr: float = setting(Trial.lr, "Learning rate at its highest; the target is standardised.")
    weight_decay: float = setting(Trial.weight_decay, "Weight decay of the weights, not of the bias.", at_least=0)
    epochs: int = setting(Trial.epochs, "Passes over the training images, if it does not converge before.", at_least=1)
    step_images: int = setting(Trial.batch_size, "Images a step.", at_least=1)
    patience: int = setting(Trial.patience, "Epochs without gain after which the probe has converged.", at_least=1)
    order_seed: int = setting(Trial.seed, "Seed of the images' order.", at_least=0)

    def trial(self, k: int) -> Trial:
        """Return the gradient descent on `k` components. Raises InputError where the settings allow none."""
        rates = {"lr": self.lr, "weight_decay": self.weight_decay}
        steps = {"batch_size": self.step_images, "epochs": self.epochs, "patience": self.patience}
        return Trial(k, self.solver, **rates, **steps, seed=self.order_seed)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class EncodedData:
    """A dataset as one encoder sees it, and its statistics for one target: what probes are fitted on.

    limits: range of the colours of its panels, the same for every run of the dataset; see `idl.report.views`.
    """

    config: ProbeConfig
    store: Store
    split: Split
    protocol: Protocol
    target: Target
    encoder: Encoder
    encoded: EncodedDataset
    statistics: FoldedStatistics
    limits: tuple[float, float]


def check(config: ProbeConfig, encoder: Encoder) -> None:
    """Raise InputError where `config` is not possible with `encoder`, before a dataset is made or read."""
    target(config.target)
    k = components_of(config.k, encoder.channels)
    if config.solver != EXACT:
        config.trial(k or 1)
    require_rule(config.split)


def components_of(k: str, num_channels: int) -> int | None:
    """Return k as a number; None for "auto". Raises InputError where the encoder has fewer channels."""
    if k in ("auto", "all"):
        return None if k == "auto" else num_channels
    if not k.isdecimal() or int(k) < 1:
        raise InputError(f"k={k}: expected a whole number from 1 to {num_channels}, all or auto.")
    if int(k) > num_channels:
        raise InputError(f"k={k}: the encoder has {num_channels} channels. Pass k={num_channels} or less.")
    return int(k)


def split_of(config: ProbeConfig, store: Store, wanted: Target) -> Split:
    """Divide the store's scenes. Raises InputError where it lacks the target's layer, or cannot be divided."""
    if wanted.layer not in store.layers:
        have = ", ".join(store.layers)
        raise InputError(f"target={wanted.name}: {store.path} has no layer {wanted.layer!r}. It has: {have}.")
    num_crops = len(store.crops) if isinstance(store, CroppedStore) else 0
    if num_crops != config.test_images:
        raise ValueError(f"{config.test_images} test images are requested, and the store has {num_crops} crops")
    split = split_store(store, config.split, config.split_seed)
    if wanted.identity:
        # A target from outside is tried before the work starts.
        read = store.read((wanted.layer, "valid"), split.indices["train"][:2])
        check_output(wanted, torch.from_numpy(read[wanted.layer]).float(), torch.from_numpy(read["valid"]))
    return split
