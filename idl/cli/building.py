"""From options to what they ask for: a tracked run, a dataset, an encoder, a device."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import torch

from idl import cache, tracking
from idl.cli.options import AUTO
from idl.data.crops import with_crops
from idl.data.datasets import DatasetConfig, fetch, native_reader, open_store, require
from idl.data.datasets import reader as find_reader
from idl.data.preparation import store_path
from idl.data.reader import Archive
from idl.data.splits import split_store
from idl.data.store import Store
from idl.distributed import World, announced, joined, local_device
from idl.encoders import Encoder, EncoderConfig, build
from idl.errors import InputError
from idl.progress import Progress, silent, terminal
from idl.targets import Target

_ENCODER = EncoderConfig()
# Layers that every dataset has.
ALWAYS = ("depth", "rgb", "valid")


def tracked_run(entry_point: str, name: str, options: Mapping[str, Any]) -> AbstractContextManager[tracking.Recorder]:
    """Start the run that the options ask for, or go on with the one that they resume."""
    return tracking.start(entry_point, options["experiment"] or None, name, resume=options.get("resume") or None)


@contextmanager
def shared_run(
    entry_point: str, name: str, options: Mapping[str, Any]
) -> Iterator[tuple[World, tracking.Recorder | None]]:
    """Run the block on every rank that torchrun started; rank 0 alone has a tracked run."""
    tracked = tracked_run(entry_point, name, options) if announced().is_first else nullcontext()
    # Joined last: which rank failed is known before the run gets its last status.
    with tracked as recorder, joined(device_of(options["device"])) as world:
        yield world, recorder


def progress_shown() -> Progress:
    """Show progress on rank 0 alone."""
    return terminal if announced().is_first else silent


def configured(kind: type[Any], options: Mapping[str, Any]) -> Any:
    """Fill a configuration dataclass with the options of the same names."""
    return kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})


def dataset_of(options: Mapping[str, Any]) -> DatasetConfig:
    """What is asked of the dataset, looked at before anything is built or made; fetched where that is asked for."""
    named = {
        **options,
        "protocol_name": options["protocol"],
        "min_depth_m": number_or_auto("min_depth", options["min_depth"], "metres such as 10"),
        "max_depth_m": number_or_auto("max_depth", options["max_depth"], "metres such as 10"),
    }
    config = configured(DatasetConfig, named)
    # On every rank: those that come second wait for the first.
    fetch(config, progress_shown())
    if options.get("test_images", 0):
        native_reader(config, options["test_images"])
    else:
        require(config)
    return config


def require_layer(wanted: Target, config: DatasetConfig, options: Mapping[str, Any]) -> None:
    """Make sure that a dataset which is not made yet will have the target's layer. Raises InputError."""
    if wanted.layer in ALWAYS or config.dataset.endswith(".h5"):
        return
    reader = find_reader(config)
    # What is in an archive is known only after a pass over it.
    if isinstance(reader, Archive) or store_path(reader, config.protocol, cache_folder(options) / "datasets").exists():
        return
    # What it has beyond these shows in a sample; a room takes a second.
    layers = sorted({*ALWAYS, *(layer for sample in reader.read(0)[:1] for layer in sample.layers)})
    if wanted.layer not in layers:
        raise InputError(
            f"target={wanted.name}: dataset={config.dataset} has no layer {wanted.layer!r}. "
            f"It has: {', '.join(layers)}."
        )


def size_of(config: DatasetConfig) -> tuple[int, int]:
    """Rows and columns of the images of a dataset that may not be made yet."""
    if config.dataset.endswith(".h5"):
        return Store.open(Path(config.dataset).expanduser()).protocol.size
    return config.protocol.size


def store_of(config: DatasetConfig, options: Mapping[str, Any]) -> Store:
    """Make or open the dataset, with the crops that are asked for, and say what its preparation noticed."""
    # The cores that this process may use, where the system tells.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = options["workers"] or cores or 1
    folder = cache_folder(options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cache={folder}: cannot be made ({error.strerror}). Pass another folder.") from error
    store = open_store(config, folder / "datasets", workers=workers, progress=progress_shown())
    for note in store.notes:
        warn(note)
    count = options.get("test_images", 0)
    if not count:
        return store
    tested = split_store(store, options["split"], options["split_seed"]).indices["test"]
    return with_crops(store, native_reader(config, count), tested, count, options["test_seed"])


def encoder_of(name: str, options: Mapping[str, Any]) -> Encoder:
    """Build the encoder, and say where it is not what a user would expect."""
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
    encoder = build(config, device_of(options["device"]))
    if encoder.origin.warning:
        warn(encoder.origin.warning)
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
    warn(f"not the encoder that was registered: {', '.join(names) or 'its weights'} differ. Pass the same settings.")


def _registry_file(options: Mapping[str, Any]) -> Path | None:
    uri = options.get("weights", "")
    if not uri.startswith("models:/"):
        return None
    # A folder a URI: two probes at once must not read each other's weights.
    folder = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return tracking.fetch_weights(uri, cache_folder(options) / "weights" / folder)


def device_of(name: str) -> torch.device:
    """Resolve "auto", "cpu" or "cuda". Raises InputError where there is no such device."""
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device={name}: no such device. Pass auto, cpu or cuda.") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device={name}: not supported. Pass auto, cpu or cuda.")
    device = local_device(device)
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


def number_or_auto(name: str, text: str, expected: str) -> float | None:
    """Return None for "auto". Raises InputError, which says what was `expected`, where `text` is no number."""
    if text == AUTO:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{name}={text}: expected {expected}, or auto.") from error


def _triple(name: str, text: str) -> tuple[float, float, float] | None:
    if text == AUTO:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{name}={text}: expected three numbers R,G,B such as 0.5,0.5,0.5, or auto.") from error
    return red, green, blue


def cache_folder(options: Mapping[str, Any]) -> Path:
    """Return where datasets, features, statistics and checkpoints are kept."""
    return Path(options["cache"]).expanduser() if options["cache"] else cache.default_folder()


def warn(line: str) -> None:
    """Write a warning to standard error, on rank 0 alone."""
    if announced().is_first:
        click.echo(f"warning: {line}", err=True)
