"""Which worker a running trial belongs to, whether it is still there, and signs of life from this one."""

import os
import platform
import threading
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

# Of databases, whose workers run on other machines.
HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60

WORKER = "worker"
RETRY_OF = "retry_of"


def this_worker() -> str:
    """Name this process so that no other, nor a later one of the same number, is taken for it."""
    return f"{_host()}:{os.getpid()}:{_start_of(os.getpid())}"


def is_gone(worker: str) -> bool:
    """Tell whether `worker` ran on this machine and runs no more."""
    host, pid, start = worker.rsplit(":", 2)
    return host == _host() and _start_of(int(pid)) != start


def is_elsewhere(worker: str) -> bool:
    """Tell whether `worker` runs on a machine that this process cannot look into."""
    return worker.rsplit(":", 2)[0] != _host()


def _host() -> str:
    # Containers may share a host's name, and number their processes each for itself.
    with suppress(OSError):
        return f"{platform.node()}/{Path('/proc/self/ns/pid').readlink()}"
    return platform.node()


def _start_of(pid: int) -> str:
    """Time at which process `pid` started, in the system's own unit; "" where there is none."""
    try:
        # The name, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    if Path("/proc/self").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "running"


def is_running(trial: FrozenTrial, has_heartbeat: bool) -> bool:
    """Tell whether a worker that will finish the trial can be counted on."""
    worker = trial.user_attrs.get(WORKER)
    if worker is None:
        # Just asked for, or its worker ended within the milliseconds until it said whose it is.
        age = datetime.now() - (trial.datetime_start or datetime.min)
        return age < timedelta(seconds=GRACE_SECONDS)
    # Without a heartbeat nobody would ever know that a worker elsewhere has ended.
    return not is_gone(worker) and (has_heartbeat or not is_elsewhere(worker))


def retry_gone(study: Study) -> None:
    """Have trials tried again whose worker is no more. To be called while this process trains none of the study."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get(WORKER)
        # This process's own: left by a sweep that could not give them back, or by the repair of a journal.
        if worker is not None and (worker == this_worker() or is_gone(worker)):
            retry(study, trial)


def retry(study: Study, trial: FrozenTrial) -> None:
    """End a running trial as failed and have the same settings tried again; once, whoever else tries to."""
    with suppress(ValueError, UpdateFinishedTrialError):
        study.tell(trial.number, state=TrialState.FAIL)
        enqueue_again(study, trial)


def enqueue_again(study: Study, trial: FrozenTrial) -> None:
    """Have the settings of a failed trial tried again."""
    study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})


class Heartbeat:
    """Signs of life of trials in a database, one every ten seconds; nothing for other storages."""

    def __init__(self, database: RDBStorage | None) -> None:
        self._database = database
        self._trial_ids: tuple[int, ...] = ()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        if self._database is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._database is not None:
            self._thread.join()

    def add(self, trial_id: int) -> None:
        """Show a trial's first sign of life now, the others with those of the rest."""
        if self._database is not None:
            self._database.record_heartbeat(trial_id)
            self._trial_ids = (*self._trial_ids, trial_id)

    def drop(self, trial_ids: Iterable[int]) -> None:
        """Show no more of these."""
        dropped = set(trial_ids)
        self._trial_ids = tuple(each for each in self._trial_ids if each not in dropped)

    def _beat(self) -> None:
        assert self._database is not None
        while not self._ended.wait(HEARTBEAT_SECONDS):
            for trial_id in self._trial_ids:
                # A database that cannot be reached now may be there for the next one.
                with suppress(Exception):
                    self._database.record_heartbeat(trial_id)
