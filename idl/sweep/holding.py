"""Which worker has the study's run: one at a time, and another one where that is gone.

Whoever has it opens the run or goes on with it, and concludes the study. It is taken in the storage's own lock, so that
of workers that ask at the same moment one gets it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from idl.errors import InputError
from idl.sweep.config import SweepConfig
from idl.sweep.notes import (
    Conclusion,
    StudyRun,
    changed,
    note_conclusion,
    note_own_run,
    note_run,
    noted_conclusion,
    noted_run,
    num_finished,
    opened_study,
    own_runs,
)
from idl.sweep.signs import Watch, present
from idl.sweep.storage import MEMORY, Storage
from idl.sweep.workers import SECONDS_BETWEEN_LOOKS, grace_seconds, is_elsewhere, is_gone, this_worker

# A worker that opens its run takes a few seconds; a longer wait is said.
SECONDS_UNSAID = 3.0


class Wait:
    """Time between looks at what other workers do. say: hears once of a wait that is no short one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.begun = time.monotonic()
        self._say = say
        self._is_said = False

    def go_on(self, line: str) -> None:
        """Wait until the next look. line: what is waited for, and how long."""
        if not self._is_said and time.monotonic() - self.begun > SECONDS_UNSAID:
            self._is_said = True
            self._say(line)
        time.sleep(SECONDS_BETWEEN_LOOKS)


@dataclass(frozen=True)
class Hold:
    """What a worker was told that asked for the study's run.

    is_ours: this worker has it until the block ends; else another one has that can be counted on.
    run_id: the run that the study had, to go on with (None: none yet), or that of the other worker.
    num_finished, conclusion: trials that the study had by then, and what was the last to come of it.
    watch: what was seen of other workers.
    """

    config: SweepConfig
    folder: Path
    is_ours: bool = True
    run_id: str | None = None
    num_finished: int = 0
    conclusion: Conclusion | None = None
    watch: Watch = field(default_factory=Watch)

    @property
    def is_complete(self) -> bool:
        """Whether the study had all its trials."""
        return self.num_finished >= self.config.trials

    @property
    def is_concluded(self) -> bool:
        """Whether the study's run says what came of all the trials that there were."""
        told = self.conclusion
        return told is not None and told.run_id == self.run_id and told.trials >= self.num_finished

    def note(self, run_id: str) -> None:
        """Note the run that the study's trials are logged under from now on."""
        self._change(lambda study_run, _: replace(study_run, run_id=run_id))

    def is_kept(self) -> bool:
        """Tell whether the run is still this worker's: while it was frozen others may have taken it for gone."""
        return self._change(lambda study_run, _: study_run)

    def concludes(self, num_trials: int) -> bool:
        """Note that this worker tests the best of so many trials, and ends.

        False, and nothing noted: the study has more by now, whose workers count on this one; or the run is another's.
        """
        return self._change(lambda run, finished: replace(run, concludes=finished) if finished == num_trials else None)

    def conclude(self, conclusion: Conclusion) -> None:
        """Note what came of the study."""
        if self.config.storage != MEMORY:
            with opened_study(self.config, self.folder) as (_, study):
                note_conclusion(study, conclusion)

    @contextmanager
    def joining(self) -> Iterator[Callable[[str], None]]:
        """Give signs of life of this worker, whose run the block notes by what it is given, until that has ended."""
        with present(self.config, self.folder):
            try:
                yield lambda run_id: self._note_own(this_worker(), run_id)
            finally:
                # Where the storage is lost, this process will be gone.
                with suppress(InputError):
                    self._note_own(this_worker(), "")

    def end_left(self, end: Callable[[str], None], since: float = 0.0) -> int:
        """End the runs of workers that are no more, which nobody else would.

        end: ends a run, if it has not ended.
        Returns how many there are besides of whom it is not known: without a sign seen after `since`.
        """
        if self.config.storage == MEMORY:
            return 0
        with opened_study(self.config, self.folder) as (storage, study):
            is_silent = self.watch.silent(study)
            others = {worker: run for worker, run in own_runs(study).items() if worker != this_worker()}
            gone = {each for each in others if is_silent(each) or is_gone(each, is_local=storage.database is None)}
            for worker in gone:
                end(others[worker])
                note_own_run(study, worker, "")
            return sum(
                is_elsewhere(worker) and not self.watch.has_shown(worker, since) for worker in others.keys() - gone
            )

    def _note_own(self, worker: str, run_id: str) -> None:
        with opened_study(self.config, self.folder) as (_, study):
            note_own_run(study, worker, run_id)

    def _change(self, change: Callable[[StudyRun, int], StudyRun | None]) -> bool:
        if self.config.storage == MEMORY:
            return True
        with opened_study(self.config, self.folder) as (storage, study):
            return changed(storage, study, lambda run: change(run, num_finished(study)))


@contextmanager
def held(config: SweepConfig, folder: Path, say: Callable[[str], None], watch: Watch | None = None) -> Iterator[Hold]:
    """Take the study's run for the block, where no other worker has it that can be counted on.

    A worker on this machine can be counted on while its process runs, one elsewhere while it gives signs of life:
    those are waited for, and so is one that concludes the study without the trials that this one has, or wants.
    say: hears of a wait. watch: what was seen of other workers before.
    """
    if config.storage == MEMORY:
        yield Hold(config, folder)
        return
    hold = _asked(config, folder, say, watch or Watch())
    if not hold.is_ours:
        yield hold
        return
    with present(config, folder):
        try:
            yield hold
        finally:
            # Where the storage is lost, this process will be gone.
            with suppress(InputError), opened_study(config, folder) as (storage, study):
                changed(storage, study, lambda run: StudyRun(run.run_id or run.before))


def _asked(config: SweepConfig, folder: Path, say: Callable[[str], None], watch: Watch) -> Hold:
    """Take the run, or wait until its worker is known to be there and has opened it."""
    wait = Wait(say)
    with opened_study(config, folder) as (storage, study):
        while True:
            is_silent = watch.silent(study)
            with storage.locked(study):
                run = noted_run(study)
                hold = Hold(config, folder, True, run.run_id, num_finished(study), noted_conclusion(study), watch)
                if _is_free(run, storage, is_silent):
                    before = run.run_id or run.before
                    note_run(study, StudyRun(None, before, this_worker()))
                    return replace(hold, run_id=before)
            assert run.worker is not None
            is_there = watch.has_shown(run.worker) or not is_elsewhere(run.worker)
            if run.run_id is not None and is_there and _does_for(run, hold):
                return replace(hold, is_ours=False)
            reason = (
                f"waiting for a sign of it, up to {grace_seconds()} s."
                if run.concludes is None
                else f"it tests the best of {run.concludes} trials; waiting until it has."
            )
            wait.go_on(f"study {config.study}: its run is that of worker {run.worker}; {reason}")


def _does_for(run: StudyRun, hold: Hold) -> bool:
    """Whether who has the run will conclude with all that there is, and all that is wanted here."""
    return run.concludes is None or (hold.is_complete and hold.num_finished <= run.concludes)


def _is_free(run: StudyRun, storage: Storage, is_silent: Callable[[str], bool]) -> bool:
    # This process's own: left by a sweep that could not give it back.
    if run.worker is None or run.worker == this_worker():
        return True
    return is_gone(run.worker, is_local=storage.database is None) or is_silent(run.worker)
