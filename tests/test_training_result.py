"""What a training leaves: weights that give the trained encoder wherever they are loaded, and a card that tells how."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from planted_training import CPU, SMALL, LabelledReader, small_store
from safetensors import safe_open
from torch import Tensor

from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import EncoderConfig, build
from idl.errors import InputError
from idl.training import Recognition, Reconstruction, TrainingConfig, run_training
from idl.training.objective import Objective
from idl.training.result import command_line

CONFIG = TrainingConfig(epochs=1, batch_size=4, lr=1e-3, warmup=0, arithmetic="float32")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Split]:
    return small_store(tmp_path_factory.mktemp("store"), LabelledReader(resolution=32))


def features_of(objective: Objective, rgb: Tensor) -> Tensor:
    """What the trained module computes behind the level that is probed, step by step."""
    module: Any = objective.module
    for parameter in module.parameters():
        parameter.data.copy_(parameter.data.half().float())
    module.eval()
    with torch.inference_mode():
        if isinstance(objective, Reconstruction):
            return module.encode(rgb)
        card = timm.get_pretrained_cfg("convnext_atto")
        assert card is not None
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (card.mean, card.std))
        x = module.model.stem((rgb - mean) / std)
        for stage in module.model.stages[:3]:
            x = stage(x)
        return x


@pytest.mark.parametrize("kind", ["autoencoder", "timm:convnext_atto"])
def test_the_file_gives_the_trained_encoder(made: tuple[Store, Split], tmp_path: Path, kind: str) -> None:
    store, split = made
    objective = Reconstruction(SMALL, 0) if kind == "autoencoder" else Recognition("convnext_atto", 0)
    # One look, at the end: the weights that are kept are the module's.
    config = replace(CONFIG, epochs=2, validate_every=100)
    done = run_training(
        objective, config, store, split, tmp_path / "folder", CPU, command="idl train", source="trained in a test"
    )
    assert done is not None
    path = tmp_path / "out.safetensors"
    path.write_bytes(done.weights.safetensors)
    rgb = torch.rand(2, 3, 32, 32)
    expected = features_of(objective, rgb)
    for encoder in (done.encoder, build(EncoderConfig(kind, weights=str(path), arithmetic="float32"), CPU)):
        torch.testing.assert_close(encoder(rgb), expected, rtol=1e-5, atol=1e-5)
        assert encoder.origin.task == objective.task
    assert done.encoder.origin.source == "trained in a test"
    assert build(EncoderConfig(kind, weights=str(path), arithmetic="float32"), CPU).digest == done.encoder.digest

    plain: Any = objective.module if kind == "autoencoder" else timm.create_model("convnext_atto", num_classes=35)
    with safe_open(path, framework="pt") as opened:
        assert set(opened.keys()) == set(plain.state_dict())
        assert {opened.get_tensor(name).dtype for name in opened.keys()} == {torch.float16}  # noqa: SIM118
        metadata = opened.metadata()
    assert metadata["dataset_digest"] == store.digest
    assert json.loads(metadata["config"]) == objective.arguments
    card = json.loads(done.weights.card)
    assert (card["command"], card["seed"], card["steps"]) == ("idl train", 0, 6)
    assert (card["dataset_digest"], card["split_digest"], card["num_images"]) == (store.digest, split.digest, 12)
    assert card["summary"].startswith(f"{objective.architecture}, trained to ")
    for name, value in card["validation"].items():
        assert done.run.report.metrics[f"best_val_{name}"] == pytest.approx(value, rel=1e-5)
    assert card["validation"]["loss"] < card["validation_untrained"]["loss"]
    assert {"python", "torch", "timm", "numpy", "idl"} == set(card["versions"])
    assert set(done.run.model.files) == {"encoder.safetensors", "origin.json", "weights.safetensors", "card.json"}


def test_a_weight_too_large_for_half_precision_is_said(made: tuple[Store, Split], tmp_path: Path) -> None:
    objective = Reconstruction(SMALL, seed=0)
    with torch.no_grad():
        objective.module.decoder.output.weight[3:] = 1e6
    with pytest.raises(InputError, match=r"decoder.output.weight: a weight is too large"):
        run_training(objective, CONFIG, *made, tmp_path, CPU, command="", source="")


def test_a_command_says_what_is_not_a_default_and_a_shell_reads_it() -> None:
    defaults = {"num_scenes": 320, "data": "", "epochs": 20.0, "lr": 1e-3}
    assert command_line("pretrain", {**defaults, "num_scenes": 8}, defaults) == "idl pretrain --num-scenes 8"
    written = command_line("pretrain", {**defaults, "data": "a folder; ls"}, defaults)
    assert written == "idl pretrain --data 'a folder; ls'"
