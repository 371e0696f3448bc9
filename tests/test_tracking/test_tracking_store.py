"""Stores and servers that do not answer are named within seconds; one that dies ends a run in one line."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import numpy as np
import pytest
from torch import nn

from idl.errors import InputError
from idl.report import Championship, DatasetInput, ModelVersion, RunReport
from idl.tracking.registry import fetch_weights
from idl.tracking.runs import start
from idl.tracking.store import require_reachable


@contextmanager
def answering(status: int | None) -> Iterator[str]:
    """The address of a server that answers every request with a status, or accepts and never says a word."""

    def answer() -> None:
        with suppress(OSError):
            while True:
                connection = server.accept()[0]
                connection.recv(65536)
                connection.sendall(
                    f"HTTP/1.1 {status} Status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
                )
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        if status is not None:
            threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        with suppress(OSError):
            # Wakes who waits for the next connection.
            server.shutdown(socket.SHUT_RDWR)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_import_is_light() -> None:
    code = "import sys, idl, idl.tracking.runs; print([n for n in ('mlflow', 'torch') if n in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


@pytest.mark.parametrize("status", [None, 401, 502])
def test_a_server_that_is_of_no_use_is_given_up_in_seconds(status: int | None) -> None:
    with answering(status) as uri:
        begun = time.monotonic()
        with pytest.raises(InputError, match=f"^tracking server {uri}: no answer .*(timed out|{status})"):
            require_reachable(uri)
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://me:secret@127.0.0.1:PORT", "tracking server http://127.0.0.1:PORT: no answer .*refused.* Start it"),
        ("postgresql+psycopg://me:secret@127.0.0.1:PORT/idl", "cannot be opened .*refused"),
        ("postgresql+asyncpg://me:secret@127.0.0.1:PORT/idl", r"driver is not installed \(asyncpg\)"),
        ("postgresql://me:12/secret@127.0.0.1:PORT/idl", "not an address|refused"),
        ("postgresql://me:12@secret@127.0.0.1:PORT/idl", "not an address"),
        ("postgresql+psycopg://127.0.0.1:PORT/idl?user=me&password=secret", "refused"),
        ("postgres://me:secret@127.0.0.1/idl", "cannot be opened"),
        ("http://me:secret@127.0.0.1:port", "not a valid host or port"),
        ("sqlite:///missing/mlflow.db", "unable to open database file"),
        ("sqlite:///.", "unable to open database file"),
        ("sqlite:///notes.db", "not a database"),
        ("mlruns", "mlflow migrate-filestore"),
    ],
)
def test_what_is_wrong_with_a_store_is_one_line_without_a_password(clean: Path, uri: str, words: str) -> None:
    (clean / "notes.db").write_text("no database " * 1000)
    port = str(closed_port())
    with pytest.raises(InputError, match=words.replace("PORT", port)) as caught:
        require_reachable(uri.replace("PORT", port))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_default_store_and_its_registry(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clean / "my runs").mkdir()
    monkeypatch.chdir(clean / "my runs")
    require_reachable()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{clean}/my runs/mlflow.db")
    registry = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", registry)
    with pytest.raises(InputError, match=f"model registry {registry}"):
        require_reachable()


@pytest.fixture
def server(clean: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[bytes]"]:
    """A server of its own in its own process group; MLFLOW_TRACKING_URI names it."""
    port = closed_port()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{clean}/server.db"]
    command += ["--artifacts-destination", str(clean / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with (clean / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            until = time.monotonic() + 120
            while True:
                try:
                    require_reachable(uri)
                    break
                except InputError:
                    assert process.poll() is None, (clean / "server.log").read_text()
                    assert time.monotonic() < until
                    time.sleep(0.2)
            yield process
        finally:
            stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_run_registry_and_a_server_that_dies(
    server: "subprocess.Popen[bytes]", clean: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = RunReport(
        params={"k": 64},
        metrics={"test_loss": 0.25, "bad": float("nan")},
        panels={"depth/a": np.zeros((8, 8, 3), np.uint8)},
        tables={"k.csv": {"k": [1]}, "k.json": {"k": [1]}},
        datasets=(DatasetInput("rooms", "abc", "rooms, seed 0", "testing", 360, 60),),
    )
    version = ModelVersion(
        name="idl-encoder-small",
        module=nn.Conv2d(3, 2, 3, padding=1).eval(),
        example=np.zeros((2, 3, 64, 64), np.float32),
        description="",
        tags={"encoder_digest": "abc"},
        files={"encoder.safetensors": b"weights"},
        championship=Championship("rooms", {"dataset_digest": "abc"}, 0.5),
    )
    with start("train") as recorder:
        recorder.log(report)
        registered = recorder.register(version)
    assert registered.aliases == ("champion", "champion-rooms")
    assert recorder.hint.startswith("http://127.0.0.1:")
    run = mlflow.MlflowClient().get_run(recorder.run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"test_loss": 0.25})
    weights = fetch_weights("models:/idl-encoder-small@champion", clean / "weights")
    assert weights.read_bytes() == b"weights"
    assert capfd.readouterr() == ("", "")

    begun = time.monotonic()
    with pytest.raises(InputError, match="lost while the run was logged"), start("train") as recorder:  # noqa: PT012
        stop(server)
        begun = time.monotonic()
        recorder.log(report)
    # mlflow's own retries take four minutes.
    assert time.monotonic() - begun < 60
    assert capfd.readouterr() == ("", "")
