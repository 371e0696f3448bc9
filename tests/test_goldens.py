"""The commands give what they gave when goldens.json was written.

A change on purpose is a commit of its own, with the file that `goldens.py --write` makes and why.
"""

import json
from pathlib import Path

import pytest
from goldens import CASES, PATH, Record, arithmetic, differences, record

KEPT = json.loads(PATH.read_text())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if case.is_slow else []) for name, case in CASES.items()]
)
def test_figures_are_those_that_were_kept(name: str, workplace: Path) -> None:
    lines = differences(name, KEPT["cases"][name], record(CASES[name]), KEPT["arithmetic"] == arithmetic())
    assert not lines, "\n".join(lines)


def test_every_case_that_was_kept_is_there() -> None:
    assert KEPT["cases"].keys() == CASES.keys()


def test_a_figure_that_is_another_one_gone_or_new_is_reported() -> None:
    kept: Record = {"step": {"metrics": {"loss": 2.0, "rank": 3.0}, "digests": {"basis": "a", "dataset": "b"}}}
    found: Record = {"step": {"metrics": {"loss": 2.00001, "k": 3.0}, "digests": {"basis": "c", "dataset": "d"}}}
    changed = {line.split(":")[0].rpartition(" > ")[2] for line in differences("nyu", kept, found, True)}
    assert changed == {"loss", "rank", "k", "basis", "dataset"}
    # Another processor: a loss may move a little, and the digest of figures with it.
    changed = {line.split(":")[0].rpartition(" > ")[2] for line in differences("nyu", kept, found, False)}
    assert changed == {"rank", "k", "dataset"}
