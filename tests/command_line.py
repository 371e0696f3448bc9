"""The command line in the process of a test, and a place of its own for it."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest

from idl.cli import main


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


def register_strangers() -> None:
    """Register the null's probe under names that are no probe's of idl."""
    client = mlflow.MlflowClient()
    version = client.get_model_version("idl-depth-null", "1")
    assert version.source
    for name in ("idl-encoder-null", "somebody-elses"):
        client.create_registered_model(name)
        client.create_model_version(name, version.source, tags=version.tags)
