"""Where a training ends: at its last step, converged, or diverged with the last good checkpoint kept."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted_training import MIXTURE, OFFSET, Linear, Notes, signalled, small_store, trained
from torch import Tensor

from idl.data.splits import Split
from idl.data.store import Store
from idl.errors import InputError
from idl.schedule import rate_at
from idl.training import DivergedError, TrainingConfig
from idl.training.checkpoints import Checkpoints
from idl.training.images import Batch

# 12 images in batches of 4: an epoch has 3 steps.
CONFIG = TrainingConfig(
    epochs=20, batch_size=4, crop=16, lr=1e-2, validate_every=2, patience=3, min_gain=0.1, arithmetic="float32"
)
NAN = float("nan")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Split]:
    return small_store(tmp_path_factory.mktemp("store"))


class Spoiled(Linear):
    """At training step `at` the loss, or only its gradient, is no number."""

    def __init__(self, at: int, value: float = NAN, of_gradient: bool = False) -> None:
        super().__init__()
        self.num_losses, self.at, self.value, self.of_gradient = 0, at, value, of_gradient

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        self.num_losses += output.requires_grad
        loss = super().loss(output, batch)
        if not output.requires_grad or self.num_losses != self.at:
            return loss
        if self.of_gradient:
            # The square root of 0 is 0, its slope infinite, and 0 times that no number.
            return loss + (output * 0).square().sum().sqrt()
        return loss * self.value


@pytest.mark.parametrize("value", [NAN, float("inf")])
@pytest.mark.parametrize("of_gradient", [False, True])
@pytest.mark.parametrize("at", [6, 7])
def test_a_loss_that_is_no_number_ends_and_is_never_kept(
    made: tuple[Store, Split], tmp_path: Path, value: float, of_gradient: bool, at: int
) -> None:
    config = replace(CONFIG, checkpoint_minutes=0, validate_every=60)
    with pytest.raises(DivergedError) as error:
        trained(Spoiled(at, value, of_gradient), config, made, tmp_path)
    line = str(error.value)
    assert "\n" not in line
    assert f"diverged at step {at}: " in line
    assert f"The checkpoint of step {at - 1} is kept in {tmp_path}" in line
    state, damaged = Checkpoints(tmp_path).load()
    assert state is not None
    assert not damaged
    assert state["standing"]["step"] == at - 1
    assert all(bool(tensor.isfinite().all()) for tensor in state["module"].values())
    # A driver that crashes once: the same training goes on from there.
    assert trained(Linear(), config, made, tmp_path, resume=True).step > at


def test_an_early_divergence_says_that_nothing_was_kept(made: tuple[Store, Split], tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="There is no checkpoint yet"):
        trained(Spoiled(3), CONFIG, made, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_validation_loss_that_is_no_number_ends(made: tuple[Store, Split], tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="step 4: the validation loss is nan"):
        trained(Linear([5.0, 4.0, NAN]), CONFIG, made, tmp_path)


@pytest.mark.parametrize(("epochs", "step"), [(20, 6), (1, 3)])
def test_a_network_that_never_beats_the_untrained_one_has_diverged(
    made: tuple[Store, Split], tmp_path: Path, epochs: int, step: int
) -> None:
    with pytest.raises(DivergedError, match=f"step {step}: the validation loss is .*never below the untrained 1"):
        trained(Linear([1.0] + [1.0, 2.0] * 20), replace(CONFIG, epochs=epochs), made, tmp_path)


@pytest.mark.parametrize(
    ("losses", "looks"),
    [
        ([8.0, 4.0, 2.0, *[2.0] * 40], 2 + 3),
        ([8.0, 4.0, 3.9, 3.8, 3.7, *[5.0] * 40], 1 + 3),
        # Each look gains less than the fraction that counts, two together more: not converged.
        ([8.0 * 0.94**look for look in range(15)] + [7.0] * 40, 14 + 3),
        # A loss that is a likelihood falls below 0.
        ([0.5, -1.0, -1.05, -2.0, -2.1, -2.15, -2.19, *[-2.0] * 40], 3 + 3),
    ],
)
def test_a_training_ends_after_so_many_looks_without_gain(
    made: tuple[Store, Split], tmp_path: Path, losses: list[float], looks: int
) -> None:
    left = trained(Linear(losses), CONFIG, made, tmp_path)
    assert left.step == looks * CONFIG.validate_every < left.num_steps
    assert left.is_converged
    # The lowest loss decides what is kept, were it but a little lower.
    assert left.metrics["loss"] == min(losses[: looks + 1])
    assert left.untrained["loss"] == losses[0]


def test_a_loss_that_explodes_after_a_gain_is_no_convergence(made: tuple[Store, Split], tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="the validation loss is 1e\\+09, after 4, and 8 untrained"):
        trained(Linear([8.0, 4.0, *[1e9] * 40]), CONFIG, made, tmp_path)


def test_the_kept_weights_are_those_that_were_measured(made: tuple[Store, Split], tmp_path: Path) -> None:
    """The second look is planted to be the best: its weights are kept, not the last ones."""
    seen: list[dict[str, Tensor]] = []
    objective = Linear([9.0, 8.0, 1.0, 2.0, 3.0, 4.0])

    class Watching(Notes):
        def log_curves(self, curves: Any) -> None:
            super().log_curves(curves)
            if "val_loss" in curves:
                seen.append({name: tensor.clone() for name, tensor in objective.module.state_dict().items()})

    left = trained(objective, CONFIG, made, tmp_path, recorder=Watching())
    assert left.step == 10
    for name, tensor in left.state.items():
        assert torch.equal(tensor, seen[2][name])
        assert not torch.equal(tensor, seen[4][name])


def test_patience_is_counted_over_an_interruption(made: tuple[Store, Split], tmp_path: Path) -> None:
    losses = [8.0, 4.0, *[4.0] * 40]
    whole = trained(Linear(losses), CONFIG, made, tmp_path / "whole")

    class Interrupting(Notes):
        def log_curves(self, curves: Any) -> None:
            super().log_curves(curves)
            if 6 in curves.get("train_loss", {}):
                raise KeyboardInterrupt

    config = replace(CONFIG, checkpoint_minutes=0)
    with pytest.raises(KeyboardInterrupt):
        trained(Linear(losses), config, made, tmp_path / "cut", recorder=Interrupting())
    # Its own checkpoint is of step 5, after the look at step 4.
    left = trained(Linear(losses[3:]), config, made, tmp_path / "cut", resume=True)
    assert (left.step, left.is_converged) == (whole.step, whole.is_converged) == (8, True)


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize(("name", "step"), [("train_loss", 10), ("train_loss", 12), ("val_loss", 12), ("lr", 18)])
def test_a_run_that_was_killed_has_each_point_once(
    made: tuple[Store, Split], tmp_path: Path, name: str, step: int, is_written: bool
) -> None:
    """What a killed process had written behind its last checkpoint is done again, and not written again."""

    class KilledError(Exception):
        pass

    class Killing(Notes):
        def log_curves(self, curves: Any) -> None:
            if step not in curves.get(name, {}):
                return super().log_curves(curves)
            if is_written:
                super().log_curves(curves)
            raise KilledError

    config = replace(CONFIG, epochs=10, patience=100, validate_every=6)
    whole = Notes()
    trained(Linear(), config, made, tmp_path / "whole", recorder=whole)

    folder, kept = tmp_path / "cut", tmp_path / "kept"
    cut = Killing({6: signalled(signal.SIGINT)})
    with pytest.raises(KeyboardInterrupt):
        trained(Linear(), config, made, folder, recorder=cut)
    shutil.copytree(folder, kept)
    with pytest.raises(KilledError):
        trained(Linear(), config, made, folder, recorder=cut, resume=True)
    left = Notes(points=cut.points)
    trained(Linear(), config, made, kept, recorder=left, resume=True)
    for curve in ("train_loss", "lr", "val_loss"):
        assert left.curve(curve) == whole.curve(curve)
    steps = [at for at, _ in left.curve("images_per_s")]
    assert steps == [at for at, _ in whole.curve("images_per_s")]


def test_a_planted_function_is_recovered(made: tuple[Store, Split], tmp_path: Path) -> None:
    objective = Linear()
    notes = Notes()
    config = TrainingConfig(
        epochs=300, batch_size=4, lr=0.05, weight_decay=0, clip=100, patience=1000, arithmetic="float32"
    )
    left = trained(objective, config, made, tmp_path, recorder=notes)
    torch.testing.assert_close(left.state["weight"][:, :, 0, 0], MIXTURE, atol=1e-3, rtol=0)
    torch.testing.assert_close(left.state["bias"], OFFSET, atol=1e-3, rtol=0)
    assert not left.is_converged
    assert left.step == left.num_steps == 900
    # Twenty looks and the untrained network; every step.
    assert [step for step, _ in notes.curve("val_loss")] == list(range(0, 901, 45))
    assert [step for step, _ in notes.curve("train_loss")] == [step for step, _ in notes.curve("lr")]
    assert [step for step, _ in notes.curve("train_loss")] == list(range(1, 901))
    assert notes.curve("train_loss")[-1][1] < 1e-5 * notes.curve("train_loss")[0][1]


@given(num_steps=st.integers(1, 200), warmup=st.floats(0, 0.9))
def test_the_rate_is_that_of_torchs_schedulers(num_steps: int, warmup: float) -> None:
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

    rising = round(warmup * num_steps)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    falls = CosineAnnealingLR(optimiser, max(1, num_steps - rising))
    schedule: Any = falls
    if rising:
        rises = LinearLR(optimiser, 1 / rising, 1.0, total_iters=max(1, rising - 1))
        schedule = SequentialLR(optimiser, [rises, falls], [rising])
    for step in range(num_steps):
        assert rate_at(step, num_steps, warmup) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-6)
        optimiser.step()
        schedule.step()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs=0: expected more than 0"),
        ({"lr": NAN}, "lr=nan: expected a finite number"),
        ({"batch_size": 0}, "batch_size=0: expected 1 or more"),
        ({"accumulate": 3}, "accumulate=3: does not divide batch_size=4"),
        ({"warmup": 1.0}, "warmup=1.0: expected a share below 1"),
        ({"min_gain": -0.1}, "min_gain=-0.1: expected 0 or more"),
        ({"patience": 0}, "patience=0: expected 1 or more"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **change)
