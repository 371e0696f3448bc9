"""One worker's part in a study: in whose run it trains, and who concludes."""

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from idl import tracking
from idl.cli.building import cache_folder, progress_shown
from idl.cli.finishing import finish
from idl.cli.trials import LoggedTrials
from idl.data.store import Store
from idl.errors import InputError
from idl.pipeline import ProbeConfig
from idl.report import RunReport
from idl.sweep.config import SweepConfig
from idl.sweep.grounds import Encoders, Grounds, conclude, prepare_all, within
from idl.sweep.holding import Hold, ended_workers, held
from idl.sweep.reporting import SweepFindings, sweep_params, with_search
from idl.sweep.result import SweepResult
from idl.sweep.run import agree
from idl.sweep.run import sweep as run_sweep
from idl.sweep.space import SearchSpace
from idl.sweep.workers import this_worker


@dataclass(frozen=True)
class Work:
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

    def say(self, line: str) -> None:
        """Tell the user something on the way."""
        click.echo(line, err=True)

    @property
    def name(self) -> str:
        """Of the run, for people."""
        targets = ",".join(self.space.target) or self.probe.target
        return f"sweep {self.options['encoder']} {targets} {Path(self.options['dataset']).stem}"


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
        _join(work, hold.run_id)


def _lead(work: Work, hold: Hold) -> None:
    """Search and conclude in the study's run, which nobody else has."""
    status = tracking.status_of(hold.run_id) if hold.run_id else None
    with _tracked(work, None if status in (None, "FINISHED") else hold.run_id) as recorder:
        hold.note(recorder.run_id)
        is_fresh = recorder.run_id != hold.run_id
        _conclude(work, hold, _search(work, recorder, recorder.run_id, is_fresh), recorder)


def _join(work: Work, parent_id: str) -> None:
    """Train for the run of another worker; conclude for it where it has ended before it could."""
    with _tracked(work, None) as recorder:
        searched = _search(work, recorder, parent_id, is_fresh=True)
        recorder.log(_joined_report(work, parent_id, searched))
    with held(work.config, work.folder, work.say) as hold:
        if not hold.is_ours:
            assert hold.run_id is not None
            work.say(_left_to_another(work, hold.run_id))
        elif hold.run_id and tracking.status_of(hold.run_id) not in (None, "FINISHED"):
            with _tracked(work, hold.run_id) as recorder:
                hold.note(recorder.run_id)
                _conclude(work, hold, searched, recorder)


def _left_to_another(work: Work, run_id: str) -> str:
    return (
        f"study {work.config.study} has all its trials; another worker tests and registers the best, in run {run_id}."
    )


@contextmanager
def _tracked(work: Work, resume: str | None) -> Iterator[tracking.Recorder]:
    with tracking.start("sweep", work.options["experiment"] or None, work.name, resume=resume) as recorder:
        recorder.tag(tracking.STUDY_TAG, work.config.study)
        recorder.tag(tracking.WORKER_TAG, this_worker())
        yield recorder


@dataclass(frozen=True)
class _Searched:
    """What a search came to. seconds: by part."""

    grounds: Grounds
    result: SweepResult
    seconds: Mapping[str, float]


def _search(work: Work, recorder: tracking.Recorder, parent_id: str, is_fresh: bool) -> _Searched:
    """Make the training sets, and train until the study has all its trials, each logged under `parent_id`.

    recorder: of this worker's run. is_fresh: it has no parameters yet; what is searched is then seen while it lasts.
    """
    clock = time.perf_counter()
    seconds = {"starting": clock - work.started}
    runs = tracking.TrialRuns(parent_id, work.config.study)
    runs.end_left(ended_workers(work.config, work.folder), {parent_id, recorder.run_id})
    grounds, space = _prepared(work)
    seconds["preparing"] = time.perf_counter() - clock
    if is_fresh:
        # Not how many trials: a study that goes on may be asked for more.
        params = {name: value for name, value in sweep_params(work.config).items() if name != "trials"}
        recorder.log(RunReport(params={**params, **space.described()}, metrics={}))
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
    # Those that joined, and were lost on the way.
    runs.end_left(ended_workers(work.config, work.folder), {parent_id, recorder.run_id})
    parts = asdict(result.seconds)
    seconds["logging"] = parts.pop("watching")
    return _Searched(grounds, result, {**seconds, **parts})


def _prepared(work: Work) -> tuple[Grounds, SearchSpace]:
    """Make the training sets of the space that the study has, or that it gets now."""

    def made(space: SearchSpace) -> tuple[Grounds, SearchSpace]:
        folder = cache_folder(work.options)
        grounds = prepare_all(work.probe, space, work.store, work.encoders, folder, progress_shown(), work.say)
        return grounds, within(space, grounds.data)

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


def _conclude(work: Work, hold: Hold, searched: _Searched, recorder: tracking.Recorder) -> None:
    """Test the winner, log the search, register; once a study."""
    if not hold.is_kept():
        work.say(f"study {work.config.study}: this worker was silent for too long, and another one concludes it.")
        return
    clock = time.perf_counter()
    result, grounds = searched.result, searched.grounds
    run, exact_val_loss = conclude(grounds, result, progress_shown())
    seconds = {**searched.seconds, "testing": time.perf_counter() - clock}
    unit = "m" if len(result.space.target) > 1 else grounds.grounds[result.place].target.unit
    plans = [made.plan.sentence for made in grounds.data.values()]
    findings = SweepFindings(work.config, result, unit, plans, exact_val_loss, seconds)
    finish(recorder, with_search(run, findings), grounds.grounds[result.place].encoder, work.options)
    click.echo("seconds: " + ", ".join(f"{part} {spent:.1f}" for part, spent in seconds.items()))


def _joined_report(work: Work, parent_id: str, searched: _Searched) -> RunReport:
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
