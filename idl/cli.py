"""The command line, where everything is put together. Each entry point of MLproject is one command."""

import atexit
import hashlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import torch

from idl import __version__, cache, tracking
from idl.data.datasets import DatasetConfig, open_store, require
from idl.data.store import Store
from idl.encoders import Encoder, EncoderConfig, build
from idl.errors import InputError, is_disk_full
from idl.memory import keep_freed_buffers
from idl.pipeline import ProbeConfig, Run, check, describe, materialise
from idl.pipeline import probe as run_probe
from idl.progress import terminal
from idl.protocol import Alignment
from idl.report import RunReport
from idl.targets import target as find_target

Command = TypeVar("Command", bound=Callable[..., Any])
AUTO = "auto"


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _option(name: str, default: object, text: str, **further: Any) -> Callable[[Command], Command]:
    return click.option(name, default=default, show_default=default != "", help=text, **further)


# Every default below is the dataclass's.
_DATASET, _ENCODER, _PROBE = DatasetConfig(), EncoderConfig(), ProbeConfig()

dataset_options = _options(
    _option("--dataset", _DATASET.dataset, "rooms, folder, or the path of a prepared store (.h5)."),
    _option("--data", _DATASET.data, "Folder of RGB-D pairs, for dataset=folder."),
    _option("--depth-scale", _DATASET.depth_scale, "Units per metre of integer depth maps (TUM 5000, KITTI 256)."),
    _option("--scene", _DATASET.scene, "What a scene is in a folder: auto, folder, or block:N frames."),
    _option("--min-depth", _DATASET.min_depth_m, "Metres; nearer truth is not valid."),
    _option("--max-depth", _DATASET.max_depth_m, "Metres; farther truth is not valid."),
    _option("--num-scenes", _DATASET.num_scenes, "Scenes of rooms."),
    _option("--views", _DATASET.views, "Views of each scene of rooms."),
    _option("--dataset-seed", _DATASET.dataset_seed, "Seed of rooms."),
    _option("--invalid-values", _DATASET.invalid_values, "Integers that mean missing depth in a folder."),
)

encoder_name = _option("--encoder", _ENCODER.name, "null, convnext, timm:NAME, or package.module:factory.")

encoder_options = _options(
    _option("--weights", _ENCODER.weights, "auto, imagenet, random, a file, or models:/NAME/VERSION."),
    _option("--stage", AUTO, "Feature level of the network; auto: the deepest with a stride of at most 16."),
    _option("--encoder-args", _ENCODER.encoder_args, "JSON object for timm's create_model, or the factory."),
    _option("--mean", AUTO, "Colour means R,G,B of the network's input; auto: the model's own."),
    _option("--std", AUTO, "Standard deviations R,G,B, likewise."),
    _option("--seed", _ENCODER.seed, "Seed of random weights.", type=click.IntRange(min=0)),
    _option(
        "--arithmetic",
        _ENCODER.arithmetic,
        "auto: bfloat16 where the device gains from it.",
        type=click.Choice([AUTO, "float32", "bfloat16"]),
    ),
)

stride_option = _option("--stride", _ENCODER.stride, "Side of the squares that the null encoder averages, pixels.")

split_options = _options(
    _option("--target", _PROBE.target, "depth, log-depth, inverse-depth or normals."),
    _option("--split", _PROBE.split, "Shares train:val:test of the scenes, or a JSON file of scene lists."),
    _option(
        "--split-seed", _PROBE.split_seed, "Seed of the split and of the training order.", type=click.IntRange(min=0)
    ),
    _option("--batch-size", _PROBE.batch_size, "Images encoded at once."),
)

probe_options = _options(
    _option("--k", _PROBE.k, "Components that the probe reads: a number, all, or auto (chosen on validation)."),
    _option(
        "--alignment",
        _PROBE.alignment,
        "What a prediction may borrow from its image's truth before it is measured.",
        type=click.Choice(get_args(Alignment)),
    ),
)

