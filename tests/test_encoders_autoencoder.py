"""The autoencoder as an encoder: the contract, and where its weights and its size come from."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import shipped_files
import torch
from encoder_contract import CPU, EncoderContract, images
from safetensors.torch import save_file
from shipped_files import SIZE

from idl.encoders import Encoder, EncoderConfig, build, shipped
from idl.errors import InputError
from idl.reporting.encoder import encoder_version

CONFIG = EncoderConfig(name="autoencoder", arithmetic="float32")


class TestAutoencoder(EncoderContract):
    config = EncoderConfig(name="autoencoder", weights="random", encoder_args='{"n_hid": 8}')
    changes: ClassVar = {
        "seed": {"seed": 1},
        "latents": {"encoder_args": '{"n_hid": 8, "latent_channels": 5}'},
        "blocks": {"encoder_args": '{"n_hid": 8, "num_blocks": 1}'},
        "width": {"encoder_args": '{"preset": "small"}'},
        "mean": {"mean": (0.5, 0.5, 0.5)},
        "std": {"std": (0.5, 0.5, 0.5)},
    }


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shipped_files.ship(tmp_path / "package")
    monkeypatch.setattr(shipped, "FOLDER", folder)
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trained.safetensors"
    shipped_files.save_half(path, shipped_files.autoencoder(seed=4), "dvae", asdict(SIZE), "reconstruction")
    return path


def built(**changes: Any) -> Encoder:
    return build(replace(CONFIG, **changes), CPU)


def test_a_file_says_its_size_and_the_features_are_its_latents(file: Path) -> None:
    encoder = built(weights=str(file))
    assert (encoder.origin.architecture, encoder.origin.weights) == ("dvae", "file")
    assert (encoder.origin.task, encoder.origin.seed) == ("reconstruction", None)
    assert encoder.describe()["encoder_args"] == json.dumps(asdict(SIZE), sort_keys=True)
    assert (encoder.stride, encoder.channels) == (8, 4)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    with torch.no_grad():
        expected = shipped_files.autoencoder(seed=4).encode(images())
    torch.testing.assert_close(encoder(images()), expected, rtol=1e-4, atol=1e-4)
    encoder.require(64)
    with pytest.raises(InputError, match="not a stride of 8"):
        encoder.require(60)


def test_encoder_args_decide_where_a_file_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "silent.pth"
    model = shipped_files.autoencoder(seed=4)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in model.state_dict().items()}}, path)
    encoder = built(weights=str(path), encoder_args='{"n_hid": 8, "latent_channels": 4, "n_init": 6}')
    assert encoder.origin.task == "unknown"
    with pytest.raises(InputError, match="not weights of an autoencoder of n_hid=32"):
        built(weights=str(path))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"n_hid": 12}', "n_hid=12, but"),
        ('{"preset": "medium"}', "n_hid=128, but"),
        ('{"latent_channels": 3}', "latent_channels=4"),
    ],
)
def test_encoder_args_may_repeat_a_file_and_not_contradict_it(file: Path, arguments: str, told: str) -> None:
    repeated = built(weights=str(file), encoder_args='{"n_hid": 8, "loss": "l2"}')
    assert repeated.digest == built(weights=str(file)).digest
    with pytest.raises(InputError, match=told) as caught:
        built(weights=str(file), encoder_args=arguments)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_registered_encoder_needs_no_arguments(file: Path, tmp_path: Path) -> None:
    encoder = built(weights=str(file))
    findings: Any = SimpleNamespace(
        encoder=encoder, target=SimpleNamespace(name="depth"), store=SimpleNamespace(name="rooms")
    )
    registered = tmp_path / "encoder.safetensors"
    registered.write_bytes(encoder_version(findings).files["encoder.safetensors"])
    uri = "models:/idl-encoder-autoencoder/1"
    again = built(weights=uri, registry_file=registered)
    assert again.digest == encoder.digest
    assert (again.origin.weights, again.origin.task, again.origin.source) == ("registry", "reconstruction", uri)
    assert torch.equal(again(images()), encoder(images()))


@pytest.mark.parametrize("wanted", ["auto", "shipped"])
def test_the_shipped_weights_are_the_default(wanted: str) -> None:
    encoder = built(weights=wanted)
    assert (encoder.origin.weights, encoder.origin.task) == ("shipped", "reconstruction")
    assert encoder.origin.warning is None
    assert "autoencoder_small.safetensors" in encoder.origin.source
    with torch.no_grad():
        expected = shipped_files.autoencoder().encode(images())
    torch.testing.assert_close(encoder(images()), expected, rtol=1e-4, atol=1e-4)


def test_without_the_shipped_weights_it_runs_with_random_ones_and_says_so(package: Path) -> None:
    (package / "autoencoder_small.json").unlink()
    encoder = built()
    assert encoder.origin.weights == "random"
    assert encoder.digest == built(weights="random").digest
    assert "RANDOM" in (encoder.origin.warning or "")
    assert "\n" not in (encoder.origin.warning or "")
    with pytest.raises(InputError, match="missing from this installation"):
        built(weights="shipped")


def test_presets_are_widths() -> None:
    size = built(weights="random", encoder_args='{"preset": "medium", "latent_channels": 3, "num_blocks": 1}')
    spelled = built(weights="random", encoder_args='{"n_hid": 128, "latent_channels": 3, "num_blocks": 1}')
    assert size.digest == spelled.digest
    assert size.channels == 3


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    weight = {"weight": torch.zeros(1)}
    for metadata, told in (
        ({"architecture": "convnext_atto", "config": "{}"}, "Pass encoder=timm:convnext_atto"),
        ({"architecture": "dvae", "config": "[1"}, "no JSON object"),
        ({"architecture": "dvae", "config": '{"colour": 1}'}, "of no autoencoder"),
        ({"architecture": "dvae", "config": '{"n_hid": 3}'}, "Pass 4"),
        ({"architecture": "dvae", "config": '{"n_hid": 8}'}, "not weights of an autoencoder of n_hid=8"),
    ):
        save_file(weight, path, metadata=metadata)
        with pytest.raises(InputError, match=told) as caught:
            built(weights=str(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"weights": "imagenet"}, "has none"),
        ({"weights": "absent.safetensors"}, "no such file"),
        ({"stage": 1}, "one level"),
        ({"encoder_args": '{"colour": 1}'}, "has no colour"),
        ({"encoder_args": '{"preset": "huge"}'}, "small, medium, paper"),
        ({"encoder_args": '{"latent_channels": 0}', "weights": "random"}, "latent_channels=0"),
        ({"encoder_args": '{"n_hid": "8"}', "weights": "random"}, "whole number"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        built(**changes)
    assert "\n" not in str(caught.value)
