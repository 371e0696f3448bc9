"""The commands that answer: `verdict` of one encoder, `compare` (and `main`) of several beside the null."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import click

from idl.cli import setup
from idl.cli.options import AUTO, command_line, options, part
from idl.cli.setup import Settings
from idl.distributed import this_process
from idl.encoders import TASKS, Encoder, EncoderConfig, task_of
from idl.errors import InputError
from idl.probe_config import ProbeConfig
from idl.report import Run
from idl.settings import setting
from idl.tracking import runs
from idl.verdict.baselines import NULL
from idl.verdict.document import EncoderRun, Provenance
from idl.verdict.report import encoder_runs, overview, probe_run, summary, whole_report
from idl.verdict.result import StudyConfig
from idl.verdict.study import (
    UNTRAINED_TASK,
    Study,
    Subject,
    check,
    chosen_encoder,
    compared_encoders,
    encoders_of_tasks,
    plan,
    study,
)

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

    @property
    def features(self) -> tuple[str, ...]:
        """Features that are asked about."""
        return (self.feature,)


@dataclass(frozen=True)
class VerdictSettings(StudySettings):
    """Settings of `idl verdict`."""

    task: str = setting("", "What the encoder was trained for; names the encoder where none is given.")
    # No name: the encoder that stands for the task, or convnext.
    encoder: EncoderConfig = part(EncoderConfig(name=""), without=("stride",))


@dataclass(frozen=True)
class CompareSettings(StudySettings):
    """Settings of `idl compare` and `idl main`."""

    feature: str = setting(
        ProbeConfig().target,
        "What may have been learned, with commas between: depth, log-depth, inverse-depth, normals, or "
        "package.module:factory.",
    )
    # Those of the original study.
    encoders: str = setting("autoencoder,convnext", "Encoders to compare with the null, with commas between.")
    weights: str = setting(AUTO, "Weights of a ConvNeXt or timm model: auto, imagenet, shipped or random.")
    tasks: str = setting(
        "", f"Tasks whose encoders are compared in place of those, with commas between: {', '.join(TASKS)}."
    )

    @property
    def features(self) -> tuple[str, ...]:
        """Features that are asked about."""
        return tuple(each.strip() for each in self.feature.split(",") if each.strip()) or (self.feature,)

    def configs(self) -> tuple[dict[str, EncoderConfig], list[EncoderConfig]]:
        """Return the compared encoders: by task, or else as they are named. Raises InputError for both at once."""
        if not self.tasks:
            return {}, compared_encoders(self.encoders, self.weights)
        if self.encoders != CompareSettings().encoders or self.weights != AUTO:
            raise InputError(f"tasks={self.tasks}: name their encoders and weights. Leave encoders and weights out.")
        return encoders_of_tasks(self.tasks), []


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
        answers, given, null, _ = _answer(recorder, settings, [(chosen, settings.task)])
        (subject,) = answers.plan.subjects
        panels = {settings.feature: probe_run(answers, null, cache, progress=progress).report.panels}
        (judged,) = encoder_runs(answers, subject.encoder, panels, given, cache, progress=progress)
        setup.finish(recorder, judged.run, subject.encoder, settings)
        click.echo(f"\n{summary(answers, [judged])}")


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
    cache, progress = settings.run.cache_folder, setup.progress_shown()
    with _named(task="tasks"):
        by_task, configs = settings.configs()
    requested = [(config, "") for config in configs] or [(config, task) for task, config in by_task.items()]
    with (
        settings.tracked_run(entry_point, settings.feature) as recorder,
        _named(target="feature", encoder="tasks" if by_task else "encoders", task="tasks"),
    ):
        answers, given, null, others = _answer(recorder, settings, requested, is_by_task=bool(by_task))
        by_feature = {feature: answers.part(feature=feature) for feature in answers.plan.features}

        def plain_run(encoder: Encoder, feature: str, k: str) -> Run:
            with runs.child(recorder, f"{encoder.name} {feature}") as child:
                run = probe_run(by_feature[feature], encoder, cache, k=k, progress=progress)
                setup.finish(child, run, encoder, settings)
            return run

        panels = {feature: plain_run(null, feature, "auto").report.panels for feature in by_feature}
        made = []
        for encoder in [subject.encoder for subject in answers.plan.subjects]:
            for each in encoder_runs(answers, encoder, panels, given, cache, progress=progress):
                made.append(each)
                with runs.child(recorder, f"{each.encoder} {each.feature}") as child:
                    setup.finish(child, each.run, encoder, settings)
        made += [
            EncoderRun(encoder.name, feature, plain_run(encoder, feature, "all"))
            for encoder in others
            for feature in by_feature
        ]
        setup.log_report(recorder, whole_report(answers, panels, made, given), settings)
        click.echo(f"\n{summary(answers, made)}")
        if len(answers.plan.features) > 1 or others:
            click.echo(f"\n{overview(answers, made)}")
        click.echo(f"study: {recorder.hint}")


def _answer(
    recorder: runs.Recorder,
    settings: StudySettings,
    requested: Sequence[tuple[EncoderConfig, str]],
    *,
    is_by_task: bool = False,
) -> tuple[Study, Provenance, Encoder, Sequence[Encoder]]:
    """Return the finished study of encoders, where it comes from, the null, and encoders that were never trained.

    requested: encoders, and what each was trained for, where that is said. is_by_task: each is named after its task,
    and one that was trained for nothing stands beside the others; else it is refused.
    The run is tagged with the digests of all that is fixed before the test split is read.
    """
    config, cache, progress = settings.study, settings.run.cache_folder, setup.progress_shown()
    for feature in settings.features:
        replace(settings, probe=replace(settings.probe, target=feature)).check_dataset()
    subjects = []
    for each, task in requested:
        encoder = settings.build_encoder(each)
        task_found = task_of(encoder.origin, task)
        named = encoder.named(f"{each.name.removeprefix('timm:')}-{task_found}") if is_by_task else encoder
        subjects.append(Subject(named, task_found))
    others = [each for each in subjects if is_by_task and each.task == UNTRAINED_TASK]
    subjects = [each for each in subjects if each not in others]
    check(settings.probe, config, subjects, settings.image_size(), settings.features)
    planned = plan(settings.probe, config, settings.open_store(), subjects, settings.features)
    if planned.warning:
        # No answer can be valid: said now, since fits and losses, which follow all the same, may take an hour.
        setup.warn(planned.warning)
    test_reads = runs.count_test_readers(planned.split.test_tags(planned.store)["test_scenes"])
    recorder.tag("verdict_digest", planned.digest)
    recorder.tag("test_reads_before", str(test_reads))
    setup.note_test_reading(recorder, planned.store, planned.split)
    answers = study(planned, cache, progress=progress)
    given = Provenance(command_line(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), test_reads)
    # Only what every encoder has: stage, normalisation and arguments are the others' own.
    null = settings.build_encoder(EncoderConfig(NULL, stride=config.common_stride))
    return answers, given, null, [each.encoder for each in others]


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