run_options = _options(
    _option("--device", AUTO, "auto, cpu or cuda."),
    _option("--workers", 0, "Processes that prepare a dataset; 0: one a core.", type=click.IntRange(min=0)),
    _option("--cache", "", "Folder of prepared datasets, features and statistics [$IDL_CACHE or ~/.cache/idl]."),
    _option("--experiment", "", "MLflow experiment [idl]; under `mlflow run`, its --experiment-name counts."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def cli() -> None:
    """Has a network learned something that nobody asked it for? Exact linear probes on frozen encoders."""


@cli.command()
@dataset_options
@split_options
@run_options
def prepare(**options: Any) -> None:
    """Prepare a dataset: make or read it once, into one HDF5 store."""
    config = _config(ProbeConfig, options)
    find_target(config.target)
    with _run("prepare", f"prepare {Path(options['dataset']).stem}", options) as recorder:
        store = _store(_dataset(options), options)
        report = describe(config, store, progress=terminal)
        recorder.log(report)
        _say_result(report, recorder.hint)
        click.echo(f"store: {store.path}")


@cli.command()
@dataset_options
@stride_option
@split_options
@run_options
def null(**options: Any) -> None:
    """Register the null baseline, which only downsamples the image."""
    _materialise("null", options)


@cli.command()
@dataset_options
@encoder_options
@split_options
@run_options
def convnext(**options: Any) -> None:
    """Register a ConvNeXt of timm's with its weights and origin."""
    _materialise("convnext", options)


@cli.command()
@dataset_options
@encoder_name
@encoder_options
@stride_option
@split_options
@probe_options
@run_options
def probe(**options: Any) -> None:
    """Fit a linear probe on a frozen encoder, exactly, and measure it beside its controls."""
    config = _config(ProbeConfig, options)
    find_target(config.target)
    name = f"probe {options['encoder']} {config.target} {Path(options['dataset']).stem}"
    with _run("probe", name, options) as recorder:
        dataset = _dataset(options)
        encoder = _encoder(options["encoder"], options)
        check(config, encoder)
        store = _store(dataset, options)
        run = run_probe(config, store, encoder, _cache_folder(options), progress=terminal)
        _finish(recorder, run, encoder, options)


def _materialise(name: str, options: Mapping[str, Any]) -> None:
    config = _config(ProbeConfig, options)
    find_target(config.target)
    with _run(name, f"{name} {Path(options['dataset']).stem}", options) as recorder:
        dataset = _dataset(options)
        encoder = _encoder(name, options)
        check(config, encoder)
        store = _store(dataset, options)
        _finish(recorder, materialise(config, store, encoder, progress=terminal), encoder, options)


def _finish(recorder: tracking.Recorder, run: Run, encoder: Encoder, options: Mapping[str, Any]) -> None:
    """Log the run, register its model, and say what came out."""
    left_out = recorder.log(run.report)
    if left_out:
        _warn(f"not finite, and not logged: {', '.join(left_out)}")
    lineage = tracking.registered_encoder(encoder.digest)
    if lineage:
        recorder.tag("encoder_model", lineage)
    version = recorder.register(run.model, _cache_folder(options) / "exports")
    _say_result(run.report, recorder.hint)
    aliases = "".join(f" @{alias}" for alias in version.aliases)
    click.echo(f"model: {version.uri}{aliases}")
    if version.note:
        _warn(version.note)


def _say_result(report: RunReport, hint: str) -> None:
    shown = (
        "train_loss",
        "val_loss",
        "test_loss",
        "loss_over_null",
        "test_rmse",
        "test_angle_mean_deg",
        "test_r2",
    )
    for name in shown:
        if name in report.metrics:
            click.echo(f"{name:>20}  {report.metrics[name]:.5g}")
    click.echo(f"run: {hint}")


@contextmanager
def _run(entry_point: str, name: str, options: Mapping[str, Any]) -> Iterator[tracking.Recorder]:
    with tracking.start(entry_point, options["experiment"] or None, name) as recorder:
        yield recorder


def _config(kind: type[Any], options: Mapping[str, Any]) -> Any:
    """Fill a configuration dataclass with the options of the same names."""
    return kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})


