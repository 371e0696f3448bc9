"""The command that searches a probe's settings: `sweep`."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import click

from idl.cli import setup
from idl.cli.options import options, part
from idl.cli.setup import Settings
from idl.distributed import this_process
from idl.encoders import EncoderConfig
from idl.errors import InputError
from idl.probe_config import ProbeConfig, check
from idl.probes.gradient_fit import TrainResult, Trial
from idl.sweep.search import (
    Search,
    SweepConfig,
    SweepTrial,
    evaluate_best,
    search_report,
    subject_of,
    training_data,
    trial_report,
    with_search,
)
from idl.sweep.study import SharedStudy, opened
from idl.tracking import runs
from idl.tracking.store import require_reachable

# A sweep's trials are trained by gradient descent, with a k and a learning rate of their own.
PROBE = ("target", "split", "split_seed", "batch_size", "alignment")
PROBE += ("weight_decay", "epochs", "step_images", "patience", "order_seed")


@dataclass(frozen=True)
class SweepSettings(Settings):
    """Settings of `idl sweep`."""

    encoder: EncoderConfig = part(EncoderConfig())
    probe: ProbeConfig = part(ProbeConfig(solver=Trial.solver), only=PROBE)
    sweep: SweepConfig = part(SweepConfig())


@click.command()
@options(SweepSettings)
def sweep(settings: SweepSettings) -> None:
    """Search k, learning rate and more for the best probe by gradient descent, many trials as one."""
    # All that can be known is known before there is a run.
    if this_process().size > 1:
        raise InputError("sweep: runs on one rank. Leave torchrun out; start one worker a GPU on the same --study.")
    config, probe, chosen = settings.sweep, settings.probe, settings.encoder
    progress = setup.progress_shown()
    require_reachable()
    settings.check_dataset()
    encoders = {
        stage: settings.build_encoder(chosen if stage is None else replace(chosen, stage=stage))
        for stage in config.each_stage
    }
    for encoder in encoders.values():
        check(probe, encoder)
    config.require_k(max(encoder.channels for encoder in encoders.values()), "channels")
    with opened(config.storage, settings.run.cache_folder) as storage:
        store = settings.open_store()
        study = SharedStudy.joined(storage, config.study, subject_of(probe, config, store, encoders))
        _say(f"study: {study.name}; to go on after an interruption: --study {shlex.quote(study.name)}")
        if concluded := study.concluded(config.trials):
            number, run_id = concluded
            _say(
                f"study {study.name} is complete: {config.trials} trials, the best of them, trial {number}, is tested "
                f"in run {run_id}. More --trials go on with it."
            )
            return
        with settings.tracked_run("sweep", chosen.name, probe.target, settings.dataset_name) as recorder:
            recorder.tag(runs.STUDY_TAG, study.name)
            recorder.tag(runs.WORKER_TAG, str(study.worker))
            data = training_data(probe, config, study, store, encoders, settings.run.cache_folder, progress)
            for each in data.sets.values():
                _say(each.plan.sentence)

            def log(batch: Sequence[tuple[SweepTrial, TrainResult]]) -> None:
                for trial, result in batch:
                    recorder.log_trial(trial.number, *trial_report(data.encoded[trial.stage], trial, result))

            search = Search(study, data, config, probe.trial(0), log)
            with _going_on(study.name):
                search.run(progress)
                _conclude(search, recorder, settings)


def _conclude(search: Search, recorder: runs.Recorder, settings: SweepSettings) -> None:
    """Test and register the best trial where no worker has done so; log the search."""
    study, best, num_trials = search.study, search.best(), search.config.trials
    with study.concluding():
        concluded = study.concluded(num_trials)
        if concluded is None:
            encoded = search.data.encoded[best.stage]
            setup.note_test_reading(recorder, encoded.store, encoded.split)
            result = search.result_of(best)
            run, exact_val_loss = evaluate_best(search.data, best, result, setup.progress_shown())
            setup.finish(recorder, with_search(run, search_report(search), exact_val_loss), encoded.encoder, settings)
            # Killed before this, the study is concluded by another worker, or when it is run again.
            study.note_tested(best.number, recorder.run_id)
    if concluded is not None:
        report = search_report(search)
        line = f"The best of the {num_trials} trials, trial {best.number}, is tested in run {concluded[1]}."
        setup.log_report(recorder, replace(report, description=f"{report.description}\n\n{line}"), settings)
        _say(f"study {study.name}: {line}")
        setup.print_result(report, recorder.hint)


@contextmanager
def _going_on(study: str) -> Iterator[None]:
    """Say how the study goes on where the block ends before its end."""
    line = f"interrupted; the same command with --study {shlex.quote(study)} goes on from here."
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(line) from error
    except (Exception, runs.Terminated):
        _say(line)
        raise


def _say(line: str) -> None:
    click.echo(line, err=True)
