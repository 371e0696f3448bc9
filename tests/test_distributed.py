"""Several ranks: the figures of one, a cache shared with one, and an end for all where one fails."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import ranks
import torch
from command_line import run, working_folder
from forked import Ended, run_ranks
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Run
from planted import PlantedReader, SmallNetwork, write_pairs
from ranks import BASIS_IMAGES
from safetensors.torch import load

from idl import cache
from idl.cache import MapFile
from idl.data.preparation import prepare
from idl.data.splits import split_by_scene
from idl.distributed import ALONE, World, local_device, this_process
from idl.errors import InputError
from idl.features import EncodedDataset
from idl.protocol import Protocol
from idl.tracking.store import quiet

NUM_IMAGES = 36
PROBE = ("probe", "--dataset", "folder", "--data", "walk", "--encoder", "ranks:network", "--device", "cpu")
PROBE += ("--workers", "1", "--batch-size", "4")
FIGURES = ("train_loss", "val_loss", "test_loss", "test_rmse", "test_delta1", "arms/null_test_loss")


@given(num_images=st.integers(0, 300), batch_size=st.integers(1, 40), size=st.integers(1, 9))
def test_shares_are_whole_batches_that_follow_each_other(num_images: int, batch_size: int, size: int) -> None:
    shares = [World(rank, size).share(num_images, batch_size) for rank in range(size)]
    assert [position for share in shares for position in share] == list(range(num_images))
    assert all(share.start % batch_size == 0 for share in shares if share)
    assert shares[0] or not num_images
    num_batches = [-(-len(share) // batch_size) for share in shares]
    assert max(num_batches) - min(num_batches) <= 1


def test_one_rank_exchanges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert this_process() == ALONE
    tensor = torch.rand(3)
    assert ALONE.sum(tensor) is tensor
    assert ALONE.gather(tensor)[0] is tensor
    assert ALONE.broadcast(tensor) is tensor
    assert ALONE.once(lambda: 3) == ALONE.after_first(lambda: 3) == 3
    ALONE.barrier()


def test_a_rank_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda, second = torch.device("cpu"), torch.device("cuda"), torch.device("cuda", 1)
    assert local_device(second) == second
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert this_process() == World(3, 4)
    assert local_device(cpu) == cpu
    assert local_device(cuda) == second
    with pytest.raises(InputError, match=r"one GPU for 4 ranks"):
        local_device(second)


def test_places_that_nobody_wrote_are_known(tmp_path: Path) -> None:
    file = MapFile(tmp_path / "train.maps", (2, 2, 3))
    maps = np.random.default_rng(0).standard_normal((4, 2, 2, 3)).astype(np.float16)
    file.write(4, maps[2:])
    assert file.num_images == 6
    assert file.read(0, 2) is None
    assert file.read(3, 2) is None
    np.testing.assert_array_equal(file.read(4, 2), maps[2:])
    file.write(0, maps)
    np.testing.assert_array_equal(file.read(0, 4), maps)
    np.testing.assert_array_equal(file.read(4, 2), maps[2:])


def second_rank(*answers: object) -> World:
    """Rank 1, to whom rank 0 says `answers`, one after the other."""
    said = iter(answers)

    class SecondRank(World):
        def broadcast(self, value: object) -> object:
            return next(said)

    return SecondRank(1, 2)


def test_ranks_with_other_inputs_or_another_cache_are_refused(tmp_path: Path) -> None:
    store = prepare(PlantedReader(num_scenes=8), Protocol(resolution=64), tmp_path / "store")
    split, network, cpu = split_by_scene(store.scenes), SmallNetwork(), torch.device("cpu")
    first = EncodedDataset(store, split, network, tmp_path / "key", 4, cpu)
    with pytest.raises(InputError, match="not those of rank 0"):
        EncodedDataset(store, split, network, tmp_path / "key", 4, cpu, world=second_rank("another key"))
    elsewhere = tmp_path / "elsewhere" / "key"
    world = second_rank("key", (first.basis, first.grid))
    with pytest.raises(InputError, match="Pass a cache= that all machines share"):
        EncodedDataset(store, split, network, elsewhere, 4, cpu, world=world)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[Path]:
    """A working folder with RGB-D pairs in `walk` and a tracking store, with what one rank left: the run "one"."""
    folder = tmp_path_factory.mktemp("ranks")
    with working_folder(folder, template) as patch:
        write_pairs(folder / "walk", num=NUM_IMAGES)
        patch.setattr("idl.features.BASIS_IMAGES", BASIS_IMAGES)
        one_rank("one")
        yield folder


def one_rank(name: str, experiment: str = "") -> Run:
    """Probe in this process, with the cache `name`; return what it left in MLflow."""
    assert run(*PROBE, "--cache", name, "--experiment", experiment or name) == 0
    return only_run(experiment or name)


def two_ranks(name: str, fault: str = "", experiment: str = "") -> Ended:
    """Probe in two processes, with the cache `name`. fault: as in `ranks`."""
    arguments = (*PROBE, "--cache", name, "--experiment", experiment or name)
    return run_ranks(Path(f"{experiment or name}-logs"), ranks.main, *arguments, fault=fault)


def under_torchrun(name: str) -> Ended:
    """The same by the command that a user types."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ranks")
    ended = subprocess.run(
        [*launcher, *PROBE, "--cache", name, "--experiment", name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Ended(ended.returncode == 0, ended.stdout, ended.stderr)


def only_run(experiment: str) -> Run:
    # SQLAlchemy deprecates what mlflow does here.
    with quiet():
        (run,) = mlflow.search_runs(experiment_names=[experiment], output_format="list")
    return run  # pyright: ignore[reportReturnType]


def same_figures(one: Run, other: Run) -> bool:
    figures = ({name: run.data.metrics[name] for name in FIGURES} for run in (one, other))
    return next(figures) == pytest.approx(next(figures), rel=1e-6)


@pytest.mark.slow
def test_two_ranks_give_what_one_gives_and_share_its_cache(folder: Path) -> None:
    one = only_run("one")
    ended = under_torchrun("two")
    assert ended.is_done, ended.stderr
    two = only_run("two")
    assert two.info.status == "FINISHED"
    assert two.data.params == one.data.params
    assert same_figures(one, two)
    assert two.data.metrics["encoded_images"] == NUM_IMAGES
    for said in ("test_loss", "run:", "model:"):
        assert ended.stdout.count(said) == 1

    # The same maps at the same places, and the same sums but for the order in which they were taken.
    kept = [{path.name: path for path in (folder / name / "features").rglob("*.*")} for name in ("one", "two")]
    assert kept[0].keys() == kept[1].keys()
    for name, path in kept[0].items():
        if path.suffix == ".maps":
            assert kept[1][name].read_bytes() == path.read_bytes()
        if path.suffix == ".statistics":
            expected, found = (load(cache.read(each[name]) or b"") for each in kept)
            # One matrix a fold.
            scale = expected["xtx"].diagonal(dim1=1, dim2=2).sqrt()
            assert ((found["xtx"] - expected["xtx"]).abs() <= 1e-6 * scale[:, :, None] * scale[:, None]).all()
            torch.testing.assert_close(found["xty"], expected["xty"], rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(found["yty"], expected["yty"], rtol=1e-6, atol=0)
            assert bytes(found["json"].tolist())[:30] == bytes(expected["json"].tolist())[:30]

    again = two_ranks("one", experiment="again")
    assert again.is_done, again.stderr
    assert only_run("again").data.metrics["encoded_images"] == 0
    assert same_figures(one, only_run("again"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("1:8:kill", "another rank has ended. See its error, and torchrun's report."),
        ("0:16:raise", "ValueError: planted fault"),
        ("1:8:input", "rank 1: planted bad input"),
    ],
)
def test_a_rank_that_fails_ends_all_and_one_rank_goes_on(folder: Path, fault: str, line: str) -> None:
    """The command fails with the first rank that does, the one run says why, and nothing is done again."""
    name = fault.rpartition(":")[2]
    ended = two_ranks(name, fault)
    assert not ended.is_done
    # Half a minute after SIGTERM, torchrun kills those that did not hear it.
    assert time.time() - Path(f"{name}.fault").stat().st_mtime < 25
    assert line in ended.stderr
    failed = only_run(name)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["idl.error"] == line
    went_on = one_rank(name, experiment=f"{name} on")
    assert went_on.data.metrics["encoded_images"] <= NUM_IMAGES - 8
    assert same_figures(went_on, only_run("one"))
