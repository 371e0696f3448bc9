"""Encoders that people have: of one fixed size, of a stride that does not divide the images, of odd kernels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from encoder_contract import CPU, images
from planted import PlantedReader
from torch import Tensor, nn

from idl import pipeline
from idl.data.preparation import prepare
from idl.encoders import EncoderConfig, build
from idl.encoders.sizes import export_fault
from idl.encoders.untrained import twins
from idl.errors import InputError
from idl.probe_config import ProbeConfig
from idl.protocol import Protocol
from idl.verdict.cue_edits import predict

VIT = "timm:vit_tiny_patch16_224"
NAMES = ("swin_s3_tiny_224", "swinv2_tiny_window8_256", "lambda_resnet26t", "maxvit_tiny_tf_224", "haloregnetz_b")


def config(name: str = VIT, size: int | None = None, **arguments: object) -> EncoderConfig:
    return EncoderConfig(name, weights="random", encoder_args=json.dumps(arguments), size=size, arithmetic="float32")


def small(size: int | None = None, **arguments: object) -> EncoderConfig:
    return config(VIT, size, patch_size=14, embed_dim=24, depth=2, num_heads=2, **arguments)


class OneSize(nn.Module):
    """A factory's network that takes 224 x 224 only."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 16, stride=16)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2:] == (224, 224), "only 224"
        return self.convolution(x)


class Untraceable(OneSize):
    """What torch.export cannot write: it looks at the numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x) if float(x.sum()) > -1e9 else x


@pytest.mark.parametrize(
    ("asked", "side", "fed", "cells"),
    [
        # As it was built, its own size, the nearest multiple of the stride, the one that is asked for.
        (small(img_size=56), 64, 56, 4),
        (small(img_size=64), 64, 70, 5),
        (small(), 64, 70, 5),
        (small(size=56), 64, 56, 4),
        (small(dynamic_img_size=True), 64, 70, 5),
        (EncoderConfig("test_field_encoders:OneSize"), 256, 224, 14),
    ],
)
def test_it_is_fed_the_nearest_size_that_it_takes_and_exports_with_any(
    asked: EncoderConfig, side: int, fed: int, cells: int
) -> None:
    encoder = build(asked, CPU, (side, side))
    assert encoder.size == (fed, fed)
    assert encoder.grid(side, side) == (cells, cells)
    encoder.require(side)
    rgb = images(2, side, side)
    resized = F.interpolate(rgb, size=(fed, fed), mode="bilinear", antialias=True)
    by_hand = encoder.network((resized - encoder.mean) / encoder.std)
    torch.testing.assert_close(encoder(rgb), by_hand, rtol=1e-4, atol=1e-4)
    assert not export_fault(encoder)
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        encoder.exportable(), (images(2, 64, 64),), dynamic_shapes=({0: auto, 2: auto, 3: auto},)
    )
    for shape in ((1, side, side), (3, 96, 160)):
        torch.testing.assert_close(program.module()(images(*shape)), encoder(images(*shape)), rtol=1e-4, atol=1e-4)


def test_what_torch_cannot_solve_of_sizes_is_kept_off_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert not export_fault(build(config("timm:tf_efficientnet_lite0"), CPU))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_families_of_fixed_sizes_and_odd_kernels_are_fed_what_they_take(name: str) -> None:
    encoder = build(config(f"timm:{name}"), CPU, (256, 256))
    features = encoder(images(1, 256, 256))
    assert features.shape[2:] == encoder.grid(256, 256)
    assert not export_fault(encoder)


@pytest.mark.parametrize("asked", [small(img_size=56), EncoderConfig("null"), EncoderConfig("autoencoder")])
def test_at_its_own_size_nothing_is_resized_and_the_digest_is_that_without_a_size(asked: EncoderConfig) -> None:
    plain, fitted = build(asked, CPU), build(asked, CPU, (56, 56))
    assert fitted.digest == plain.digest
    assert torch.equal(fitted(images(2, 56, 56)), plain(images(2, 56, 56)))
    assert build(asked, CPU, (112, 112)).digest == plain.digest or asked.name == VIT


def test_the_size_is_in_the_digest_and_goes_with_twins_and_the_origin() -> None:
    asked = small(img_size=56)
    own, resized = build(asked, CPU, (56, 56)), build(asked, CPU, (64, 64))
    assert own.digest != resized.digest
    assert resized.describe()["encoder_size"] == "56 x 56"
    for kind in ("random", "permuted"):
        (twin,) = twins(resized, kind, 1, lambda: [images()])
        assert (twin.size, twin.grid(64, 64)) == ((56, 56), (4, 4))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (config("timm:inception_v3"), ("stride of 16", "factory")),
        (config(size=100), ("encoder_size", "96")),
        (config("timm:resnet18", size=250), ("encoder_size", "256")),
        (EncoderConfig("test_field_encoders:Untraceable"), ("torch.export", "another encoder")),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_that_helps(asked: EncoderConfig, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        build(asked, CPU, (256, 256))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert "img_size" not in message


def test_the_registered_model_predicts_what_the_probe_was_measured_by(tmp_path: Path) -> None:
    store = prepare(PlantedReader(num_scenes=12), Protocol(resolution=64), tmp_path / "store")
    encoder = build(small(img_size=56), CPU, store.protocol.size)
    result = pipeline.probe(ProbeConfig(batch_size=4), store, encoder, tmp_path)
    indices = pipeline.split_of(ProbeConfig(), store, pipeline.target("depth")).indices["test"]
    read = store.read(("rgb", "depth", "valid"), indices)
    rgb = torch.from_numpy(read["rgb"]).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        predicted = result.model.module(rgb)[:, 0].numpy()
    errors = (predicted - read["depth"]) ** 2
    rmse = [np.sqrt(error[valid].mean()) for error, valid in zip(errors, read["valid"], strict=True)]
    np.testing.assert_allclose(np.array(result.report.tables["per_image.json"]["rmse"]), rmse, rtol=1e-4)
    probe: Any = result.model.module.probe
    (cues,) = predict(store, indices, encoder, [(probe, pipeline.target("depth"))], 32, pipeline.silent)
    assert all(np.isfinite(each).all() for each in cues.errors.values())
