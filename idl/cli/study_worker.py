"""One worker's part in a study: in whose run it trains, and who concludes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

import click

from idl import tracking
from idl.cli.building import cache_folder, progress_shown
from idl.cli.study_conclusion import conclude_study
from idl.cli.study_work import Searched, Work
from idl.cli.trials import LoggedTrials
from idl.errors import InputError
from idl.report import RunReport
from idl.sweep.config import SweepConfig
from idl.sweep.grounds import Grounds, prepare_all
from idl.sweep.holding import Hold, Wait, held
from idl.sweep.reporting import sweep_params
from idl.sweep.result import SweepResult
from idl.sweep.run import agree
from idl.sweep.run import search as run_sweep
from idl.sweep.space import SearchSpace
from idl.sweep.workers import grace_seconds, this_worker


def run(work: Work) -> None:
    """Search, and conclude, in the run of the study; a worker that joins another's has a short run of its own.

    One run holds all trials of a study, whoever trains them, and its winner: a continued study goes on in the run
    that was interrupted. Only where that run is FINISHED, or not in this store, does the study get another one.
    """
    with held(work.config, work.folder, work.say) as hold:
        if hold.is_ours:
            _lead(work, hold)
            return
    assert hold.run_id is not None
    if hold.is_complete:
        work.say(_left_to_another(work, hold.run_id))
    elif tracking.status_of(hold.run_id) is None:
        raise InputError(
            f"study {work.config.study}: another worker logs its trials under run {hold.run_id}, which is not in this "
            "tracking store. Set MLFLOW_TRACKING_URI to the one of the other workers."
        )
    else:
        _join(work, hold)


def _lead(work: Work, hold: Hold) -> None:
    """Search and conclude in the study's run, which nobody else has."""
    if hold.is_complete and _says_it_is_done(work, hold):
        return
    with _study_run(work, hold) as recorder:
        searched = _search(work, hold, recorder, recorder.run_id, is_fresh=recorder.run_id != hold.run_id)
        conclude_study(work, hold, searched, recorder)
    _end_left(work, hold)


def _join(work: Work, joined: Hold) -> None:
    """Train for the run of another worker; conclude where it has ended before it could, or without the last trials."""
    parent_id = joined.run_id
    assert parent_id is not None
    with joined.joining() as note, _tracked(work, None) as recorder:
        note(recorder.run_id)
        searched = _search(work, joined, recorder, parent_id, is_fresh=True)
        recorder.log(_joined_report(work, parent_id, searched))
    with held(work.config, work.folder, work.say, joined.watch) as hold:
        if not hold.is_ours:
            assert hold.run_id is not None
            work.say(_left_to_another(work, hold.run_id))
        elif not _says_it_is_done(work, hold):
            with _study_run(work, hold) as recorder:
                conclude_study(work, hold, searched, recorder)
            _end_left(work, hold)


def _left_to_another(work: Work, run_id: str) -> str:
    return (
        f"study {work.config.study} has all its trials; another worker tests and registers the best, in run {run_id}."
    )


def _says_it_is_done(work: Work, hold: Hold) -> bool:
    """Say so where the study's run has concluded it, with all the trials that there are."""
    told = hold.conclusion
    if told is None or not hold.is_concluded or tracking.status_of(told.run_id) != "FINISHED":
        return False
    work.say(
        f"study {work.config.study} is complete: {told.trials} trials, the best of them, trial {told.number}, tested "
        f"in run {told.tested_in}. More --trials go on with it."
    )
    click.echo(f"run: {tracking.address_of(told.run_id)}")
    return True


@contextmanager
def _study_run(work: Work, hold: Hold) -> Iterator[tracking.Recorder]:
    """The run of the study, opened or gone on with, and noted."""
    status = tracking.status_of(hold.run_id) if hold.run_id else None

    def is_kept() -> bool:
        # A lost storage tells nothing; the run is still to end.
        with suppress(InputError):
            return hold.is_kept()
        return True

    with _tracked(work, None if status in (None, "FINISHED") else hold.run_id, is_kept) as recorder:
        hold.note(recorder.run_id)
        yield recorder


@contextmanager
def _tracked(work: Work, resume: str | None, is_kept: Callable[[], bool] = lambda: True) -> Iterator[tracking.Recorder]:
    experiment = work.options["experiment"] or None
    with tracking.start("sweep", experiment, work.name, resume=resume, is_kept=is_kept) as recorder:
        recorder.tag(tracking.STUDY_TAG, work.config.study)
        recorder.tag(tracking.WORKER_TAG, this_worker())
        yield recorder


def _end_left(work: Work, hold: Hold) -> None:
    """End the runs of workers that joined and are no more; those that may be are given the time for a sign."""
    hold.end_left(tracking.end_left)
    wait = Wait(work.say)
    while num_unknown := hold.end_left(tracking.end_left, since=wait.begun):
        wait.go_on(
            f"study {work.config.study}: {num_unknown} joined from another machine, and left a run open; waiting for "
            f"a sign, up to {grace_seconds()} s."
        )


def _search(work: Work, hold: Hold, recorder: tracking.Recorder, parent_id: str, is_fresh: bool) -> Searched:
    """Make the training sets, and train until the study has all its trials, each logged under `parent_id`.

    recorder: of this worker's run. is_fresh: it has no parameters yet; what is searched is then seen while it lasts.
    """
    clock = time.perf_counter()
    seconds = {"starting": clock - work.started}
    runs = tracking.TrialRuns(parent_id, work.config.study)
    hold.end_left(tracking.end_left)
    grounds, space = _prepared(work)
    seconds["preparing"] = time.perf_counter() - clock
    if is_fresh:
        # Not how many trials: a study that goes on may be asked for more.
        params = {name: value for name, value in sweep_params(work.config).items() if name != "trials"}
        recorder.log(RunReport(params={**params, **space.described()}, metrics={}))
    trials = LoggedTrials(runs, grounds)

    def searched() -> SweepResult:
        return run_sweep(
            grounds.data,
            space,
            work.config,
            work.subject,
            work.folder,
            trials,
            progress_shown(),
            in_metres=grounds.in_metres,
            watch=hold.watch,
        )

    result = searched()
    # Those that joined, and were lost on the way.
    hold.end_left(tracking.end_left)
    parts = asdict(result.seconds)
    seconds["logging"] = parts.pop("watching")
    return Searched(grounds, result, {**seconds, **parts}, searched)


def _prepared(work: Work) -> tuple[Grounds, SearchSpace]:
    """Make the training sets of the space that the study has, or that it gets now."""

    def made(space: SearchSpace) -> tuple[Grounds, SearchSpace]:
        folder = cache_folder(work.options)
        grounds = prepare_all(work.probe, space, work.store, work.encoders, folder, progress_shown(), work.say)
        return grounds, space.clipped(grounds.num_components)

    grounds, found = made(work.space)
    agreed = agree(work.space, found, work.config, work.subject, work.folder)
    if agreed != found:
        # Another worker, with more memory or less, was first.
        work.say(open_end_line(work.config, agreed))
        grounds, found = made(agreed)
    if agreed != found:
        raise InputError(
            f"study {work.config.study}: its trials read up to {agreed.k[1]} components, of which {found.k[1]} are "
            "found here. Go on where it was begun, or pass another study name."
        )
    return grounds, found


def open_end_line(config: SweepConfig, space: SearchSpace) -> str:
    """Say that an open range of k ends where the study's does."""
    return f"study {config.study}: k goes up to {space.k[1]}, as when it began."


def _joined_report(work: Work, parent_id: str, searched: Searched) -> RunReport:
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
