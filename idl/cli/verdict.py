"""The commands that answer: `verdict` of one encoder, `compare` (and `main`) of several beside the null."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import click

from idl import tracking
from idl.cli import setup
from idl.cli.options import AUTO, command_line, options, part
from idl.cli.setup import Settings
from idl.distributed import this_process
from idl.encoders import Encoder, EncoderConfig
from idl.encoders.tasks import task_of
from idl.errors import InputError
from idl.probe_config import ProbeConfig
from idl.report import Run
from idl.settings import setting
from idl.verdict.baselines import NULL
from idl.verdict.document import Provenance
from idl.verdict.report import encoder_run, probe_run, summary, whole_report
from idl.verdict.settings import StudyConfig
from idl.verdict.study import Study, Subject, check, chosen_encoder, compared_encoders, plan, study

SPLIT = ("split", "split_seed", "test_images", "test_seed", "batch_size")


@dataclass(frozen=True)
class StudySettings(Settings):
    """Settings that `idl verdict` and `idl compare` have in common."""

    feature: str = setting(
        ProbeConfig().target,
        "What may have been learned: depth, log-depth, inverse-depth, normals, or package.module:factory.",
    )
    probe: ProbeConfig = part(ProbeConfig(), only=SPLIT)
    study: StudyConfig = part(StudyConfig())


@dataclass(frozen=True)
class VerdictSettings(StudySettings):
    """Settings of `idl verdict`."""

    task: str = setting("", "What the encoder was trained for; names the encoder where none is given.")
    # No name: the encoder that stands for the task, or convnext.
    encoder: EncoderConfig = part(EncoderConfig(name=""), without=("stride",))


@dataclass(frozen=True)
class CompareSettings(StudySettings):
    """Settings of `idl compare` and `idl main`."""

    # Those of the original study.
    encoders: str = setting("autoencoder,convnext", "Encoders to compare with the null, with commas between.")
    weights: str = setting(AUTO, "Weights of a ConvNeXt or timm model: auto, imagenet, shipped or random.")


@click.command()
@options(VerdictSettings)
def verdict(settings: VerdictSettings) -> None:
    """Answer whether an encoder has learned a feature that nobody asked it for."""
    if not this_process().is_first:
        return  # nothing to share among ranks
    chosen = chosen_encoder(settings.encoder, settings.task)
    cache, progress = settings.run.cache_folder, setup.progress_shown()
    with (
        settings.tracked_run("verdict", chosen.name, settings.feature) as recorder,
        _named(target="feature"),
    ):
        answers, given, _, null_run = _answer(recorder, settings, [chosen], settings.task)
        (subject,) = answers.plan.subjects
        judged = encoder_run(answers, subject.encoder, null_run.report.panels, given, cache, progress=progress)
        setup.finish(recorder, judged.run, subject.encoder, settings)
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
    cache, progress, feature = settings.run.cache_folder, setup.progress_shown(), settings.feature
    _, *configs = compared_encoders(settings.encoders, settings.weights, settings.study.common_stride)
    with (
        settings.tracked_run(entry_point, feature) as recorder,
        _named(target="feature", encoder="encoders"),
    ):
        answers, given, null, null_run = _answer(recorder, settings, configs)
        with tracking.child(recorder, f"{NULL} {feature}") as child:
            setup.finish(child, null_run, null, settings)
        panels, judged = null_run.report.panels, []
        for encoder in [subject.encoder for subject in answers.plan.subjects]:
            with tracking.child(recorder, f"{encoder.name} {feature}") as child:
                each = encoder_run(answers, encoder, panels, given, cache, progress=progress)
                judged.append(each)
                setup.finish(child, each.run, encoder, settings)
        setup.log_report(recorder, whole_report(answers, panels, judged, given), settings)
        click.echo(f"\n{summary(answers, [each.cues for each in judged])}")
        click.echo(f"study: {recorder.hint}")


def _answer(
    recorder: tracking.Recorder, settings: StudySettings, configs: Sequence[EncoderConfig], task: str = ""
) -> tuple[Study, Provenance, Encoder, Run]:
    """Return the finished study of encoders, where it comes from, and the null with its probe's run.

    task: what the encoders were trained for, where that is said. The run is tagged with the digests of all that is
    fixed before the test split is read.
    """
    config, cache, progress = settings.study, settings.run.cache_folder, setup.progress_shown()
    settings = replace(settings, probe=replace(settings.probe, target=settings.feature))
    settings.check_dataset()
    encoders = [settings.build_encoder(each) for each in configs]
    subjects = [Subject(encoder, task_of(encoder.origin, task)) for encoder in encoders]
    check(settings.probe, config, subjects, settings.image_size())
    planned = plan(settings.probe, config, settings.open_store(), subjects)
    if planned.warning:
        # No answer can be valid: said now, since fits and losses, which follow all the same, may take an hour.
        setup.warn(planned.warning)
    test_reads = tracking.count_test_readers(planned.split.test_tags(planned.store)["test_scenes"])
    recorder.tag("verdict_digest", planned.digest)
    recorder.tag("test_reads_before", str(test_reads))
    setup.note_test_reading(recorder, planned.store, planned.split)
    answers = study(planned, cache, progress=progress)
    given = Provenance(command_line(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), test_reads)
    # Only what every encoder has: stage, normalisation and arguments are the others' own.
    null = settings.build_encoder(EncoderConfig(NULL, stride=config.common_stride))
    return answers, given, null, probe_run(answers, null, cache, progress=progress)


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
