"""What every command does before it tests and at its end: write down, log, register, say."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from idl import tracking
from idl.cli.building import cache_folder, warn
from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import Encoder
from idl.report import Run, RunReport

SHOWN = (
    "train_loss",
    "val_loss",
    "exact_val_loss",
    "test_loss",
    "loss_over_null",
    "test_rmse",
    "test_angle_mean_deg",
    "test_r2",
    "excess_loss",
    "num_trials",
    "untrained_val_loss",
    "best_val_loss",
    "best_val_psnr",
    "best_val_accuracy",
    "best_val_mean_average_precision",
    "images_per_s_overall",
)


def note_look(recorder: tracking.Recorder, store: Store, split: Split) -> None:
    """Write down which test scenes are about to be read: a look at them counts, whatever becomes of the run."""
    tags = {"dataset_digest": store.digest, "split_digest": split.digest, **split.looks(store)}
    for name, value in tags.items():
        recorder.tag(name, value)


def log_report(recorder: tracking.Recorder, report: RunReport) -> None:
    """Log a report, and say which of its figures are no numbers."""
    left_out = recorder.log(report)
    if left_out:
        warn(f"not finite, and not logged: {', '.join(left_out)}")


def finish(recorder: tracking.Recorder, run: Run, encoder: Encoder, options: Mapping[str, Any]) -> None:
    """Log the run, register its model, and say what came out."""
    log_report(recorder, run.report)
    lineage = tracking.registered_encoder(encoder.digest)
    if lineage:
        recorder.tag("encoder_model", lineage)
    version = recorder.register(run.model, cache_folder(options) / "exports")
    say_result(run.report, recorder.hint)
    aliases = "".join(f" @{alias}" for alias in version.aliases)
    click.echo(f"model: {version.uri}{aliases}")
    if version.note:
        warn(version.note)


def say_result(report: RunReport, hint: str, shown: Sequence[str] = SHOWN) -> None:
    """Write those of the figures `shown` that there are, and where the run is."""
    there = [name for name in shown if name in report.metrics]
    width = max(map(len, there), default=0)
    for name in there:
        click.echo(f"{name:>{width}}  {report.metrics[name]:.5g}")
    click.echo(f"run: {hint}")
