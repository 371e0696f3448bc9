"""Per-image statistics against automatic differentiation through a real upsampling, and their laws."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from idl.probes.image_statistics import (
    LEAST_OPEN_K,
    HeldStatistics,
    ImageGrams,
    ImageMaps,
    ImageStatistics,
    StreamedStatistics,
    plan,
)
from idl.probes.statistics import Statistics
from idl.targets import target

Data = tuple[Tensor, Tensor, Tensor]
Make = Callable[[Tensor, Tensor, Tensor], HeldStatistics]


def maps_as_given(columns: Tensor, truth: Tensor, valid: Tensor) -> ImageMaps:
    return replace(ImageMaps.of(columns, truth, valid), maps=columns.permute(0, 2, 3, 1))


MEAN, SPREAD = torch.tensor([[0.4, -3.0], [0.1, 7.0]], dtype=torch.float64)
both_forms = pytest.mark.parametrize("make", [ImageGrams.of, maps_as_given])


def drawn(
    num_images: int = 7,
    k: int = 4,
    grid: tuple[int, int] = (4, 6),
    pixels: tuple[int, int] = (32, 40),
    num_outputs: int = 2,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Data:
    """Columns with the bias first, numbers that half precision holds; a target; a mask, one image without a pixel."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(num_images, 1 + k, *grid, generator=generator).half().to(dtype)
    columns[:, 0] = 1
    truth = torch.randn(num_images, num_outputs, *pixels, generator=generator, dtype=dtype) + 0.5
    valid = torch.rand(num_images, *pixels, generator=generator) > 0.3
    valid[1] = False
    return columns, truth, valid


def gradients(images: ImageStatistics, weights: Tensor, order: Tensor, batch_size: int) -> list[Tensor]:
    """Of each minibatch, (probes, columns, out), with weights of that shape."""
    rows = weights.mT.flatten(0, 1).contiguous()
    return [
        minibatch.gradient(rows, out=torch.empty_like(rows)).unflatten(0, (len(weights), -1)).mT
        for minibatch in images.minibatches(order, batch_size)
    ]


def chosen(images: HeldStatistics, positions: Tensor) -> HeldStatistics:
    """Some of the images, in that order."""
    return type(images)(*(tensor[positions] for tensor in vars(images).values()))


def assert_same(a: ImageStatistics, b: ImageStatistics, rtol: float = 1e-10) -> None:
    """The same images, as far as minibatches can tell."""
    assert (a.num_images, a.num_columns, a.num_outputs) == (b.num_images, b.num_columns, b.num_outputs)
    weights = torch.randn(3, a.num_columns, a.num_outputs, dtype=a.dtype, generator=torch.Generator().manual_seed(9))
    one, other = (gradients(images, weights, torch.arange(a.num_images), 1) for images in (a, b))
    torch.testing.assert_close(one, other, rtol=rtol, atol=rtol)


@both_forms
@pytest.mark.parametrize("name", ["depth", "normals"])
@pytest.mark.parametrize(("grid", "pixels"), [((1, 1), (9, 9)), ((8, 8), (64, 64)), ((5, 7), (33, 50))])
def test_the_gradient_is_that_of_a_real_upsampling(
    make: Make, name: str, grid: tuple[int, int], pixels: tuple[int, int]
) -> None:
    """In float32, as the pipeline computes, against float64, to 1e-5."""
    columns, drawn_truth, valid = drawn(grid=grid, pixels=pixels, num_outputs=3, dtype=torch.float32)
    layer = drawn_truth.movedim(1, -1) if name == "normals" else drawn_truth[:, 0].exp()
    truth, valid = target(name).encode(layer, valid)
    weights = torch.randn(2, 5, target(name).num_outputs, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([6, 1, 2, 0, 4, 3, 5])
    found = gradients(make(columns, truth, valid), weights, order, 3)
    assert len(found) == 3
    for part, of_part in zip(order.split(3), found, strict=True):
        for probe in range(2):
            w = weights[probe].double().requires_grad_()
            prediction = torch.einsum("bchw,co->bohw", columns[part].double(), w)
            prediction = F.interpolate(prediction, size=pixels, mode="bilinear", align_corners=False)
            loss = (prediction - truth[part].double()).square().movedim(1, -1)[valid[part]].mean()
            (gradient,) = torch.autograd.grad(loss, w)
            assert float((of_part[probe].double() - gradient).abs().max() / gradient.abs().max()) < 1e-5


sizes = st.tuples(
    st.integers(1, 6), st.integers(1, 6), st.integers(0, 15), st.integers(0, 15), st.integers(0, 8), st.integers(1, 3)
)


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 2**31))
def test_all_images_have_the_gradient_of_what_statistics_accumulate(
    drawn_sizes: tuple[int, int, int, int, int, int], seed: int
) -> None:
    """In float64; as the pipeline computes, in float32 with maps in half precision, both forms agree to 1e-5."""
    height, width, more_rows, more_columns, k, num_outputs = drawn_sizes
    data = drawn(4, k, (height, width), (height + more_rows, width + more_columns), num_outputs, seed)
    weights = torch.randn(2, 1 + k, num_outputs, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    whole = Statistics.empty(1 + k, num_outputs).accumulate(*data)
    expected = 2 * (whole.xtx @ weights - whole.xty) / max(1, whole.num_terms)
    scale = 1 + float(expected.abs().max())
    for make in (ImageGrams.of, maps_as_given):
        (found,) = gradients(make(*data), weights, torch.arange(4), 4)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * scale)
    for form in (ImageGrams, ImageMaps):
        (found,) = gradients(form.of(data[0].float(), data[1].float(), data[2]), weights.float(), torch.arange(4), 4)
        torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5 * scale)


