r"""The arms of a verdict against a dense ridge on explicitly upsampled columns, in float64.

    PYTHONPATH=. python benchmarks/dense_ridge.py --dataset folder --data FOLDER --split FOLDER/split.json \
        --feature log-depth --encoder timm:mobilenetv2_100 --weights FILE --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5

Written apart from what it examines: the package opens the store, divides its scenes, runs the networks, makes the
untrained twins and encodes the target; columns, upsampling, fits and losses are this file's own. A row is a valid
pixel. Rows are reduced image by image with orthogonal transformations (QR of the triangle so far and the image's
rows), never by normal equations, so that the condition of the columns is not squared. The ridge is the singular value
decomposition of the triangle with the penalty's rows below it, and the test loss is that of explicit predictions at
full resolution.

Each arm is fitted with the penalties that the package chose, and its test loss is held against the package's, which
comes from half-precision maps and the quadratic form on the grid. With --own-penalties the package
chooses nothing: cross-validation over training scenes does, and both estimands are printed as an independent answer.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import click
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, UInt8
from record import record

from idl import cache
from idl.data.datasets import DatasetConfig, open_store
from idl.data.splits import split_store
from idl.data.store import Store
from idl.encoders import Encoder, EncoderConfig, build
from idl.encoders.untrained import KINDS, NoTwinError, twins
from idl.errors import InputError
from idl.probe_config import ProbeConfig
from idl.progress import terminal
from idl.targets import Target, target
from idl.verdict.result import StudyConfig
from idl.verdict.study import Subject, plan, study

# As `verdict` defines its columns and twins.
BASIS_IMAGES = 256
CALIBRATION_IMAGES, CALIBRATION_BATCH = 128, 32
# Share of the first eigenvalue below which a component is dropped.
EIGENVALUE_TOLERANCE = 1e-9

# 202 columns of 65,536 pixels take 0.26 s on one core in blocks of so many rows, which fit a cache, and 0.69 s as one.
ROWS_AT_A_TIME = 4096

NUM_FOLDS = 5
# Half decades, in units of a column's mean square.
CANDIDATES = tuple(10.0 ** (step / 2) for step in range(-8, 4))

Triangle = Float64[np.ndarray, "rows columns_out"]
Cells = Float64[np.ndarray, "h w columns"]


@dataclass(frozen=True)
class Images:
    """Some images of a store with their truth in the target's own space.

    rgb: as stored. truth: float32, finite everywhere. valid: where the truth counts. scenes: one an image.
    """

    rgb: UInt8[np.ndarray, "images H W 3"]
    truth: Float[np.ndarray, "images out H W"]
    valid: Bool[np.ndarray, "images H W"]
    scenes: tuple[str, ...]

    @classmethod
    def read(cls, store: Store, indices: Sequence[int], feature: Target) -> Self:
        """Read images `indices` of a store, in this order."""
        layers = store.read(("rgb", feature.layer, "valid"), indices)
        values = torch.from_numpy(layers[feature.layer]).float()
        truth, valid = feature.encode(values, torch.from_numpy(layers["valid"]))
        return cls(layers["rgb"], truth.numpy(), valid.numpy(), tuple(store.scenes[index] for index in indices))

    def __len__(self) -> int:
        return len(self.rgb)

    @property
    def num_outputs(self) -> int:
        """Numbers a pixel."""
        return self.truth.shape[1]


@dataclass(frozen=True)
class Whitening:
    """Principal components at unit variance: column j is (cells - mean) @ matrix[:, j], by decreasing variance."""

    mean: Float64[np.ndarray, " channels"]
    matrix: Float64[np.ndarray, "channels components"]

    @classmethod
    def fit(cls, maps: Iterable[Cells], most: int | None = None) -> Self:
        """Fit the `most` leading components, or all, on the cells of `maps`; what hardly varies is dropped."""
        rows = [each.reshape(-1, each.shape[-1]) for each in maps]
        count = sum(len(each) for each in rows)
        mean = np.sum([each.sum(axis=0) for each in rows], axis=0) / count
        triangle = reduced(np.zeros((0, len(mean))), np.concatenate(rows) - mean)
        _, singular, directions = np.linalg.svd(triangle, full_matrices=False)
        variances = singular**2 / count
        keep = variances > EIGENVALUE_TOLERANCE * variances[0]
        if most is not None:
            keep[most:] = False
        return cls(mean, directions[keep].T / np.sqrt(variances[keep]))

    def __call__(self, cells: Cells) -> Cells:
        """Return the components of each cell."""
        return (cells - self.mean) @ self.matrix


@dataclass(frozen=True)
class Pixels:
    """What a cell says of the image itself, as columns [bias | position | null | patches].

    stride: side of a cell, pixels.
    """

    stride: int
    null: Whitening
    patches: Whitening

    @classmethod
    def fit(cls, rgb: UInt8[np.ndarray, "images H W 3"], stride: int, k: int) -> Self:
        """Fit on the given images; at most `k` components of the patches, and as many as have any variance."""
        squares = [_squares(each, stride) for each in rgb]
        null = Whitening.fit(each.mean(axis=2) for each in squares)
        patches = Whitening.fit((_without_mean(each) for each in squares), min(k, 3 * stride**2 - 3))
        return cls(stride, null, patches)

    @property
    def groups(self) -> Mapping[str, range]:
        """Columns of each group, by its name."""
        first = 6 + self.null.matrix.shape[1]
        last = first + self.patches.matrix.shape[1]
        return {"constant": range(1), "position": range(1, 6), "null": range(6, first), "patches": range(first, last)}

    def __call__(self, rgb: UInt8[np.ndarray, "H W 3"]) -> Cells:
        """Return the columns of each cell of an image."""
        squares = _squares(rgb, self.stride)
        position = _position(*squares.shape[:2])
        null, patches = self.null(squares.mean(axis=2)), self.patches(_without_mean(squares))
        return np.concatenate([position, null, patches], axis=-1)


def _squares(rgb: UInt8[np.ndarray, "H W 3"], stride: int) -> Float64[np.ndarray, "h w pixels 3"]:
    """Cut an image into cells, values in [0, 1]."""
    height, width = rgb.shape[0] // stride, rgb.shape[1] // stride
    cut = rgb.astype(np.float64).reshape(height, stride, width, stride, 3) / 255
    return cut.transpose(0, 2, 1, 3, 4).reshape(height, width, stride**2, 3)


def _without_mean(squares: Float64[np.ndarray, "h w pixels 3"]) -> Cells:
    """Return the pixels of each cell less the cell's mean colour: 3 stride^2 numbers of rank 3 stride^2 - 3."""
    return (squares - squares.mean(axis=2, keepdims=True)).reshape(*squares.shape[:2], -1)


