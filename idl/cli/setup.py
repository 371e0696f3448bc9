"""From typed settings to a store, an encoder, a device and a tracked run, and what every command writes at its end."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from idl import cache
from idl.cli.options import AUTO, part, requested, shown
from idl.data.crops import with_crops
from idl.data.datasets import ALWAYS, DatasetConfig, fetch, layers_of, native_reader, open_store, require
from idl.data.splits import Split, split_store
from idl.data.store import Store
from idl.distributed import World, joined, local_device, this_process
from idl.encoders import Encoder, EncoderConfig, build
from idl.errors import InputError
from idl.probe_config import ProbeConfig
from idl.progress import Progress, silent, terminal
from idl.report import Run, RunReport
from idl.settings import setting
from idl.targets import target as find_target
from idl.tracking import registry, runs

RESULTS = (
    *("train_loss", "val_loss", "exact_val_loss", "test_loss", "loss_over_null", "test_rmse", "test_angle_mean_deg"),
    *("test_r2", "excess_loss", "num_trials", "untrained_val_loss", "best_val_loss", "best_val_psnr"),
    *("best_val_accuracy", "best_val_mean_average_precision", "images_per_s_overall"),
)
# Options that decide no result.
PLACES = ("cache", "experiment", "workers")


@dataclass(frozen=True)
class RunSettings:
    """Where a command computes, keeps its files and logs."""

    device: str = setting(AUTO, "Where to compute: auto, cpu or cuda.")
    workers: int = setting(0, "Processes that prepare a dataset; 0: one a core.", at_least=0)
    cache: str = setting("", "Folder of prepared datasets, features and statistics [$IDL_CACHE or ~/.cache/idl].")
    experiment: str = setting("", "MLflow experiment [idl]; under `mlflow run`, its --experiment-name counts.")

    @property
    def cache_folder(self) -> Path:
        """Folder of prepared datasets, features, statistics and checkpoints."""
        return Path(self.cache).expanduser() if self.cache else cache.default_folder()

    @property
    def num_workers(self) -> int:
        """Processes that prepare a dataset: by default one for each core that this process may use."""
        # Not every system tells which cores those are.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return self.workers or cores or 1


@dataclass(frozen=True)
class Settings:
    """What most commands are told: a dataset, how it is split, encoded and fitted on, and where that happens."""

    dataset: DatasetConfig = part(DatasetConfig())
    probe: ProbeConfig = part(ProbeConfig(), only=("target", "split", "split_seed", "batch_size"))
    run: RunSettings = part(RunSettings())

    @property
    def dataset_name(self) -> str:
        """Name of the dataset in those of runs."""
        return Path(self.dataset.dataset).stem

    def tracked_run(self, entry_point: str, *subject: str, resume: str = "") -> AbstractContextManager[runs.Recorder]:
        """Return the context of a tracked run, named by its subject. resume: id of the run to continue."""
        name = " ".join((entry_point, *subject))
        return runs.start(entry_point, self.run.experiment or None, name, resume=resume or None)

    @contextmanager
    def shared_run(
        self, entry_point: str, *subject: str, resume: str = ""
    ) -> Iterator[tuple[World, runs.Recorder | None]]:
        """Run the block on every rank that torchrun started; rank 0 alone has a tracked run."""
        is_first = this_process().is_first
        tracked = self.tracked_run(entry_point, *subject, resume=resume) if is_first else nullcontext()
        # Joined last: which rank failed is known before the run gets its last status.
        with tracked as recorder, joined(device_of(self.run.device)) as world:
            yield world, recorder

    def check_dataset(self) -> None:
        """Raise InputError where dataset, crops or target layer cannot be had; fetch files where that is requested."""
        dataset, target = self.dataset, find_target(self.probe.target)
        # On every rank: those that come second wait for the first.
        fetch(dataset, progress_shown())
        if self.probe.test_images:
            native_reader(dataset, self.probe.test_images)
        else:
            require(dataset)
        layers = ALWAYS if target.layer in ALWAYS else layers_of(dataset, self.run.cache_folder / "datasets")
        if target.layer not in layers:
            raise InputError(
                f"target={target.name}: dataset={dataset.dataset} has no layer {target.layer!r}. "
                f"It has: {', '.join(layers)}."
            )

    def open_store(self) -> Store:
        """Return the prepared dataset, with the requested crops as its test images, and print its warnings."""
        probe, folder = self.probe, self.run.cache_folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cache={folder}: cannot be made ({error.strerror}). Pass another folder.") from error
        store = open_store(self.dataset, folder / "datasets", workers=self.run.num_workers, progress=progress_shown())
        for note in store.notes:
            warn(note)
        if not probe.test_images:
            return store
        tested = split_store(store, probe.split, probe.split_seed).indices["test"]
        crops = native_reader(self.dataset, probe.test_images)
        return with_crops(store, crops, tested, probe.test_images, probe.test_seed)

    def image_size(self) -> tuple[int, int]:
        """Return rows and columns of the images of the dataset, which may not be made yet."""
        if self.dataset.dataset.endswith(".h5"):
            return Store.open(Path(self.dataset.dataset).expanduser()).protocol.size
        return self.dataset.build_protocol().size

    def build_encoder(self, config: EncoderConfig) -> Encoder:
        """Return the encoder for the dataset's images, with weights from the registry where these are requested."""
        if config.weights.startswith("models:/"):
            # A folder a URI: two probes at once must not read each other's weights.
            folder = self.run.cache_folder / "weights" / hashlib.sha256(config.weights.encode()).hexdigest()[:16]
            config = replace(config, registry_file=registry.fetch_weights(config.weights, folder))
        encoder = build(config, device_of(self.run.device), self.image_size())
        if encoder.origin.warning:
            warn(encoder.origin.warning)
        if config.registry_file is not None:
            _warn_of_other_settings(encoder, config.registry_file.with_name("origin.json"))
        return encoder