@both_forms
def test_leading_columns_of_standardised_targets_and_joined_images(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, truth, valid = drawn()
    images = make(columns, truth, valid)
    for k in range(5):
        changed = (truth - MEAN[:, None, None]) / SPREAD[:, None, None]
        assert_same(images.leading(k, MEAN, SPREAD), make(columns[:, : 1 + k], changed, valid), rtol=1e-9)
    parts = [make(columns[part], truth[part], valid[part]) for part in (slice(0, 2), slice(2, 3), slice(3, 7))]
    # Minibatches that are made and summed one by one.
    monkeypatch.setattr("idl.probes.image_statistics._BYTES_OF_MATRICES", 1)
    assert_same(type(images).cat(parts), images)
    weights = torch.randn(2, 5, 2, dtype=torch.float64)
    found = gradients(images, weights, torch.arange(7), 2)
    monkeypatch.undo()
    torch.testing.assert_close(found, gradients(images, weights, torch.arange(7), 2))


@both_forms
def test_streamed_images_are_the_same_images(make: Make) -> None:
    images = make(*drawn())
    num_read = []

    def read(positions: Tensor) -> HeldStatistics:
        num_read.append(len(positions))
        return chosen(images, positions)

    streamed = StreamedStatistics(read, images.num_images, images_per_read=5)
    assert_same(streamed.leading(2, MEAN, SPREAD), images.leading(2, MEAN, SPREAD))
    weights, order = torch.randn(1, 5, 2, dtype=torch.float64), torch.randperm(7)
    num_read.clear()
    torch.testing.assert_close(gradients(streamed, weights, order, 2), gradients(images, weights, order, 2))
    assert num_read == [4, 3]


@pytest.mark.parametrize(("k", "num_outputs", "grid"), [(0, 1, (1, 1)), (4, 3, (3, 5)), (70, 1, (4, 4))])
@pytest.mark.parametrize("form", [ImageGrams, ImageMaps])
def test_bytes_are_foretold(form: type[ImageGrams], k: int, num_outputs: int, grid: tuple[int, int]) -> None:
    data = drawn(3, k, grid, (16, 16), num_outputs, dtype=torch.float32)
    num_bytes = sum(tensor.nbytes for tensor in vars(form.of(*data)).values())
    assert num_bytes == 3 * form.bytes_per_image(k, num_outputs, grid[0] * grid[1])


@given(st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 2048), st.integers(1, 3), st.integers(0, 10**11))
def test_a_plan_keeps_to_its_budget(num_images: int, side: int, components: int, num_outputs: int, budget: int) -> None:
    found = plan(num_images, (side, side), components, num_outputs, budget=budget)
    assert found.is_streamed == (found.num_bytes > budget)
    assert min(components, LEAST_OPEN_K) <= found.k_max <= components
    more = plan(num_images, (side, side), components, num_outputs, budget=2 * budget)
    assert more.is_streamed <= found.is_streamed
    assert plan(num_images, (side, side), components, num_outputs, budget=budget, k=10).k_max == min(10, components)


@pytest.mark.parametrize(
    ("num_images", "side", "components", "budget", "k", "expected"),
    [
        (1200, 16, 64, 10**9, None, (ImageGrams, 64, False)),
        (1200, 8, 768, 10**10, None, (ImageMaps, 768, False)),
        (1200, 16, 768, 10**9, None, (ImageMaps, 768, False)),
        (500_000, 16, 768, 10**10, None, (ImageGrams, 97, False)),
        (500_000, 16, 768, 10**10, 768, (ImageMaps, 768, True)),
    ],
)
def test_a_plan_goes_by_the_sizes(
    num_images: int, side: int, components: int, budget: int, k: int | None, expected: tuple[type, int, bool]
) -> None:
    found = plan(num_images, (side, side), components, 1, budget=budget, k=k)
    assert (found.form, found.k_max, found.is_streamed) == expected
    assert f"{num_images:,} images, {expected[1]} of {components} components" in found.sentence
    assert ("read again in every epoch" in found.sentence) == expected[2]
