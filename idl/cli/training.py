"""The commands that train an encoder: `autoencoder` and `pretrain`."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import click

from idl.cli.building import cache_folder, dataset_of, device_of, progress_shown, shared_run, store_of, warn
from idl.cli.finishing import finish
from idl.cli.group import cli
from idl.cli.options import Command, dataset_options, grouped, option, run_options, scene_split_options
from idl.data.datasets import DatasetConfig
from idl.data.datasets import reader as find_reader
from idl.data.reader import Archive
from idl.data.splits import require_rule, split_by_scene, split_store
from idl.data.store import Store
from idl.distributed import announced
from idl.encoders.autoencoder import PRESETS, AutoencoderConfig, Loss
from idl.errors import InputError
from idl.training import Recognition, Reconstruction, TrainingConfig, resolved, run_training
from idl.training.checks import require_batches, require_layers, require_resumable, require_size
from idl.training.objective import Objective
from idl.training.result import command_line

# Each takes half an hour on one core; benchmarks/README.md says what was tried.
AUTOENCODER = TrainingConfig(epochs=20.0, crop=64, lr=3e-3, weight_decay=0.01, val_images=96)
PRETRAIN = TrainingConfig(epochs=15.0, batch_size=16, crop=128, lr=2e-3, val_images=240)
_SIZE = AutoencoderConfig()
# Of every dataset.
LAYERS = ("rgb", "depth", "valid")
# What a card's command leaves out: it decides nothing of the weights.
# Options that decide which images are trained on, and the preset that a size came from.
_ASKED = (
    "dataset",
    "data",
    "depth_scale",
    "scene",
    "subset",
    "erosion",
    "protocol",
    "min_depth",
    "max_depth",
    "num_scenes",
    "views",
    "dataset_seed",
    "invalid_values",
    "split",
    "split_seed",
    "preset",
)
_ELSEWHERE = ("cache", "download", "experiment", "out", "resume", "workers", "device", "checkpoint_minutes")


def training_options(defaults: TrainingConfig) -> Callable[[Command], Command]:
    """Options of a training, with the defaults of its kind."""
    return grouped(
        option("--epochs", defaults.epochs, "Passes over the training split, if it does not converge before."),
        option("--batch-size", defaults.batch_size, "Images a step, on all ranks together."),
        option("--accumulate", defaults.accumulate, "Parts that a batch is cut into, to save memory."),
        option("--crop", defaults.crop, "Side of random crops, pixels; 0: whole images."),
        option("--lr", defaults.lr, "AdamW's learning rate at its highest."),
        option("--weight-decay", defaults.weight_decay, "AdamW's weight decay."),
        option("--warmup", defaults.warmup, "Share of the steps over which the learning rate rises."),
        option("--clip", defaults.clip, "The gradient's norm is cut to this."),
        option("--validate-every", defaults.validate_every, "Steps between looks at validation; 0: twenty looks."),
        option("--val-images", defaults.val_images, "At most so many validation images."),
        option("--patience", defaults.patience, "Looks without gain after which the training has converged."),
        option("--min-gain", defaults.min_gain, "Fraction by which the loss must fall to count as a gain."),
        option("--checkpoint-minutes", defaults.checkpoint_minutes, "Time between two checkpoints."),
        option("--seed", defaults.seed, "Seed of weights, order and crops.", type=click.IntRange(min=0)),
        option(
            "--arithmetic",
            defaults.arithmetic,
            "auto: bfloat16 products where the device gains from them.",
            type=click.Choice(["auto", "float32", "bfloat16"]),
        ),
        option("--resume", "", "Id of an interrupted run to go on with; the other settings must be the same."),
        option("--out", "", "File to write the weights to (.safetensors); their card is put beside it."),
    )


@cli.command()
@dataset_options
@option("--preset", "small", "small, medium or paper.", type=click.Choice(list(PRESETS)))
@option("--n-hid", 0, "Channels of the first group of blocks; 0: the preset's.", type=click.IntRange(min=0))
@option("--num-blocks", _SIZE.num_blocks, "Residual blocks a group.")
@option("--latent-channels", _SIZE.latent_channels, "Numbers at a cell of the latent grid.")
@option("--loss", _SIZE.loss, "What is minimised.", type=click.Choice(get_args(Loss)))
@scene_split_options
@training_options(AUTOENCODER)
@run_options
def autoencoder(**options: Any) -> None:
    """Train the autoencoder on a dataset's images, and register its encoder."""
    config = replace(AUTOENCODER, **_given(options))
    size = AutoencoderConfig(
        n_hid=options["n_hid"] or PRESETS[options["preset"]].n_hid,
        num_blocks=options["num_blocks"],
        latent_channels=options["latent_channels"],
        loss=options["loss"],
    )
    _train("autoencoder", lambda: Reconstruction(size, config.seed), config, options)


