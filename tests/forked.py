"""Processes forked from one that has imported all they need: workers of a study, and ranks as torchrun runs them."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch", "timm", "optuna", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "idl.cli", "idl.training", __name__]
)
# What a forked process has from the one that asks for it; the rest is from the server's start.
KEPT = ("IDL_CACHE", "MLFLOW_TRACKING_URI")


def start(target: Callable[..., object], *arguments: Any) -> BaseProcess:
    """Start `target` in a process of its own."""
    process = CONTEXT.Process(target=target, args=arguments)
    with importable():
        process.start()
    return process


def importable() -> Any:
    """The server that processes are forked from is started in a test's folder, and imports what this process can."""
    return patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))


@dataclass(frozen=True)
class Ended:
    """What ranks left: whether all did their work, and what they printed, one rank after the other."""

    is_done: bool
    stdout: str
    stderr: str


def run_ranks(logs: Path, target: Callable[..., object], *arguments: str, fault: str = "") -> Ended:
    """Run `target` as two ranks under the agent that torchrun is a command line for.

    logs: a new folder, for what they print. fault: as in `ranks`.
    """
    environment = {name: os.environ[name] for name in KEPT if name in os.environ} | {"IDL_TEST_FAULT": fault}
    logs.mkdir()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(str(logs), redirects=Std.ALL),
    )
    agent = elastic_launch(config, _rank)
    # Not in the main thread, whose handlers of signals the agent would replace.
    with importable(), ThreadPoolExecutor(1) as thread:
        done = thread.submit(agent, str(Path.cwd()), environment, target, arguments)
        error = done.exception()
    if error is not None and not isinstance(error, ChildFailedError):
        raise error
    said = ("".join(path.read_text() for path in sorted(logs.rglob(name))) for name in ("stdout.log", "stderr.log"))
    return Ended(error is None, *said)


def _rank(folder: str, environment: dict[str, str], target: Callable[..., object], arguments: tuple) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        target(*arguments)
    except Exception:
        # As a program would; the agent keeps it to itself.
        traceback.print_exc()
        raise
