"""Which worker a running trial belongs to, whether it is still there, and signs of life from this one."""

import os
import platform
import threading
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from idl.errors import InputError
from idl.sweep.database import Database

# Without a sign of life, after which a worker is taken for gone: it may run on another machine.
GRACE_SECONDS = 60
GRACE_VARIABLE = "IDL_GRACE_SECONDS"
SIGNS_PER_GRACE = 6
# While others are waited for.
SECONDS_BETWEEN_LOOKS = 0.5

WORKER = "worker"
RETRY_OF = "retry_of"


def grace_seconds() -> int:
    """Return GRACE_SECONDS, or what IDL_GRACE_SECONDS says. Raises InputError where that is no whole number above 1."""
    given = os.environ.get(GRACE_VARIABLE, "")
    if not given:
        return GRACE_SECONDS
    if not given.isdecimal() or int(given) < 2:
        raise InputError(f"{GRACE_VARIABLE}={given}: expected whole seconds, 2 or more; the same for all workers.")
    return int(given)


def heartbeat_seconds() -> int:
    """Return the time between signs of life."""
    return max(1, grace_seconds() // SIGNS_PER_GRACE)


def this_worker() -> str:
    """Name this process so that no other, nor a later one of the same number, is taken for it."""
    return f"{_host()}:{os.getpid()}:{_start_of(os.getpid())}"


def is_gone(worker: str, *, is_local: bool = False) -> bool:
    """Tell whether `worker` ran on this machine and runs no more.

    is_local: what it worked on is a file, so that a machine of this name that was started at another time is this one.
    """
    host, pid, start = worker.rsplit(":", 2)
    if _is_here(host):
        return _start_of(int(pid)) != start
    return is_local and _without_boot(host) == _without_boot(_host())


def is_elsewhere(worker: str) -> bool:
    """Tell whether `worker` runs on a machine that this process cannot look into."""
    return not _is_here(worker.rsplit(":", 2)[0])


def _is_here(host: str) -> bool:
    # Workers of old studies did not say when their machine was started.
    return host in (_host(), _without_boot(_host()))


def _host() -> str:
    """Name what this process can look into: NAME/NAMESPACE@BOOT.

    Containers may share a host's name, and number their processes each for itself; on two machines they may also share
    an image's machine id, and even the number of their namespaces.
    """
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()}/{Path('/proc/self/ns/pid').readlink()}@{boot}"
    return f"{platform.node()}@{uuid.getnode():x}"


def _without_boot(host: str) -> str:
    return host.rpartition("@")[0] or host


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


def is_running(trial: FrozenTrial, has_heartbeat: bool, is_silent: Callable[[str], bool]) -> bool:
    """Tell whether a worker that will finish the trial can be counted on.

    has_heartbeat: trials show signs of life themselves, in a database. is_silent: whether a worker has given none.
    """
    worker = trial.user_attrs.get(WORKER)
    if worker is None:
        # Just asked for, or its worker ended within the milliseconds until it said whose it is.
        age = datetime.now() - (trial.datetime_start or datetime.min)
        return age < timedelta(seconds=grace_seconds())
    return not _is_lost(worker, has_heartbeat, is_silent)


def retry_gone(study: Study, has_heartbeat: bool, is_silent: Callable[[str], bool]) -> None:
    """Have trials tried again whose worker is no more. To be called while this process trains none of the study.

    has_heartbeat, is_silent: as for `is_running`.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get(WORKER)
        # This process's own: left by a sweep that could not give them back, or by the repair of a journal.
        if worker is not None and (worker == this_worker() or _is_lost(worker, has_heartbeat, is_silent)):
            retry(study, trial)


def _is_lost(worker: str, has_heartbeat: bool, is_silent: Callable[[str], bool]) -> bool:
    return is_gone(worker, is_local=not has_heartbeat) or (not has_heartbeat and is_silent(worker))


def retry(study: Study, trial: FrozenTrial) -> None:
    """End a running trial as failed and have the same settings tried again; once, whoever else tries to."""
    with suppress(ValueError, UpdateFinishedTrialError):
        study.tell(trial.number, state=TrialState.FAIL)
        enqueue_again(study, trial)


def enqueue_again(study: Study, trial: FrozenTrial) -> None:
    """Have the settings of a failed trial tried again."""
    study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})


class Heartbeat:
    """Signs of life of trials in a database; nothing for other storages."""

    def __init__(self, database: Database | None) -> None:
        self._database = database
        self._seconds = heartbeat_seconds()
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

    def show(self, trial_id: int) -> None:
        """Show a trial's first sign of life now."""
        if self._database is not None:
            self._database.show_first_sign(trial_id)

    def add(self, trial_ids: Iterable[int]) -> None:
        """Show signs of these trials, which others can see by now, from here on."""
        self._trial_ids = (*self._trial_ids, *trial_ids)

    def drop(self, trial_ids: Iterable[int]) -> None:
        """Show no more of these."""
        dropped = set(trial_ids)
        self._trial_ids = tuple(each for each in self._trial_ids if each not in dropped)

    def _beat(self) -> None:
        assert self._database is not None
        while not self._ended.wait(self._seconds):
            # A database that cannot be reached now may be there for the next one.
            with suppress(Exception):
                self._database.show_signs(self._trial_ids)
        self._database.remove_session()
