"""A study in a file: Optuna's journal, with writes that belong together made as one."""

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from idl.errors import InputError
from idl.sweep.config import WRITING

# Of optuna's journal: the operation that sets a trial's state.
_SETS_STATE = 6
# Whoever writes holds the lock for moments, or while the sampler thinks of a trial.
SECONDS_LOCKED = 60.0
# Once it was waited for in vain: what this process still wants of the journal on its way out waits no longer.
SECONDS_LOCKED_AGAIN = 1.0
# Journals whose lock this process has waited for in vain.
_stuck: set[Path] = set()
# States of a trial that counts.
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class Journal(JournalFileBackend):
    """Optuna's journal file.

    The lock is the system's own: that of a killed process is free at once, where Optuna's link would stay for 30 s.
    Whatever waits for it raises InputError where nobody writes and nobody lets go of it; nothing is written then.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._file_lock = _lock_of(path)
        self._held: list[dict[str, Any]] | None = None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write records, or hold them back within `as_one`."""
        if self._held is not None:
            self._held.extend(logs)
            return
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self.locked(), self._path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def locked(self) -> AbstractContextManager[object]:
        """Let no other worker write meanwhile; what is read in the block is the last word."""
        return _holding(self._file_lock, self._path)

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """Write what is written in this block at its end, at once: each write waits for the disk.

        Nothing of it is read back before; what others wrote is, and they write no more until the end of the block.
        Where the block raises, nothing is written.
        """
        with self.locked():
            self._held = []
            try:
                yield
                logs = self._held
            finally:
                self._held = None
            if logs:
                self.append_logs(logs)


def _lock_of(path: Path) -> FileLock:
    return FileLock(path.with_name(f"{path.name}{WRITING}"))


@contextmanager
def _holding(lock: FileLock, path: Path) -> Iterator[None]:
    """Hold the lock of the journal in `path`.

    Raises InputError where it is not to be had and nobody writes: a process that is stopped while it has the lock
    keeps it until it is woken.
    """
    while True:
        seconds = SECONDS_LOCKED_AGAIN if path in _stuck else SECONDS_LOCKED
        before = _size(path)
        try:
            lock.acquire(timeout=seconds)
            break
        except Timeout:
            # Where many want it, one may come late again and again.
            if _size(path) != before:
                continue
            _stuck.add(path)
            raise InputError(
                f"{lock.lock_file}: locked for {SECONDS_LOCKED:g} s while nobody wrote; who has it may be stopped (on "
                f"the same machine `lsof {shlex.quote(lock.lock_file)}` names it). Wake it or end it."
            ) from None
    _stuck.discard(path)
    try:
        yield
    finally:
        lock.release()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def open_journal(path: Path) -> tuple[JournalStorage, Journal]:
    """Open the journal in `path`, made where there is none.

    Raises InputError where it is damaged, cannot be written, or is locked by a process that does not let go of it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _holding(_lock_of(path), path):
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        _require_sound(path, lines)
        journal = Journal(path)
    except OSError as error:
        raise InputError(f"{path}: the study cannot be kept there ({error.strerror}). Pass another storage.") from error
    try:
        return JournalStorage(journal), journal
    except Exception as error:
        raise InputError(
            f"{path}: not a journal that Optuna can replay ({type(error).__name__}: {error}). "
            "Move it away, or pass another study name."
        ) from error


def _require_sound(path: Path, lines: list[bytes]) -> None:
    records = [_record(line) for line in lines]
    if None not in records:
        return
    good = records.index(None)
    kept, lost = (_num_finished(part) for part in (records[:good], records[good:]))
    raise InputError(
        f"{path}: damaged at line {good + 1} of {len(lines)}; {kept} finished trials stand before it, {lost} after it "
        f"cannot be replayed. To go on from there: head -n {good} '{path}' > '{path}.good' && mv '{path}.good' '{path}'"
    )


def _record(line: bytes) -> dict[str, Any] | None:
    """Return what a line holds; None where it is damaged, or ends too early."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    is_whole = line.endswith(b"\n") and isinstance(record, dict) and {"op_code", "worker_id"} <= record.keys()
    return record if is_whole else None


def _num_finished(records: list[dict[str, Any] | None]) -> int:
    return sum(
        record is not None and record["op_code"] == _SETS_STATE and record.get("state") in FINISHED
        for record in records
    )
