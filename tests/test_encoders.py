"""Encoders by name: each kind keeps the contract, and what cannot be built is said in one line."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from encoder_contract import CPU, EncoderContract, images

from idl.encoders import EncoderConfig, build
from idl.errors import InputError

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


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (EncoderConfig(name="convnex"), "Did you mean convnext"),
        (EncoderConfig(name="tim:resnet18"), "Did you mean timm:NAME"),
        (EncoderConfig(name="timm"), "Did you mean timm:NAME"),
        (EncoderConfig(name="timm:resnet81"), "resnet"),
        (EncoderConfig(name="timm:resnet18", weights="random", stage=7), r"0 \(stride 2, 64 channels\)"),
        (EncoderConfig(name="timm:resnet18", weights="random", encoder_args='{"nonsense": 1}'), "nonsense"),
        (EncoderConfig(name="timm:resnet18", weights="random", encoder_args='{"in_chans": 1}'), "in_chans"),
        (EncoderConfig(name="timm:resnet18.nonsense", weights="random"), "nonsense"),
        (EncoderConfig(encoder_args="[1]"), "not a JSON object"),
        (EncoderConfig(encoder_args="{pad"), "not a JSON object"),
        (EncoderConfig(std=(1.0, 0.0, 1.0)), "above 0"),
        (EncoderConfig(mean=(1.0, float("nan"), 1.0)), "finite"),
        (EncoderConfig(name="null", stride=0), "at least 1"),
        (EncoderConfig(name="null", weights="random"), "has none"),
        (EncoderConfig(name="null", stage=1), "one level"),
        (EncoderConfig(name="no.such.module:factory"), "cannot be imported"),
        (EncoderConfig(name="encoder_contract:absent"), "no callable"),
        (EncoderConfig(name="encoder_contract:images"), "Tensor"),
        (EncoderConfig(name=FACTORY, encoder_args='{"colour": 1}'), "colour"),
        (EncoderConfig(name=FACTORY, encoder_args='{"stride": 5}'), "12 x 12"),
        (EncoderConfig(name=FACTORY, weights="imagenet"), "no such file"),
        (EncoderConfig(name=FACTORY, stage=1), "one level"),
        (EncoderConfig(name="torch.nn:Flatten"), "Return one tensor"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line(config: EncoderConfig, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        build(config, CPU)
    assert "\n" not in str(caught.value)


def test_a_network_of_another_image_size_is_found_before_work_starts() -> None:
    fixed = build(EncoderConfig(name="timm:vit_tiny_patch16_224", weights="random"), CPU)
    with pytest.raises(InputError, match="dynamic_img_size"):
        fixed.require(256)
    free = EncoderConfig(name="timm:vit_tiny_patch16_224", weights="random", encoder_args='{"dynamic_img_size": true}')
    build(free, CPU).require(256)


def test_a_stride_that_does_not_divide_the_image_is_found_before_work_starts() -> None:
    with pytest.raises(InputError, match="36 x 36 cells"):
        build(EncoderConfig(name="null", stride=7), CPU).require(256)
