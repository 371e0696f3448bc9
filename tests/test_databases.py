"""No part of a password is shown, wherever it stands in an address and whatever characters it has."""

import sqlite3
import urllib.error

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from idl.databases import is_unequivocal, reason_of, without_password

# Everything else in an address of a test is in small letters: a capital one is a part of the password.
PASSWORDS = st.text("QZX019@:/?=#%;., ", min_size=1, max_size=12)


def of_password(shown: str) -> list[str]:
    return [letter for letter in shown if letter.isupper()]


@example("Q@Z")
@example("Q?Z=X@X")
@example("1/Q?Z=X")
@given(PASSWORDS)
def test_a_password_of_the_login_is_not_shown(password: str) -> None:
    for place in ("host/db", "host:5432/db?application_name=idl", "host", "[::1]:5432/db", "/db?host=/run/socket"):
        assert of_password(without_password(f"postgresql+psycopg://me:{password}@{place}")) == []


@example("Q@Z")
@given(PASSWORDS)
def test_a_password_of_the_query_is_not_shown(password: str) -> None:
    for name in ("password", "passwd", "sslpassword", "pwd", "pass%77ord", "odbc_connect"):
        for place in ("host/db", "host:9/db", "me@host/db", "me:secret@host:9/db", ""):
            shown = without_password(f"mysql://{place}?user=me&{name}={password}&ssl=true")
            assert of_password(shown.replace("%77ORD", "")) == []
            assert "secret" not in shown


def test_a_password_that_was_meant_to_hold_an_ampersand() -> None:
    assert of_password(without_password("postgresql://host/db?password=Q&Z&ssl=true")) == []


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@host:5432/db?sslmode=require", "postgresql://host:5432/db?sslmode=require"),
        ("mysql://host/db?charset=utf8&passwd=secret", "mysql://host/db?charset=utf8&passwd=***"),
        ("mssql+pyodbc:///?odbc_connect=Server%3Dhost%3BPWD%3Dsecret", "mssql+pyodbc:///?odbc_connect=***"),
        ("sqlite:////a@b/c:d@e/mlflow.db", "sqlite:////a@b/c:d@e/mlflow.db"),
        ("/a@b/mlruns", "/a@b/mlruns"),
        ("http://127.0.0.1:5000/", "http://127.0.0.1:5000/"),
    ],
)
def test_the_rest_of_an_address_is_shown(address: str, shown: str) -> None:
    assert without_password(address) == shown


@pytest.mark.parametrize("address", ["postgresql://me:p%40ss%2Fword@host/db", "sqlite:////a@b/c.db"])
def test_an_address_that_all_drivers_read_alike_is_known(address: str) -> None:
    assert is_unequivocal(address)
    # SQLAlchemy takes 127.0.0.1 for the user of the last, and ss for its host.
    for place in ("me:pass/word@host/db", "me:pass?word@host/db", "me:p@ss@host/db", "127.0.0.1:9/db?password=p@ss"):
        assert not is_unequivocal(f"postgresql://{place}")


def test_a_reason_is_the_first_line_of_what_the_driver_said() -> None:
    error = OperationalError("select 1", {}, sqlite3.OperationalError("no such  table: runs\nmore of it"))
    assert reason_of(error, "sqlite:///mlflow.db") == "no such table: runs"
    assert reason_of(urllib.error.URLError(ConnectionRefusedError(111, "Refused")), "http://host") == "Refused"
    assert reason_of(ValueError(), "sqlite:///mlflow.db") == "ValueError"
    assert len(reason_of(ValueError("long " * 500), "sqlite:///mlflow.db")) <= 200


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://me:sec%40ret@host/db", "invalid dsn: password=sec@ret host=host"),
        ("postgresql://me:sec%40ret@host/db", "cannot use postgresql://me:sec%40ret@host/db"),
        ("mysql://host/db?passwd=sec+ret", "denied with 'sec ret'"),
        ("mssql:///?odbc_connect=SERVER%3Dhost%3BPWD%3Dsecret", "cannot parse SERVER=host;PWD=secret"),
    ],
)
def test_a_reason_names_no_part_of_the_password(address: str, said: str) -> None:
    error = OperationalError("", {}, RuntimeError(f"{said} for whatever reason"))
    for part in ("sec", "ret"):
        assert part not in reason_of(error, address)
    assert reason_of(error, address).endswith("for whatever reason")
