"""Weights: what is loaded computes what the whole network computes, and a file that does not fit is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from encoder_contract import CPU, images
from safetensors.torch import load_file, save_file
from timm.layers.conv2d_same import Conv2dSame
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from idl.encoders import Encoder, EncoderConfig, build
from idl.encoders.exporting import SameConvolution
from idl.errors import InputError

REAL = Path(__file__).parents[2] / "shared/real/weights/mobilenetv2_100_imagenet.safetensors"
SMALL = EncoderConfig(name="timm:test_convnext", arithmetic="float32", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def whole(name: str, **arguments: Any) -> nn.Module:
    """The uncut network with weights that are all away from their initial constants."""
    model = timm.create_model(name, **arguments).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return model


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


@pytest.fixture
def small(tmp_path: Path) -> tuple[nn.Module, Path]:
    model = whole("test_convnext")
    path = tmp_path / "weights.safetensors"
    save_file(tensors_of(model), path, metadata={"task": "segmentation"})
    return model, path


def from_file(path: Path, **changes: Any) -> Encoder:
    return build(replace(SMALL, weights=str(path), **changes), CPU)


@pytest.mark.parametrize(
    ("architecture", "stage", "module", "absent"),
    [
        ("test_convnext", 2, "stages.2", "stages.3"),
        ("test_resnet", 3, "layer3", "layer4"),
        ("test_efficientnet", 2, "blocks.2", "blocks.3"),
        ("mobilenetv2_100", 3, "blocks.4", "blocks.5"),
        ("convnextv2_atto", 1, "stages.1", "stages.2"),
    ],
)
def test_features_are_those_inside_the_whole_network_and_nothing_deeper_is_kept(
    architecture: str, stage: int, module: str, absent: str, tmp_path: Path
) -> None:
    model = whole(architecture)
    save_file(tensors_of(model), tmp_path / "weights.safetensors")
    encoder = from_file(tmp_path / "weights.safetensors", name=f"timm:{architecture}", stage=stage)

    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)

    model.get_submodule(module).register_forward_hook(keep)
    with torch.no_grad():
        model(images())
    torch.testing.assert_close(encoder(images()), seen[0], rtol=1e-4, atol=1e-5 * float(seen[0].abs().max()))
    names = [name for name, _ in encoder.network.named_parameters()]
    assert any(f".{module}." in f".{name}" for name in names)
    assert not any(f".{absent}." in f".{name}" for name in names)


def test_a_file_says_its_task_and_other_formats_hold_the_same(small: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model, path = small
    expected = from_file(path)
    assert (expected.origin.weights, expected.origin.task) == ("file", "segmentation")
    state = model.state_dict()
    for name, content in {
        "plain.pth": state,
        "wrapped.pt": {"epoch": 3, "state_dict": state},
        "other.bin": {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    }.items():
        torch.save(content, tmp_path / name)
        encoder = from_file(tmp_path / name)
        assert encoder.digest == expected.digest, name
        assert encoder.origin.task == "unknown"


def test_a_classifier_may_be_missing_or_of_another_size(small: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model, path = small
    expected = from_file(path).digest
    headless = {name: tensor for name, tensor in tensors_of(model).items() if not name.startswith("head.")}
    save_file(headless, tmp_path / "headless.safetensors")
    save_file({**headless, "head.fc.weight": torch.zeros(21, 64)}, tmp_path / "other.safetensors")
    assert from_file(tmp_path / "headless.safetensors").digest == expected
    assert from_file(tmp_path / "other.safetensors").digest == expected


def test_the_registry_is_named_as_the_source(small: tuple[nn.Module, Path]) -> None:
    _, path = small
    uri = "models:/idl-weights@champion"
    encoder = build(replace(SMALL, weights=uri, registry_file=path), CPU)
    assert (encoder.origin.weights, encoder.origin.source) == ("registry", uri)
    assert encoder.digest == from_file(path).digest
    with pytest.raises(InputError, match="registry_file"):
        build(replace(SMALL, weights=uri), CPU)


def test_files_that_do_not_fit_are_refused(small: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model, path = small
    good = tensors_of(model)
    first = "stages.0.blocks.0.conv_dw.weight"

    def refuse(name: str, told: str, content: dict[str, Tensor]) -> None:
        save_file(content, tmp_path / name)
        with pytest.raises(InputError, match=told) as caught:
            from_file(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)

    refuse("resnet.safetensors", "not weights of test_convnext", tensors_of(whole("test_resnet")))
    refuse("missing.safetensors", rf"1 missing \({first}\)", {k: v for k, v in good.items() if k != first})
    refuse("extra.safetensors", r"1 unexpected \(surplus\)", {**good, "surplus": torch.zeros(1)})
    refuse("shape.safetensors", r"\(2, 2\) instead of", {**good, first: torch.zeros(2, 2)})
    refuse("nan.safetensors", "not finite", {**good, first: torch.full_like(good[first], float("nan"))})
    with pytest.raises(InputError, match="not weights of test_resnet"):
        from_file(path, name="timm:test_resnet")


def test_files_that_are_no_weights_are_refused(small: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model, path = small
    torch.save(model.state_dict(), tmp_path / "whole.pth")
    contents = {
        "cut.safetensors": path.read_bytes()[:5000],
        "empty.safetensors": b"",
        "cut.pth": (tmp_path / "whole.pth").read_bytes()[:5000],
        "empty.pth": b"",
        "page.bin": b"<!DOCTYPE html><html>not found</html>",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: cannot be read as weights") as caught:
            from_file(tmp_path / name)
        assert "\n" not in str(caught.value)

    torch.save(model, tmp_path / "module.pt")  # a pickled object, whose code must not run
    with pytest.raises(InputError, match="cannot be read as weights"):
        from_file(tmp_path / "module.pt")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    with pytest.raises(InputError, match="epoch is a int, not a tensor"):
        from_file(tmp_path / "epoch.pt")
    (tmp_path / "weights.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match="not a file of weights by its name"):
        from_file(tmp_path / "weights.onnx")
    with pytest.raises(InputError, match="no such file"):
        from_file(tmp_path / "absent.safetensors")


def test_blocks_of_a_random_convnext_do_something() -> None:
    def change(encoder_args: str) -> float:
        encoder = build(replace(SMALL, weights="random", encoder_args=encoder_args), CPU)
        block = encoder.network.get_submodule("model.stages.1.blocks.0")
        assert isinstance(block, ConvNeXtBlock)
        assert isinstance(block.conv_dw, nn.Conv2d)
        x = torch.rand(1, block.conv_dw.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return float((block(x) - x).norm() / x.norm())

    assert change("{}") > 1e3 * change('{"ls_init_value": 1e-6}')


def test_other_weights_in_the_same_encoder_leave_it_as_it_was(small: tuple[nn.Module, Path]) -> None:
    encoder = from_file(small[1])
    before = encoder(images())
    other = build(replace(SMALL, weights="random", seed=4), CPU)
    swapped = encoder.with_network(other.network, "random", "none", "swapped", seed=4)
    assert torch.equal(swapped(images()), other(images()))
    assert swapped.digest == other.digest
    assert torch.equal(encoder(images()), before)


@pytest.mark.skipif(not REAL.exists(), reason=f"real ImageNet weights are absent: {REAL}")
def test_real_weights_load_and_compute_what_timm_computes() -> None:
    half = (0.5, 0.5, 0.5)
    config = EncoderConfig(
        name="timm:mobilenetv2_100",
        weights=str(REAL),
        encoder_args='{"pad_type": "same"}',
        mean=half,
        std=half,
        arithmetic="float32",
    )
    encoder = build(config, CPU)
    model: Any = timm.create_model("mobilenetv2_100", pad_type="same").eval()
    model.load_state_dict(load_file(REAL))
    with torch.no_grad():
        levels = model.forward_intermediates(2 * images() - 1, intermediates_only=True)
    assert (encoder.stride, encoder.channels, encoder.origin.weights) == (16, 96, "file")
    torch.testing.assert_close(encoder(images()), levels[3], rtol=1e-4, atol=1e-4 * float(levels[3].abs().max()))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_exported_same_convolution_is_timms(stride: int, kernel: int, dilation: int) -> None:
    torch.manual_seed(0)
    theirs: Any = Conv2dSame(2, 3, kernel, stride=stride, dilation=dilation)
    assert SameConvolution.fits(theirs) == ((kernel - 1) * dilation + 1 >= stride)
    if SameConvolution.fits(theirs):
        for height, width in ((12, 13), (14, 11), (9, 16)):
            x = torch.rand(1, 2, height, width)
            torch.testing.assert_close(SameConvolution(theirs)(x), theirs(x))
