"""Weights that come with the package: when a ConvNeXt falls back to them, and when it does not."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shipped_files
import torch
from encoder_contract import CPU, images
from safetensors import safe_open
from safetensors.torch import load_file
from shipped_files import ATTO

from idl.cli import cli
from idl.data.datasets import DatasetConfig
from idl.encoders import Encoder, EncoderConfig, build, hub, shipped
from idl.errors import InputError

REASON = "the hub cannot be reached: it is not there"
CONFIG = EncoderConfig(arithmetic="float32")


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither the hub nor its cache has anything; the package has its two files."""

    def refuse(file: hub.HubFile) -> Path:
        raise hub.HubUnavailableError(REASON)

    monkeypatch.setattr(hub, "fetch", refuse)
    folder = shipped_files.ship(tmp_path / "package")
    monkeypatch.setattr(shipped, "FOLDER", folder)
    return folder


def built(**changes: Any) -> Encoder:
    return build(replace(CONFIG, **changes), CPU)


def atto_level(stage: int) -> torch.Tensor:
    model: Any = shipped_files.convnext_atto()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        return model.forward_intermediates((images() - mean) / std, intermediates_only=True)[stage]


def test_convnext_falls_back_to_the_shipped_one_and_says_so_in_one_line() -> None:
    encoder = built(weights="auto")
    origin = encoder.origin
    assert (origin.architecture, origin.weights, origin.task) == ("convnext_atto", "shipped", "rooms-recognition")
    assert (encoder.stage, encoder.stride, encoder.channels, origin.seed) == (2, 16, 16, None)
    assert encoder.encoder_args == ATTO
    warning = origin.warning or ""
    told = (REASON, "convnext_atto", "rendered rooms", "not with ImageNet", "weights=imagenet", "weights=PATH")
    assert all(part in warning for part in told)
    assert "\n" not in warning
    expected = atto_level(2)
    torch.testing.assert_close(encoder(images()), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_arguments_and_stage_meant_for_the_larger_one_hold_for_the_shipped_one() -> None:
    encoder = built(weights="auto", stage=1, encoder_args='{"drop_path_rate": 0.1}')
    assert (encoder.stage, encoder.stride) == (1, 8)
    assert encoder.encoder_args == {**ATTO, "drop_path_rate": 0.1}
    expected = atto_level(1)
    torch.testing.assert_close(encoder(images()), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    with pytest.raises(InputError, match=r"Leave them out, or pass weights=random") as caught:
        built(weights="auto", encoder_args='{"dims": [8, 8, 8, 8]}')
    assert "\n" not in str(caught.value)
    assert "convnext_atto_rooms" in str(caught.value)


@pytest.mark.parametrize("name", ["convnext", "timm:convnext_atto"])
def test_shipped_weights_may_be_asked_for(name: str) -> None:
    encoder = built(name=name, weights="shipped")
    assert (encoder.origin.architecture, encoder.origin.weights) == ("convnext_atto", "shipped")
    assert encoder.origin.warning is None
    assert encoder.digest == built(weights="auto").digest
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_of_timms_names_only_the_shipped_one_falls_back_to_it() -> None:
    atto = built(name="timm:convnext_atto", weights="auto")
    assert (atto.origin.weights, atto.origin.task) == ("shipped", "rooms-recognition")
    assert REASON in (atto.origin.warning or "")
    for name in ("timm:convnext_atto.d2_in1k", "timm:test_convnext"):
        other = built(name=name, weights="auto")
        assert other.origin.weights == "random"
        assert "RANDOM" in (other.origin.warning or "")
        assert other.digest == built(name=name, weights="random").digest


@pytest.mark.parametrize("name", ["convnext", "timm:convnext_atto"])
def test_imagenet_never_falls_back(name: str) -> None:
    with pytest.raises(InputError, match="weights=imagenet"):
        built(name=name, weights="imagenet")


def test_a_path_and_a_registry_never_fall_back(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        built(weights="absent.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    for weights, file in ((str(tmp_path / "damaged.safetensors"), None), ("models:/a/1", tmp_path / "x.safetensors")):
        with pytest.raises(InputError, match="cannot be read"):
            built(weights=weights, registry_file=file)


@pytest.mark.parametrize("lacking", ["convnext_atto_rooms.safetensors", "convnext_atto_rooms.json"])
def test_a_broken_installation_falls_back_to_random_weights(package: Path, lacking: str) -> None:
    (package / lacking).unlink()
    small = '{"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}'
    encoder = built(weights="auto", encoder_args=small)
    assert (encoder.origin.architecture, encoder.origin.weights) == ("convnext_tiny", "random")
    assert "RANDOM" in (encoder.origin.warning or "")
    assert encoder.digest == built(weights="random", encoder_args=small).digest
    with pytest.raises(InputError, match="missing from this installation"):
        built(weights="shipped")


def test_a_damaged_card_is_said(package: Path) -> None:
    (package / "convnext_atto_rooms.json").write_text('{"summary"')
    with pytest.raises(InputError, match=r"convnext_atto_rooms.json: damaged") as caught:
        built(weights="auto")
    assert "\n" not in str(caught.value)


def test_other_encoders_have_nothing_shipped() -> None:
    with pytest.raises(InputError, match="autoencoder, convnext, timm:convnext_atto") as caught:
        built(name="timm:resnet18", weights="shipped")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["convnext", "timm:convnext_atto"])
def test_a_file_trained_here_needs_no_arguments(name: str, package: Path) -> None:
    encoder = built(name=name, weights=str(package / "convnext_atto_rooms.safetensors"))
    assert (encoder.origin.architecture, encoder.origin.weights) == ("convnext_atto", "file")
    assert encoder.digest == built(weights="shipped").digest


def test_arguments_given_go_before_those_of_a_file(package: Path) -> None:
    path = str(package / "convnext_atto_rooms.safetensors")
    encoder = built(weights=path, encoder_args='{"ls_init_value": 0.5}')
    assert encoder.encoder_args == {**ATTO, "ls_init_value": 0.5}
    assert torch.equal(encoder(images()), built(weights=path)(images()))
    with pytest.raises(InputError, match="not weights of convnext_tiny"):
        built(name="timm:convnext_tiny", weights=path)


@pytest.fixture
def of_the_package(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What truly ships, in place of the stand-ins."""
    monkeypatch.undo()


def found(name: str) -> shipped.Shipped:
    file = shipped.shipped(name)
    assert file is not None, f"{name}.safetensors or its card is missing from {shipped.FOLDER}"
    return file


NAMES = sorted(set(shipped.FILES.values()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("of_the_package")
def test_what_ships_is_small_in_half_precision_and_has_a_card(name: str) -> None:
    file = found(name)
    assert file.path.stat().st_size <= 8e6
    assert {str(tensor.dtype) for tensor in load_file(file.path).values()} == {"torch.float16"}
    assert {"summary", "command", "dataset_digest", "seed", "validation", "date", "versions"} <= file.card.keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("of_the_package")
def test_a_card_agrees_with_its_file_and_its_command_trains_on_rooms_of_its_own(name: str) -> None:
    file = found(name)
    with safe_open(file.path, "pt") as content:
        metadata = content.metadata()
    for key in ("dataset_digest", "seed", "task"):
        assert metadata[key] == str(file.card[key])

    idl, command, *words = shlex.split(str(file.card["command"]))
    assert idl == "idl"
    options = cli.commands[command].make_context(command, words).params
    assert options["seed"] == file.card["seed"]
    # The rooms that a probe is fitted and tested on by default must be new to it.
    assert options["dataset"] == DatasetConfig().dataset == "rooms"
    assert options["dataset_seed"] != DatasetConfig().dataset_seed


@pytest.mark.parametrize("encoder", shipped.FILES)
@pytest.mark.usefixtures("of_the_package")
def test_what_ships_loads(encoder: str) -> None:
    file = found(shipped.FILES[encoder])
    encoder_built = built(name=encoder, weights="shipped")
    assert encoder_built.origin.weights == "shipped"
    assert encoder_built.origin.task == file.card["task"]
    features = encoder_built(images())
    assert features.shape[1] == encoder_built.channels
    assert bool(features.isfinite().all())
