"""The training loop: interrupted or not it gives the same weights; it ends at its last step, converged, or diverged."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted_training import (
    MIXTURE,
    OFFSET,
    SMALL,
    Interrupted,
    Linear,
    Notes,
    same_weights,
    signalled,
    small_store,
    trained,
)
from torch import Tensor

from idl.data.splits import Split
from idl.data.store import Store
from idl.errors import InputError
from idl.probes.gradient_fit import rate_at
from idl.training.checkpoints import Checkpoints
from idl.training.images import Batch
from idl.training.loop import DivergedError, TrainingConfig
from idl.training.objectives import Autoencoding

# 12 images in batches of 4: an epoch has 3 steps, the training 12.
CONFIG = TrainingConfig(epochs=4, batch_size=4, crop=16, lr=1e-2, validate_every=4, arithmetic="float32")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Split]:
    return small_store(tmp_path_factory.mktemp("store"))


def weights_after(config: TrainingConfig, made: tuple[Store, Split], folder: Path) -> dict[str, Tensor]:
    """The weights that `config` leads to without an interruption."""
    objective = Autoencoding(SMALL, seed=0)
    trained(objective, config, made, folder)
    return {name: tensor.clone() for name, tensor in objective.module.state_dict().items()}


@pytest.fixture(scope="module")
def whole(made: tuple[Store, Split], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Those of CONFIG."""
    return weights_after(CONFIG, made, tmp_path_factory.mktemp("whole"))


def last_step(folder: Path) -> int:
    content, notes = Checkpoints(folder).newest({})
    assert not notes
    return content["state"]["step"]


@pytest.fixture
def terminated() -> Iterator[None]:
    """SIGTERM raises SystemExit, as inside a tracked run."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, leave)
    yield
    assert signal.getsignal(signal.SIGTERM) is leave
    signal.signal(signal.SIGTERM, before)


def interrupted(
    made: tuple[Store, Split],
    folder: Path,
    step: int,
    number: int = signal.SIGINT,
    resume: bool = False,
    config: TrainingConfig = CONFIG,
) -> None:
    """Train until `number` arrives in the middle of step `step`."""
    objective = Interrupted(step - last_step(folder) if resume else step, number)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        trained(objective, config, made, folder, resume=resume)
    # After the whole step, not before it.
    assert last_step(folder) == step


@pytest.mark.parametrize("step", [1, 3, 4, 11, 12])
def test_an_interrupted_training_reaches_the_same_weights(
    made: tuple[Store, Split], whole: dict[str, Tensor], tmp_path: Path, step: int
) -> None:
    interrupted(made, tmp_path, step)
    # Another seed: the weights that it begins with must not matter. Its settings are the same.
    objective = Autoencoding(SMALL, seed=99)
    left = trained(objective, CONFIG, made, tmp_path, resume=True)
    assert left.step == left.num_steps == 12
    assert same_weights(objective.module.state_dict(), whole)


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
@pytest.mark.usefixtures("terminated")
def test_interrupted_twice_and_by_either_signal(
    made: tuple[Store, Split],
    whole: dict[str, Tensor],
    tmp_path: Path,
    arithmetic: Literal["float32", "bfloat16"],
) -> None:
    config, folder = replace(CONFIG, arithmetic=arithmetic), tmp_path / "cut"
    interrupted(made, folder, 2, signal.SIGTERM, config=config)
    interrupted(made, folder, 7, signal.SIGINT, resume=True, config=config)
    objective = Autoencoding(SMALL, seed=0)
    trained(objective, config, made, folder, resume=True)
    assert same_weights(objective.module.state_dict(), weights_after(config, made, tmp_path / "whole"))
    # Products of bfloat16 are rounded, so that the weights show which were taken.
    assert same_weights(objective.module.state_dict(), whole) == (arithmetic == "float32")


@pytest.mark.parametrize(
    ("signals", "kept"),
    [
        ([signal.SIGINT], ["step-00000004.checkpoint"]),
        # A second Ctrl-C does not wait.
        ([signal.SIGINT, signal.SIGINT], []),
        # Under `mlflow run` the terminal sends the one, mlflow the other.
        ([signal.SIGINT, signal.SIGTERM], ["step-00000004.checkpoint"]),
    ],
)
def test_one_interruption_leaves_a_checkpoint_and_two_end_at_once(
    made: tuple[Store, Split], tmp_path: Path, signals: list[int], kept: list[str]
) -> None:
    def send() -> None:
        for number in signals:
            signalled(number)()

    with pytest.raises(KeyboardInterrupt):
        trained(Linear(), CONFIG, made, tmp_path, recorder=Notes({4: send}))
    assert [path.name for path in tmp_path.iterdir()] == kept


def test_an_ignored_signal_stays_ignored(made: tuple[Store, Split], tmp_path: Path) -> None:
    """As under nohup: a training that was to survive must not end early and call itself done."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        left = trained(Linear(), CONFIG, made, tmp_path, recorder=Notes({4: signalled(signal.SIGINT)}))
    finally:
        signal.signal(signal.SIGINT, before)
    assert left.step == 12


def test_a_handler_that_goes_on_does_not_make_a_training_whole(made: tuple[Store, Split], tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(SystemExit, match="143"):
            trained(Linear(), CONFIG, made, tmp_path, recorder=Notes({4: signalled(signal.SIGTERM)}))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    made: tuple[Store, Split], whole: dict[str, Tensor], tmp_path: Path
) -> None:
    interrupted(made, tmp_path, 3)
    interrupted(made, tmp_path, 5, resume=True)
    newest = max(tmp_path.iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    _, notes = Checkpoints(tmp_path).newest({})
    assert notes == (f"{newest}: damaged; the training goes on from the checkpoint before.",)
    objective = Autoencoding(SMALL, seed=0)
    trained(objective, CONFIG, made, tmp_path, resume=True)
    assert same_weights(objective.module.state_dict(), whole)


def test_a_file_that_is_cut_off_is_no_checkpoint(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(1, {"step": 1, "weights": torch.arange(100.0)})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="every checkpoint was damaged"):
        Checkpoints(tmp_path).newest({})
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        Checkpoints(tmp_path).newest({})


def test_the_last_two_checkpoints_are_kept(made: tuple[Store, Split], tmp_path: Path) -> None:
    trained(Linear(), replace(CONFIG, checkpoint_minutes=0), made, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:08d}.checkpoint" for step in (11, 12)]


def test_other_settings_are_named_with_both_values(made: tuple[Store, Split], tmp_path: Path) -> None:
    trained(Linear(), CONFIG, made, tmp_path)
    for change, message in (
        ({"lr": 0.5}, r"\(lr was 0.01, is 0.5\)"),
        ({"seed": 3, "crop": 8}, r"\(crop was 16, is 8, seed was 0, is 3\)"),
    ):
        with pytest.raises(InputError, match=message):
            trained(Linear(), replace(CONFIG, **change), made, tmp_path, resume=True)
    other = Linear()
    other.settings = {"outputs": 3}
    with pytest.raises(InputError, match="outputs was 2, is 3"):
        trained(other, CONFIG, made, tmp_path, resume=True)
    store, split = made
    with pytest.raises(InputError, match=f"dataset_digest was {store.digest}, is another"):
        trained(Linear(), CONFIG, (replace(store, digest="another"), split), tmp_path, resume=True)
    # How often a checkpoint is written decides nothing.
    trained(Linear(), replace(CONFIG, checkpoint_minutes=1), made, tmp_path, resume=True)


def test_a_finished_training_is_resumed_to_what_it_was(made: tuple[Store, Split], tmp_path: Path) -> None:
    first = trained(Linear(), CONFIG, made, tmp_path)
    again = trained(Linear(), CONFIG, made, tmp_path, resume=True)
    assert same_weights(again.weights, first.weights)
    assert (again.step, again.metrics, again.untrained) == (first.step, first.metrics, first.untrained)


ENDING = TrainingConfig(
    epochs=20, batch_size=4, crop=16, lr=1e-2, validate_every=2, patience=3, min_gain=0.1, arithmetic="float32"
)
NAN = float("nan")


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


@pytest.mark.parametrize(
    ("value", "of_gradient", "at"), [(NAN, False, 6), (NAN, False, 7), (float("inf"), False, 7), (NAN, True, 6)]
)
def test_a_loss_that_is_no_number_ends_and_is_never_kept(
    made: tuple[Store, Split], tmp_path: Path, value: float, of_gradient: bool, at: int
) -> None:
    config = replace(ENDING, checkpoint_minutes=0, validate_every=60)
    with pytest.raises(DivergedError) as error:
        trained(Spoiled(at, value, of_gradient), config, made, tmp_path)
    line = str(error.value)
    assert "\n" not in line
    assert f"diverged at step {at}: " in line
    assert f"The checkpoint of step {at - 1} is kept in {tmp_path}" in line
    content, _ = Checkpoints(tmp_path).newest({})
    assert content["state"]["step"] == at - 1
    assert all(bool(tensor.isfinite().all()) for tensor in content["module"].values())
    # A driver that crashes once: the same training goes on from there.
    assert trained(Linear(), config, made, tmp_path, resume=True).step > at


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Spoiled(3), "step 3: the training loss, or its gradient, is nan. There is no checkpoint yet"),
        (Linear([5.0, 4.0, NAN]), "step 4: the validation loss is nan"),
        # No convergence: it explodes after a gain.
        (Linear([8.0, 4.0, *[1e9] * 40]), "the validation loss is 1e\\+09, after 4, and 8 untrained"),
    ],
)
def test_a_divergence_is_said(made: tuple[Store, Split], tmp_path: Path, objective: Linear, message: str) -> None:
    with pytest.raises(DivergedError, match=message):
        trained(objective, ENDING, made, tmp_path)


@pytest.mark.parametrize(("epochs", "step"), [(20, 6), (1, 3)])
def test_a_network_that_never_beats_the_untrained_one_has_diverged(
    made: tuple[Store, Split], tmp_path: Path, epochs: int, step: int
) -> None:
    with pytest.raises(DivergedError, match=f"step {step}: the validation loss is .*never below the untrained 1"):
        trained(Linear([1.0] + [1.0, 2.0] * 20), replace(ENDING, epochs=epochs), made, tmp_path)


@pytest.mark.parametrize(
    ("losses", "validations"),
    [
        ([8.0, 4.0, 2.0, *[2.0] * 40], 2 + 3),
        ([8.0, 4.0, 3.9, 3.8, 3.7, *[5.0] * 40], 1 + 3),
        # Each gains less than the fraction that counts, two together more: not converged.
        ([8.0 * 0.94**number for number in range(15)] + [7.0] * 40, 14 + 3),
        # A loss that is a likelihood falls below 0.
        ([0.5, -1.0, -1.05, -2.0, -2.1, -2.15, -2.19, *[-2.0] * 40], 3 + 3),
    ],
)
def test_a_training_ends_after_so_many_validations_without_gain(
    made: tuple[Store, Split], tmp_path: Path, losses: list[float], validations: int
) -> None:
    left = trained(Linear(losses), ENDING, made, tmp_path)
    assert left.step == validations * ENDING.validate_every < left.num_steps
    assert left.is_converged
    # The lowest loss decides what is kept, were it but a little lower.
    assert left.metrics["loss"] == min(losses[: validations + 1])
    assert left.untrained["loss"] == losses[0]


def test_the_kept_weights_are_those_that_were_measured(made: tuple[Store, Split], tmp_path: Path) -> None:
    """The second validation is planted to be the best: its weights are kept, not the last ones."""
    seen: list[dict[str, Tensor]] = []
    objective = Linear([9.0, 8.0, 1.0, 2.0, 3.0, 4.0])

    class Watching(Notes):
        def log_curves(self, curves: Any) -> None:
            super().log_curves(curves)
            if "val_loss" in curves:
                seen.append({name: tensor.clone() for name, tensor in objective.module.state_dict().items()})

    left = trained(objective, ENDING, made, tmp_path, recorder=Watching())
    assert left.step == 10
    for name, tensor in left.weights.items():
        assert torch.equal(tensor, seen[2][name])
        assert not torch.equal(tensor, seen[4][name])


def test_patience_is_counted_over_an_interruption(made: tuple[Store, Split], tmp_path: Path) -> None:
    losses = [8.0, 4.0, *[4.0] * 40]
    whole = trained(Linear(losses), ENDING, made, tmp_path / "whole")

    class Interrupting(Notes):
        def log_curves(self, curves: Any) -> None:
            super().log_curves(curves)
            if 6 in curves.get("train_loss", {}):
                raise KeyboardInterrupt

    config = replace(ENDING, checkpoint_minutes=0)
    with pytest.raises(KeyboardInterrupt):
        trained(Linear(losses), config, made, tmp_path / "cut", recorder=Interrupting())
    # Its own checkpoint is of step 5, after the validation at step 4.
    left = trained(Linear(losses[3:]), config, made, tmp_path / "cut", resume=True)
    assert (left.step, left.is_converged) == (whole.step, whole.is_converged) == (8, True)


def test_a_planted_function_is_recovered(made: tuple[Store, Split], tmp_path: Path) -> None:
    objective = Linear()
    notes = Notes()
    config = TrainingConfig(
        epochs=300, batch_size=4, lr=0.05, weight_decay=0, clip=100, patience=1000, arithmetic="float32"
    )
    left = trained(objective, config, made, tmp_path, recorder=notes)
    torch.testing.assert_close(left.weights["weight"][:, :, 0, 0], MIXTURE, atol=1e-3, rtol=0)
    torch.testing.assert_close(left.weights["bias"], OFFSET, atol=1e-3, rtol=0)
    assert not left.is_converged
    assert left.step == left.num_steps == 900
    # Twenty validations and the untrained network; every step.
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
