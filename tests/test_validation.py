"""The validation split under many probes at once, held against one image and one probe after the other."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted import PlantedReader, SmallNetwork
from torch import Tensor

from idl.data.preparation import prepare
from idl.data.splits import split_by_scene
from idl.data.store import Store
from idl.encoders import Encoder, Origin
from idl.features import EncodedDataset
from idl.fitting import split_statistics
from idl.progress import silent
from idl.protocol import Protocol
from idl.targets import target
from idl.validation import ShownImages, losses_in_metres

NARROW = Protocol(resolution=64, min_depth_m=1.5, max_depth_m=3.5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(num_scenes=12), Protocol(resolution=64), tmp_path_factory.mktemp("store"))


@pytest.fixture
def encoded(store: Store, tmp_path: Path) -> EncodedDataset:
    origin = Origin("small", "custom", "digest", "none", 0, "tests")
    encoder = Encoder(SmallNetwork(seed=0), name="small", stride=8, channels=8, origin=origin)
    encoded = EncodedDataset(store, split_by_scene(store.scenes), encoder, tmp_path, 4, torch.device("cpu"))
    # Puts every map into the cache.
    for name in ("train", "val"):
        split_statistics(encoded, name, target("depth"), silent)
    return encoded


def weights(num_probes: int, num_columns: int, outputs: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    drawn = 0.3 * torch.randn(num_columns, num_probes * outputs, generator=generator, dtype=torch.float64)
    drawn[0] += 0.7
    return drawn


def one_by_one(encoded: EncodedDataset, name: str, of_probe: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Metres of one probe for one image of the store, through the encoder; truth and mask."""
    read = encoded.store.read(("rgb", "depth", "valid"), [index])
    image = torch.from_numpy(read["rgb"]).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        features = encoded._encoder(image)
    basis = encoded.basis
    components = ((features.permute(0, 2, 3, 1) - basis.feature_mean) @ basis.projection)[..., : len(of_probe) - 1]
    grid = components.double() @ of_probe[1:] + of_probe[0]
    upsampled = F.interpolate(grid.permute(0, 3, 1, 2), size=(64, 64), mode="bilinear", align_corners=False)
    return target(name).decode(upsampled), torch.from_numpy(read["depth"]), torch.from_numpy(read["valid"])


@pytest.mark.parametrize("name", ["depth", "log-depth", "inverse-depth"])
def test_losses_in_metres_are_those_of_every_pixel(encoded: EncodedDataset, name: str) -> None:
    given = weights(3, 6)
    losses = losses_in_metres(encoded, target(name), given, NARROW)
    for probe in range(3):
        squared, count = 0.0, 0
        for index in encoded.split.indices["val"]:
            metres, truth, valid = one_by_one(encoded, name, given[:, probe : probe + 1], index)
            error = metres.clamp(1.5, 3.5)[:, 0] - truth
            squared += float(error[valid].square().sum())
            count += int(valid.sum())
        # Maps are kept in half precision.
        assert losses[probe] == pytest.approx(squared / count, rel=2e-3)


@pytest.mark.parametrize("name", ["log-depth", "normals"])
def test_pictures_are_those_of_each_probe_alone(encoded: EncodedDataset, name: str) -> None:
    outputs = target(name).num_outputs
    shown = ShownImages.of(encoded, target(name), 3)
    given = [weights(1, 6, outputs), weights(1, 6, outputs).flip(0), torch.zeros(6, outputs, dtype=torch.float64)]
    together = shown.predicted(given, 64)
    for each, prediction in zip(given, together, strict=True):
        (alone,) = shown.predicted([each], 64)
        np.testing.assert_allclose(prediction, alone, rtol=1e-5, atol=1e-5)
        for position, image in enumerate(shown.names):
            metres, _, _ = one_by_one(encoded, name, each, encoded.store.names.index(image))
            expected = metres[0].movedim(0, -1) if name == "normals" else metres[0, 0]
            # Maps are kept in half precision.
            np.testing.assert_allclose(prediction[position], expected.numpy(), rtol=5e-3, atol=1e-2)


def test_pictures_of_a_short_split_are_all_of_it(encoded: EncodedDataset) -> None:
    order = encoded.split.indices["val"]
    shown = ShownImages.of(encoded, target("depth"), 1000)
    assert shown.names == tuple(encoded.store.names[index] for index in order)
    assert ShownImages.of(encoded, target("depth"), 1).names == shown.names[:1]
    assert shown.predicted([], 64) == []
