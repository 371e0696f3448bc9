"""The commands that train an encoder: `autoencoder` and `pretrain`."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import click

from idl.cache import replace_file
from idl.cli import setup
from idl.cli.options import command_line, options, part
from idl.cli.setup import Settings
from idl.data.datasets import fetch, require
from idl.encoders.autoencoder import AutoencoderConfig
from idl.errors import InputError
from idl.probe_config import ProbeConfig
from idl.settings import setting
from idl.training.loop import AUTOENCODER, PRETRAIN, TrainingConfig
from idl.training.objectives import OBJECTIVES, Autoencoding, Objective, objective_named
from idl.training.run import CARD, WEIGHTS, TrainingRequest, require_trainable, run_training

# What decides nothing of the weights is left out of a card's command.
NOT_OF_THE_WEIGHTS = ("cache", "download", "experiment", "out", "resume", "workers", "device", "checkpoint_minutes")


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """Settings that `idl autoencoder` and `idl pretrain` have in common."""

    probe: ProbeConfig = part(ProbeConfig(), only=("split", "split_seed"))
    training: TrainingConfig = part(AUTOENCODER)
    resume: str = setting("", "Id of an interrupted run to continue; the other settings must be the same.")
    out: str = setting("", "File to write the weights to (.safetensors); their card is written beside it.")


@dataclass(frozen=True)
class AutoencoderSettings(TrainingSettings):
    """Settings of `idl autoencoder`."""

    network: AutoencoderConfig = part(AutoencoderConfig())


@dataclass(frozen=True)
class PretrainSettings(TrainingSettings):
    """Settings of `idl pretrain`."""

    training: TrainingConfig = part(PRETRAIN)
    task: str = setting("segmentation", f"What it is trained for: {', '.join(OBJECTIVES)}, or package.module:Class.")
    model: str = setting("convnext_atto", "timm's name of a ConvNeXt.")


@click.command()
@options(AutoencoderSettings)
def autoencoder(settings: AutoencoderSettings) -> None:
    """Train the autoencoder on a dataset's images, and register its encoder."""
    _train("autoencoder", Autoencoding(settings.network, settings.training.seed), settings)


@click.command()
@options(PretrainSettings)
def pretrain(settings: PretrainSettings) -> None:
    """Train a ConvNeXt on rooms for a task that asks for no depth, and register it."""
    _train("pretrain", objective_named(settings.task)(settings.model, settings.training.seed), settings)


def _train(entry_point: str, objective: Objective, settings: TrainingSettings) -> None:
    dataset, probe, resume = settings.dataset, settings.probe, settings.resume
    # All that can be known is known before there is a run: one that is resumed must not be spoiled by a slip.
    out = _out(settings.out)
    fetch(dataset, setup.progress_shown())
    require(dataset)
    device, checkpoints = setup.device_of(settings.run.device), settings.run.cache_folder / "training"
    command = command_line(without=NOT_OF_THE_WEIGHTS)
    request = TrainingRequest(objective, settings.training, dataset, probe.split, probe.split_seed, command)
    for note in require_trainable(request, checkpoints / resume if resume else None):
        setup.warn(note)

    with settings.shared_run(entry_point, settings.dataset_name, resume=resume) as (world, recorder):
        run_id = world.broadcast(recorder.run_id if recorder is not None else "")
        store, folder = world.after_first(settings.open_store), checkpoints / run_id
        if recorder is not None:
            click.echo(f"to go on after an interruption: --resume {run_id}", err=True)
        try:
            trained = run_training(
                request,
                store,
                folder,
                device,
                source=f"trained in run {run_id}",
                world=world,
                recorder=recorder,
                resume=bool(resume),
                progress=setup.progress_shown(),
            )
            if recorder is None or trained is None:
                return
            run, encoder = trained
            if out is not None:
                replace_file(out, run.model.files[WEIGHTS])
                replace_file(out.with_suffix(".json"), run.model.files[CARD])
            setup.finish(recorder, run, encoder, settings)
        except KeyboardInterrupt as error:
            line = f"interrupted; the same command with --resume {run_id} goes on from here."
            if not any(folder.glob("*.checkpoint")):
                line = "interrupted; nothing is there yet to go on from."
            raise KeyboardInterrupt(line) from error
        # Nothing is left to go on with.
        shutil.rmtree(folder, ignore_errors=True)


def _out(text: str) -> Path | None:
    """Return where to write the weights. Raises InputError, before an hour of training, where that cannot be."""
    if not text:
        return None
    path = Path(text).expanduser()
    problems = {
        "must end in .safetensors": path.suffix != ".safetensors",
        f"{path.parent} is no folder. Make it first": not path.parent.is_dir(),
        "is a folder. Pass the name of a file in it": path.is_dir(),
        f"nothing can be written to {path.parent}. Pass another folder": not os.access(path.parent, os.W_OK),
    }
    for problem, is_there in problems.items():
        if is_there:
            raise InputError(f"out={text}: {problem}.")
    return path
