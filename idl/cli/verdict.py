"""The commands that answer: `verdict` of one encoder, `compare` (and `main`) of several beside the null."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import click

from idl import tracking
from idl.cli import setup
from idl.cli.options import AUTO, command_line, options, part
from idl.cli.setup import RunSettings
from idl.data.datasets import DatasetConfig
from idl.distributed import this_process
from idl.encoders import EncoderConfig
from idl.encoders.tasks import task_of
from idl.errors import InputError
from idl.probe_config import ProbeConfig
from idl.settings import setting
from idl.verdict.baselines import NULL
from idl.verdict.document import Provenance
from idl.verdict.report import encoder_run, probe_run, summary, whole_report
from idl.verdict.settings import StudyConfig
from idl.verdict.study import Study, Subject, check, chosen_encoder, compared_encoders, plan, study

SPLIT = ("split", "split_seed", "test_images", "test_seed", "batch_size")
FEATURE = "What may have been learned: depth, log-depth, inverse-depth, normals, or package.module:factory."


@dataclass(frozen=True)
class VerdictSettings:
    """Settings of `idl verdict`."""

    feature: str = setting(ProbeConfig().target, FEATURE)
    task: str = setting("", "What the encoder was trained for; names the encoder where none is given.")
    # No name: the encoder that stands for the task, or convnext.
    encoder: EncoderConfig = part(EncoderConfig(name=""), without=("stride",))
    dataset: DatasetConfig = part(DatasetConfig())
    probe: ProbeConfig = part(ProbeConfig(), only=SPLIT)
    study: StudyConfig = part(StudyConfig())
    run: RunSettings = part(RunSettings())


@dataclass(frozen=True)
class CompareSettings:
    """Settings of `idl compare` and `idl main`."""

    feature: str = setting(ProbeConfig().target, FEATURE)
    # Those of the original study.
    encoders: str = setting("autoencoder,convnext", "Encoders to compare with the null, with commas between.")
    weights: str = setting(AUTO, "Weights of a ConvNeXt or timm model: auto, imagenet, shipped or random.")
    dataset: DatasetConfig = part(DatasetConfig())
    probe: ProbeConfig = part(ProbeConfig(), only=SPLIT)
    study: StudyConfig = part(StudyConfig())
    run: RunSettings = part(RunSettings())


@click.command()
@options(VerdictSettings)
def verdict(settings: VerdictSettings) -> None:
    """Answer whether an encoder has learned a feature that nobody asked it for."""
    if not this_process().is_first:
        return  # nothing to share among ranks
    run, progress = settings.run, setup.progress_shown()
    chosen = chosen_encoder(settings.encoder, settings.task)
    name = f"verdict {chosen.name} {settings.feature}"
    with setup.tracked_run("verdict", name, run) as recorder, _named(target="feature"):
        _check_dataset(settings)
        encoder = setup.encoder_of(chosen, run, settings.dataset)
        answers, given = _study(recorder, settings, [Subject(encoder, task_of(encoder.origin, settings.task))])
        # Only what the null has too: stage, normalisation and arguments are the encoder's.
        common = EncoderConfig(name=NULL, stride=settings.study.common_stride)
        null = setup.encoder_of(common, run, settings.dataset)
        panels = probe_run(answers, null, run.cache_folder, progress=progress).report.panels
        judged = encoder_run(answers, encoder, panels, given, run.cache_folder, progress=progress)
        setup.finish(recorder, judged.run, encoder, settings)
        click.echo(f"\n{summary(answers, [judged.cues])}")


@click.command()
@options(CompareSettings)
def compare(settings: CompareSettings) -> None:
    """Hold null, autoencoder and ConvNeXt against each other: the whole study in one command."""
    _compare("compare", settings)


@click.command()
@options(CompareSettings)
def main(settings: CompareSettings) -> None:
    """The study, which a bare `mlflow run .` is: the same as compare."""
    _compare("main", settings)


def _compare(entry_point: str, settings: CompareSettings) -> None:
    if not this_process().is_first:
        return  # nothing to share among ranks
    run, progress, feature = settings.run, setup.progress_shown(), settings.feature
    configs = compared_encoders(settings.encoders, settings.weights, settings.study.common_stride)
    with (
        setup.tracked_run(entry_point, f"{entry_point} {feature}", run) as recorder,
        _named(target="feature", encoder="encoders"),
    ):
        _check_dataset(settings)
        null, *encoders = (setup.encoder_of(config, run, settings.dataset) for config in configs)
        subjects = [Subject(encoder, task_of(encoder.origin)) for encoder in encoders]
        answers, given = _study(recorder, settings, subjects)
        with tracking.child(recorder, f"{NULL} {feature}") as child:
            null_run = probe_run(answers, null, run.cache_folder, progress=progress)
            setup.finish(child, null_run, null, settings)
        panels, judged = null_run.report.panels, []
        for encoder in encoders:
            with tracking.child(recorder, f"{encoder.name} {feature}") as child:
                each = encoder_run(answers, encoder, panels, given, run.cache_folder, progress=progress)
                judged.append(each)
                setup.finish(child, each.run, encoder, settings)
        setup.log_report(recorder, whole_report(answers, panels, judged, given), settings)
        click.echo(f"\n{summary(answers, [each.cues for each in judged])}")
        click.echo(f"study: {recorder.hint}")


def _check_dataset(settings: VerdictSettings | CompareSettings) -> None:
    setup.check_dataset(settings.dataset, replace(settings.probe, target=settings.feature), settings.run)


def _study(
    recorder: tracking.Recorder, settings: VerdictSettings | CompareSettings, subjects: Sequence[Subject]
) -> tuple[Study, Provenance]:
    """Reach the answers, with the digest of what is fixed in the run before the test split is read.

    Where no answer can be valid, that is said first: fits and losses, which follow all the same, may take an hour.
    """
    probe, run = replace(settings.probe, target=settings.feature), settings.run
    check(probe, settings.study, subjects, setup.image_size(settings.dataset))
    planned = plan(probe, settings.study, setup.store_of(settings.dataset, probe, run), subjects)
    if planned.warning:
        setup.warn(planned.warning)
    test_reads = tracking.count_test_readers(planned.split.test_tags(planned.store)["test_scenes"])
    recorder.tag("verdict_digest", planned.digest)
    recorder.tag("test_reads_before", str(test_reads))
    setup.note_test_reading(recorder, planned.store, planned.split)
    answers = study(planned, run.cache_folder, progress=setup.progress_shown())
    made_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return answers, Provenance(command_line(), made_at, test_reads)


@contextmanager
def _named(**options: str) -> Iterator[None]:
    """Let an InputError that begins with the name of a setting begin with that of the option that it came from."""
    try:
        yield
    except InputError as error:
        name = str(error).partition("=")[0]
        if name not in options:
            raise
        raise InputError(options[name] + str(error).removeprefix(name)) from error
