"""What a step of gradient descent computes, and with how many threads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from test_descent import K, drawn, sums
from torch import Tensor

from idl.probes import descent
from idl.probes.descent import descend
from idl.probes.image_grams import ImageGrams
from idl.probes.image_statistics import Minibatch
from idl.probes.trial import Trial


class Watched(ImageGrams):
    """Notes how many rows each step of an epoch has."""

    rows: ClassVar[list[set[int]]] = []

    def minibatches(self, order: Tensor, batch_size: int) -> Iterator[Minibatch]:
        self.rows.append(set())
        for minibatch in super().minibatches(order, batch_size):
            yield WatchedMinibatch(minibatch, self.rows[-1])


@dataclass(frozen=True)
class WatchedMinibatch(Minibatch):
    minibatch: Minibatch
    rows: set[int]

    def gradient(self, weights: Tensor, *, out: Tensor) -> Tensor:
        self.rows.add(len(weights))
        return self.minibatch.gradient(weights, out=out)

    def loss(self, weights: Tensor) -> Tensor:
        return self.minibatch.loss(weights)

    def num_multiplications(self, num_rows: int) -> int:
        return self.minibatch.num_multiplications(num_rows)


def test_a_trial_that_has_ended_is_no_longer_computed() -> None:
    data = drawn(num_outputs=2)
    trials = [
        Trial(k=2, solver="sgd", lr=1e3, epochs=4),
        Trial(k=3, epochs=4),
        Trial(k=4, solver="sgd", lr=0.01, epochs=4),
        Trial(k=K, solver="sgd", lr=0.01, epochs=4),
    ]
    trials = [replace(trial, batch_size=2) for trial in trials]
    Watched.rows.clear()
    descend(Watched.of(*data), sums(data), sums(data), trials, report=lambda epoch, _: {1} if epoch == 2 else set())
    assert Watched.rows == [{8}, {6}, {4}, {4}]


class Threads(ImageGrams):
    """Notes with how many threads its minibatches are made, and their gradients taken; the last one may fail."""

    made: ClassVar[list[int]] = []
    taken: ClassVar[list[int]] = []
    fails_at: ClassVar[int] = -1

    def minibatches(self, order: Tensor, batch_size: int) -> Iterator[Minibatch]:
        for minibatch in super().minibatches(order, batch_size):
            self.made.append(torch.get_num_threads())
            yield ThreadsMinibatch(minibatch, set())


class ThreadsMinibatch(WatchedMinibatch):
    def gradient(self, weights: Tensor, *, out: Tensor) -> Tensor:
        Threads.taken.append(torch.get_num_threads())
        if len(Threads.taken) == Threads.fails_at:
            raise RuntimeError("planted")
        return super().gradient(weights, out=out)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Threads, "made", [])
    monkeypatch.setattr(Threads, "taken", [])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


TWO = [Trial(k=K, epochs=2, batch_size=5), Trial(k=K, epochs=2, batch_size=5, lr=0.1)]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("limit", "threads"), [(2 * (1 + K) ** 2, 2), (2 * (1 + K) ** 2 + 1, 1)])
def test_only_small_steps_are_taken_on_one_thread(monkeypatch: pytest.MonkeyPatch, limit: int, threads: int) -> None:
    """Of two trials, whose product has twice the square of the columns as multiplications."""
    monkeypatch.setattr(descent, "MULTIPLICATIONS_PER_THREAD", limit)
    reported = []

    def report(epoch: int, losses: Mapping[int, float]) -> set[int]:
        reported.append(torch.get_num_threads())
        return set()

    data = drawn()
    descend(Threads.of(*data), sums(data), sums(data), TWO, report=report)
    assert (Threads.made, Threads.taken, reported) == ([2] * 10, [threads] * 10, [2] * 2)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_step_that_fails_leaves_the_threads_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Threads, "fails_at", 3)
    data = drawn()
    with pytest.raises(RuntimeError, match="planted") as caught:
        descend(Threads.of(*data), sums(data), sums(data), TWO)
    # Its frames are still there: nobody but the step itself has tidied up.
    assert caught.tb is not None
    assert (Threads.taken, torch.get_num_threads()) == ([1] * 3, 2)
