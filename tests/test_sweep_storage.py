"""Where a study can be kept, and under which names; all else is a line before anything is made."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from test_sweep import CONFIG, SUBJECT
from test_sweep_cli import runs
from test_tracking.test_tracking_reachable import closed_port

from idl.errors import InputError
from idl.sweep.config import SweepConfig
from idl.sweep.run import check
from idl.sweep.space import SearchSpace
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
