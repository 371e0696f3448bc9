"""Whether a study is the one that was meant: told before anything is encoded, and without a trace in it."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import optuna
import pytest
from test_sweep import CONFIG, NUM_COMPONENTS, SUBJECT, drawn, planted, run, split

from idl.descending import TrainingSet
from idl.errors import InputError
from idl.probes.image_grams import ImageGrams
from idl.probes.image_plan import plan
from idl.probes.trial import Trial
from idl.sweep.journal import Journal
from idl.sweep.run import agree, check, sweep
from idl.sweep.space import Place, SearchSpace

FEW = replace(CONFIG, trials=4)
LESS = 8


@cache
def poorer() -> TrainingSet:
    """The planted problem on a machine whose memory holds fewer components."""
    columns, truth, valid = drawn(96, seed=0)
    train, val = (columns[:, : 1 + LESS], truth, valid), drawn(200, seed=1)
    held = plan(96, (4, 4), NUM_COMPONENTS, 1, budget=2**30, k=LESS)
    return TrainingSet(ImageGrams.of(*train), split(train), split((val[0][:, : 1 + LESS], *val[1:])), held)


def attributes(folder: Path) -> dict[str, Any]:
    storage = optuna.storages.JournalStorage(Journal(folder / "tested.journal"))
    return optuna.load_study(study_name="tested", storage=storage).user_attrs


@pytest.mark.parametrize("storage", ["", "sqlite"])
def test_an_open_range_of_k_ends_where_the_study_began_with_it(tmp_path: Path, storage: str) -> None:
    config = replace(FEW, storage=f"sqlite:///{tmp_path / 'studies.db'}" if storage else "")
    assert check(SearchSpace(), config, SUBJECT, tmp_path) == SearchSpace()
    began = sweep({Place(): poorer()}, SearchSpace(), config, SUBJECT, tmp_path)
    assert began.space.k == (1, LESS)
    assert check(SearchSpace(), config, SUBJECT, tmp_path).k == (1, LESS)
    # Where there is memory for more.
    more = run(tmp_path, replace(config, trials=12))
    assert more.space.k == (1, LESS)
    assert max(trial.trial.k for trial in more.trials) <= LESS
    # A range that says its end is not an open one.
    assert check(SearchSpace(k=(1, LESS)), config, SUBJECT, tmp_path).k == (1, LESS)
    for k in ((1, NUM_COMPONENTS), (1, 4), (2, None), (100, None)):
        with pytest.raises(InputError, match=f"k is 1:{LESS} there, {k[0]}:{k[1] or 'all'} here"):
            check(SearchSpace(k=k), config, SUBJECT, tmp_path)


def test_a_machine_without_the_components_of_the_study_says_so(tmp_path: Path) -> None:
    run(tmp_path, FEW)
    with pytest.raises(InputError, match=r"k_range=1:16: the encoder has 8 components"):
        sweep({Place(): poorer()}, SearchSpace(), replace(CONFIG, trials=8), SUBJECT, tmp_path)


def test_a_range_beyond_the_components_is_the_same_one_when_the_study_goes_on(tmp_path: Path) -> None:
    """A channel that never varies gives no component."""
    asked, found = SearchSpace(k=(1, 20)), SearchSpace(k=(1, NUM_COMPONENTS))
    assert agree(asked, found, FEW, SUBJECT, tmp_path) == found
    run(tmp_path, FEW, found)
    assert check(asked, FEW, SUBJECT, tmp_path) == found
    with pytest.raises(InputError, match="k is 1:16 there, 1:19 here"):
        check(SearchSpace(k=(1, 19)), FEW, SUBJECT, tmp_path)


@pytest.mark.parametrize(
    ("space", "fixed", "told"),
    [
        (SearchSpace(lr=(1e-3, 1.0)), CONFIG.fixed, "lr is 0.0001:1.0 there, 0.001:1.0 here"),
        (SearchSpace(solver=("sgd",)), CONFIG.fixed, "solver is adam there, sgd here"),
        (SearchSpace(), replace(CONFIG.fixed, epochs=9), "epochs is 8 there, 9 here"),
        (SearchSpace(), replace(CONFIG.fixed, batch_size=16), "step_images is 32 there, 16 here"),
    ],
)
def test_a_slip_is_found_before_anything_is_encoded(
    tmp_path: Path, space: SearchSpace, fixed: Trial, told: str
) -> None:
    run(tmp_path, FEW)
    before = attributes(tmp_path)
    with pytest.raises(InputError, match=told):
        check(space, replace(FEW, fixed=fixed), SUBJECT, tmp_path)
    assert attributes(tmp_path) == before


def test_a_look_at_a_new_study_binds_nobody(tmp_path: Path) -> None:
    check(SearchSpace(lr=(1e-3, 1.0)), FEW, SUBJECT, tmp_path)
    assert run(tmp_path, FEW).space.lr == SearchSpace().lr


def test_what_is_set_and_what_is_searched_among_one_choice_are_two_studies(tmp_path: Path) -> None:
    """They mean the same, but what is drawn has other names."""
    run(tmp_path, FEW)
    searched = SearchSpace(target=("depth",))
    without = {name: words for name, words in SUBJECT.items() if name != "target"}
    with pytest.raises(InputError, match="searched is k, lr there, k, lr, target here"):
        check(searched, FEW, without, tmp_path)
    other = replace(FEW, study="other")
    for place, space, subject in (
        (Place(target="depth"), searched, without),
        (Place(stage=1), SearchSpace(stage=(1,)), SUBJECT),
    ):
        config = replace(other, study=f"other {place}")
        sweep({place: planted()}, space, config, subject, tmp_path)
        with pytest.raises(InputError, match=r"searched is k, lr, (target|stage) there, k, lr here"):
            check(SearchSpace(), config, SUBJECT, tmp_path)


def test_a_study_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    run(tmp_path, FEW)
    path = tmp_path / "tested.journal"
    lines = path.read_text().splitlines(keepends=True)
    old = [line for line in lines if not {"searched", "k_range"} & json.loads(line).get("user_attr", {}).keys()]
    assert len(old) == len(lines) - 2
    path.write_text("".join(old))
    assert check(SearchSpace(), FEW, SUBJECT, tmp_path).k == (1, NUM_COMPONENTS)
    with pytest.raises(InputError, match="searched is k, lr there, k, lr, solver here"):
        check(SearchSpace(solver=("adam",)), FEW, SUBJECT, tmp_path)
    assert run(tmp_path, replace(FEW, trials=8)).num_trained == 4
