"""The command line in the process of a test, and a place of its own for it."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import mlflow
import pytest

from idl.cli import main
from idl.tracking.registry import RegisteredVersion
from idl.tracking.runs import Recorder


def run(*arguments: str) -> int:
    """Run the command line in this process; return its exit code."""
    before = sys.argv
    sys.argv = ["idl", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


@contextmanager
def working_folder(folder: Path, template: Path) -> Iterator[pytest.MonkeyPatch]:
    """Stand in a folder with a tracking store of its own, a copy of the empty one."""
    shutil.copy(template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        yield patch


@contextmanager
def without_registry() -> Iterator[None]:
    """Export and register no model, which takes a second or more, where nothing looks at it."""
    version = RegisteredVersion("none", 1, (), {}, "", "", 0)
    with patch.object(Recorder, "register", lambda *_: version):
        yield


def register_strangers() -> None:
    """Register the null's probe under names that are no probe's of idl."""
    client = mlflow.MlflowClient()
    version = client.get_model_version("idl-depth-null", "1")
    assert version.source
    for name in ("idl-encoder-null", "somebody-elses"):
        client.create_registered_model(name)
        client.create_model_version(name, version.source, tags=version.tags)
