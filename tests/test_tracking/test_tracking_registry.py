"""Versions load without pickle, and the champion is the best of its own kind."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from idl.report import Championship, ModelVersion
from idl.tracking.registry import fetch_weights, promote, registered_encoder
from idl.tracking.runs import start

EXAMPLE = np.random.default_rng(0).random((2, 3, 64, 64), dtype=np.float32)


class Small(nn.Module):
    """Strided, normalised and upsampled again, as the real ones are."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        grid = self.head(self.features((image - 0.5) / 0.25).relu())
        return nn.functional.interpolate(grid, size=image.shape[-2:], mode="bilinear", align_corners=False)


class FixedHeight(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image + torch.linspace(0, 1, 64)[:, None]


def encoder_version(**changes: object) -> ModelVersion:
    values: dict[str, object] = {
        "name": "idl-encoder-small",
        "module": Small().eval(),
        "example": EXAMPLE,
        "description": "A small one.",
        "tags": {"encoder_digest": "abc"},
        "files": {"encoder.safetensors": b"weights", "origin.json": b"{}"},
    }
    return ModelVersion(**(values | changes))  # type: ignore[arg-type]


def test_exported_model_takes_any_size_without_pickle(
    store: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    version = encoder_version()
    with start("train") as recorder:
        registered = recorder.register(version)
    assert capfd.readouterr() == ("", "")
    assert (registered.version, registered.uri) == (1, "models:/idl-encoder-small/1")

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    served = mlflow.pyfunc.load_model(registered.uri)
    loaded = mlflow.pytorch.load_model(registered.uri)  # pyright: ignore[reportPrivateImportUsage]
    for shape in [(1, 3, 64, 64), (3, 3, 48, 80), (5, 3, 33, 130)]:
        image = np.random.default_rng(1).random(shape, dtype=np.float32)
        with torch.no_grad():
            expected = version.module(torch.from_numpy(image)).numpy()
            np.testing.assert_allclose(loaded(torch.from_numpy(image)).numpy(), expected, atol=1e-5)
        np.testing.assert_allclose(served.predict(image), expected, atol=1e-5)

    signature = served.metadata.signature
    assert [spec.shape for spec in signature.inputs.inputs] == [(-1, 3, -1, -1)]
    assert [spec.shape for spec in signature.outputs.inputs] == [(-1, 2, -1, -1)]
    found = mlflow.MlflowClient().get_model_version("idl-encoder-small", "1")
    assert (found.description, found.status, found.run_id) == ("A small one.", "READY", recorder.run_id)
    requirements = Path(mlflow.pyfunc.get_model_dependencies(registered.uri)).read_text().split()
    assert f"torch=={torch.__version__.partition('+')[0]}" in requirements
    assert all("==" in line for line in requirements)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"module": FixedHeight().eval()}, "free batch, height and width"),
        ({"module": Small()}, "eval mode"),
        ({"files": {"../a": b""}}, "is a path"),
    ],
)
def test_a_model_that_would_not_serve_is_refused(store: str, changes: dict[str, object], said: str):
    with start("train") as recorder, pytest.raises(ValueError, match=said):
        recorder.register(encoder_version(**changes))
    assert mlflow.MlflowClient().search_registered_models() == []


def test_encoder_is_found_by_digest_and_its_weights_come_back(store: str, tmp_path: Path):
    assert registered_encoder("abc") is None
    with start("train") as recorder:
        first = recorder.register(encoder_version())
        recorder.register(encoder_version(files={"encoder.safetensors": b"same digest"}))
    assert registered_encoder("abc") == first.uri
    assert registered_encoder("abd") is None

    mlflow.MlflowClient().set_registered_model_alias("idl-encoder-small", "good", "1")
    for uri in (first.uri, "models:/idl-encoder-small@good"):
        folder = tmp_path / uri.replace("/", "_")
        path = fetch_weights(uri, folder)
        assert path.read_bytes() == b"weights"
        assert sorted(entry.name for entry in folder.iterdir()) == ["encoder.safetensors", "origin.json"]


ROOMS = {"dataset_digest": "r", "protocol_digest": "p", "target": "depth"}
NYU = {"dataset_digest": "n", "protocol_digest": "p", "target": "depth"}


class Registry:
    """Versions without a model behind them: aliases depend on tags alone."""

    name = "idl-depth-small"

    def __init__(self) -> None:
        self.client = mlflow.MlflowClient()
        self.client.create_registered_model(self.name)

    def add(self, dataset: str, conditions: Mapping[str, str], val_loss: float) -> str:
        tags = {**conditions, "val_loss": repr(val_loss)}
        created = self.client.create_model_version(self.name, "file:///nowhere", tags=tags)
        number = int(created.version)
        return promote(self.client, self.name, number, Championship(dataset, conditions, val_loss))

    @property
    def aliases(self) -> dict[str, int]:
        return {k: int(v) for k, v in self.client.get_registered_model(self.name).aliases.items()}


@pytest.mark.parametrize(
    "steps",
    [
        # Conditions that differ, val_loss, and who is champion then.
        [((), 0.5, 1), ((), 0.7, 1), ((), 0.25, 3), ((), 0.25, 3), ((), 9e-5, 5), ((), float("nan"), 5)],
        [((), float("nan"), None), ((), 0.9, 2)],
        *[[((), 0.5, 1), ((condition,), 0.1, 1), ((), 0.4, 3)] for condition in ROOMS],
    ],
)
def test_lowest_loss_under_equal_conditions_wins_and_the_older_of_equals_stays(
    store: str, steps: list[tuple[tuple[str, ...], float, int | None]]
):
    registry = Registry()
    for others, val_loss, champion in steps:
        note = registry.add("rooms", ROOMS | dict.fromkeys(others, "other"), val_loss)
        assert ("measured under other conditions" in note) is bool(others)
        assert ("no finite val_loss" in note) is (champion is None)
        aliases = {} if champion is None else {"champion": champion, "champion-rooms": champion}
        assert registry.aliases == aliases


def test_plain_champion_stays_with_its_first_dataset_and_a_deleted_alias_or_version_is_free(store: str):
    registry = Registry()
    registry.add("rooms", ROOMS, 0.5)
    registry.add("nyu", NYU, 0.05)
    assert registry.aliases == {"champion": 1, "champion-rooms": 1, "champion-nyu": 2}
    registry.add("rooms", ROOMS, 0.4)
    assert registry.aliases == {"champion": 3, "champion-rooms": 3, "champion-nyu": 2}
    registry.client.delete_registered_model_alias(registry.name, "champion-rooms")
    registry.add("rooms", ROOMS | {"protocol_digest": "q"}, 0.9)
    assert registry.aliases == {"champion": 4, "champion-rooms": 4, "champion-nyu": 2}
    registry.client.delete_model_version(registry.name, "4")
    registry.add("rooms", ROOMS, 0.6)
    assert registry.aliases == {"champion": 3, "champion-rooms": 3, "champion-nyu": 2}


def test_processes_that_register_together_agree(store: str):
    registry = Registry()
    losses = [0.5, 0.3, 0.9, 0.2, 0.7, 0.4, 0.6, 0.8]
    with ThreadPoolExecutor(len(losses)) as pool:
        # What one of them raises, this raises too.
        list(pool.map(lambda loss: registry.add("rooms", ROOMS, loss), losses))
    champion = registry.client.get_model_version(registry.name, str(registry.aliases["champion-rooms"]))
    assert champion.tags["val_loss"] == "0.2"
    assert registry.aliases["champion"] == registry.aliases["champion-rooms"]
