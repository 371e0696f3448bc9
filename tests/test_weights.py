"""Weights: what is loaded computes what the whole network computes, what does not fit is refused, what is missing falls
back with a warning or not at all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shipped_files
import timm
import torch
from encoder_contract import CPU, images
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shipped_files import ATTO
from torch import Tensor, nn

from idl.data.datasets import DatasetConfig
from idl.encoders import Encoder, EncoderConfig, build, weights
from idl.errors import InputError

SMALL = EncoderConfig(name="timm:test_convnext", arithmetic="float32", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
REASON = "the hub cannot be reached: it is not there"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither the hub nor its cache has anything; the package has two small files."""

    def refuse(repository: str, names: object) -> Path:
        raise weights.HubUnavailableError(REASON)

    monkeypatch.setattr(weights, "fetch", refuse)
    folder = shipped_files.ship(tmp_path / "package")
    monkeypatch.setattr(weights, "SHIPPED_FOLDER", folder)
    return folder


def built(**changes: Any) -> Encoder:
    return build(EncoderConfig(**{"arithmetic": "float32", **changes}), CPU)


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
    inside: list[Tensor] = []
    model.get_submodule(module).register_forward_hook(
        lambda module, inputs, output: inside.append(output)  # pyright: ignore[reportArgumentType]
    )
    with torch.no_grad():
        model(images())
    torch.testing.assert_close(encoder(images()), inside[0], rtol=1e-4, atol=1e-5 * float(inside[0].abs().max()))
    names = [name for name, _ in encoder.network.named_parameters()]
    assert any(f".{module}." in f".{name}" for name in names)
    assert not any(f".{absent}." in f".{name}" for name in names)


def test_other_formats_and_other_classifiers_give_the_same(small: tuple[nn.Module, Path], tmp_path: Path) -> None:
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
        assert (encoder.digest, encoder.origin.task) == (expected.digest, "unknown")
    headless = {name: tensor for name, tensor in tensors_of(model).items() if not name.startswith("head.")}
    for name, content in {"headless": headless, "other": {**headless, "head.fc.weight": torch.zeros(21, 64)}}.items():
        save_file(content, tmp_path / f"{name}.safetensors")
        assert from_file(tmp_path / f"{name}.safetensors").digest == expected.digest
    uri = "models:/idl-weights@champion"
    registered = build(replace(SMALL, weights=uri, registry_file=path), CPU)
    assert (registered.origin.weights, registered.origin.source) == ("registry", uri)
    assert registered.digest == expected.digest