def _dataset(options: Mapping[str, Any]) -> DatasetConfig:
    """What is asked of the dataset, looked at before anything is built or made."""
    named = {**options, "min_depth_m": options["min_depth"], "max_depth_m": options["max_depth"]}
    config = _config(DatasetConfig, named)
    require(config)
    return config


def _store(config: DatasetConfig, options: Mapping[str, Any]) -> Store:
    # The cores that this process may use, where the system tells.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = options["workers"] or cores or 1
    store = open_store(config, _cache_folder(options) / "datasets", workers=workers, progress=terminal)
    for note in store.notes:
        _warn(note)
    return store


def _encoder(name: str, options: Mapping[str, Any]) -> Encoder:
    config = EncoderConfig(
        name=name,
        stage=None if options.get("stage", AUTO) == AUTO else _whole("stage", options["stage"]),
        weights=options.get("weights", _ENCODER.weights),
        encoder_args=options.get("encoder_args", _ENCODER.encoder_args),
        mean=_triple("mean", options.get("mean", AUTO)),
        std=_triple("std", options.get("std", AUTO)),
        stride=options.get("stride", _ENCODER.stride),
        seed=options.get("seed", _ENCODER.seed),
        arithmetic=options.get("arithmetic", _ENCODER.arithmetic),
        registry_file=_registry_file(options),
    )
    encoder = build(config, _device(options["device"]))
    if encoder.origin.warning:
        _warn(encoder.origin.warning)
    if config.registry_file is not None:
        _warn_of_other_settings(encoder, config.registry_file.with_name("origin.json"))
    return encoder


def _warn_of_other_settings(encoder: Encoder, origin: Path) -> None:
    """Say where registered weights run under another stage, normalisation or arguments than they were registered."""
    registered = json.loads(origin.read_text()) if origin.exists() else {}
    if registered.get("digest", encoder.digest) == encoder.digest:
        return
    now = {key: str(value) for key, value in encoder.describe().items()}
    names = [key for key in ("stage", "encoder_args", "mean", "std") if str(registered.get(key)) != now.get(key)]
    _warn(f"not the encoder that was registered: {', '.join(names) or 'its weights'} differ. Pass the same settings.")


def _registry_file(options: Mapping[str, Any]) -> Path | None:
    uri = options.get("weights", "")
    if not uri.startswith("models:/"):
        return None
    # A folder a URI: two probes at once must not read each other's weights.
    folder = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return tracking.fetch_weights(uri, _cache_folder(options) / "weights" / folder)


def _device(name: str) -> torch.device:
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device={name}: no such device. Pass auto, cpu or cuda.") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device={name}: not supported. Pass auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device={name}: no such CUDA device here. Pass device=cpu or device=auto.")
    # float32 means float32: cuDNN's convolutions would otherwise keep ten bits of the mantissa.
    torch.backends.cudnn.allow_tf32 = False
    return device


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{name}={text}: expected a whole number or auto.") from error


def _triple(name: str, text: str) -> tuple[float, float, float] | None:
    if text == AUTO:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{name}={text}: expected three numbers R,G,B such as 0.5,0.5,0.5, or auto.") from error
    return red, green, blue


def _cache_folder(options: Mapping[str, Any]) -> Path:
    return Path(options["cache"]).expanduser() if options["cache"] else cache.default_folder()


def _warn(line: str) -> None:
    click.echo(f"warning: {line}", err=True)


def run() -> None:
    """Run the command line as a program, and leave at once when it is done.

    Python would take 3 s to take torch, triton and sympy apart object by object. What is registered to happen at
    the exit happens, threads that must end are waited for, and all output is written.
    """
    keep_freed_buffers()
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    # What the interpreter itself does first at its end: pools are told to stop, and their threads are joined.
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Run the command line. Bad input ends with one line and exit code 2, Ctrl-C with 130."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; the same command goes on from here.", err=True)
        sys.exit(130)
    except InputError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        if not is_disk_full(error):
            raise
        line = " ".join(str(error).split())[:200]
        click.echo(f"error: no space left ({line}). Free some; the same command goes on from here.", err=True)
        sys.exit(2)
