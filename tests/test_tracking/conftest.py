"""A fresh store for each test, copied from one whose tables were created once."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder in which mlflow is told nothing."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(clean: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a store of its own, which is also what mlflow is told to use."""
    shutil.copy(template, clean / "mlflow.db")
    uri = f"sqlite:///{clean / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri
