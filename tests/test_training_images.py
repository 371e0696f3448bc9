"""The batches that a training sees, whole or in parts: the same whoever reads them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import training_ranks
from forked import run_ranks
from planted_training import SMALL, LabelledReader, small_store, trained, wide_store
from safetensors.torch import load_file
from torch import Tensor

from idl.data.splits import Split
from idl.data.store import Store
from idl.training.checkpoints import Checkpoints
from idl.training.images import Batch, TrainingImages, to_network
from idl.training.loop import TrainingConfig
from idl.training.objectives import Autoencoding

LAYERS = ("rgb", "red")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Split]:
    return small_store(tmp_path_factory.mktemp("store"), LabelledReader(resolution=32))


@pytest.fixture(scope="module")
def images(made: tuple[Store, Split]) -> TrainingImages:
    """12 images in batches of 4, cropped and mirrored."""
    store, split = made
    return TrainingImages(store, split.indices["train"], LAYERS, batch_size=4, crop=16, flip=True, seed=0)


def first(images: TrainingImages, count: int, step: int = 0, rank: int = 0, num_ranks: int = 1) -> list[Batch]:
    stream = images.stream(step, rank, num_ranks)
    try:
        return list(islice(stream, count))
    finally:
        stream.close()


def equal(one: Sequence[Batch], other: Sequence[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[layer], b[layer]) for layer in a)
        for a, b in zip(one, other, strict=True)
    )


def positions(images: TrainingImages, batches: list[Batch]) -> list[int]:
    """Which image of the store each one is; they are whole and not mirrored."""
    stored = images.store.read(("rgb",), range(images.store.num_images))["rgb"]
    shown = [image.numpy() for batch in batches for image in batch["rgb"]]
    return [next(i for i, image in enumerate(stored) if np.array_equal(image, one)) for one in shown]


@pytest.mark.parametrize("batch_size", [1, 4, 5, 12])
def test_an_epoch_shows_each_image_at_most_once(images: TrainingImages, batch_size: int) -> None:
    whole = replace(images, batch_size=batch_size, crop=0, flip=False)
    count = 12 // batch_size
    assert whole.steps_per_epoch == count
    shown = positions(whole, first(whole, 3 * count))
    epochs = [shown[begin : begin + count * batch_size] for begin in range(0, len(shown), count * batch_size)]
    assert len(epochs) == 3
    for epoch in epochs:
        assert len(set(epoch)) == count * batch_size
        assert set(epoch) <= set(images.indices)
    # Every epoch in an order of its own: what is left out of one is shown in another.
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert set(shown) == set(images.indices)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 8])
def test_a_stream_that_begins_later_is_the_rest_of_the_first(images: TrainingImages, step: int) -> None:
    assert equal(first(images, 10 - step, step), first(images, 10)[step:])


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_the_parts_of_the_ranks_make_up_the_batch_of_one(images: TrainingImages, num_ranks: int) -> None:
    parts = [first(images, 5, 2, rank, num_ranks) for rank in range(num_ranks)]
    together = [
        {layer: torch.cat([part[layer] for part in step]) for layer in LAYERS} for step in zip(*parts, strict=True)
    ]
    assert equal(together, first(images, 5, 2))


@pytest.mark.parametrize("crop", [0, 16])
def test_a_batch_is_as_it_was_always_drawn(tmp_path: Path, crop: int) -> None:
    """By hand, of whole images that are not square: what a checkpoint was trained on is gone on with."""
    store = wide_store(tmp_path)
    indices = tuple(range(3, 20))
    made = TrainingImages(store, indices, ("rgb", "red", "normals"), 4, crop, flip=True, seed=7)
    batches = first(made, 3, step=6)
    side = crop or 24
    for step, batch in zip((6, 7, 8), batches, strict=True):
        epoch, done = divmod(step, 4)
        order = np.random.default_rng([7, 0x0DE2, epoch]).permutation(indices)[4 * done : 4 * done + 4]
        generator = np.random.default_rng([7, 0xC409, step])
        corners, chances = generator.integers(0, 24 - side + 1, (4, 2)), generator.random(4)
        assert {bool(chance < 0.5) for chance in chances} == {True, False}
        whole = store.read(("rgb", "red", "normals"), order.tolist())
        for row, (top, left) in enumerate(corners):
            for layer, images in whole.items():
                piece = images[row, top : top + side, left : left + (crop or 40)]
                if chances[row] < 0.5:
                    piece = piece[:, ::-1] * ([-1, 1, 1] if layer == "normals" else 1)
                np.testing.assert_array_equal(batch[layer][row].numpy(), piece)


def test_the_network_sees_colours_from_0_to_1(images: TrainingImages) -> None:
    (batch,) = first(images, 1)
    moved = to_network(batch, torch.device("cpu"))
    assert moved["rgb"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(moved["rgb"], batch["rgb"].permute(0, 3, 1, 2) / 255)
    assert torch.equal(moved["red"], batch["red"])


CONFIG = TrainingConfig(epochs=4, batch_size=12, crop=16, lr=1e-3, validate_every=4, arithmetic="float32")


def weights(config: TrainingConfig, made: tuple[Store, Split], folder: Path) -> dict[str, Tensor]:
    objective = Autoencoding(SMALL, seed=0)
    trained(objective, config, made, folder)
    return objective.module.state_dict()


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-5)


def test_a_batch_in_parts_gives_the_weights_of_a_whole_one(made: tuple[Store, Split], tmp_path: Path) -> None:
    whole = weights(CONFIG, made, tmp_path / "1")
    for accumulate in (2, 4, 12):
        close(whole, weights(replace(CONFIG, accumulate=accumulate), made, tmp_path / str(accumulate)))
    # What the tolerance must not hide.
    with pytest.raises(AssertionError):
        close(whole, weights(replace(CONFIG, seed=1), made, tmp_path / "other"))


@pytest.mark.slow
def test_two_ranks_give_the_weights_of_one_and_are_interrupted_together(
    made: tuple[Store, Split], tmp_path: Path
) -> None:
    one = str(tmp_path / "one.safetensors")
    training_ranks.main(str(made[0].path), str(tmp_path / "one"), one)
    folder, two = str(tmp_path / "two"), str(tmp_path / "two.safetensors")
    ended = run_ranks(tmp_path / "cut", training_ranks.main, str(made[0].path), folder, two, "6")
    assert not ended.is_done
    assert not Path(two).exists()
    # Rank 0 writes after the step in which rank 1 got the signal.
    content, _ = Checkpoints(Path(folder)).newest({})
    assert content["state"]["step"] == 6
    ended = run_ranks(tmp_path / "rest", training_ranks.main, str(made[0].path), folder, two, "0", "resume")
    assert ended.is_done, ended.stderr
    close(load_file(one), load_file(two))
