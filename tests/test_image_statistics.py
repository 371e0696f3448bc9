"""Per-image statistics against automatic differentiation through a real upsampling, and their laws."""

from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from idl.probes.image_grams import ImageGrams
from idl.probes.image_maps import ImageMaps
from idl.probes.image_plan import FORMS, LEAST_OPEN_K, plan
from idl.probes.image_statistics import HeldStatistics, ImageStatistics, StreamedStatistics
from idl.probes.statistics import Statistics
from idl.targets import target

Data = tuple[Tensor, Tensor, Tensor]
Make = Callable[[Tensor, Tensor, Tensor], HeldStatistics]


def maps_as_given(columns: Tensor, truth: Tensor, valid: Tensor) -> ImageMaps:
    return ImageMaps.of(columns, truth, valid, stored=columns.dtype)


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


def upsampled_loss(weights: Tensor, columns: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Predict on the grid with weights (columns, out), upsample, and average over valid pixels and outputs."""
    prediction = torch.einsum("bchw,co->bohw", columns, weights)
    prediction = F.interpolate(prediction, size=truth.shape[2:], mode="bilinear", align_corners=False)
    return (prediction - truth).square().movedim(1, -1)[valid].mean()


def losses_and_gradients(
    images: ImageStatistics, weights: Tensor, order: Tensor, batch_size: int
) -> list[tuple[Tensor, Tensor]]:
    """Of each minibatch, with weights (probes, columns, out): (probes,) and (probes, columns, out)."""
    rows = weights.mT.flatten(0, 1).contiguous()
    found = []
    for minibatch in images.minibatches(order, batch_size):
        gradient = minibatch.gradient(rows, out=torch.empty_like(rows))
        found.append((minibatch.loss(rows), gradient.unflatten(0, (len(weights), -1)).mT))
    return found


def assert_same(a: ImageStatistics, b: ImageStatistics, rtol: float = 1e-10) -> None:
    """The same images, as far as minibatches can tell."""
    assert (a.num_images, a.num_columns, a.num_outputs) == (b.num_images, b.num_columns, b.num_outputs)
    weights = torch.randn(3, a.num_columns, a.num_outputs, dtype=a.dtype, generator=torch.Generator().manual_seed(9))
    order = torch.arange(a.num_images)
    for one, other in zip(
        losses_and_gradients(a, weights, order, 1), losses_and_gradients(b, weights, order, 1), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol)


@both_forms
@pytest.mark.parametrize("name", ["depth", "normals"])
@pytest.mark.parametrize(("grid", "pixels"), [((1, 1), (9, 9)), ((8, 8), (64, 64)), ((5, 7), (33, 50))])
def test_loss_and_gradient_are_those_of_a_real_upsampling(
    make: Make, name: str, grid: tuple[int, int], pixels: tuple[int, int]
) -> None:
    """In float32, as the pipeline computes, against float64, to 1e-5."""
    columns, drawn_truth, valid = drawn(grid=grid, pixels=pixels, num_outputs=3, dtype=torch.float32)
    wanted = target(name)
    layer = drawn_truth.movedim(1, -1) if name == "normals" else drawn_truth[:, 0].exp()
    truth, valid = wanted.encode(layer, valid)
    weights = torch.randn(2, 5, wanted.num_outputs, generator=torch.Generator().manual_seed(1))
    order = torch.tensor([6, 1, 2, 0, 4, 3, 5])
    found = losses_and_gradients(make(columns, truth, valid), weights, order, 3)
    assert len(found) == 3
    for chosen, (losses, gradients) in zip(order.split(3), found, strict=True):
        for probe in range(2):
            w = weights[probe].double().requires_grad_()
            expected = upsampled_loss(w, columns[chosen].double(), truth[chosen].double(), valid[chosen])
            (gradient,) = torch.autograd.grad(expected, w)
            torch.testing.assert_close(losses[probe].double(), expected.detach(), rtol=1e-5, atol=0)
            off = (gradients[probe].double() - gradient).abs().max() / gradient.abs().max()
            assert float(off) < 1e-5


sizes = st.tuples(
    st.integers(1, 6), st.integers(1, 6), st.integers(0, 15), st.integers(0, 15), st.integers(0, 8), st.integers(1, 3)
)


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 2**31))
def test_the_sum_over_images_is_what_statistics_accumulate(
    drawn_sizes: tuple[int, int, int, int, int, int], seed: int
) -> None:
    height, width, more_rows, more_columns, k, num_outputs = drawn_sizes
    data = drawn(4, k, (height, width), (height + more_rows, width + more_columns), num_outputs, seed)
    expected = Statistics.empty(1 + k, num_outputs).accumulate(*data)
    for make in (ImageGrams.of, maps_as_given):
        total = make(*data).total()
        for name in ("gram", "moment", "energy"):
            torch.testing.assert_close(getattr(total, name), getattr(expected, name), rtol=1e-11, atol=1e-10)
        assert (total.num_valid, total.num_images) == (expected.num_valid, expected.num_images)


def test_float32_and_half_keep_the_sum_to_six_digits() -> None:
    data = drawn(k=40, dtype=torch.float32)
    exact = Statistics.empty(41, 2).accumulate(data[0].double(), data[1].double(), data[2])
    for form in FORMS.values():
        total = form.of(*data).total()
        for name in ("gram", "moment", "energy"):
            expected = getattr(exact, name)
            assert float((getattr(total, name) - expected).abs().max() / expected.abs().max()) < 1e-6


@settings(max_examples=25, deadline=None)
@given(sizes, st.integers(0, 2**31))
def test_both_forms_agree(drawn_sizes: tuple[int, int, int, int, int, int], seed: int) -> None:
    height, width, more_rows, more_columns, k, num_outputs = drawn_sizes
    pixels = (height + more_rows, width + more_columns)
    data = drawn(5, k, (height, width), pixels, num_outputs, seed, torch.float32)
    weights = torch.randn(4, 1 + k, num_outputs, generator=torch.Generator().manual_seed(seed))
    grams, maps = (losses_and_gradients(form.of(*data), weights, torch.arange(5), 2) for form in FORMS.values())
    for (loss_a, gradient_a), (loss_b, gradient_b) in zip(grams, maps, strict=True):
        torch.testing.assert_close(loss_a, loss_b, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient_a, gradient_b, rtol=1e-5, atol=1e-5 * float(1 + gradient_b.abs().max()))


@both_forms
def test_minibatches_of_an_epoch_average_to_the_whole_split(make: Make) -> None:
    data = drawn()
    images = make(*data)
    weights = torch.randn(1, 5, 2, dtype=torch.float64)
    order = torch.tensor([4, 0, 6, 1, 2, 5, 3])
    counts = [float(data[2][chosen].sum()) for chosen in order.split(2)]
    found = losses_and_gradients(images, weights, order, 2)
    loss = sum(count * loss for count, (loss, _) in zip(counts, found, strict=True)) / sum(counts)
    torch.testing.assert_close(torch.as_tensor(loss)[0], images.total().mse(weights[0]))
    (whole,) = losses_and_gradients(images, weights, order.flip(0), 7)
    torch.testing.assert_close(loss, whole[0])
    gradient = sum(count * gradient for count, (_, gradient) in zip(counts, found, strict=True)) / sum(counts)
    torch.testing.assert_close(gradient, whole[1])


@both_forms
def test_images_without_a_valid_pixel_count_for_nothing(make: Make) -> None:
    images = make(*drawn())
    weights = torch.randn(2, 5, 2, dtype=torch.float64)
    ((loss, gradient),) = losses_and_gradients(images, weights, torch.tensor([1, 1]), 2)
    assert not loss.any()
    assert not gradient.any()
    with_it, without = (losses_and_gradients(images, weights, torch.tensor(order), 3) for order in ([0, 1, 2], [2, 0]))
    torch.testing.assert_close(with_it, without)


@both_forms
def test_leading_columns_are_those_columns_alone(make: Make) -> None:
    columns, truth, valid = drawn()
    images = make(columns, truth, valid)
    for k in range(5):
        assert_same(images.leading(k), make(columns[:, : 1 + k], truth, valid))


@both_forms
def test_a_standardised_target_is_another_target(make: Make) -> None:
    columns, truth, valid = drawn()
    mean, spread = torch.tensor([0.4, -3.0], dtype=torch.float64), torch.tensor([0.1, 7.0], dtype=torch.float64)
    changed = (truth - mean[:, None, None]) / spread[:, None, None]
    assert_same(make(columns, truth, valid).standardised(mean, spread), make(columns, changed, valid), rtol=1e-9)


@both_forms
def test_joining_and_selecting_images(make: Make) -> None:
    columns, truth, valid = drawn()
    images = make(columns, truth, valid)
    parts = [make(columns[part], truth[part], valid[part]) for part in (slice(0, 2), slice(2, 3), slice(3, 7))]
    assert_same(type(images).cat(parts), images)
    chosen = torch.tensor([5, 0])
    assert_same(images.select(chosen), make(columns[chosen], truth[chosen], valid[chosen]))


@both_forms
def test_streamed_images_are_the_same_images(make: Make) -> None:
    images = make(*drawn())
    largest = 0

    def read(positions: Tensor) -> ImageStatistics:
        nonlocal largest
        largest = max(largest, len(positions))
        return images.select(positions)

    streamed = StreamedStatistics(read, images.num_images, images_at_once=5)
    assert_same(streamed, images)
    assert_same(streamed.leading(2), images.leading(2))
    mean, spread = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([3.0, 0.5], dtype=torch.float64)
    assert_same(streamed.standardised(mean, spread), images.standardised(mean, spread))
    torch.testing.assert_close(streamed.total().gram, images.total().gram)
    weights = torch.randn(1, 5, 2, dtype=torch.float64)
    order = torch.randperm(7)
    expected = losses_and_gradients(images, weights, order, 2)
    torch.testing.assert_close(losses_and_gradients(streamed, weights, order, 2), expected)
    assert largest == 5


def test_many_minibatches_are_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageGrams.of(*drawn())
    weights = torch.randn(2, 5, 2, dtype=torch.float64)
    whole = losses_and_gradients(images, weights, torch.arange(7), 2)
    monkeypatch.setattr("idl.probes.image_grams._BYTES_AT_ONCE", 1)
    torch.testing.assert_close(losses_and_gradients(images, weights, torch.arange(7), 2), whole)
    assert_same(ImageGrams.of(*drawn()), images)


@both_forms
def test_multiplications_are_those_of_the_products(make: Make) -> None:
    """Held against torch's own count, of two operations each."""
    images = make(*drawn(dtype=torch.float32))
    (minibatch,) = images.minibatches(torch.arange(3), 3)
    weights = torch.randn(8, images.num_columns)
    with FlopCounterMode(display=False) as counter:
        minibatch.gradient(weights, out=torch.empty_like(weights))
    assert 2 * minibatch.num_multiplications(8) == counter.get_total_flops() > 0


def test_an_argument_is_never_changed() -> None:
    data = drawn()
    before = [tensor.clone() for tensor in data]
    for form in FORMS.values():
        images = form.of(*data)
        kept = [getattr(images, field.name).clone() for field in fields(images)]
        weights = torch.randn(2, 5, 2, dtype=torch.float64)
        losses_and_gradients(images.standardised(torch.ones(2), torch.full((2,), 2.0)), weights, torch.arange(7), 3)
        for field, tensor in zip(fields(images), kept, strict=True):
            assert torch.equal(getattr(images, field.name), tensor)
    for tensor, kept in zip(data, before, strict=True):
        assert torch.equal(tensor, kept)


@pytest.mark.parametrize(("k", "num_outputs", "grid"), [(0, 1, (1, 1)), (4, 3, (3, 5)), (70, 1, (4, 4))])
def test_bytes_are_foretold(k: int, num_outputs: int, grid: tuple[int, int]) -> None:
    data = drawn(3, k, grid, (16, 16), num_outputs, dtype=torch.float32)
    assert ImageGrams.of(*data).num_bytes == 3 * ImageGrams.bytes_per_image(k, num_outputs)
    assert ImageMaps.of(*data).num_bytes == 3 * ImageMaps.bytes_per_image(k, num_outputs, grid[0] * grid[1])


@given(st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 2048), st.integers(1, 3), st.integers(0, 10**11))
def test_a_plan_keeps_to_its_budget(num_images: int, side: int, components: int, num_outputs: int, budget: int) -> None:
    chosen = plan(num_images, (side, side), components, num_outputs, budget=budget)
    assert chosen.is_streamed == (chosen.num_bytes > budget)
    assert min(components, LEAST_OPEN_K) <= chosen.k_max <= components
    more = plan(num_images, (side, side), components, num_outputs, budget=2 * budget)
    assert more.is_streamed <= chosen.is_streamed
    asked = plan(num_images, (side, side), components, num_outputs, budget=budget, k=10)
    assert asked.k_max == min(10, components)


def test_a_plan_goes_by_the_sizes() -> None:
    gigabyte = 10**9
    small = plan(1200, (16, 16), 64, 1, budget=gigabyte)
    assert (small.form, small.k_max, small.is_streamed) == ("grams", 64, False)
    wide = plan(1200, (8, 8), 768, 1, budget=10 * gigabyte)
    assert (wide.form, wide.k_max, wide.is_streamed) == ("maps", 768, False)
    tight = plan(1200, (16, 16), 768, 1, budget=gigabyte)
    assert (tight.form, tight.k_max, tight.is_streamed) == ("maps", 768, False)
    many = plan(500_000, (16, 16), 768, 1, budget=10 * gigabyte)
    assert (many.form, many.is_streamed) == ("grams", False)
    assert LEAST_OPEN_K < many.k_max < 768
    asked = plan(500_000, (16, 16), 768, 1, budget=10 * gigabyte, k=768)
    assert (asked.form, asked.k_max, asked.is_streamed) == ("maps", 768, True)
    assert "500,000 images" in asked.sentence
    assert "768 of 768 components" in asked.sentence
    assert "read again in every epoch" in asked.sentence
