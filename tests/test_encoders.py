"""Encoders by name: each kind keeps the contract, and what cannot be built is said in one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import shipped_files
import torch
from encoder_contract import CPU, EncoderContract, images
from safetensors.torch import save_file
from shipped_files import SIZE
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from idl.encoders import Encoder, EncoderConfig, build, weights
from idl.encoders.base import SameConvolution, simplify
from idl.errors import InputError
from idl.report.encoder import encoder_version

FACTORY = "encoder_contract:PatchMean"


class TestNull(EncoderContract):
    config = EncoderConfig(name="null")
    changes: ClassVar = {"stride": {"stride": 16}, "mean": {"mean": (0.5, 0.5, 0.5)}, "std": {"std": (0.5, 0.5, 0.5)}}

    def test_averages_squares_of_the_image(self) -> None:
        features = build(self.config, CPU)(images())
        assert torch.allclose(features[1, 2, 3, 4], images()[1, 2, 24:32, 32:40].mean(), atol=1e-6)


class TestConvNeXt(EncoderContract):
    config = EncoderConfig(name="timm:convnext_atto", weights="random")
    changes: ClassVar = {
        "seed": {"seed": 1},
        "stage": {"stage": 1},
        "args": {"encoder_args": '{"ls_init_value": 0.5}'},
        "mean": {"mean": (0.5, 0.5, 0.5)},
        "std": {"std": (0.5, 0.5, 0.5)},
    }


def test_the_default_is_convnext_tiny_at_stride_16() -> None:
    described = build(EncoderConfig(weights="random"), CPU).describe()
    expected = {"architecture": "convnext_tiny", "stage": 2, "stride": 16, "channels": 384, "seed": 0}
    assert {key: described[key] for key in expected} == expected


class TestMobileNet(EncoderContract):
    config = EncoderConfig(name="timm:mobilenetv2_100", weights="random", encoder_args='{"pad_type": "same"}')
    changes: ClassVar = {"seed": {"seed": 1}, "stage": {"stage": 1}, "args": {"encoder_args": "{}"}}


class TestResNet(EncoderContract):
    config = EncoderConfig(name="timm:resnet18", weights="random")
    changes: ClassVar = {"name": {"name": "timm:resnet14t"}, "seed": {"seed": 1}, "stage": {"stage": 4}}


class TestCustom(EncoderContract):
    config = EncoderConfig(name=FACTORY)
    changes: ClassVar = {"seed": {"seed": 1}, "args": {"encoder_args": '{"stride": 8, "channels": 5}'}}

    def test_stride_and_channels_are_found(self) -> None:
        encoder = build(replace(self.config, encoder_args='{"stride": 8, "channels": 7}'), CPU)
        assert (encoder.stride, encoder.channels, encoder.origin.weights) == (8, 7, "custom")


class TestAutoencoder(EncoderContract):
    config = EncoderConfig(name="autoencoder", weights="random", encoder_args='{"n_hid": 8}')
    changes: ClassVar = {
        "seed": {"seed": 1},
        "latents": {"encoder_args": '{"n_hid": 8, "latent_channels": 5}'},
        "blocks": {"encoder_args": '{"n_hid": 8, "num_blocks": 1}'},
        "width": {"encoder_args": '{"preset": "small"}'},
    }


def autoencoder(**changes: Any) -> Encoder:
    return build(EncoderConfig("autoencoder", **{"arithmetic": "float32", **changes}), CPU)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shipped_files.ship(tmp_path / "package")
    monkeypatch.setattr(weights, "SHIPPED_FOLDER", folder)
    return folder


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    path = tmp_path / "trained.safetensors"
    shipped_files.save_half(path, shipped_files.autoencoder(seed=4), "dvae", SIZE.arguments, "reconstruction")
    return path


def test_a_file_says_its_size_and_the_features_are_its_latents(trained: Path, tmp_path: Path) -> None:
    encoder = autoencoder(weights=str(trained))
    assert (encoder.origin.architecture, encoder.origin.weights) == ("dvae", "file")
    assert (encoder.origin.task, encoder.origin.seed) == ("reconstruction", None)
    assert encoder.describe()["encoder_args"] == json.dumps(SIZE.arguments, sort_keys=True)
    assert (encoder.stride, encoder.channels) == (8, 4)
    with torch.no_grad():
        expected = shipped_files.autoencoder(seed=4).encoder(images())
    torch.testing.assert_close(encoder(images()), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="not a stride of 8"):
        encoder.require(60)
    # As the registry keeps it, its encode half alone.
    registered = tmp_path / "encoder.safetensors"
    registered.write_bytes(encoder_version(encoder).files["encoder.safetensors"])
    again = autoencoder(weights="models:/idl-encoder-autoencoder/1", registry_file=registered)
    assert (again.digest, again.origin.weights, again.origin.task) == (encoder.digest, "registry", "reconstruction")


def test_encoder_args_decide_where_a_file_is_silent_and_may_repeat_it(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "silent.pth"
    state = shipped_files.autoencoder(seed=4).state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    silent = autoencoder(weights=str(path), encoder_args='{"n_hid": 8, "latent_channels": 4, "n_init": 6}')
    assert silent.origin.task == "unknown"
    assert silent.digest == autoencoder(weights=str(trained), encoder_args='{"n_hid": 8, "loss": "l2"}').digest
    with pytest.raises(InputError, match="not weights of an autoencoder of n_hid=32"):
        autoencoder(weights=str(path))
    for arguments, message in (('{"n_hid": 12}', "n_hid=12, but"), ('{"preset": "medium"}', "n_hid=128, but")):
        with pytest.raises(InputError, match=message):
            autoencoder(weights=str(trained), encoder_args=arguments)


def test_the_shipped_autoencoder_is_the_default_and_a_random_one_stands_in_with_a_warning(package: Path) -> None:
    encoder = autoencoder()
    assert (encoder.origin.weights, encoder.origin.task) == ("shipped", "reconstruction")
    assert encoder.origin.warning is None
    assert encoder.digest == autoencoder(weights="shipped").digest
    (package / "autoencoder_small.json").unlink()
    fallen = autoencoder()
    assert "RANDOM" in (fallen.origin.warning or "")
    assert fallen.digest == autoencoder(weights="random").digest


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("convnext_atto", "{}", "Pass encoder=timm:convnext_atto"),
        ("dvae", "[1", "no JSON object"),
        ("dvae", '{"colour": 1}', "has no colour"),
        ("dvae", '{"n_hid": 3}', "Pass 4"),
        ("dvae", '{"n_hid": 8}', "not weights of an autoencoder of n_hid=8"),
    ],
)
def test_files_of_no_autoencoder_are_refused(architecture: str, config: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path, metadata={"architecture": architecture, "config": config})
    with pytest.raises(InputError, match=message):
        autoencoder(weights=str(path))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_exported_same_convolution_is_timms(stride: int, kernel: int, dilation: int) -> None:
    torch.manual_seed(0)
    theirs: Any = Conv2dSame(2, 3, kernel, stride=stride, dilation=dilation)
    network = nn.Sequential(theirs)
    simplify(network)
    assert isinstance(network[0], SameConvolution) == ((kernel - 1) * dilation + 1 >= stride)
    for height, width in ((12, 13), (14, 11), (9, 16)):
        x = torch.rand(1, 2, height, width)
        torch.testing.assert_close(network(x), theirs(x))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("timm:resnet18.nonsense", {"weights": "random"}, "nonsense"),
        ("timm:resnet18", {"weights": "random", "stage": 7}, r"0 \(stride 2, 64 channels\)"),
        ("timm:resnet18", {"weights": "random", "encoder_args": '{"nonsense": 1}'}, "nonsense"),
        ("convnext", {"mean": (1.0, float("nan"), 1.0)}, "finite"),
        ("autoencoder", {"weights": "imagenet"}, "Pass shipped, random, auto, the path"),
        ("autoencoder", {"encoder_args": '{"n_hid": "8"}', "weights": "random"}, "whole number"),
        ("autoencoder", {"encoder_args": '{"n_hid": -4}', "weights": "random"}, "n_hid=-4"),
        ("autoencoder", {"encoder_args": '{"loss": "l1"}', "weights": "random"}, "l2, logit-laplace"),
        (FACTORY, {"encoder_args": '{"colour": 1}'}, "colour"),
        (FACTORY, {"encoder_args": '{"stride": 5}'}, "12 x 12"),
        (FACTORY, {"weights": "imagenet"}, "no such file"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(name: str, changes: dict[str, Any], message: str) -> None:
    """More of it is in test_bad_input.py."""
    with pytest.raises(InputError, match=message) as caught:
        build(EncoderConfig(name, **changes), CPU)
    assert "\n" not in str(caught.value)


def test_a_network_of_another_image_size_is_found_before_work_starts() -> None:
    fixed = build(EncoderConfig(name="timm:vit_tiny_patch16_224", weights="random"), CPU)
    with pytest.raises(InputError, match="fails on 256 x 256"):
        fixed.require(256)
    free = EncoderConfig(name="timm:vit_tiny_patch16_224", weights="random", encoder_args='{"dynamic_img_size": true}')
    build(free, CPU).require(256)
