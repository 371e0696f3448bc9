"""Gradient descent against torch's own optimisers on upsampled pixels, against the exact solver, and its laws."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from idl.errors import InputError
from idl.probes import gradient_fit
from idl.probes.exact import fit
from idl.probes.gradient_fit import WARMUP, Solver, TrainResult, Trial, fit_by_gradient, rate_at
from idl.probes.image_statistics import ImageGrams, ImageMaps, Minibatch
from idl.probes.statistics import FoldedStatistics, Statistics

K = 6
Data = tuple[Tensor, Tensor, Tensor]


def drawn(num_images: int = 24, num_outputs: int = 1, seed: int = 0) -> Data:
    """Maps of 1 and K components on 4 x 4 cells; a target that is linear in them, far from zero, with noise."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(num_images, 1 + K, 4, 4, generator=generator).half().float()
    columns[:, 0] = 1
    planted = torch.randn(1 + K, num_outputs, generator=torch.Generator().manual_seed(77))
    planted[0] = 5
    grid = torch.einsum("bchw,co->bohw", columns, planted)
    truth = F.interpolate(grid, size=(20, 20), mode="bilinear", align_corners=False)
    truth = truth + torch.randn(truth.shape, generator=generator)
    return columns, truth, torch.rand(num_images, 20, 20, generator=generator) > 0.3


def sums(data: Data) -> Statistics:
    columns, truth, valid = data
    return Statistics.empty(columns.shape[1], truth.shape[1]).accumulate(columns.double(), truth.double(), valid)


def splits(data: Data, val: Data | None = None) -> FoldedStatistics:
    """Validated on the training images where no others are given: they may choose an epoch before the last."""
    return FoldedStatistics((sums(data),), (sums(val or data),))


def trained(data: Data, trials: list[Trial], val: Data | None = None) -> list[TrainResult]:
    return fit_by_gradient(ImageGrams.of(*data), splits(data, val), trials)


def train_on(trials: list[Trial], num_outputs: int = 1) -> list[TrainResult]:
    return trained(drawn(num_outputs=num_outputs), trials, drawn(12, num_outputs, seed=1))


def assert_same(a: TrainResult, b: TrainResult) -> None:
    """Equal, but for the rounding of float32."""
    assert (a.trial, a.outcome, a.best_epoch) == (b.trial, b.outcome, b.best_epoch)
    torch.testing.assert_close(a.weights, b.weights, rtol=1e-4, atol=1e-5)
    assert a.train_losses == pytest.approx(b.train_losses, rel=1e-5)
    assert a.val_losses == pytest.approx(b.val_losses, rel=1e-5)
    assert (a.train_loss, a.val_loss) == pytest.approx((b.train_loss, b.val_loss), rel=1e-5)


def upsampled(data: Data) -> tuple[Tensor, Tensor]:
    columns, truth, valid = data
    rows = F.interpolate(columns.double(), size=truth.shape[2:], mode="bilinear", align_corners=False)
    return rows.movedim(1, -1)[valid], truth.double().movedim(1, -1)[valid]


BAD = "k=-1 lr=0.0 lr=nan weight_decay=-0.1 batch_size=0 epochs=0 patience=0 seed=-1 solver=x"


