"""The command that searches a probe's settings: `sweep`."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import click

from idl import tracking
from idl.cli.building import cache_folder, configured, dataset_of, encoder_of, store_of
from idl.cli.group import cli
from idl.cli.options import (
    alignment_option,
    dataset_options,
    descent_options,
    encoder_name,
    encoder_options,
    grouped,
    option,
    run_options,
    split_options,
    stride_option,
)
from idl.cli.study_work import Work
from idl.cli.study_worker import open_end_line, run
from idl.distributed import announced
from idl.errors import InputError, is_disk_full
from idl.pipeline import ProbeConfig
from idl.probes.trial import Trial
from idl.sweep.config import Pruner, Sampler, SweepConfig
from idl.sweep.grounds import check_all, subject_of
from idl.sweep.run import check, named, require_storage
from idl.sweep.space import SearchSpace
from idl.sweep.storage import count_trials
from idl.targets import target as find_target

_CONFIG, _SPACE = SweepConfig(), SearchSpace().described()

search_options = grouped(
    option("--trials", _CONFIG.trials, "Finished trials that the study is to have.", type=click.IntRange(min=1)),
    option("--at-once", _CONFIG.at_once, "Trials asked for, and trained, as one.", type=click.IntRange(min=1)),
    option("--sampler", _CONFIG.sampler, "What proposes trials.", type=click.Choice(get_args(Sampler))),
    option("--pruner", _CONFIG.pruner, "What ends trials early.", type=click.Choice(get_args(Pruner))),
    option("--report-epochs", _CONFIG.report_epochs, "The pruner sees every so many epochs."),
    option("--sweep-seed", _CONFIG.seed, "Seed of the sampler.", type=click.IntRange(min=0)),
    option(
        "--storage",
        _CONFIG.storage,
        "URL of a database for several machines (leave its password to PGPASSWORD), or memory; "
        "empty: a journal file in the cache.",
    ),
    option("--study", _CONFIG.study, "Name of the study; one that exists goes on. Empty: a new one."),
    option("--k-range", _SPACE["k_range"], "Components, FIRST:LAST; all: as many as there are."),
    option("--lr-range", _SPACE["lr_range"], "Learning rates, LOW:HIGH, searched in the logarithm."),
    option("--weight-decay-range", _SPACE["weight_decay_range"], "LOW:HIGH, in the logarithm; empty: --weight-decay."),
    option("--step-images-choices", _SPACE["step_images_choices"], "Such as 16,32; empty: --step-images."),
    option("--solvers", _SPACE["solvers"], f"sgd, adam or sgd,adam; empty: {Trial.solver}."),
    option("--stages", _SPACE["stages"], "Feature levels such as 1,2,3; empty: --stage."),
    option("--targets", _SPACE["targets"], "Such as depth,log-depth, judged in metres; empty: --target."),
)


@cli.command()
@dataset_options
@encoder_name
@encoder_options
@stride_option
@split_options
@search_options
@alignment_option
@descent_options
@run_options
def sweep(**options: Any) -> None:
    """Search k, learning rate and more for the best probe by gradient descent, many trials as one."""
    started = time.perf_counter()
    # All that can be known is known before there is a run: one that goes on must not be spoiled by a slip.
    if announced().size > 1:
        raise InputError("sweep: runs on one rank. Leave torchrun out; start one worker a GPU on the same --study.")
    space = SearchSpace.parsed(options)
    config = named(_sweep_config(options))
    probe_config: ProbeConfig = replace(configured(ProbeConfig, options), solver=Trial.solver)
    find_target(probe_config.target)
    tracking.require_reachable(None)
    folder = cache_folder(options) / "studies"
    dataset = dataset_of(options)
    require_storage(config, folder)
    encoders = {
        stage: encoder_of(options["encoder"], options if stage is None else {**options, "stage": str(stage)})
        for stage in space.stage or (None,)
    }
    check_all(probe_config, space, encoders)
    store = store_of(dataset, options)
    subject = subject_of(probe_config, space, store, encoders)
    agreed = check(space, config, subject, folder)

    click.echo(f"study: {config.study}; to go on after an interruption: --study {shlex.quote(config.study)}", err=True)
    if agreed != space:
        click.echo(open_end_line(config, agreed), err=True)
    work = Work(options, config, agreed, probe_config, folder, subject, store, encoders, started)
    num_before = count_trials(config, folder)
    try:
        run(work)
    except InputError as error:
        raise _with_way_on(error, work, num_before) from error
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(work.how_to_go_on) from error
    except tracking.Terminated:
        click.echo(work.how_to_go_on, err=True)
        raise
    except Exception as error:
        if is_disk_full(error):
            click.echo(work.how_to_go_on, err=True)
        raise


def _with_way_on(error: InputError, work: Work, num_before: int) -> InputError:
    """Have the line of an error say how the study goes on, where it has got trials since there were `num_before`.

    Run again without a name it would be another study.
    """
    config = work.config
    try:
        is_begun = count_trials(config, work.folder) > num_before
    except InputError:
        # Lost as well.
        is_begun = True
    # A line that speaks of the study says itself what to do with it.
    if not is_begun or f"study {config.study}" in str(error):
        return error
    return InputError(f"{error} The same command with --study {shlex.quote(config.study)} goes on from here.")


def _sweep_config(options: Mapping[str, Any]) -> SweepConfig:
    fixed = Trial(
        k=0,
        weight_decay=options["weight_decay"],
        batch_size=options["step_images"],
        epochs=options["epochs"],
        patience=options["patience"],
        seed=options["order_seed"],
    )
    return replace(configured(SweepConfig, options), seed=options["sweep_seed"], fixed=fixed)
