"""A whole model on a store, against formulas written out over all pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import PlantedReader
from torch import Tensor

from idl.data.preparation import prepare
from idl.data.store import Store
from idl.measurement import Measurement, measure
from idl.progress import silent
from idl.protocol import Protocol
from idl.targets import target

STRIDE = 16
ORDER = (20, 3, 7, 11, 2, 15, 9, 1, 0, 22)
REFERENCE = (4, 5, 6, 12)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(resolution=56), Protocol(resolution=56), tmp_path_factory.mktemp("store"))


def by_red(rgb: Tensor) -> Tensor:
    """A prediction with no rule but the red channel, which leaves the range at both ends."""
    return (rgb[:, :1] * 6 - 0.5).clamp(0.001, 4.2)


def measured(store: Store, name: str = "depth", protocol: Protocol | None = None) -> Measurement:
    model = by_red if name != "normals" else (lambda rgb: torch.stack([rgb[:, 0] - 0.5, rgb[:, 1], -rgb[:, 2]], dim=1))
    protocol = protocol or store.protocol
    return measure(model, store, ORDER, REFERENCE, target(name), protocol, STRIDE, silent)


def test_both_averages_are_those_of_the_pixels(store: Store) -> None:
    read = store.read(("rgb", "depth", "valid"), ORDER)
    depth = read["depth"].astype(np.float64)
    # 56 pixels are no multiple of 16: the padding must be gone.
    prediction = np.clip(read["rgb"][..., 0] / 255 * 6 - 0.5, 0.001, 4.2)
    valid = read["valid"]
    squared = [np.mean((p - d)[m] ** 2) for p, d, m in zip(prediction, depth, valid, strict=True)]
    reference = store.read(("depth", "valid"), REFERENCE)
    mean_m = reference["depth"][reference["valid"]].mean(dtype=np.float64)
    pooled = np.mean((prediction - depth)[valid] ** 2)

    result = measured(store)
    summary = result.sums.summary()
    assert summary["rmse"] == pytest.approx(np.mean(np.sqrt(squared)), rel=1e-5)
    assert summary["rmse_pooled"] == pytest.approx(np.sqrt(pooled), rel=1e-5)
    assert summary["r2"] == pytest.approx(1 - pooled / np.mean((depth[valid] - mean_m) ** 2), rel=1e-5)
    assert summary["num_images"] == len(ORDER)
    assert result.num_valid.tolist() == valid.sum(axis=(1, 2)).tolist()


def test_the_protocol_is_the_one_that_was_asked_for(store: Store) -> None:
    plain, aligned = (
        measured(store, protocol=replace(store.protocol, alignment=alignment)).sums.summary()
        for alignment in ("none", "affine")
    )
    assert aligned["mse_pooled"] < plain["mse_pooled"]


def test_angles_are_measured_for_normals(store: Store) -> None:
    read = store.read(("rgb", "normals", "valid"), ORDER)
    rgb, truth = read["rgb"] / 255, read["normals"].astype(np.float64)
    prediction = np.stack([rgb[..., 0] - 0.5, rgb[..., 1], -rgb[..., 2]], axis=-1)
    lengths = np.linalg.norm(prediction, axis=-1) * np.linalg.norm(truth, axis=-1)
    angles = np.degrees(np.arccos(np.clip((prediction * truth).sum(axis=-1) / lengths, -1, 1)))
    summary = measured(store, "normals").sums.summary()
    assert summary["angle_mean_deg_pooled"] == pytest.approx(angles[read["valid"]].mean(), rel=1e-4)


def test_panels_show_the_images_that_they_are_named_after(store: Store) -> None:
    result = measured(store)
    assert [panel.name for panel in result.panels] == [store.names[index] for index in ORDER]
    for panel, index in zip(result.panels, ORDER, strict=True):
        read = store.read(("rgb", "depth"), [index])
        np.testing.assert_array_equal(panel.rgb, read["rgb"][0])
        np.testing.assert_array_equal(panel.truth, read["depth"][0])


def test_one_image_at_a_time_gives_the_same(store: Store) -> None:
    whole = measured(store).sums.per_image()["mse"]
    single = [
        measure(by_red, store, [index], REFERENCE, target("depth"), store.protocol, STRIDE, silent).sums.per_image()
        for index in ORDER
    ]
    np.testing.assert_allclose(np.concatenate([each["mse"] for each in single]), whole, rtol=1e-6)
