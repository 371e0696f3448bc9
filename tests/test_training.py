"""The training loop: interrupted or not it gives the same weights, it ends where it should, and never keeps a NaN."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from planted_training import SMALL, Linear, Notes, same_weights, signalled, small_store, trained
from torch import Tensor

from idl.data.splits import Split
from idl.data.store import Store
from idl.errors import InputError
from idl.training import Reconstruction, TrainingConfig
from idl.training.checkpoints import Checkpoints
from idl.training.images import Batch

# 12 images in batches of 4: an epoch has 3 steps, the training 12.
CONFIG = TrainingConfig(epochs=4, batch_size=4, crop=16, lr=1e-2, validate_every=4, arithmetic="float32")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Split]:
    return small_store(tmp_path_factory.mktemp("store"))


def weights_after(config: TrainingConfig, made: tuple[Store, Split], folder: Path) -> dict[str, Tensor]:
    """The weights that `config` leads to without an interruption."""
    objective = Reconstruction(SMALL, seed=0)
    trained(objective, config, made, folder)
    return {name: tensor.clone() for name, tensor in objective.module.state_dict().items()}


@pytest.fixture(scope="module")
def whole(made: tuple[Store, Split], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Those of CONFIG."""
    return weights_after(CONFIG, made, tmp_path_factory.mktemp("whole"))


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
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    number: int = signal.SIGINT,
    resume: bool = False,
    config: TrainingConfig = CONFIG,
) -> None:
    """Train until `number` arrives in the middle of step `step`."""
    objective = Reconstruction(SMALL, seed=0)
    num_losses = Checkpoints(folder).load()[0]["standing"]["step"] if resume else 0  # pyright: ignore[reportOptionalSubscript]

    def loss(output: Tensor, batch: Batch) -> Tensor:
        nonlocal num_losses
        # Counted where gradients are: looks at the validation split compute losses, too.
        num_losses += output.requires_grad
        if num_losses == step and output.requires_grad:
            signalled(number)()
        return objective.module.loss_of(output, batch["rgb"])

    monkeypatch.setattr(objective, "loss", loss)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        trained(objective, config, made, folder, resume=resume)
    state, damaged = Checkpoints(folder).load()
    assert state is not None
    assert not damaged
    # After the whole step, not before it.
    assert state["standing"]["step"] == step


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 11, 12])
def test_an_interrupted_training_reaches_the_same_weights(
    made: tuple[Store, Split], whole: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    interrupted(made, tmp_path, monkeypatch, step)
    # Another seed: the weights that it begins with must not matter. Its settings are the same.
    objective = Reconstruction(SMALL, seed=99)
    left = trained(objective, CONFIG, made, tmp_path, resume=True)
    assert left.step == left.num_steps == 12
    assert same_weights(objective.module.state_dict(), whole)


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
@pytest.mark.usefixtures("terminated")
def test_interrupted_twice_and_by_either_signal(
    made: tuple[Store, Split],
    whole: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arithmetic: Literal["float32", "bfloat16"],
) -> None:
    config, folder = replace(CONFIG, arithmetic=arithmetic), tmp_path / "cut"
    interrupted(made, folder, monkeypatch, 2, signal.SIGTERM, config=config)
    interrupted(made, folder, monkeypatch, 7, signal.SIGINT, resume=True, config=config)
    objective = Reconstruction(SMALL, seed=0)
    trained(objective, config, made, folder, resume=True)
    assert same_weights(objective.module.state_dict(), weights_after(config, made, tmp_path / "whole"))
    # Products of bfloat16 are rounded, so that the weights show which were taken.
    assert same_weights(objective.module.state_dict(), whole) == (arithmetic == "float32")


def test_a_recorder_that_is_interrupted_is_heard(made: tuple[Store, Split], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(Linear(), CONFIG, made, tmp_path, recorder=Notes({8: signalled(signal.SIGINT)}))
    state, _ = Checkpoints(tmp_path).load()
    assert state is not None
    assert state["standing"]["step"] == 8


def test_a_second_signal_does_not_wait(made: tuple[Store, Split], tmp_path: Path) -> None:
    def twice() -> None:
        signalled(signal.SIGINT)()
        signalled(signal.SIGINT)()

    with pytest.raises(KeyboardInterrupt):
        trained(Linear(), CONFIG, made, tmp_path, recorder=Notes({4: twice}))
    assert not list(tmp_path.iterdir())


def test_sigterm_after_ctrl_c_does_not_cut_off_the_checkpoint(made: tuple[Store, Split], tmp_path: Path) -> None:
    """As under `mlflow run`: the terminal sends the one, mlflow the other."""

    def both() -> None:
        signalled(signal.SIGINT)()
        signalled(signal.SIGTERM)()

    with pytest.raises(KeyboardInterrupt):
        trained(Linear(), CONFIG, made, tmp_path, recorder=Notes({4: both}))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004.checkpoint"]


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
    made: tuple[Store, Split], whole: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(made, tmp_path, monkeypatch, 3)
    interrupted(made, tmp_path, monkeypatch, 5, resume=True)
    newest = max(tmp_path.iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    objective = Reconstruction(SMALL, seed=0)
    left = trained(objective, CONFIG, made, tmp_path, resume=True)
    assert left.notes == (f"{newest}: damaged; the training goes on from the checkpoint before.",)
    assert same_weights(objective.module.state_dict(), whole)


def test_a_file_that_is_cut_off_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(1, {"step": 1, "weights": torch.arange(100.0)})
    path.write_bytes(path.read_bytes()[:-10])
    assert checkpoints.load() == (None, (path,))
    assert not list(tmp_path.iterdir())


def test_the_last_two_checkpoints_are_kept(made: tuple[Store, Split], tmp_path: Path) -> None:
    trained(Linear(), replace(CONFIG, checkpoint_minutes=0), made, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{step:08d}.checkpoint" for step in (11, 12)]


def test_other_settings_are_named_with_both_values(made: tuple[Store, Split], tmp_path: Path) -> None:
    trained(Linear(), CONFIG, made, tmp_path)
    for change, told in (
        ({"lr": 0.5}, r"\(lr was 0.01, is 0.5\)"),
        ({"seed": 3, "crop": 8}, r"\(crop was 16, is 8, seed was 0, is 3\)"),
    ):
        with pytest.raises(InputError, match=told):
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


def test_nothing_to_resume_is_bad_input(made: tuple[Store, Split], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        trained(Linear(), CONFIG, made, tmp_path / "gone", resume=True)


def test_a_finished_training_is_resumed_to_what_it_was(made: tuple[Store, Split], tmp_path: Path) -> None:
    first = trained(Linear(), CONFIG, made, tmp_path)
    again = trained(Linear(), CONFIG, made, tmp_path, resume=True)
    assert same_weights(again.state, first.state)
    assert (again.step, again.metrics, again.untrained) == (first.step, first.metrics, first.untrained)
