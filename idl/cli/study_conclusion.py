"""What becomes of a study that has its trials: its best is tested and registered, once."""

import time
from dataclasses import replace

import click

from idl import tracking
from idl.cli.building import progress_shown
from idl.cli.finishing import finish, log_report, note_look, say_result
from idl.cli.study_work import Searched, Work
from idl.sweep.grounds import conclude
from idl.sweep.holding import Hold
from idl.sweep.notes import Conclusion
from idl.sweep.reporting import SweepFindings, search_report, with_search


def conclude_study(work: Work, hold: Hold, searched: Searched, recorder: tracking.Recorder) -> None:
    """Test the best, log the search, register; what an earlier run of the study tested is not tested again."""
    while not hold.concludes(len(searched.result.trials)):
        if not hold.is_kept():
            work.say(f"study {work.config.study}: this worker was silent for too long, and another one concludes it.")
            return
        # Of workers that want more, and leave what they have by now to this one.
        searched = replace(searched, result=searched.again())
    tested_in = _tested_in(hold, searched.result.number)
    if tested_in is None:
        _test(work, searched, recorder)
    else:
        _log_alone(work, searched, recorder, tested_in)
    result = searched.result
    # Before the run is FINISHED: killed in between, it is gone on with, and nothing is tested twice.
    hold.conclude(Conclusion(recorder.run_id, len(result.trials), result.number, tested_in or recorder.run_id))


def _tested_in(hold: Hold, number: int) -> str | None:
    """Return the run that has tested this trial; None where none has, or none that can be looked at."""
    told = hold.conclusion
    is_known = told is not None and told.number == number and tracking.status_of(told.tested_in) is not None
    return told.tested_in if told is not None and is_known else None


def _test(work: Work, searched: Searched, recorder: tracking.Recorder) -> None:
    clock = time.perf_counter()
    result, grounds = searched.result, searched.grounds
    ground = grounds.grounds[result.place]
    note_look(recorder, ground.store, ground.split)
    run, exact_val_loss = conclude(grounds, result, progress_shown())
    tested = replace(searched, seconds={**searched.seconds, "testing": time.perf_counter() - clock})
    findings = _findings(work, tested)
    finish(recorder, with_search(run, findings, exact_val_loss), ground.encoder, work.options)
    _say_seconds(tested)


def _log_alone(work: Work, searched: Searched, recorder: tracking.Recorder, tested_in: str) -> None:
    report = search_report(_findings(work, searched), tested_in)
    log_report(recorder, report)
    work.say(
        f"study {work.config.study}: of {len(searched.result.trials)} trials the best is still trial "
        f"{searched.result.number}, tested in run {tested_in}; it is neither tested nor registered again."
    )
    say_result(report, recorder.hint)
    _say_seconds(searched)


def _findings(work: Work, searched: Searched) -> SweepFindings:
    result, grounds = searched.result, searched.grounds
    unit = "m" if len(result.space.target) > 1 else grounds.grounds[result.place].target.unit
    plans = [made.plan.sentence for made in grounds.data.values()]
    return SweepFindings(work.config, result, unit, plans, searched.seconds)


def _say_seconds(searched: Searched) -> None:
    click.echo("seconds: " + ", ".join(f"{part} {spent:.1f}" for part, spent in searched.seconds.items()))
