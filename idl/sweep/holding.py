"""Which worker has the study's run: one at a time, and another one where that is gone.

Whoever has it opens the run or goes on with it, and concludes the study. It is taken in the storage's own lock, so that
of workers that ask at the same moment one gets it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import optuna
from optuna import Study
from optuna.trial import TrialState

from idl.errors import InputError
from idl.sweep.config import SweepConfig
from idl.sweep.identity import FINISHED
from idl.sweep.storage import MEMORY, Storage, opened
from idl.sweep.workers import (
    RETRY_OF,
    WORKER,
    grace_seconds,
    heartbeat_seconds,
    is_elsewhere,
    is_gone,
    this_worker,
)

SECONDS_BETWEEN_LOOKS = 0.5
# A worker that opens its run takes a few seconds; a longer wait is said.
SECONDS_UNSAID = 3.0
# The study's attribute that says what of a `StudyRun` there is.
RUN = "run"


@dataclass(frozen=True)
class StudyRun:
    """The run that a study's trials are logged under, as the study notes it.

    run_id: None until the worker that has it has opened it. before: the run that the study had until then.
    worker: who has it; None: nobody. signs: of life, that this worker has given by now.
    """

    run_id: str | None = None
    before: str | None = None
    worker: str | None = None
    signs: int = 0


@dataclass(frozen=True)
class Hold:
    """What a worker was told that asked for the study's run.

    is_ours: this worker has it until the block ends; else another one has that can be counted on.
    run_id: the run that the study had, to go on with (None: none yet), or that of the other worker.
    is_complete: the study had all its trials by then.
    """

    is_ours: bool
    run_id: str | None
    is_complete: bool
    config: SweepConfig
    folder: Path

    def note(self, run_id: str) -> None:
        """Note the run that the study's trials are logged under from now on."""
        if self.config.storage != MEMORY:
            with opened(self.config, self.config.study, self.folder) as storage:
                _change(storage, self.config, lambda run: replace(run, run_id=run_id))

    def is_kept(self) -> bool:
        """Tell whether the run is still this worker's: while it was frozen others may have taken it for gone."""
        if self.config.storage == MEMORY:
            return True
        with opened(self.config, self.config.study, self.folder) as storage:
            return _change(storage, self.config, lambda run: run)


@contextmanager
def held(config: SweepConfig, folder: Path, say: Callable[[str], None]) -> Iterator[Hold]:
    """Take the study's run for the block, where no other worker has it that can be counted on.

    A worker on this machine can be counted on while its process runs, one elsewhere while it gives signs of life:
    those are waited for. say: hears of a wait.
    """
    if config.storage == MEMORY:
        yield Hold(True, None, False, config, folder)
        return
    hold = _asked(config, folder, say)
    if not hold.is_ours:
        yield hold
        return
    ended = threading.Event()
    thread = threading.Thread(target=_show_signs, args=(config, folder, ended), daemon=True)
    thread.start()
    try:
        yield hold
    finally:
        ended.set()
        thread.join()
        # Where the storage is lost, this process will be gone.
        with suppress(InputError), opened(config, config.study, folder) as storage:
            _change(storage, config, lambda run: StudyRun(run.run_id or run.before))


def ended_workers(config: SweepConfig, folder: Path) -> Callable[[str], bool]:
    """Return what tells of a worker whether it runs no more.

    One on another machine is known by its last trial: that was lost, and tried again.
    """
    with opened(config, config.study, folder) as storage:
        is_local = storage.database is None
        study = None if config.storage == MEMORY else _study(storage, config)
        trials = study.get_trials(deepcopy=False) if study else []
    retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    last = {trial.user_attrs[WORKER]: trial for trial in trials if WORKER in trial.user_attrs}
    lost = {worker for worker, each in last.items() if each.state == TrialState.FAIL and each.number in retried}
    return lambda worker: worker != this_worker() and (worker in lost or is_gone(worker, is_local=is_local))


def _asked(config: SweepConfig, folder: Path, say: Callable[[str], None]) -> Hold:
    """Take the run, or wait until its worker is known to be there and has opened it."""
    begun = time.monotonic()
    watched, since, shown, is_said = StudyRun(), begun, "", False
    with opened(config, config.study, folder) as storage:
        study = _study(storage, config)
        while True:
            with storage.locked(study):
                run = _noted(study)
                is_complete = len(study.get_trials(deepcopy=False, states=FINISHED)) >= config.trials
                is_silent = run == watched and time.monotonic() - since > grace_seconds()
                if is_silent or _is_free(run, storage):
                    before = run.run_id or run.before
                    study.set_user_attr(RUN, asdict(StudyRun(None, before, this_worker())))
                    return Hold(True, before, is_complete, config, folder)
            assert run.worker is not None
            if run != watched:
                shown = run.worker if run.worker == watched.worker else ""
                watched, since = run, time.monotonic()
            if run.run_id is not None and (shown or not is_elsewhere(run.worker)):
                return Hold(False, run.run_id, is_complete, config, folder)
            if not is_said and time.monotonic() - begun > SECONDS_UNSAID:
                is_said = True
                say(
                    f"study {config.study}: its run is that of worker {run.worker}; waiting for a sign of it, up to "
                    f"{grace_seconds()} s."
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _is_free(run: StudyRun, storage: Storage) -> bool:
    # This process's own: left by a sweep that could not give it back.
    if run.worker is None or run.worker == this_worker():
        return True
    return is_gone(run.worker, is_local=storage.database is None)


def _change(storage: Storage, config: SweepConfig, change: Callable[[StudyRun], StudyRun]) -> bool:
    """Change what is noted, where it is still this worker's; tells whether it is."""
    study = _study(storage, config)
    with storage.locked(study):
        run = _noted(study)
        if run.worker != this_worker():
            return False
        if (changed := change(run)) != run:
            study.set_user_attr(RUN, asdict(changed))
        return True


def _show_signs(config: SweepConfig, folder: Path, ended: threading.Event) -> None:
    """Give signs of life until `ended` is set, or others have taken the run."""
    while not ended.wait(heartbeat_seconds()):
        # A storage that cannot be reached now may be there for the next one.
        with suppress(Exception), opened(config, config.study, folder) as storage:
            while _change(storage, config, lambda run: replace(run, signs=run.signs + 1)):
                if ended.wait(heartbeat_seconds()):
                    return
            return


def _study(storage: Storage, config: SweepConfig) -> Study:
    return optuna.load_study(study_name=config.study, storage=storage.optuna)


def _noted(study: Study) -> StudyRun:
    return StudyRun(**study.user_attrs.get(RUN, {}))
