"""Stores that do not answer are named within seconds."""

import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from idl.errors import InputError
from idl.tracking import require_reachable


@contextmanager
def listening() -> Iterator[int]:
    """A port that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def answering(status: int) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_import_is_light():
    code = "import sys, idl, idl.tracking; print([n for n in ('mlflow', 'torch') if n in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_closed_port_is_named_with_its_remedy():
    uri = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(InputError, match=rf"^tracking server {uri}: no answer \(.*refused.*\)\. Start"):
        require_reachable(uri)


def test_silent_server_is_given_up_within_five_seconds():
    with listening() as port:
        start = time.monotonic()
        with pytest.raises(InputError, match="nothing within 3 s"):
            require_reachable(f"http://127.0.0.1:{port}")
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("status", [200, 401, 404])
def test_any_answer_of_a_server_will_do(status: int):
    with answering(status) as port:
        require_reachable(f"http://127.0.0.1:{port}/")


def test_proxy_without_its_server_is_no_answer():
    with answering(502) as port, pytest.raises(InputError, match="HTTP 502"):
        require_reachable(f"http://127.0.0.1:{port}")


def test_password_is_not_shown():
    with pytest.raises(InputError) as caught:
        require_reachable(f"http://me:secret@127.0.0.1:{closed_port()}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:secret@127.0.0.1:port",
        "http://me:secret@[::1",
        "postgresql://me:12/secret@127.0.0.1:9/idl",
        "postgresql://me:12@secret@127.0.0.1:9/idl",
        "postgresql://127.0.0.1:9/idl?user=me&password=secret",
        "postgresql://127.0.0.1:9/idl?user=me&password=12@secret",
        "mysql://127.0.0.1:9/idl?passwd=secret",
        "mssql://127.0.0.1:9/?odbc_connect=SERVER%3Dhost%3BPWD%3Dsecret",
        "postgres://me:secret@127.0.0.1:9/idl",
        "sqlite:///missing/mlflow.db?password=secret",
        "sqlite:////?Password=secret",
        "file://me:secret@host/runs",
    ],
)
def test_no_message_holds_a_password_or_a_part_of_one(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        require_reachable(uri)
    assert "secret" not in str(caught.value)
    assert "'12'" not in str(caught.value)


def test_database_server_is_asked_too():
    port = closed_port()
    with pytest.raises(InputError, match="no answer") as caught:
        require_reachable(f"postgresql+psycopg2://me:secret@127.0.0.1:{port}/idl")
    assert "secret" not in str(caught.value)
    with listening() as port:
        require_reachable(f"postgresql://127.0.0.1:{port}/idl")


def test_no_address():
    with pytest.raises(InputError, match="not an address"):
        require_reachable("http://127.0.0.1:port")


def test_a_store_of_a_kind_that_mlflow_does_not_know():
    with pytest.raises(InputError, match=r"mlflow knows no postgres: as a store.*postgresql://user@host/name"):
        require_reachable("postgres://127.0.0.1/idl")
    require_reachable("databricks://profile")


def test_sqlite_needs_its_folder(tmp_path: Path):
    require_reachable(f"sqlite:///{tmp_path}/mlflow.db")
    # An @ in a path is no user's.
    with pytest.raises(InputError, match=r"sqlite:////a@b/c@d/mlflow.db: no folder"):
        require_reachable("sqlite:////a@b/c@d/mlflow.db")
    with pytest.raises(InputError, match=r"no folder .*missing.* Create it"):
        require_reachable(f"sqlite:///{tmp_path}/missing/mlflow.db")
    with pytest.raises(InputError, match="is a folder"):
        require_reachable(f"sqlite:///{tmp_path}")


def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Permissions do not bind root, under whom tests may run.
    monkeypatch.setattr("idl.tracking.reachable.os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match="is read-only"):
        require_reachable(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns"])
def test_plain_folder_is_refused_with_a_remedy(uri: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(InputError, match=r"sqlite:///mlflow\.db"):
        require_reachable(uri)


def test_default_store_is_the_working_folder(clean: Path):
    require_reachable(None)


def test_default_store_of_a_folder_with_a_space(clean: Path, monkeypatch: pytest.MonkeyPatch):
    (clean / "my runs").mkdir()
    monkeypatch.chdir(clean / "my runs")
    require_reachable(None)


def test_default_store_of_a_folder_with_old_runs(clean: Path):
    # mlflow falls back to the plain folder where it finds runs of an older version in it.
    (clean / "mlruns" / "0").mkdir(parents=True)
    (clean / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n")
    with pytest.raises(InputError, match="migrate-filestore"):
        require_reachable(None)


def test_environment_names_the_server(clean: Path, monkeypatch: pytest.MonkeyPatch):
    uri = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=uri):
        require_reachable(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{clean}/mlflow.db")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
    with pytest.raises(InputError, match=f"model registry {uri}"):
        require_reachable(None)
