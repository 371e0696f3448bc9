"""The command that searches a probe's settings: `sweep`."""

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import click

from idl import tracking
from idl.cli.building import (
    cache_folder,
    configured,
    dataset_of,
    encoder_of,
    progress_shown,
    store_of,
)
from idl.cli.finishing import finish
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
from idl.cli.trials import LoggedTrials
from idl.data.store import Store
from idl.distributed import announced
from idl.errors import InputError
from idl.pipeline import ProbeConfig
from idl.probes.trial import Trial
from idl.report import RunReport
from idl.sweep.config import Pruner, Sampler, SweepConfig
from idl.sweep.grounds import Encoders, Grounds, check_all, conclude, prepare_all, subject_of, within
from idl.sweep.reporting import SweepFindings, sweep_params, with_search
from idl.sweep.result import SweepResult
from idl.sweep.run import StudyRun, check, named, note_run, noted_run, require_storage
from idl.sweep.run import sweep as run_sweep
from idl.sweep.space import SearchSpace
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
    noted = check(config, subject, folder)

    click.echo(f"study: {config.study}; to go on after an interruption: --study {shlex.quote(config.study)}", err=True)
    work = _Work(options, config, space, probe_config, folder, subject, store, encoders, started)
    try:
        _run(work, noted)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(work.how_to_go_on) from error
    except tracking.Terminated:
        click.echo(work.how_to_go_on, err=True)
        raise


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


@dataclass(frozen=True)
class _Work:
    """One worker's part in a study: what was asked for, looked at and found possible. folder: of journals."""

    options: Mapping[str, Any]
    config: SweepConfig
    space: SearchSpace
    probe: ProbeConfig
    folder: Path
    subject: Mapping[str, str]
    store: Store
    encoders: Encoders
    started: float

    @property
    def how_to_go_on(self) -> str:
        """The line that an interruption ends with."""
        if self.config.storage == "memory":
            return "interrupted; a study in memory cannot go on."
        return f"interrupted; the same command with --study {shlex.quote(self.config.study)} goes on from here."

    @property
    def name(self) -> str:
        """Of the run, for people."""
        targets = ",".join(self.space.target) or self.probe.target
        return f"sweep {self.options['encoder']} {targets} {Path(self.options['dataset']).stem}"


def _run(work: _Work, noted: StudyRun | None) -> None:
    """Search, and conclude, in the run of the study; a worker that joins another's has a short run of its own.

    One run holds all trials of a study, whoever trains them, and its winner: a continued study goes on in the run
    that was interrupted. Only where that run is FINISHED, or not in this store, does the study get another one.
    """
    status = tracking.status_of(noted.run_id) if noted else None
    joins, resume = None, None
    if noted is not None and status not in (None, "FINISHED"):
        # Whether a worker on another machine is still there cannot be seen: where nothing is left to train, it is not.
        if status == "RUNNING" and not (noted.is_left or noted.is_complete):
            joins = noted
        else:
            resume = noted.run_id
    with _tracked(work, resume) as recorder:
        if joins is None:
            note_run(work.config, work.folder, recorder.run_id)
        searched = _search(work, joins.run_id if joins else recorder.run_id, None if resume else recorder)
        if joins is None:
            _conclude(work, searched, recorder)
            return
        recorder.log(_joined_report(work, joins.run_id, searched))
        click.echo(f"study {work.config.study} has all its trials; run {joins.run_id} tests and registers the best.")
    left = noted_run(work.config, work.folder)
    if left is not None and left.is_left and tracking.status_of(left.run_id) == "RUNNING":
        # Its worker was killed on this machine, and nobody else would.
        with _tracked(work, left.run_id) as recorder:
            note_run(work.config, work.folder, recorder.run_id)
            _conclude(work, searched, recorder)


@contextmanager
def _tracked(work: _Work, resume: str | None) -> Iterator[tracking.Recorder]:
    with tracking.start("sweep", work.options["experiment"] or None, work.name, resume=resume) as recorder:
        recorder.tag(tracking.STUDY_TAG, work.config.study)
        yield recorder


@dataclass(frozen=True)
class _Searched:
    """What a search came to. seconds: by part."""

    grounds: Grounds
    result: SweepResult
    seconds: Mapping[str, float]


def _search(work: _Work, parent_id: str, fresh: tracking.Recorder | None) -> _Searched:
    """Make the training sets, and train until the study has all its trials, each logged under `parent_id`.

    fresh: this worker's run where it has no parameters yet; what is searched is then seen while it lasts.
    """
    clock = time.perf_counter()
    seconds = {"starting": clock - work.started}
    grounds = prepare_all(
        work.probe,
        work.space,
        work.store,
        work.encoders,
        cache_folder(work.options),
        progress_shown(),
        lambda line: click.echo(line, err=True),
    )
    seconds["preparing"] = time.perf_counter() - clock
    space = within(work.space, grounds.data)
    if fresh is not None:
        # Not how many trials: a study that goes on may be asked for more.
        params = {name: value for name, value in sweep_params(work.config).items() if name != "trials"}
        fresh.log(RunReport(params={**params, **space.described()}, metrics={}))
    runs = tracking.TrialRuns(parent_id, work.config.study)
    result = run_sweep(
        grounds.data,
        space,
        work.config,
        work.subject,
        work.folder,
        LoggedTrials(runs, grounds),
        progress_shown(),
        in_metres=grounds.in_metres,
    )
    parts = asdict(result.seconds)
    seconds["logging"] = parts.pop("watching")
    return _Searched(grounds, result, {**seconds, **parts})


def _conclude(work: _Work, searched: _Searched, recorder: tracking.Recorder) -> None:
    """Test the winner, log the search, register."""
    clock = time.perf_counter()
    result, grounds = searched.result, searched.grounds
    run, exact_val_loss = conclude(grounds, result, progress_shown())
    seconds = {**searched.seconds, "testing": time.perf_counter() - clock}
    unit = "m" if len(result.space.target) > 1 else grounds.grounds[result.place].target.unit
    plans = [made.plan.sentence for made in grounds.data.values()]
    findings = SweepFindings(work.config, result, unit, plans, exact_val_loss, seconds)
    finish(recorder, with_search(run, findings), grounds.grounds[result.place].encoder, work.options)
    click.echo("seconds: " + ", ".join(f"{part} {spent:.1f}" for part, spent in seconds.items()))


def _joined_report(work: _Work, parent_id: str, searched: _Searched) -> RunReport:
    """What a worker leaves that trained for another's run."""
    result = searched.result
    return RunReport(
        params={**sweep_params(work.config), **result.space.described()},
        metrics={
            "num_trained": result.num_trained,
            **{f"seconds/{part}": spent for part, spent in searched.seconds.items()},
        },
        description=f"Trained {result.num_trained} trials of study **{result.study}**; the study's run is {parent_id}.",
        tags={"study_run": parent_id},
    )
