"""Where a study can be kept; all else is a line before anything is made."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_sweep import CONFIG, SUBJECT
from test_tracking.test_tracking_reachable import closed_port

from idl.errors import InputError
from idl.sweep.run import check
from idl.sweep.space import SearchSpace

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
