"""What is said of a probe on encoders that read one cue only, and what must not change it."""

from pathlib import Path

import pytest
from planted_cues import CuesReader, one_cue

from idl.cues import Cue, CuesConfig, CueTable, Reading, cues
from idl.data.preparation import prepare
from idl.data.splits import Split
from idl.data.store import Store
from idl.encoders import Encoder
from idl.pipeline import ProbeConfig, probe, split_of
from idl.probes.linear_probe import DepthModel, LinearProbe
from idl.protocol import Protocol
from idl.report import Run
from idl.targets import target

CONFIG = ProbeConfig(split="4:2:2", batch_size=16)
CUES = CuesConfig(draws=500, batch_size=4, num_examples=1)
DEPTH = target("depth")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(CuesReader(), Protocol(resolution=128), tmp_path_factory.mktemp("cues"))


def fitted(store: Store, encoder: Encoder, folder: Path) -> tuple[Run, LinearProbe, Split]:
    run = probe(CONFIG, store, encoder, folder)
    assert isinstance(run.model.module, DepthModel)
    return run, run.model.module.probe, split_of(CONFIG, store, DEPTH)


def measured(store: Store, cue: str, folder: Path, config: CuesConfig = CUES) -> CueTable:
    encoder = one_cue(cue)
    _, linear, split = fitted(store, encoder, folder)
    return cues(store, split, encoder, linear, DEPTH, config)


@pytest.mark.parametrize("cue", ["colour", "brightness", "texture", "position"])
def test_an_encoder_of_one_cue_is_named_by_it(store: Store, tmp_path: Path, cue: str) -> None:
    table = measured(store, cue, tmp_path)
    assert [finding.cue for finding in table.named(Reading.READ)] == [Cue(cue)], table.findings
    # What goes with a cue is never said to be read, and nothing is left open.
    goes_with = {"texture": [Cue.BRIGHTNESS], "position": [Cue.LAYOUT]}.get(cue, [])
    assert [finding.cue for finding in table.named(Reading.IMPLIED)] == goes_with
    assert not table.named(Reading.UNDECIDED)
