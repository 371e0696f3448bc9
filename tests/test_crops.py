"""Random crops as a test split: what a crop shows, which images it is of, and what a probe makes of it."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from diode_files import View, write_frame, write_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from nyu_files import SMALL_SIZE, plant, write_mat
from PIL import Image
from planted import PlantedReader, SmallNetwork
from planted_features import foreign

from idl.data.crops import CroppedStore, CropRecipe, _native, draw, with_crops
from idl.data.datasets import DatasetConfig, native_reader
from idl.data.diode import DiodeReader, normals_by_depth, rays
from idl.data.folder import FolderReader
from idl.data.nyu import NyuReader
from idl.data.preparation import prepare
from idl.data.reader import Native, NativeReader, Sample
from idl.data.splits import split_store
from idl.data.store import Store
from idl.encoders import Encoder
from idl.errors import InputError
from idl.pipeline import probe
from idl.probe_config import ProbeConfig
from idl.protocol import Protocol
from idl.verdict.study import leaked_scenes

SMALL = Protocol(resolution=32)
ALL = ("rgb", "depth", "valid")


@dataclass(frozen=True)
class LargeReader(PlantedReader, NativeReader):
    """One image a scene, larger than what is prepared. holed: images with depth in their last ten columns only."""

    protocol: Protocol = SMALL
    num_scenes: int = 12
    views: int = 1
    resolution: int = 80
    with_normals: bool = False
    holed: tuple[int, ...] = ()
    reads: list[int] = field(default_factory=list, compare=False)

    def native_size(self, index: int) -> tuple[int, int]:
        return 80, 80

    def rgb(self, index: int) -> np.ndarray:
        return self.native(index).image

    def native(self, index: int) -> Native:
        self.reads.append(index)
        (sample,) = PlantedReader.read(self, index)
        valid = sample.valid.copy()
        if index in self.holed:
            valid[:, :70] = False
        return Native(sample.rgb, sample.depth_m, valid)

    def read(self, index: int) -> list[Sample]:
        return NativeReader.read(self, index)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, LargeReader]:
    reader = LargeReader()
    return prepare(reader, SMALL, tmp_path_factory.mktemp("store")), reader


def cropped(made: tuple[Store, NativeReader], count: int = 20, seed: int = 0) -> CroppedStore:
    store, reader = made
    return with_crops(store, reader, split_store(store, "auto", 0).indices["test"], count, seed)


def whole_frame(store: Store, reader: NativeReader, image: int, box: tuple[int, int, int, int]) -> CroppedStore:
    """A store with one crop: all that was prepared of an image."""
    return replace(with_crops(store, reader, [image], 1), recipes=(CropRecipe(image, box, False),))


def of_folder(root: Path) -> FolderReader:
    generator = np.random.default_rng(0)
    for name in "abc":
        for kind in ("rgb", "depth"):
            (root / name / kind).mkdir(parents=True)
        values = generator.integers(0, 256, (48, 72, 3), dtype=np.uint8)
        Image.fromarray(values).save(root / name / "rgb/0.png")
        np.save(root / name / "depth/0.npy", np.where(values[..., 0] > 50, values[..., 1] / 40 + 1, 0))
    return FolderReader(root, replace(SMALL, erosion=1))


def of_nyu(root: Path) -> NyuReader:
    protocol = replace(SMALL, crop=(4, 46, 2, 60))
    return NyuReader(write_mat(root / "nyu_depth_v2_labeled.mat", plant()), protocol, size=SMALL_SIZE)


def of_diode(root: Path) -> DiodeReader:
    write_tree(root, per_scan=1)
    return DiodeReader(root, replace(SMALL, erosion=1, max_depth_m=80.0))


@pytest.mark.parametrize(
    ("make", "box", "layers"),
    [(of_folder, (0, 48, 12, 60), ALL), (of_nyu, (4, 46, 10, 52), ALL), (of_diode, (0, 48, 8, 56), (*ALL, "normals"))],
)
def test_the_crop_of_all_that_was_prepared_is_the_prepared_image(
    tmp_path: Path, make: type, box: tuple[int, int, int, int], layers: Sequence[str]
) -> None:
    reader = make(tmp_path / "data")
    store = prepare(reader, reader.protocol, tmp_path / "stores")
    whole = whole_frame(store, reader, 2, box)
    crop, image = whole.read(layers, whole.crops), store.read(layers, [2])
    assert image["valid"].any()
    for layer in layers:
        assert crop[layer].dtype == image[layer].dtype
        # At its edges the whole image's colours come from beyond the square too.
        inside = np.s_[:, 3:-3, 3:-3] if layer == "rgb" else np.s_[:]
        np.testing.assert_array_equal(crop[layer][inside], image[layer][inside])


def test_the_crop_of_a_linear_field_is_the_field_of_the_crop(tmp_path: Path) -> None:
    """Depth in metres and colour alike, wherever the crop lies, whatever its size, mirrored or not."""
    height, width = 64, 90
    y, x = np.mgrid[:height, :width] + 0.5
    for name in "abc":
        for kind in ("rgb", "depth"):
            (tmp_path / name / kind).mkdir(parents=True)
        np.save(tmp_path / name / "depth/0.npy", (1 + 0.03 * x + 0.05 * y).astype(np.float32))
        colours = np.stack([2 * x, 3 * y, 0 * x], axis=-1)
        Image.fromarray(colours.round().astype(np.uint8)).save(tmp_path / name / "rgb/0.png")
    reader = FolderReader(tmp_path, SMALL)
    store = with_crops(prepare(reader, SMALL, tmp_path / "stores"), reader, [0, 1], 40)
    read = store.read(ALL, store.crops)
    assert read["valid"].all()
    for recipe, rgb, depth_m in zip(store.recipes, read["rgb"], read["depth"], strict=True):
        top, bottom, left, right = recipe.box
        ratio = (bottom - top) / 32
        assert right - left == bottom - top
        down, across = top + (np.arange(32) + 0.5) * ratio, left + (np.arange(32) + 0.5) * ratio
        if recipe.is_mirrored:
            across = across[::-1]
        # Pixels are squares of one value: averaged over [a, b] they are off the line by at most 1/8 / (b - a).
        np.testing.assert_allclose(depth_m, 1 + 0.03 * across + 0.05 * down[:, None], atol=0.08 / 8 / ratio + 1e-5)
        inside = np.s_[3:-3, 3:-3]
        for channel, expected in ((0, 2 * across + 0 * down[:, None]), (1, 0 * across + 3 * down[:, None])):
            np.testing.assert_allclose(rgb[inside][..., channel], expected[inside], atol=2.0)
    assert {recipe.is_mirrored for recipe in store.recipes} == {False, True}


def test_mirrored_normals_are_those_of_the_mirrored_depth(tmp_path: Path) -> None:
    height, width = 48, 64
    normal = np.array([0.4, -0.3, -1.0]) / np.sqrt(1.25)
    depth_m = (-2.0 / (rays(height, width) @ normal)).astype(np.float32)
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    seen = View(rgb, depth_m, np.broadcast_to(normal, rgb.shape).astype(np.float32), np.ones(rgb.shape[:2], bool))
    for scene in range(3):
        write_frame(tmp_path / "data", f"train/indoors/scene_0000{scene}/scan_00000", 0, seen)
    reader = DiodeReader(tmp_path / "data", SMALL)
    store = whole_frame(prepare(reader, SMALL, tmp_path / "stores"), reader, 0, (8, 40, 10, 42))
    mirrored = replace(store, recipes=(CropRecipe(0, (8, 40, 10, 42), True),))
    read = mirrored.read(("depth", "normals"), mirrored.crops)
    flipped_m = depth_m[:, ::-1]
    by_depth, known = normals_by_depth(flipped_m, flipped_m > 0)
    part = np.s_[8:40, width - 42 : width - 10]
    np.testing.assert_array_equal(read["depth"][0], flipped_m[part])
    assert known[part].all()
    np.testing.assert_allclose(read["normals"][0], by_depth[part], atol=2e-3)


@given(
    height=st.integers(32, 200),
    width=st.integers(32, 200),
    count=st.integers(1, 60),
    num_images=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_crops_are_of_the_stated_sizes_and_as_many_of_each_image(
    height: int, width: int, count: int, num_images: int, seed: int
) -> None:
    protocol = replace(SMALL, crop=(0, height, 3, width + 3))
    drawn = draw(range(num_images), [(height, width + 5)] * num_images, count, seed, protocol)
    assert len(drawn) == count
    most = min(height, width)
    for recipe in drawn:
        top, bottom, left, right = recipe.box
        assert 0 <= top < bottom <= height
        assert 3 <= left < right <= width + 3
        assert bottom - top == right - left
        assert max(32, round(most / 2)) <= bottom - top <= most
    of_each = [sum(recipe.image == image for recipe in drawn) for image in range(num_images)]
    assert max(of_each) - min(of_each) <= 1
    assert [recipe.image for recipe in drawn] == sorted(recipe.image for recipe in drawn)


def test_equal_seeds_give_equal_crops_and_others_others(made: tuple[Store, LargeReader]) -> None:
    one, same, other = cropped(made), cropped(made), cropped(made, seed=1)
    assert one.crops_digest == same.crops_digest != other.crops_digest
    assert one.names == same.names
    for layer, values in one.read(ALL, one.crops).items():
        np.testing.assert_array_equal(values, same.read(ALL, same.crops)[layer])
    assert one.recipes != other.recipes
    assert cropped(made, count=19).crops_digest != one.crops_digest


def test_every_crop_is_of_a_test_scene_and_nothing_else_is_tested(made: tuple[Store, LargeReader]) -> None:
    store = cropped(made)
    plain, split = split_store(made[0], "auto", 0), split_store(store, "auto", 0)
    for name in ("train", "val"):
        assert split.indices[name] == plain.indices[name]
        assert split.scenes[name] == plain.scenes[name]
    assert split.indices["test"] == tuple(store.crops)
    assert len(store.crops) == 20
    assert {store.scenes[index] for index in store.crops} == set(plain.scenes["test"])
    assert {store.origin(index) for index in store.crops} == set(plain.indices["test"])
    assert split.digest != plain.digest == split.scenes_digest
    with pytest.raises(InputError, match="crops are of scenes that are not tested under it"):
        split_store(store, "auto", 1)


def test_crops_of_one_image_are_made_of_one_reading(made: tuple[Store, LargeReader]) -> None:
    store = cropped(made)
    reads = made[1].reads
    reads.clear()
    _native.cache_clear()
    for first in range(0, 20, 3):
        store.read(ALL, store.crops[first : first + 3])
    assert len(reads) == len(set(reads)) == 2


def test_whole_images_and_crops_are_read_in_any_order_and_elsewhere(made: tuple[Store, LargeReader]) -> None:
    store = cropped(made)
    order = (store.crops[7], 0, store.crops[1], 3, store.crops[7])
    read = store.read(ALL, order)
    for layer in ALL:
        for row, index in enumerate(order):
            np.testing.assert_array_equal(read[layer][row], store.read((layer,), [index])[layer][0])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read(ALL, order)[layer], read[layer])
    for strip, image in zip(store.read(("depth",), (0, 3), (2, 5), 10)["depth"], ((0, 2), (3, 5)), strict=True):
        np.testing.assert_array_equal(strip, store.read(("depth",), [image[0]])["depth"][0, image[1] : image[1] + 10])
    with pytest.raises(InputError, match="no layer 'normals'"):
        store.read(("normals",), store.crops)


def encoder() -> Encoder:
    return foreign(SmallNetwork(), 8, "small")


CONFIG = ProbeConfig(batch_size=4, k="4")


def test_figures_are_the_same_from_the_cache_and_training_does_not_see_the_crops(
    made: tuple[Store, LargeReader], tmp_path: Path
) -> None:
    store = cropped(made)
    config = replace(CONFIG, test_images=20)
    fresh = probe(config, store, encoder(), tmp_path / "one").report
    again = probe(config, store, encoder(), tmp_path / "one").report
    elsewhere = probe(config, cropped(made), encoder(), tmp_path / "two").report
    assert (fresh.metrics["encoded_images"], again.metrics["encoded_images"]) == (30, 0)
    speed = ("encoded_images", "images_per_s")
    figures = {name: value for name, value in fresh.metrics.items() if name not in speed}
    for other in (again, elsewhere):
        assert {name: value for name, value in other.metrics.items() if name not in speed} == figures
    whole = probe(CONFIG, made[0], encoder(), tmp_path / "one").report
    for name in ("train_loss", "val_loss"):
        assert whole.metrics[name] == fresh.metrics[name]
    assert whole.metrics["test_loss"] != fresh.metrics["test_loss"]
    assert fresh.params["num_test"] == 20
    assert "The test split is 20 random crops (seed 0) of 2 native images" in fresh.description
    table = fresh.tables["per_image.json"]
    assert str(table["image"][13]).endswith("-crop00013")
    with pytest.raises(ValueError, match="20 test images are requested, and the store has 0 crops"):
        probe(config, made[0], encoder(), tmp_path / "one")


def test_a_crop_without_depth_counts_for_nothing(tmp_path: Path) -> None:
    """The loss is that of the crops with depth, weighted by their pixels."""
    reader = LargeReader(holed=tuple(range(12)))
    store = cropped((prepare(reader, SMALL, tmp_path / "stores"), reader), count=30)
    valid = store.read(("valid",), store.crops)["valid"].any(axis=(1, 2))
    assert 0 < valid.sum() < 30
    report = probe(replace(CONFIG, test_images=30), store, encoder(), tmp_path).report
    table = report.tables["per_image.json"]
    losses, counts = (np.array(table[name], dtype=float) for name in ("loss_probe", "num_valid"))
    np.testing.assert_array_equal(np.isfinite(losses), valid)
    assert report.metrics["test_loss"] == pytest.approx(np.average(losses[valid], weights=counts[valid]), rel=1e-6)
    assert all(np.isfinite(value) for name, value in report.metrics.items() if name.startswith("test_"))


class SameReader(LargeReader):
    def native(self, index: int) -> Native:
        return super().native(0)


def test_a_crop_of_an_image_that_was_trained_on_is_found(tmp_path: Path) -> None:
    """Though it equals none of them: the images that crops are of are compared."""
    reader = SameReader()
    store = cropped((prepare(reader, SMALL, tmp_path), reader))
    split = split_store(store, "auto", 0)
    tested = [store.names[store.origin(index)] for index in split.indices["test"]]
    found = leaked_scenes(store, split)
    assert {name for name in tested if any(f"(image {name})" in each for each in found)} == set(tested)


def test_what_cannot_be_cropped_is_said(made: tuple[Store, LargeReader]) -> None:
    """What the commands refuse is in test_bad_input.py."""
    with pytest.raises(InputError, match="protocol=nyu-eigen measures whole native frames"):
        native_reader(DatasetConfig(dataset="nyu", protocol="nyu-eigen"), 5)
    with pytest.raises(InputError, match="which its source has not"):
        cropped((made[0], LargeReader(num_scenes=1)))