def _position(height: int, width: int) -> Cells:
    """Return 1, x, y, x^2, xy, y^2 of each cell's centre in (-1, 1), all but the first at zero mean, unit variance."""
    y, x = np.meshgrid((2 * np.arange(height) + 1) / height - 1, (2 * np.arange(width) + 1) / width - 1, indexing="ij")
    columns = np.stack([x, y, x * x, x * y, y * y], axis=-1)
    centred = columns - columns.mean(axis=(0, 1))
    spread = centred.std(axis=(0, 1))
    return np.concatenate([np.ones((height, width, 1)), centred / np.where(spread > 0, spread, 1)], axis=-1)


@dataclass(frozen=True)
class Columns:
    """All columns of one encoder: the image's own, then the components of its features."""

    pixels: Pixels
    features: Whitening
    is_half: bool = False

    @property
    def total(self) -> int:
        """Columns, the bias counted."""
        return self.pixels.groups["patches"].stop + self.features.matrix.shape[1]

    def of_arm(self, arm: str, k: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the columns of the image and those of the features that an arm reads at `k`, without the bias."""
        groups = self.pixels.groups
        position, null, patches = (tuple(groups[name]) for name in ("position", "null", "patches"))
        features = tuple(range(patches[-1] + 1, self.total))[:k]
        return {
            "constant": ((), ()),
            "position": (position, ()),
            "null": (null, ()),
            "null+position": (position + null, ()),
            "patches": (patches[:k], ()),
            "pixels": (position + null + patches[:k], ()),
            "trained": ((), features),
            "trained+pixels": (position + null + patches[:k], features),
        }[arm]

    def rows(
        self,
        rgb: UInt8[np.ndarray, "H W 3"],
        features: Float[np.ndarray, "h w channels"],
        valid: Bool[np.ndarray, "H W"],
    ) -> Float64[np.ndarray, "valid columns"]:
        """Return a row for each valid pixel of an image: its cells' columns, upsampled bilinearly."""
        cells = np.concatenate([self.pixels(rgb), self.features(features.astype(np.float64))], axis=-1)
        if self.is_half:
            # What the package stores; bias and position are not stored.
            stored = self.pixels.groups["null"].start
            cells[..., stored:] = cells[..., stored:].astype(np.float16)
        # channels_last in memory: the columns of a pixel come out side by side.
        grid = torch.from_numpy(cells).permute(2, 0, 1)[None]
        upsampled = F.interpolate(grid, size=valid.shape, mode="bilinear", align_corners=False)[0]
        return upsampled.permute(1, 2, 0).numpy()[valid]


@dataclass(frozen=True)
class Source:
    """An encoder's feature maps of the training and test images. name: "trained" or "untrained-FORM-SEED"."""

    name: str
    train: Float[np.ndarray, "images h w channels"]
    test: Float[np.ndarray, "images h w channels"]


@dataclass(frozen=True)
class Penalties:
    """Of the image's columns and of the features', in units of a column's mean square; infinity leaves them out."""

    pixels: float
    features: float


def triangle_of(rows: Float64[np.ndarray, "rows columns_out"]) -> Triangle:
    """Return R of the QR decomposition of `rows`: it has their least squares."""
    return torch.linalg.qr(torch.from_numpy(rows), mode="r")[1].numpy()


def reduced(triangle: Triangle, rows: Float64[np.ndarray, "more columns_out"]) -> Triangle:
    """Return the triangle of the rows so far and of these."""
    for first in range(0, len(rows), ROWS_AT_A_TIME):
        triangle = triangle_of(np.concatenate([triangle, rows[first : first + ROWS_AT_A_TIME]]))
    return triangle


def triangles(source: Source, columns: Columns, images: Images, folds: Sequence[int]) -> list[Triangle]:
    """Reduce [columns | truth] of all valid pixels to a triangle for each fold. folds: of each image."""
    parts = [np.zeros((0, columns.total + images.num_outputs))] * (max(folds) + 1)
    for position, fold in enumerate(folds):
        valid = images.valid[position]
        rows = columns.rows(images.rgb[position], source.train[position], valid)
        truth = images.truth[position][:, valid].T.astype(np.float64)
        parts[fold] = reduced(parts[fold], np.concatenate([rows, truth], axis=1))
    return parts


def ridge(
    triangle: Triangle,
    num_columns: int,
    num_valid: int,
    read: tuple[Sequence[int], Sequence[int]],
    penalties: Penalties,
) -> Float64[np.ndarray, "columns out"]:
    """Return the weights of the ridge, zero at columns that are not read; the bias comes first and is free.

    triangle: of [columns | truth]. read: columns of the image and of the features, without the bias.
    Least squares of minimum norm where the penalty leaves them undetermined.
    """
    groups = [
        (list(part), penalty)
        for part, penalty in zip(read, (penalties.pixels, penalties.features), strict=True)
        if part and penalty < math.inf
    ]
    chosen = [column for part, _ in groups for column in part]
    outputs = list(range(num_columns, triangle.shape[1]))
    own = triangle_of(triangle[:, [0, *chosen, *outputs]])
    count = 1 + len(chosen)
    # Below its first row the triangle is what is left when the bias has taken its share.
    extra = np.diag(np.sqrt(num_valid * np.array([penalty for part, penalty in groups for _ in part])))
    system = np.concatenate([own[1:count, 1:count], extra])
    moment = np.concatenate([own[1:count, count:], np.zeros((len(chosen), len(outputs)))])
    solved = np.linalg.lstsq(system, moment)[0] if chosen else np.zeros((0, len(outputs)))
    weights = np.zeros((num_columns, len(outputs)))
    weights[chosen] = solved
    weights[0] = (own[0, count:] - own[0, 1:count] @ solved) / own[0, 0]
    return weights


def chosen_penalties(
    parts: Sequence[Triangle],
    num_columns: int,
    counts: Sequence[int],
    read: tuple[Sequence[int], Sequence[int]],
) -> Penalties:
    """Choose by cross-validation: the lowest squared error on the folds that were left out.

    parts: the triangle of each fold. counts: valid pixels of each fold.
    """
    # A joint arm may leave either part out; one without any column has nothing to penalise.
    candidates = (*CANDIDATES, math.inf) if all(read) else CANDIDATES
    pixels, features = (candidates if part else (0.0,) for part in read)
    grid = [Penalties(of_pixels, of_features) for of_pixels in pixels for of_features in features]
    used = [0, *read[0], *read[1], *range(num_columns, parts[0].shape[1])]
    own = [triangle_of(part[:, used]) for part in parts]
    num_used = len(used) - (parts[0].shape[1] - num_columns)
    places = (range(1, 1 + len(read[0])), range(1 + len(read[0]), num_used))
    errors = np.zeros(len(grid))
    for fold, left_out in enumerate(own):
        others = [part for position, part in enumerate(own) if position != fold]
        triangle = triangle_of(np.concatenate(others))
        num_valid = sum(counts) - counts[fold]
        for position, penalties in enumerate(grid):
            weights = ridge(triangle, num_used, num_valid, places, penalties)
            errors[position] += float(((left_out[:, :num_used] @ weights - left_out[:, num_used:]) ** 2).sum())
    return grid[int(errors.argmin())]


def squared_errors(
    source: Source, columns: Columns, images: Images, weights: Sequence[Float64[np.ndarray, "columns out"]]
) -> Float64[np.ndarray, "arms images"]:
    """Sum the squared errors of each arm over each image's valid pixels and outputs, target units squared."""
    together = np.concatenate(weights, axis=1)
    errors = np.zeros((len(weights), len(images)))
    for position in range(len(images)):
        valid = images.valid[position]
        rows = columns.rows(images.rgb[position], source.test[position], valid)
        truth = images.truth[position][:, valid].T.astype(np.float64)
        residual = (rows @ together).reshape(len(rows), len(weights), -1) - truth[:, None]
        errors[:, position] = np.square(residual).sum(axis=(0, 2))
    return errors


@dataclass(frozen=True)
class DenseArm:
    """A dense fit: squared errors of each test image, target units squared, summed over pixels and outputs."""

    penalties: Penalties
    num_columns: int
    errors: Float64[np.ndarray, " images"]


@dataclass(frozen=True)
class Problem:
    """The images of one study. folds: of each training image; all 0 where nothing is cross-validated."""

    train: Images
    test: Images
    pixels: Pixels
    folds: tuple[int, ...]
    is_half: bool

    def dense(
        self, source: Source, ks: Sequence[int], fixed: Mapping[tuple[int, str], Penalties] | None
    ) -> Mapping[tuple[int, str], DenseArm]:
        """Fit and test the arms of one encoder at each of `ks`.

        fixed: penalties by k and arm, an arm without any is left out; None: chosen by cross-validation.
        """
        features = Whitening.fit((each.astype(np.float64) for each in source.train[:BASIS_IMAGES]), max(ks))
        columns = Columns(self.pixels, features, self.is_half)
        parts = triangles(source, columns, self.train, self.folds)
        whole = triangle_of(np.concatenate(parts))
        per_image = self.train.valid.sum(axis=(1, 2))
        counts = [int(per_image[np.equal(self.folds, fold)].sum()) for fold in range(len(parts))]
        own_arms = ["trained", "trained+pixels"]
        arms = (
            ["constant", "position", "null", "null+position", "patches", "pixels", *own_arms]
            if source.name == "trained"
            else own_arms
        )
        fits: dict[tuple[int, str], tuple[Penalties, int]] = {}
        weights = []
        for k in ks:
            for arm in arms:
                name = arm.replace("trained", source.name)
                read = columns.of_arm(arm, k)
                if fixed is None:
                    penalties = chosen_penalties(parts, columns.total, counts, read)
                elif (k, name) in fixed:
                    penalties = fixed[k, name]
                else:
                    continue
                fits[k, name] = penalties, 1 + len(read[0]) + len(read[1])
                weights.append(ridge(whole, columns.total, sum(counts), read, penalties))
        errors = squared_errors(source, columns, self.test, weights)
        return {key: DenseArm(*fit, each) for (key, fit), each in zip(fits.items(), errors, strict=True)}


def maps_of(encoder: Encoder, images: Images, batch_size: int) -> Float[np.ndarray, "images h w channels"]:
    """Run a network. Raises InputError where its features are not finite."""
    batches = []
    for first in range(0, len(images), batch_size):
        rgb = torch.from_numpy(images.rgb[first : first + batch_size]).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            batches.append(encoder(rgb).permute(0, 2, 3, 1).contiguous().numpy())
    maps = np.concatenate(batches)
    if not np.isfinite(maps).all():
        raise InputError(f"encoder={encoder.name}: features that are not finite.")
    return maps


def twins_of(encoder: Encoder, train: Images, count: int) -> Iterator[tuple[str, Encoder]]:
    """Make the untrained twins, by the name of their arm without pixels."""

    def calibration() -> Iterator[torch.Tensor]:
        for first in range(0, min(CALIBRATION_IMAGES, len(train)), CALIBRATION_BATCH):
            last = min(first + CALIBRATION_BATCH, CALIBRATION_IMAGES)
            yield torch.from_numpy(train.rgb[first:last]).permute(0, 3, 1, 2).float() / 255

    for form in KINDS if count else ():
        try:
            made = twins(encoder, form, count, calibration)
        except NoTwinError as error:
            click.echo(f"no {form} twins: {error}")
            continue
        for twin in made:
            yield f"untrained-{form}-{twin.origin.seed or 0}", twin


@dataclass(frozen=True)
class Package:
    """What the package's own study came to, by k and arm."""

    penalties: Mapping[tuple[int, str], Penalties]
    mse: Mapping[tuple[int, str], float]


def run_package(probe: ProbeConfig, config: StudyConfig, store: Store, encoder: Encoder) -> Package:
    """Run the package's study of one encoder."""
    planned = plan(probe, config, store, [Subject(encoder, encoder.origin.task)])
    (result,) = study(planned, cache.default_folder(), progress=terminal).results.values()
    for line in result.missing:
        click.echo(f"missing: {line}")
    penalties, mse = {}, {}
    for k, arms in result.arms.items():
        for name, arm in arms.items():
            # One that is not joint has one penalty, whatever it reads.
            first, second = arm.solution.penalty, arm.solution.features_penalty
            penalties[k, name] = Penalties(first, first if math.isnan(second) else second)
            mse[k, name] = float(arm.squared_error.sum() / result.num_valid.sum())
    return Package(penalties, mse)


def folds_of(scenes: Sequence[str], seed: int = 0) -> tuple[int, ...]:
    """Deal the scenes out to the folds, in a random order; return the fold of each image."""
    names = sorted(set(scenes))
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = {names[index]: position % NUM_FOLDS for position, index in enumerate(order)}
    return tuple(fold_of[scene] for scene in scenes)


def print_comparison(dense: Mapping[tuple[int, str], DenseArm], package: Package, num_values: int) -> None:
    """Print a line an arm, and the largest relative difference of the test losses.

    num_values: valid test pixels, times the outputs.
    """
    largest = 0.0
    click.echo(
        f"{'k':>4}  {'arm':<30}{'columns':>8}{'penalty':>10}{'features':>10}{'package':>14}{'dense':>14}  relative"
    )
    for (k, name), arm in dense.items():
        mse = float(arm.errors.sum() / num_values)
        difference = package.mse[k, name] / mse - 1
        largest = max(largest, abs(difference))
        click.echo(f"{_line(k, name, arm)}{package.mse[k, name]:>14.8f}{mse:>14.8f}  {difference:+.1e}")
    missed = [f"{name} at k = {k}" for k, name in package.mse if (k, name) not in dense]
    click.echo(f"largest relative difference of {len(dense)} arms: {largest:.1e}; not compared: {missed or 'none'}")


def print_estimands(dense: Mapping[tuple[int, str], DenseArm], num_values: int, scenes: Sequence[str]) -> None:
    """Print each arm's test loss, and both estimands with their linearised standard errors over scenes.

    scenes: of the test images.
    """
    click.echo(f"{'k':>4}  {'arm':<30}{'columns':>8}{'penalty':>10}{'features':>10}{'dense':>14}")
    for (k, name), arm in dense.items():
        click.echo(f"{_line(k, name, arm)}{arm.errors.sum() / num_values:>14.8f}")
    for k in dict.fromkeys(k for k, _ in dense):
        below = dense[k, "trained+pixels"].errors
        estimands = {"beyond pixels": ["pixels"]}
        for form in KINDS:
            estimands[f"learned, not built in ({form})"] = [n for q, n in dense if q == k and _is_twin(n, form)]
        for estimand, names in estimands.items():
            if not names:
                continue
            above = [dense[k, name].errors for name in names]
            log_ratio = float(np.mean([np.log(errors.sum() / below.sum()) for errors in above]))
            share = np.mean([errors / errors.sum() for errors in above], axis=0)
            error = _standard_error(share - below / below.sum(), scenes)
            low, middle, high = (math.exp(log_ratio + step * error) for step in (-2, 0, 2))
            click.echo(
                f"k = {k}, {estimand}, {len(names)} arms: ln {log_ratio:.4f} (standard error {error:.4f}), "
                f"{middle:.3f} times ({low:.3f} to {high:.3f}, two standard errors)"
            )


def _line(k: int, name: str, arm: DenseArm) -> str:
    penalties = f"{arm.penalties.pixels:>10.2g}{arm.penalties.features:>10.2g}"
    return f"{k:>4}  {name:<30}{arm.num_columns:>8}{penalties}"


def _is_twin(name: str, form: str) -> bool:
    return name.startswith(f"untrained-{form}-") and name.endswith("+pixels")


def _standard_error(influence: Float64[np.ndarray, " images"], scenes: Sequence[str]) -> float:
    """Return the standard error of a sum over scenes of terms that add up to zero."""
    _, number = np.unique(scenes, return_inverse=True)
    of_scene = np.bincount(number, influence)
    return math.sqrt(float(np.square(of_scene).sum()) * len(of_scene) / (len(of_scene) - 1))


def _triple(text: str) -> tuple[float, float, float] | None:
    if text == "auto":
        return None
    red, green, blue = (float(part) for part in text.split(","))
    return red, green, blue


@click.command()
@click.option("--feature", default=ProbeConfig.target, show_default=True)
@click.option("--dataset", default=DatasetConfig.dataset, show_default=True)
@click.option("--data", default="", help="Folder of RGB-D pairs, or as the dataset has it.")
@click.option("--split", default=ProbeConfig.split, show_default=True)
@click.option("--encoder", "encoder_name", default=EncoderConfig.name, show_default=True)
@click.option("--encoder-args", default="{}", show_default=True)
@click.option("--weights", default=EncoderConfig.weights, show_default=True)
@click.option("--mean", default="auto", show_default=True)
@click.option("--std", default="auto", show_default=True)
@click.option("--arithmetic", default="float32", type=click.Choice(["float32", "bfloat16"]), show_default=True)
@click.option("--ks", default="all", show_default=True)
@click.option("--untrained-seeds", default=StudyConfig.untrained_seeds, show_default=True, help="Twins of each form.")
@click.option("--half", "is_half", is_flag=True, help="Round the columns to half precision, as the package does.")
@click.option("--own-penalties", is_flag=True, help="Choose penalties here, and leave the package's solver out.")
def main(
    feature: str,
    dataset: str,
    data: str,
    split: str,
    encoder_name: str,
    encoder_args: str,
    weights: str,
    mean: str,
    std: str,
    arithmetic: Literal["float32", "bfloat16"],
    ks: str,
    untrained_seeds: int,
    is_half: bool,
    own_penalties: bool,
) -> None:
    """Hold every arm's test loss against the dense ridge's."""
    click.echo(record())
    target_space = target(feature)
    store = open_store(DatasetConfig(dataset, data), cache.default_folder() / "datasets", progress=terminal)
    config = EncoderConfig(
        encoder_name,
        weights=weights,
        encoder_args=encoder_args,
        mean=_triple(mean),
        std=_triple(std),
        arithmetic=arithmetic,
    )
    encoder = build(config, torch.device("cpu"))
    probe = ProbeConfig(target=feature, split=split)
    indices = split_store(store, probe.split, probe.split_seed).indices
    train, test = (Images.read(store, indices[name], target_space) for name in ("train", "test"))
    num_values = int(test.valid.sum()) * test.num_outputs
    click.echo(
        f"{encoder.name} ({encoder.arithmetic}), {feature} of {store.name}: {len(train)} training images, "
        f"{len(test)} test images, {num_values} valid values"
    )

    package = None
    start = time.perf_counter()
    if not own_penalties:
        package = run_package(probe, StudyConfig(ks=ks, untrained_seeds=untrained_seeds), store, encoder)
        click.echo(f"package: {time.perf_counter() - start:.0f} s")

    numbers = sorted({encoder.channels if k == "all" else int(k) for k in ks.split(",")})
    pixels = Pixels.fit(train.rgb[:BASIS_IMAGES], encoder.stride, max(numbers))
    folds = (0,) * len(train) if package else folds_of(train.scenes)
    problem = Problem(train, test, pixels, folds, is_half)
    dense: dict[tuple[int, str], DenseArm] = {}
    for name, each in (("trained", encoder), *twins_of(encoder, train, untrained_seeds)):
        start = time.perf_counter()
        if package and (numbers[0], name) not in package.mse:
            click.echo(f"{name}: not among the package's arms")
            continue
        try:
            source = Source(name, *(maps_of(each, images, probe.batch_size) for images in (train, test)))
        except InputError as error:
            click.echo(f"{name}: left out ({error})")
            continue
        dense |= problem.dense(source, numbers, package.penalties if package else None)
        click.echo(f"{name}: {time.perf_counter() - start:.0f} s")
    if package:
        print_comparison(dense, package, num_values)
    else:
        print_estimands(dense, num_values, test.scenes)


if __name__ == "__main__":
    main()