@pytest.mark.parametrize("bad", BAD.split())
def test_a_trial_that_cannot_be_is_refused(bad: str) -> None:
    name, text = bad.split("=")
    value = text if text == "x" else float(text)
    with pytest.raises(InputError, match=f"{name}={value}: expected"):
        Trial(**({"k": 3} | {name: value}))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize(
    "trial",
    [
        Trial(k=K, solver="sgd", lr=0.1),
        Trial(k=4, solver="sgd", lr=0.05, weight_decay=0.2),
        Trial(k=K, solver="adam", lr=0.05),
        Trial(k=3, solver="adam", lr=0.1, weight_decay=0.3),
    ],
)
def test_steps_are_those_of_torch_on_upsampled_pixels(trial: Trial, num_outputs: int) -> None:
    """Whole batches, so that no order matters; pixels and automatic differentiation on the other side.

    In float64: the bias starts where its gradient is 0, and Adam's first step makes a direction of the rounding.
    """
    trial = replace(trial, batch_size=24, epochs=12, patience=12)
    data, other = drawn(num_outputs=num_outputs), drawn(12, num_outputs, seed=1)
    (result,) = trained((data[0].double(), data[1].double(), data[2]), [trial], other)

    (rows, truth), (val_rows, val_truth) = upsampled(data), upsampled(other)
    read = slice(0, 1 + trial.k)
    mean, spread = truth.mean(dim=0), truth.std(dim=0, correction=0)
    bias = torch.zeros(1, num_outputs, dtype=torch.float64, requires_grad=True)
    slopes = torch.zeros(trial.k, num_outputs, dtype=torch.float64, requires_grad=True)
    groups = [{"params": [bias]}, {"params": [slopes], "weight_decay": trial.weight_decay}]
    if trial.solver == "sgd":
        optimiser = torch.optim.SGD(groups, lr=trial.lr, momentum=0.9)
    else:
        optimiser = torch.optim.Adam(groups, lr=trial.lr)
    for epoch in range(trial.epochs):
        for group in optimiser.param_groups:
            group["lr"] = trial.lr * rate_at(epoch, trial.epochs, WARMUP)
        optimiser.zero_grad()
        prediction = rows[:, read] @ torch.cat([bias, slopes])
        (prediction - (truth - mean) / spread).square().mean().backward()
        optimiser.step()
        weights = torch.cat([bias, slopes]).detach() * spread
        weights[0] += mean
        for losses, (x, y) in ((result.train_losses, (rows, truth)), (result.val_losses, (val_rows, val_truth))):
            assert losses[epoch] == pytest.approx(float((x[:, read] @ weights - y).square().mean()), rel=1e-8)
    assert result.outcome == "finished"
    assert not result.weights[1 + trial.k :].any()
    best = int(torch.tensor(result.val_losses).argmin())
    assert result.best_epoch == best + 1
    assert (result.train_loss, result.val_loss) == (result.train_losses[best], result.val_losses[best])
    reached = (val_rows @ result.weights - val_truth).square().mean()
    assert result.val_loss == pytest.approx(float(reached), rel=1e-9)


MIXED = [
    Trial(k=K, lr=0.03, epochs=6, batch_size=5),
    Trial(k=2, solver="sgd", lr=0.05, epochs=6, batch_size=5, weight_decay=0.1),
    Trial(k=4, lr=0.1, epochs=6, batch_size=5, weight_decay=0.01),
    Trial(k=0, solver="sgd", lr=0.01, epochs=6, batch_size=5),
    Trial(k=5, solver="sgd", lr=0.02, epochs=4, batch_size=5),
    Trial(k=5, solver="sgd", lr=0.02, epochs=6, batch_size=8),
    Trial(k=5, solver="sgd", lr=0.02, epochs=6, batch_size=5, seed=1),
    Trial(k=K, lr=0.05, epochs=6, batch_size=5, patience=1),
]


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_a_trial_among_others_is_the_trial_alone_in_both_forms(num_outputs: int) -> None:
    data, together = drawn(num_outputs=num_outputs), train_on(MIXED, num_outputs)
    of_maps = fit_by_gradient(ImageMaps.of(*data), splits(data, drawn(12, num_outputs, seed=1)), MIXED)
    assert [result.trial for result in together] == MIXED
    for trial, result, of_map in zip(MIXED, together, of_maps, strict=True):
        assert_same(result, train_on([trial], num_outputs)[0])
        assert_same(result, of_map)