@cli.command()
@dataset_options
@option("--model", "convnext_atto", "timm's name of a ConvNeXt.")
@scene_split_options
@training_options(PRETRAIN)
@run_options
def pretrain(**options: Any) -> None:
    """Train a ConvNeXt on rooms without depth, to name kinds and materials, and register it."""
    config = replace(PRETRAIN, **_given(options))
    _train("pretrain", lambda: Recognition(options["model"], config.seed), config, options)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: options[field.name] for field in fields(TrainingConfig) if field.name in options}


def _train(entry_point: str, make: Callable[[], Objective], config: TrainingConfig, options: Mapping[str, Any]) -> None:
    # All that can be known is known before there is a run: one that is resumed must not be spoiled by a slip.
    out = _out(options["out"])
    dataset = dataset_of(options)
    device = device_of(options["device"])
    objective = make()
    _require_suited(objective, config, dataset, options)
    asked = {name: options[name] for name in _ASKED if name in options}
    checkpoints = cache_folder(options) / "training"
    if options["resume"] and announced().is_first:
        for note in require_resumable(checkpoints / options["resume"], objective, resolved(config, device), asked):
            warn(note)

    name = f"{entry_point} {Path(options['dataset']).stem}"
    with shared_run(entry_point, name, options) as (world, recorder):
        run_id = world.broadcast(recorder.run_id if recorder is not None else "")
        store = world.after_first(lambda: store_of(dataset, options))
        split = split_store(store, options["split"], options["split_seed"])
        folder = checkpoints / run_id
        if recorder is not None:
            click.echo(f"to go on after an interruption: --resume {run_id}", err=True)
        try:
            done = run_training(
                objective,
                config,
                store,
                split,
                folder,
                device,
                command=_command(entry_point, options),
                source=f"trained in run {run_id}",
                world=world,
                recorder=recorder,
                asked=asked,
                resume=bool(options["resume"]),
                progress=progress_shown(),
            )
            if recorder is None or done is None:
                return
            for note in done.notes:
                warn(note)
            if out is not None:
                for path, content in ((out, done.weights.safetensors), (out.with_suffix(".json"), done.weights.card)):
                    temporary = path.with_name(f".{path.name}.tmp")
                    temporary.write_bytes(content)
                    temporary.replace(path)
            finish(recorder, done.run, done.encoder, options)
        except KeyboardInterrupt as error:
            if not any(folder.glob("*.checkpoint")):
                raise KeyboardInterrupt("interrupted; nothing is there yet to go on from.") from error
            raise KeyboardInterrupt(
                f"interrupted; the same command with --resume {run_id} goes on from here."
            ) from error
        # Nothing is left to go on with.
        shutil.rmtree(folder, ignore_errors=True)


def _require_suited(
    objective: Objective, config: TrainingConfig, dataset: DatasetConfig, options: Mapping[str, Any]
) -> None:
    """Hold network, crop and batches against what is known of a dataset that is not made yet. Raises InputError."""
    require_rule(options["split"])
    if dataset.dataset.endswith(".h5"):
        store = Store.open(Path(dataset.dataset).expanduser())
        require_size(objective, config, store.protocol)
        layers, scenes, is_sequential, sides = store.layers, store.scenes, store.is_sequential, store.sides
    else:
        require_size(objective, config, dataset.protocol)
        reader = find_reader(dataset)
        if isinstance(reader, Archive):
            # What is in it is known when it has been prepared; it is looked at then.
            return
        scenes = tuple(group.scene for group in reader.groups for _ in group.names)
        is_sequential = reader.is_sequential
        # Known as soon as it is prepared; the published split is looked at then.
        sides = ()
        layers = LAYERS
        if not set(objective.layers) <= set(LAYERS):
            # What it has beyond these shows in a sample; a room takes a second.
            layers = (*LAYERS, *(layer for sample in reader.read(0)[:1] for layer in sample.layers))
    require_layers(objective, layers, f"dataset={dataset.dataset}")
    split = split_by_scene(
        scenes, options["split"], seed=options["split_seed"], is_sequential=is_sequential, sides=sides
    )
    require_batches(config, len(split.indices["train"]), announced().size)


def _out(text: str) -> Path | None:
    """Return where to write the weights. Raises InputError, before an hour of training, where that cannot be."""
    if not text:
        return None
    path = Path(text).expanduser()
    if path.suffix != ".safetensors":
        raise InputError(f"out={text}: must end in .safetensors.")
    if not path.parent.is_dir():
        raise InputError(f"out={text}: {path.parent} is no folder. Make it first.")
    if path.is_dir():
        raise InputError(f"out={text}: is a folder. Pass the name of a file in it.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"out={text}: nothing can be written to {path.parent}. Pass another folder.")
    return path


def _command(entry_point: str, options: Mapping[str, Any]) -> str:
    defaults = {parameter.name: parameter.default for parameter in cli.commands[entry_point].params}
    return command_line(entry_point, {k: v for k, v in options.items() if k not in _ELSEWHERE}, defaults)