def device_of(name: str) -> torch.device:
    """Return the device called "auto", "cpu" or "cuda". Raises InputError where there is no such device."""
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


def _warn_of_other_settings(encoder: Encoder, origin: Path) -> None:
    before = json.loads(origin.read_text()) if origin.exists() else {}
    if before.get("digest", encoder.digest) == encoder.digest:
        return
    now, settings = encoder.describe(), ("stage", "encoder_args", "encoder_size", "mean", "std")
    names = [name for name in settings if str(before.get(name)) != str(now.get(name))]
    warn(f"not the encoder that was registered: {', '.join(names) or 'its weights'} differ. Pass the same settings.")


def progress_shown() -> Progress:
    """Return the progress on the terminal on rank 0, and none elsewhere."""
    return terminal if this_process().is_first else silent


def warn(line: str) -> None:
    """Write a warning to standard error, on rank 0 alone."""
    if this_process().is_first:
        click.echo(f"warning: {line}", err=True)


def note_test_reading(recorder: runs.Recorder | None, store: Store, split: Split) -> None:
    """Tag the run with the test scenes that it is about to read: that counts, whatever becomes of the run."""
    if recorder is None:
        return
    tags = {"dataset_digest": store.digest, "split_digest": split.digest, **split.test_tags(store)}
    for name, value in tags.items():
        recorder.tag(name, value)


def log_report(recorder: runs.Recorder, report: RunReport, settings: Any) -> None:
    """Log a report with the command's settings, all in config.json; those that decide a result are parameters."""

    def without_passwords(values: dict[str, Any]) -> dict[str, Any]:
        return {name: shown(value) if isinstance(value, str) else value for name, value in values.items()}

    config = json.loads(json.dumps(asdict(settings), default=str), object_hook=without_passwords)
    deciding = {name: value for name, value in requested().items() if name not in PLACES}
    left_out = recorder.log(replace(report, params={**report.params, **deciding}, config={**report.config, **config}))
    if left_out:
        warn(f"not finite, and not logged: {', '.join(left_out)}")


def finish(recorder: runs.Recorder, run: Run, encoder: Encoder, settings: Any) -> None:
    """Log the run, register its model, and print its results."""
    log_report(recorder, run.report, settings)
    lineage = registry.registered_encoder(encoder.digest)
    if lineage:
        recorder.tag("encoder_model", lineage)
    version = recorder.register(run.model)
    print_result(run.report, recorder.hint)
    click.echo(f"model: {version.uri}{''.join(f' @{alias}' for alias in version.aliases)}")
    if version.note:
        warn(version.note)


def print_result(report: RunReport, hint: str, names: Sequence[str] = RESULTS) -> None:
    """Print the metrics called `names` that the report has, and where the run is."""
    there = [name for name in names if name in report.metrics]
    width = max(map(len, there), default=0)
    for name in there:
        click.echo(f"{name:>{width}}  {report.metrics[name]:.5g}")
    click.echo(f"run: {hint}")