def test_seeds_set_the_order_and_the_same_seed_the_same_bits() -> None:
    trial = Trial(k=K, batch_size=3, epochs=2, lr=0.05)
    one, again, other = (train_on([replace(trial, seed=seed)])[0] for seed in (0, 0, 1))
    assert torch.equal(one.weights, again.weights)
    assert one.val_losses == again.val_losses
    assert one.val_losses != other.val_losses


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize(("solver", "lr"), [("adam", 0.02), ("sgd", 0.05)])
def test_training_ends_at_the_optimum(solver: Solver, lr: float, num_outputs: int) -> None:
    trials = [Trial(k=k, solver=solver, lr=lr, epochs=150, batch_size=8, patience=150) for k in (2, K)]
    data = drawn(num_outputs=num_outputs)
    rows, truth = upsampled(data)
    for trial, result in zip(trials, trained(data, trials), strict=True):
        solved = torch.linalg.lstsq(rows[:, : 1 + trial.k], truth, driver="gelsd").solution
        optimum = float((rows[:, : 1 + trial.k] @ solved - truth).square().mean())
        assert 0 <= result.excess_loss < 1e-3
        assert result.train_loss == pytest.approx(optimum * (1 + result.excess_loss), rel=1e-6)


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_weight_decay_ends_at_the_ridge_optimum(solver: Solver, num_outputs: int) -> None:
    """An L2 term, not a decoupled one: the limit does not depend on the solver or its rate."""
    decay = 0.2
    trial = Trial(k=K, solver=solver, lr=0.05, weight_decay=decay, epochs=400, batch_size=24, patience=400)
    data = drawn(num_outputs=num_outputs)
    # Validated on its own ridge solution, so that the last epoch is the best one.
    ridge, plain = (
        fit(splits(data), num_fixed=1, k=K, penalties=(penalty,)).solution.weights
        for penalty in (decay * num_outputs / 2, 0.0)
    )
    noiseless = torch.einsum("bchw,co->bohw", data[0].double(), ridge)
    noiseless = F.interpolate(noiseless, size=(20, 20), mode="bilinear", align_corners=False)
    (result,) = trained(data, [trial], (data[0].double(), noiseless, data[2]))
    torch.testing.assert_close(result.weights, ridge, rtol=1e-3, atol=1e-3)
    assert float((plain - ridge).abs().max()) > 0.05


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_any_learning_rate_ends_in_order(solver: Solver) -> None:
    for result in train_on([Trial(k=K, solver=solver, lr=10.0**p, epochs=5, batch_size=4) for p in range(-6, 31, 4)]):
        assert not torch.isnan(result.weights).any()
        assert (result.outcome == "diverged") == math.isinf(result.val_loss)
        assert result.excess_loss >= 0


def test_a_diverging_trial_ends_alone() -> None:
    calm = [replace(trial, solver="sgd", lr=0.02) for trial in MIXED[:3]]
    wild = [replace(calm[0], lr=1e3), replace(calm[1], lr=30.0)]
    result = train_on([calm[0], wild[0], calm[1], wild[1], calm[2]])
    for diverged in result[1::2]:
        assert diverged.outcome == "diverged"
        assert (diverged.train_loss, diverged.val_loss, diverged.excess_loss) == (math.inf,) * 3
        assert diverged.val_losses[-1] == math.inf
        assert len(diverged.val_losses) < 6
        assert not diverged.weights[1:].any()
        assert float(diverged.weights[0]) == pytest.approx(float(upsampled(drawn())[1].mean()), rel=1e-6)
    for found, trial in zip(result[::2], calm, strict=True):
        assert_same(found, train_on([trial])[0])