def test_files_that_do_not_fit_are_refused(small: tuple[nn.Module, Path], tmp_path: Path) -> None:
    good = tensors_of(small[0])
    first = "stages.0.blocks.0.conv_dw.weight"
    for name, message, content in (
        ("resnet", "not weights of test_convnext", tensors_of(whole("test_resnet"))),
        ("missing", rf"1 missing \({first}\)", {k: v for k, v in good.items() if k != first}),
        ("extra", r"1 unexpected \(surplus\)", {**good, "surplus": torch.zeros(1)}),
        ("shape", r"\(2, 2\) instead of", {**good, first: torch.zeros(2, 2)}),
        ("nan", "not finite", {**good, first: torch.full_like(good[first], float("nan"))}),
    ):
        save_file(content, tmp_path / f"{name}.safetensors")
        with pytest.raises(InputError, match=message) as caught:
            from_file(tmp_path / f"{name}.safetensors")
        assert f"{name}.safetensors" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_files_that_are_no_weights_are_refused(small: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model, path = small
    torch.save(model, tmp_path / "module.pt")  # a pickled object, whose code must not run
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:5000])
    torch.save(model.state_dict(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:5000])
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    for name in ("module.pt", "cut.safetensors", "cut.pth", "epoch.pt"):
        message = "epoch is a int, not a tensor" if name == "epoch.pt" else f"{name}: cannot be read as weights"
        with pytest.raises(InputError, match=message) as caught:
            from_file(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_blocks_of_a_random_convnext_do_something() -> None:
    def change(encoder_args: str) -> float:
        encoder = build(replace(SMALL, weights="random", encoder_args=encoder_args), CPU)
        block: Any = encoder.network.get_submodule("model.stages.1.blocks.0")
        x = torch.rand(1, block.conv_dw.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return float((block(x) - x).norm() / x.norm())

    assert change("{}") > 1e3 * change('{"ls_init_value": 1e-6}')


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("stage", [None, 1])
def test_convnext_falls_back_to_the_shipped_one_and_says_so_in_one_line(stage: int | None) -> None:
    """Arguments and stage that were meant for the larger one hold for it."""
    encoder = built(stage=stage, encoder_args='{"drop_path_rate": 0.1}')
    origin, level = encoder.origin, 2 if stage is None else stage
    assert (origin.architecture, origin.weights, origin.task) == ("convnext_atto", "shipped", "segmentation")
    assert (encoder.stage, encoder.stride, origin.seed) == (level, 2 ** (level + 2), None)
    assert encoder.encoder_args == {**ATTO, "drop_path_rate": 0.1}
    warning = origin.warning or ""
    assert all(part in warning for part in (REASON, "convnext_atto", "rendered rooms", "weights=imagenet"))
    assert "\n" not in warning
    model: Any = shipped_files.convnext_atto()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = model.forward_intermediates((images() - mean) / std, intermediates_only=True)[level]
    torch.testing.assert_close(encoder(images()), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    with pytest.raises(InputError, match="convnext_atto_segmentation"):
        built(encoder_args='{"dims": [8, 8, 8, 8]}')


def test_shipped_weights_may_be_asked_for_by_name_and_by_path(package: Path) -> None:
    expected = built(weights="shipped")
    assert expected.origin.warning is None
    assert {parameter.dtype for parameter in expected.parameters()} == {torch.float32}
    path = str(package / "convnext_atto_segmentation.safetensors")
    for name in ("convnext", "timm:convnext_atto"):
        for given in ("shipped", "auto", path):
            encoder = built(name=name, weights=given)
            kind = "file" if given == path else "shipped"
            assert (encoder.digest, encoder.origin.weights) == (expected.digest, kind)
    # Arguments given go before those of a file.
    assert built(weights=path, encoder_args='{"ls_init_value": 0.5}').encoder_args == {**ATTO, "ls_init_value": 0.5}
    with pytest.raises(InputError, match="not weights of convnext_tiny"):
        built(name="timm:convnext_tiny", weights=path)


@pytest.mark.usefixtures("package")
def test_only_auto_falls_back_and_only_for_what_ships() -> None:
    for name in ("timm:convnext_atto.d2_in1k", "timm:test_convnext"):
        other = built(name=name)
        assert (other.origin.weights, other.origin.seed, other.origin.task) == ("random", 0, "none")
        assert "RANDOM" in (other.origin.warning or "")
        assert other.digest == built(name=name, weights="random").digest
    for name in ("convnext", "timm:convnext_atto"):
        with pytest.raises(InputError, match="weights=imagenet"):
            built(name=name, weights="imagenet")


@pytest.mark.parametrize("lacking", ["convnext_atto_segmentation.safetensors", "convnext_atto_segmentation.json"])
def test_a_broken_installation_falls_back_to_random_weights(package: Path, lacking: str) -> None:
    (package / lacking).unlink()
    small = '{"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}'
    encoder = built(encoder_args=small)
    assert (encoder.origin.architecture, encoder.origin.weights) == ("convnext_tiny", "random")
    assert "RANDOM" in (encoder.origin.warning or "")
    with pytest.raises(InputError, match="missing from this installation"):
        built(weights="shipped")
    (package / "convnext_atto_segmentation.json").write_text('{"summary"')
    (package / "convnext_atto_segmentation.safetensors").touch()
    with pytest.raises(InputError, match=r"convnext_atto_segmentation.json: damaged"):
        built()


@pytest.mark.parametrize(
    ("name", "task"),
    [("autoencoder", "reconstruction"), ("convnext", "segmentation"), ("timm:convnext_atto", "rooms-recognition")],
)
def test_what_truly_ships_is_small_loads_and_agrees_with_its_card(name: str, task: str) -> None:
    file = weights.shipped_for(name, task)
    assert file is not None
    path, card = file
    assert path.stat().st_size <= 8e6
    assert {str(tensor.dtype) for tensor in load_file(path).values()} == {"torch.float16"}
    assert {"summary", "command", "dataset_digest", "seed", "validation", "date", "versions"} <= card.keys()
    with safe_open(path, "pt") as content:
        metadata = content.metadata()
    for key in ("dataset_digest", "seed", "task"):
        assert metadata[key] == str(card[key])
    # The rooms that a probe is fitted and tested on by default must be new to it.
    assert f"--dataset-seed {DatasetConfig().dataset_seed}" not in str(card["command"])
    assert "--dataset-seed" in str(card["command"])
    encoder = built(name=name, weights=f"shipped:{task}")
    assert (encoder.origin.weights, encoder.origin.task) == ("shipped", task)
    assert bool(encoder(images()).isfinite().all())
