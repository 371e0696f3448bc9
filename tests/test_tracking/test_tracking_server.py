"""The same through a real server, and what happens when it goes away."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from torch import nn

from idl.errors import InputError
from idl.report import Championship, DatasetInput, ModelVersion, RunReport
from idl.tracking import fetch_weights, require_reachable, start

pytestmark = pytest.mark.slow


@pytest.fixture
def server(clean: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[bytes]"]:
    """A server of its own in its own process group; MLFLOW_TRACKING_URI names it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{clean}/server.db"]
    command += ["--artifacts-destination", str(clean / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = (clean / "server.log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
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
        log.close()


def stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_run_registry_and_a_server_that_dies(
    server: "subprocess.Popen[bytes]", clean: Path, capfd: pytest.CaptureFixture[str]
):
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
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"test_loss": 0.25}
    assert run.inputs is not None
    assert run.inputs.dataset_inputs[0].dataset.name == "rooms-test"
    weights = fetch_weights("models:/idl-encoder-small@champion", clean / "weights")
    assert weights.read_bytes() == b"weights"
    assert capfd.readouterr() == ("", "")

    begun = time.monotonic()
    with pytest.raises(InputError, match="stopped answering"), start("train") as recorder:  # noqa: PT012
        stop(server)
        begun = time.monotonic()
        recorder.log(report)
    # mlflow's own retries take four minutes.
    assert time.monotonic() - begun < 60
    assert capfd.readouterr() == ("", "")