def test_convergence_is_patience_epochs_without_a_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with the same trial that never stops."""
    monkeypatch.setattr(gradient_fit, "MIN_GAIN", 0.01)
    trial = Trial(k=K, lr=0.1, epochs=60, batch_size=6, patience=60)
    (whole,) = train_on([trial])
    (stopped,) = train_on([replace(trial, patience=3)])
    best, since, count = math.inf, 0, 0
    while since < 3:
        loss = whole.val_losses[count]
        since = 0 if loss < best * 0.99 else since + 1
        best = min(best, loss)
        count += 1
    assert stopped.outcome == "converged"
    assert len(stopped.val_losses) == count < 60
    assert stopped.val_losses == pytest.approx(whole.val_losses[:count], rel=1e-6)
    assert stopped.val_loss == pytest.approx(best, rel=1e-6)


def test_targets_that_never_vary() -> None:
    columns, truth, valid = drawn(num_outputs=2)
    truth[:, 1] = -1.0
    (result,) = trained((columns, truth, valid), [Trial(k=K, solver="sgd", lr=0.05)])
    assert result.weights[0, 1] == pytest.approx(-1, abs=1e-5)
    assert float(result.weights[1:, 1].abs().max()) < 1e-5
    for result in trained((columns, torch.full_like(truth, 2.0), valid), [Trial(k=K, solver="sgd"), Trial(k=K)]):
        assert result.val_loss == pytest.approx(0, abs=1e-3)
    # The perfect fit of nothing has no excess.
    (result,) = trained((columns, torch.zeros_like(truth), valid), [Trial(k=K)])
    assert (result.train_loss, result.excess_loss) == (0, 0)


class Watched(ImageGrams):
    """Notes with how many threads each gradient is taken, and of how many rows."""

    taken: list[tuple[int, int]]

    def minibatches(self, order: Tensor, batch_size: int) -> Iterator[Minibatch]:
        def gradient(weights: Tensor, *, out: Tensor, minibatch: Minibatch) -> Tensor:
            self.taken.append((torch.get_num_threads(), len(weights)))
            if weights.isnan().any():
                raise RuntimeError("planted")
            return minibatch.gradient(weights, out=out)

        for minibatch in super().minibatches(order, batch_size):
            assert torch.get_num_threads() == 2
            yield replace(minibatch, gradient=partial(gradient, minibatch=minibatch))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Watched]]:
    monkeypatch.setattr(Watched, "taken", [], raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield Watched
    torch.set_num_threads(before)


def test_a_trial_that_has_ended_is_no_longer_computed(watched: type[Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_fit, "MIN_GAIN", 0.9)
    data = drawn(num_outputs=2)
    sgd = Trial(k=2, solver="sgd", lr=1e3, epochs=4, batch_size=24, patience=4)
    trials = [sgd, Trial(k=3, epochs=4, batch_size=24, patience=2), replace(sgd, k=4, lr=0.01)]
    results = fit_by_gradient(watched.of(*data), splits(data), [*trials, replace(sgd, k=K, lr=0.01)])
    assert [result.outcome for result in results] == ["diverged", "converged", "finished", "finished"]
    rows = [2 * sum(len(result.val_losses) > epoch for result in results) for epoch in range(4)]
    assert [rows for _, rows in watched.taken] == rows
    assert rows[0] == 8
    assert rows[-1] == 4


@pytest.mark.parametrize(("limit", "threads"), [(2 * (1 + K) ** 2, 2), (2 * (1 + K) ** 2 + 1, 1)])
def test_only_small_steps_are_taken_on_one_thread(
    watched: type[Watched], monkeypatch: pytest.MonkeyPatch, limit: int, threads: int
) -> None:
    """Of two trials, whose product has twice the square of the columns as multiplications; one that fails, too."""
    monkeypatch.setattr(gradient_fit, "MULTIPLICATIONS_PER_THREAD", limit)
    data, two = drawn(), [Trial(k=K, epochs=2, batch_size=5, lr=lr) for lr in (0.01, 0.1)]
    fit_by_gradient(watched.of(*data), splits(data), two)
    assert watched.taken == [(threads, 2)] * 10
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(gradient_fit, "_step_of_adam", lambda weights, *_, **__: weights.fill_(math.nan))
    with pytest.raises(RuntimeError, match="planted") as caught:
        fit_by_gradient(watched.of(*data), splits(data), two)
    # Its frames are still there: nobody but the step itself has tidied up.
    assert caught.tb is not None
    assert torch.get_num_threads() == 2


@pytest.mark.gpu
def test_cuda_trains_as_the_cpu_does() -> None:
    data = drawn()
    statistics = splits(data, drawn(12, seed=1))
    for form in (ImageGrams, ImageMaps):
        images = [form.of(*data).to(torch.device(name)) for name in ("cpu", "cuda")]
        for a, b in zip(*(fit_by_gradient(each, statistics, MIXED) for each in images), strict=True):
            assert a.val_losses == pytest.approx(b.val_losses, rel=1e-4)
            torch.testing.assert_close(a.weights, b.weights, rtol=1e-3, atol=1e-4)
