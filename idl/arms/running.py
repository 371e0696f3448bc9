"""One control after the other through the ordinary path: maps, statistics, fits, and errors on the test split."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64
from torch import Tensor

from idl import cache
from idl.arms.columns import FIXED, TRAINED
from idl.arms.derangement import derangement
from idl.arms.fits import FittedArms, fit_all
from idl.arms.losses import squared_errors
from idl.arms.result import MeasuredArm
from idl.arms.sources import JointMaps, ShuffledMaps
from idl.data.loading import batches, images_of
from idl.data.splits import SPLITS, Split
from idl.data.store import Store
from idl.encoders import Encoder
from idl.features import EncodedDataset, MapSource, features_key
from idl.fitting import split_statistics
from idl.progress import Progress, prefixed
from idl.targets import Target

# Batch norms are calibrated on so many of the first training images, in float32.
CALIBRATION_IMAGES = 128
CALIBRATION_BATCH = 32


@dataclass(frozen=True)
class FittedSource:
    """Maps, and what was fitted on them. folders: of all files that they come from."""

    name: str
    source: MapSource
    folders: tuple[Path, ...]
    offset: tuple[float, ...]
    fits: FittedArms


@dataclass(frozen=True)
class Measuring:
    """What all controls of one measurement share.

    ks: components to be read, as numbers.
    """

    store: Store
    split: Split
    target: Target
    batch_size: int
    cache_folder: Path
    ks: tuple[int, ...]
    progress: Progress
    _opened: dict[str, EncodedDataset] = field(default_factory=dict, repr=False)

    def open(self, encoder: Encoder, name: str, most: int | None = None) -> EncodedDataset:
        """Open the maps of an encoder, its `most` leading components alone where that is given."""
        key = features_key(self.store, self.split, encoder.digest, encoder.arithmetic)
        folder = self.cache_folder / "features" / (key if most is None else f"{key}-{most}")
        with cache.locked(folder):
            opened = EncodedDataset(
                self.store,
                self.split,
                encoder,
                folder,
                self.batch_size,
                encoder.device,
                prefixed(self.progress, name),
                most=most,
            )
        self._opened[name] = opened
        return opened

    def fit(
        self,
        encoder: Encoder,
        beside: EncodedDataset | None,
        name: str,
        arms: Sequence[str],
        *,
        trained: FittedSource | None = None,
        planted_effect: float | None = None,
    ) -> FittedSource:
        """Fit `arms` on an encoder's maps beside the patches, where there are any.

        trained: of a twin, whose pixels are the same. planted_effect: as in `fit_all`.
        """
        source = JointMaps(self.open(encoder, name), beside)
        folders = (source.folder, *([] if beside is None else [beside.folder]))
        pixels = trained.fits if trained else None
        return self._fit(name, source, folders, arms, self.ks, pixels=pixels, planted_effect=planted_effect)

    def fit_null(self, encoder: Encoder, name: str) -> FittedSource:
        """Fit the arms that need no features on the null encoder's grid."""
        source = self.open(encoder, name)
        return self._fit(name, source, (source.folder,), (*FIXED, TRAINED), (0,))

    def fit_shuffled(self, fitted: FittedSource, seed: int, name: str, arms: Sequence[str]) -> FittedSource | None:
        """Fit `arms` on the maps of `fitted` and the truth of other scenes; None where none can be lent."""
        lenders = {}
        for split_name in SPLITS:
            scenes = [self.store.scenes[index] for index in self.split.indices[split_name]]
            lender = derangement(scenes, seed)
            if lender is None:
                return None
            lenders[split_name] = lender
        source = ShuffledMaps(fitted.source, lenders, self.batch_size)
        return self._fit(name, source, fitted.folders, arms, self.ks, offset=fitted.offset)

    def _fit(
        self,
        name: str,
        source: MapSource,
        folders: tuple[Path, ...],
        arms: Sequence[str],
        ks: Sequence[int],
        *,
        offset: tuple[float, ...] | None = None,
        pixels: FittedArms | None = None,
        planted_effect: float | None = None,
    ) -> FittedSource:
        progress = prefixed(self.progress, name)
        with _locked(folders):
            train = split_statistics(source, "train", self.target, progress, offset)
            val = split_statistics(source, "val", self.target, progress, train.offset)
        fits = fit_all(train, val, source.columns, ks, arms, pixels=pixels, planted_effect=planted_effect)
        return FittedSource(name, source, folders, train.offset, fits)

    def test(
        self, fitted: FittedSource
    ) -> tuple[Float64[np.ndarray, " images"], Mapping[int, Mapping[str, MeasuredArm]]]:
        """Valid pixels of the test images, and every arm of every k with its errors against their truth."""
        arms = [(k, arm) for k, by_name in fitted.fits.at.items() for arm in by_name.values()]
        progress = prefixed(self.progress, fitted.name)
        with _locked(fitted.folders):
            errors = squared_errors(fitted.source, "test", self.target, [arm for _, arm in arms], progress)
        order = np.arange(len(errors.num_valid))
        if isinstance(fitted.source, ShuffledMaps):
            # To the images whose truth it is: each of them has lent it once.
            order = np.argsort(fitted.source.lenders["test"])
        measured: dict[int, dict[str, MeasuredArm]] = {k: {} for k in fitted.fits.at}
        for (k, arm), plain, aligned in zip(arms, errors.plain, errors.aligned, strict=True):
            measured[k][arm.name] = MeasuredArm(arm, plain[order], aligned[order])
        return errors.num_valid[order], measured

    def calibration_images(self) -> Iterable[Float32[Tensor, "batch 3 H W"]]:
        """Give the first training images, RGB in [0, 1]."""
        order = self.split.indices["train"][:CALIBRATION_IMAGES]
        for read in batches(self.store, ("rgb",), order, CALIBRATION_BATCH):
            yield images_of(read["rgb"])

    def images_per_s(self) -> dict[str, float]:
        """Speed of each encoder that was run, by the name that it was opened under."""
        return {
            name: opened.throughput.num_images / opened.throughput.seconds
            for name, opened in self._opened.items()
            if opened.throughput.num_images
        }


@contextmanager
def _locked(folders: Sequence[Path]) -> Iterator[None]:
    """Lock in the order given: an encoder's folder before that of the patches, wherever both are needed."""
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(cache.locked(folder))
        yield
