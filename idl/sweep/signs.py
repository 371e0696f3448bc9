"""Signs of life that workers give in a study, and who has given none for too long.

A sign is a number of the study that its worker raises. Who waits for one looks at its own clock alone: those of two
machines differ.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna import Study

from idl.sweep.config import SweepConfig
from idl.sweep.storage import MEMORY, opened
from idl.sweep.workers import grace_seconds, heartbeat_seconds, this_worker

# Before a worker's name: the study's attribute that holds its signs.
SIGNS = "signs of "


@contextmanager
def present(config: SweepConfig, folder: Path) -> Iterator[None]:
    """Give signs of life of this worker in a study that there is, while the block lasts; none in memory."""
    if config.storage == MEMORY:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_give_signs, args=(config, folder, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _give_signs(config: SweepConfig, folder: Path, ended: threading.Event) -> None:
    name, seen = SIGNS + this_worker(), None
    while not ended.is_set():
        # A storage that cannot be reached now may be there for the next one.
        with suppress(Exception), opened(config, config.study, folder) as storage:
            study = optuna.load_study(study_name=config.study, storage=storage.optuna)
            while True:
                given = study.user_attrs.get(name, 0)
                # Another block of this process may give them too.
                if seen is None or given == seen:
                    given += 1
                    study.set_user_attr(name, given)
                seen = given
                if ended.wait(heartbeat_seconds()):
                    return
        ended.wait(heartbeat_seconds())


@dataclass(frozen=True)
class _Seen:
    """The last sign of a worker, when it was first seen here, and whether there was another one before."""

    sign: int
    since: float
    is_further: bool = False


class Watch:
    """What one process saw of the signs of a study's workers."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def silent(self, study: Study) -> Callable[[str], bool]:
        """Look at all signs; return what tells of a worker whether it has given none for the grace time.

        That of a worker which is asked for, or seen, for the first time begins then.
        """
        now = time.monotonic()
        for name, sign in study.user_attrs.items():
            worker = name.removeprefix(SIGNS)
            if worker == name:
                continue
            last = self._seen.get(worker)
            if last is None or last.sign != sign:
                self._seen[worker] = _Seen(sign, now, last is not None)
        return lambda worker: now - self._seen.setdefault(worker, _Seen(0, now)).since > grace_seconds()

    def has_shown(self, worker: str, since: float = 0.0) -> bool:
        """Tell whether a worker gave a further sign while this was looking, seen after `since`, by time.monotonic."""
        seen = self._seen.get(worker)
        return seen is not None and seen.is_further and seen.since > since
