"""The options of the command line, in groups that commands share. Every default is a dataclass's."""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from idl.data.datasets import DatasetConfig
from idl.data.nyu import DEPTHS
from idl.encoders import EncoderConfig
from idl.pipeline import ProbeConfig
from idl.protocol import PRESETS, Alignment

Command = TypeVar("Command", bound=Callable[..., Any])
AUTO = "auto"


def grouped(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Make one decorator of several; the help lists them in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def option(name: str, default: object, text: str, **further: Any) -> Callable[[Command], Command]:
    """Return click's option with its default shown, unless that is empty."""
    return click.option(name, default=default, show_default=default != "", help=text, **further)


# Every default below is the dataclass's.
_DATASET, _ENCODER, _PROBE = DatasetConfig(), EncoderConfig(), ProbeConfig()

# How raw data is read, whatever is done with it.
reading_options = grouped(
    option("--depth-scale", _DATASET.depth_scale, "Units per metre of integer depth maps (TUM 5000, KITTI 256)."),
    option("--invalid-values", _DATASET.invalid_values, "Integers that mean missing depth in a folder."),
    option("--scene", _DATASET.scene, "What a scene is in a folder: auto, folder, or block:N frames."),
    option("--subset", _DATASET.subset, "Of diode: all, indoors, outdoor, or scenes with commas between them."),
    option(
        "--depths",
        _DATASET.depths,
        "What is truth in nyu: the sensor's depth, or that with its holes filled in.",
        type=click.Choice(list(DEPTHS)),
    ),
)

dataset_options = grouped(
    option("--dataset", _DATASET.dataset, "rooms, folder, nyu, diode, or the path of a prepared store (.h5)."),
    option(
        "--data",
        _DATASET.data,
        "Folder of RGB-D pairs (folder); nyu_depth_v2_labeled.mat or its folder (nyu); folder or .tar.gz (diode).",
    ),
    option(
        "--download",
        _DATASET.download,
        "true: fetch nyu, or diode's train and val, into data first; or names: labeled, splits; train, val, "
        "train_normals, val_normals.",
    ),
    reading_options,
    option(
        "--erosion",
        _DATASET.erosion,
        "Native pixels by which valid depth is eroded; of diode also beside jumps in depth.",
        type=click.IntRange(min=0),
    ),
    option(
        "--protocol",
        _DATASET.protocol_name,
        f"What the figures mean: {', '.join(PRESETS)}; auto: idl, or that of the prepared store.",
    ),
    option("--min-depth", AUTO, "Metres; nearer truth is not valid. auto: as the protocol says."),
    option("--max-depth", AUTO, "Metres; farther truth is not valid. auto: as the protocol says."),
    option("--num-scenes", _DATASET.num_scenes, "Scenes of rooms."),
    option("--views", _DATASET.views, "Views of each scene of rooms."),
    option("--dataset-seed", _DATASET.dataset_seed, "Seed of rooms."),
)

model_option = option("--model", "", "Registered probe: models:/NAME@ALIAS or models:/NAME/VERSION.")

encoder_name = option("--encoder", _ENCODER.name, "null, autoencoder, convnext, timm:NAME, or package.module:factory.")

encoder_options = grouped(
    option("--weights", _ENCODER.weights, "auto, imagenet, shipped, random, a file, or models:/NAME/VERSION."),
    option("--stage", AUTO, "Feature level of the network; auto: the deepest with a stride of at most 16."),
    option(
        "--encoder-args",
        _ENCODER.encoder_args,
        "JSON object for timm's create_model, the factory, or the autoencoder (preset, n_hid, ...).",
    ),
    option("--mean", AUTO, "Colour means R,G,B of the network's input; auto: the model's own."),
    option("--std", AUTO, "Standard deviations R,G,B, likewise."),
    option("--seed", _ENCODER.seed, "Seed of random weights.", type=click.IntRange(min=0)),
    option(
        "--arithmetic",
        _ENCODER.arithmetic,
        "auto: bfloat16 where the device gains from it.",
        type=click.Choice([AUTO, "float32", "bfloat16"]),
    ),
)

stride_option = option("--stride", _ENCODER.stride, "Side of the squares that the null encoder averages, pixels.")

scene_split_options = grouped(
    option(
        "--split",
        _PROBE.split,
        "auto (the published split, else 11:2:3), shares train:val:test of the scenes, or a JSON file of scene lists.",
    ),
    option(
        "--split-seed", _PROBE.split_seed, "Seed of the split and of the training order.", type=click.IntRange(min=0)
    ),
)

crops_options = grouped(
    option(
        "--test-images",
        _PROBE.test_images,
        "Random crops of the test scenes' native images that are tested on; 0: the test images as they are.",
        type=click.IntRange(min=0),
    ),
    option("--test-seed", _PROBE.test_seed, "Seed of the crops.", type=click.IntRange(min=0)),
)

TARGET_HELP = "depth, log-depth, inverse-depth, normals, or package.module:factory."

batch_option = option("--batch-size", _PROBE.batch_size, "Images encoded at once.")

split_options = grouped(option("--target", _PROBE.target, TARGET_HELP), scene_split_options, batch_option)

alignment_option = option(
    "--alignment",
    _PROBE.alignment,
    "What a prediction may borrow from its image's truth before it is measured.",
    type=click.Choice(get_args(Alignment)),
)

descent_options = grouped(
    option("--weight-decay", _PROBE.weight_decay, "Of the weights, not of the bias."),
    option("--epochs", _PROBE.epochs, "Passes over the training images, if it does not converge before."),
    option("--step-images", _PROBE.step_images, "Images a step."),
    option("--patience", _PROBE.patience, "Epochs without gain after which the probe has converged."),
    option("--order-seed", _PROBE.order_seed, "Seed of the images' order.", type=click.IntRange(min=0)),
)

probe_options = grouped(
    option("--k", _PROBE.k, "Components that the probe reads: a number, all, or auto (by cross-validation)."),
    alignment_option,
    option("--solver", _PROBE.solver, "exact, or sgd or adam, which the following options are about."),
    option("--lr", _PROBE.lr, "Learning rate at its highest; the target is standardised."),
    descent_options,
)

place_options = grouped(
    option("--workers", 0, "Processes that prepare a dataset; 0: one a core.", type=click.IntRange(min=0)),
    option("--cache", "", "Folder of prepared datasets, features and statistics [$IDL_CACHE or ~/.cache/idl]."),
    option("--experiment", "", "MLflow experiment [idl]; under `mlflow run`, its --experiment-name counts."),
)

run_options = grouped(option("--device", AUTO, "auto, cpu or cuda."), place_options)
