"""Where a study can be kept, and under which names; all else is a line before anything is made."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from planted import write_pairs
from test_sweep import CONFIG, SUBJECT
from test_sweep_cli import FEW, runs, statuses, sweep
from test_tracking.test_tracking_reachable import closed_port

from idl.errors import InputError
from idl.sweep import batches, journal
from idl.sweep.config import WRITING, SweepConfig
from idl.sweep.run import check
from idl.sweep.space import SearchSpace
from idl.sweep.storage import journal_path
from idl.tracking import TrialRuns, start

ADDRESSES = {
    "port": ("postgresql://me:secret@host:abc/db", "not the URL of a database"),
    "bracket": ("postgresql://me:secret@[::1/db", "not the URL of a database"),
    "nothing": ("studies.db", "not the URL of a database"),
    "at": ("postgresql://me:12@secret@127.0.0.1/db", "cannot be told where its password ends"),
    "at_in_query": ("postgresql://127.0.0.1:9/db?user=me&password=12@secret", "cannot be told where its password"),
    "three_slashes": ("postgresql:///me:secret@127.0.0.1/db", "cannot be told where its password ends"),
    "postgres": ("postgres://me:secret@127.0.0.1/db", r"postgres is no database that is known. Write postgresql://"),
    "http": ("http://127.0.0.1:5000", "http is no database that is known"),
    "variant": ("postgresql+best://me:secret@127.0.0.1/db", r"postgresql\+best is no database that is known"),
    "driver": ("mysql://me@host/db?passwd=secret", "driver is not installed"),
    "odbc": ("mssql+pyodbc:///?odbc_connect=SERVER%3Dhost%3BPWD%3Dsecret", "driver is not installed"),
    "memory": ("sqlite://", "nobody else sees. Name a file, or pass memory"),
    "memory_named": ("sqlite:///:memory:", "nobody else sees. Name a file, or pass memory"),
    "no_folder": ("sqlite:///missing/studies.db", r"cannot be reached \(unable to open database file\)"),
    "folder": ("sqlite:///.", r"cannot be reached \(unable to open database file\)"),
}


@pytest.mark.parametrize("case", ADDRESSES)
def test_a_storage_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    address, told = ADDRESSES[case]
    with pytest.raises(InputError, match=told) as caught:
        check(SearchSpace(), replace(CONFIG, storage=address), SUBJECT, tmp_path)
    for part in ("secret", "12@"):
        assert part not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_is_named_as_it_was_typed(tmp_path: Path) -> None:
    place = f"127.0.0.1:{closed_port()}/studies"
    with pytest.raises(InputError) as caught:
        check(SearchSpace(), replace(CONFIG, storage=f"postgresql://me:pass%2Fword@{place}"), SUBJECT, tmp_path)
    assert str(caught.value).startswith(f"storage=postgresql://{place}: cannot be reached (")


NAMES = {
    "file": ("n" * 240, "", "240 characters are too many"),
    # Each is six characters in the name of a file.
    "quoted": ("ш" * 40, "", "40 characters are too many"),
    "column": ("n" * 513, "sqlite:///studies.db", "513 characters are too many"),
    "quotes": ('it\'s "one"', "", "both kinds of quotes"),
    "backslash": ("one\\", "memory", "a backslash at the end"),
    "line": ("one\ntwo", "", r"study='one\\ntwo': a character that cannot be printed"),
    "no_text": ("one\udc80", "", "a character that cannot be printed"),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_name_that_cannot_be(case: str) -> None:
    name, storage, told = NAMES[case]
    with pytest.raises(InputError, match=told) as caught:
        SweepConfig(study=name, storage=storage)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("name", "storage"),
    [
        ("n" * 239, ""),
        ("ш" * 39, ""),
        ("n" * 512, "sqlite:///{}/studies.db"),
        ("./it's `one`; --%_\\n и 二/../", ""),
        ('"', "sqlite:///{}/studies.db"),
    ],
    ids=["file", "quoted", "column", "signs", "quote"],
)
def test_names_that_can_be_are_kept_and_found_again(tmp_path: Path, workplace: Path, name: str, storage: str) -> None:
    config = SweepConfig(study=name, storage=storage.format(tmp_path))
    folder = tmp_path / "studies"
    for _ in range(2):
        check(SearchSpace(), config, SUBJECT, folder)
    if storage:
        (summary,) = optuna.get_all_study_summaries(config.storage)
        assert summary.study_name == name
    else:
        assert {path.suffix for path in folder.iterdir()} == {".journal", ".writing"}
    with start("sweep") as recorder:
        trials = TrialRuns(recorder.run_id, name)
        trials.open(3, "trial", {}, {})
        trials.settle((3,), ())
    (trial,) = runs("trial")
    assert trial.info.status == "FINISHED"


@contextmanager
def locked_elsewhere(path: Path) -> Iterator[None]:
    """Another process holds the lock of a journal."""
    lock = path.with_name(path.name + WRITING)
    script = f"import fcntl; file = open({str(lock)!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX); print(); input()"
    command = [sys.executable, "-uc", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            yield
        finally:
            other.communicate(b"\n")


def test_a_journal_that_another_process_does_not_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SECONDS_LOCKED", 1.0)
    folder = tmp_path / "a b"
    check(SearchSpace(), CONFIG, SUBJECT, folder)
    path = journal_path(folder, CONFIG.study)
    before = path.read_bytes()
    with locked_elsewhere(path):
        begun = time.monotonic()
        with pytest.raises(InputError, match=r"locked for 1 s while nobody wrote; .* Wake it or end it\.") as caught:
            check(SearchSpace(), CONFIG, SUBJECT, folder)
        assert time.monotonic() - begun >= 1
    assert f"`lsof '{path}{WRITING}'` names it" in str(caught.value)
    assert path.read_bytes() == before
    check(SearchSpace(), CONFIG, SUBJECT, folder)


def test_a_journal_that_others_write_to_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than one that nobody writes to: they hold the lock by turns, and it comes late."""
    monkeypatch.setattr(journal, "SECONDS_LOCKED", 2.0)
    check(SearchSpace(), CONFIG, SUBJECT, tmp_path)
    path = journal_path(tmp_path, CONFIG.study)
    record = path.read_bytes().splitlines(keepends=True)[0]
    seconds = 5.0

    def write() -> None:
        for _ in range(50):
            with path.open("ab") as file:
                file.write(record)
            time.sleep(seconds / 50)
        other.close()

    with ExitStack() as other:
        other.enter_context(locked_elsewhere(path))
        thread = threading.Thread(target=write)
        begun = time.monotonic()
        thread.start()
        journal.open_journal(path)
        assert time.monotonic() - begun >= seconds
        thread.join()


@pytest.mark.slow
def test_a_sweep_whose_journal_is_locked_on_the_way_ends_and_goes_on(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_pairs(workplace / "walk", num=40)
    train = batches.train_trials
    with ExitStack() as other, monkeypatch.context() as patch:

        def trained(*arguments: Any) -> Any:
            other.enter_context(locked_elsewhere(journal_path(workplace / "cache" / "studies", "stuck")))
            patch.setattr(journal, "SECONDS_LOCKED", 2.0)
            return train(*arguments)

        patch.setattr(batches, "train_trials", trained)
        assert sweep(*FEW, "--study", "stuck") == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.endswith("Wake it or end it. The same command with --study stuck goes on from here.")
    assert sweep(*FEW, "--study", "stuck") == 0
    parent = runs("sweep")[0]
    assert list(statuses(parent).values()).count("FINISHED") == 6
