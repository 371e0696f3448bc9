"""The main path on real frames and real ImageNet weights, against brute force in float64.

Both lie outside the repository; the tests skip where they are absent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dense import Images, fit_dense

from idl.data.datasets import DatasetConfig, open_store
from idl.data.splits import Split, split_by_scene
from idl.data.store import Store
from idl.encoders import Encoder, EncoderConfig, build
from idl.pipeline import probe
from idl.probe_config import ProbeConfig
from idl.targets import target

REAL = Path(__file__).parents[2] / "shared" / "real"
WEIGHTS = REAL / "weights" / "mobilenetv2_100_imagenet.safetensors"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WEIGHTS.exists(), reason=f"no real frames and weights at {REAL}"),
]
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(DatasetConfig("folder", str(REAL / "hololens")), tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build(
        EncoderConfig(
            "timm:mobilenetv2_100",
            weights=str(WEIGHTS),
            encoder_args='{"pad_type": "same"}',
            mean=HALF,
            std=HALF,
            arithmetic="float32",
        ),
        torch.device("cpu"),
    )


class Lazily(Sequence[Images]):
    """Images of a split, read when they are looked at: their upsampled features would fill the memory."""

    def __init__(self, store: Store, indices: Sequence[int], name: str) -> None:
        self.store, self.indices, self.name = store, indices, name

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Images:  # pyright: ignore[reportIncompatibleMethodOverride]
        read = self.store.read(("rgb", "depth", "valid"), [self.indices[position]])
        truth, valid = target(self.name).encode(torch.from_numpy(read["depth"]), torch.from_numpy(read["valid"]))
        return Images(torch.from_numpy(read["rgb"]).permute(0, 3, 1, 2).float() / 255, truth, valid)

    def __iter__(self) -> Iterator[Images]:
        return (self[position] for position in range(len(self)))


def split_of(store: Store) -> Split:
    return split_by_scene(store.scenes, is_sequential=store.is_sequential)


def test_the_walk_is_split_in_time(store: Store) -> None:
    split = split_of(store)
    assert store.num_images == 125
    assert max(split.indices["train"]) < min(split.indices["val"])
    assert max(split.indices["val"]) < min(split.indices["test"])


@pytest.mark.parametrize("name", ["depth", "log-depth"])
def test_test_loss_is_that_of_dense_least_squares(
    store: Store, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = replace(ProbeConfig(), target=name, k="all")
    chosen = probe(config, store, encoder, tmp_path).report
    monkeypatch.setattr("idl.fitting.PENALTIES", (0.0,))
    plain = probe(config, store, encoder, tmp_path).report
    penalties = [float(report.params["penalty"]) for report in (chosen, plain)]  # pyright: ignore[reportArgumentType]
    assert penalties[0] > penalties[1] == 0
    split = split_of(store)
    with torch.inference_mode():
        train = Lazily(store, split.indices["train"], name)
        test = Lazily(store, split.indices["test"], name)
        for report, dense in zip((chosen, plain), fit_dense(encoder, train, train, penalties, drop=1e-9), strict=True):
            assert report.metrics["test_loss"] == pytest.approx(dense.mse(encoder, test), rel=1e-3)
