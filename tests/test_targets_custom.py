"""Targets from a user's own file: found, looked at before work starts, never taken for one another."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from planted import PlantedReader, SmallNetwork
from planted_features import foreign

from idl.data.preparation import prepare
from idl.data.store import Store
from idl.errors import InputError
from idl.pipeline import Run, probe
from idl.probe_config import ProbeConfig
from idl.probes.linear_probe import LinearProbe
from idl.protocol import Protocol
from idl.targets import TARGETS, Target, target

HEAD = """
import torch
from idl.targets import Target
"""
BODY = """
class Red(Target):
    name, layer, unit, num_outputs, kind = "redness", "rgb", "1", 1, "field"
    factor = 1.0

    def encode(self, values, valid):
        red = self.factor * values[..., 0] / 255
        return torch.where(valid, red, 0.0)[:, None], valid

    def decode(self, prediction):
        return prediction
"""
FACTORY = """
def target():
    return Red()
"""
Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module into the current folder, which is on no path; it is imported anew each time."""
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(Path.cwd()))])
    monkeypatch.chdir(tmp_path)
    # Two versions written within one second would be taken for one.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written = set()

    def to_folder(name: str, text: str) -> None:
        Path(f"{name}.py").write_text(text)
        written.add(name)
        for each in written:
            sys.modules.pop(each, None)

    yield to_folder
    for each in written:
        sys.modules.pop(each, None)


def test_is_found_in_the_current_folder(write: Write) -> None:
    write("my_red", HEAD + BODY + FACTORY)
    found = target("my_red:target")
    assert (found.name, found.layer, found.unit) == ("redness", "rgb", "1")
    assert found.key.startswith("redness-")
    # Two factories of one class are two targets.
    write("my_red", HEAD + BODY + FACTORY + FACTORY.replace("target", "other"))
    assert target("my_red:other").key != target("my_red:target").key


def test_its_helpers_are_found_when_they_are_wanted(write: Write) -> None:
    """A module may import within a function, long after it was found itself."""
    write("my_late_helper", "FACTOR = 3.0\n")
    late = BODY.replace("        red =", "        from my_late_helper import FACTOR\n        red = FACTOR *")
    write("my_red", HEAD + late + FACTORY)
    values = torch.full((1, 2, 2, 3), 255.0)
    encoded, _ = target("my_red:target").encode(values, torch.ones(1, 2, 2, dtype=torch.bool))
    assert (encoded == 3).all()


TABLE = "made.table = torch.zeros(5000); made.table[25] = VALUE"


@pytest.mark.parametrize(
    "line",
    [
        "made.factor = VALUE",
        TABLE,
        TABLE.replace("(5000)", "(5000).numpy()"),
        "made.net = torch.nn.Linear(70, 70); made.net.weight.data[0, 25] = VALUE",
        "Red.version = VALUE",
    ],
)
def test_a_number_that_its_source_does_not_show_makes_another_target(write: Write, line: str) -> None:
    """Of a large array, as of a network, a repr says nothing; `version` speaks for all else."""
    read = "from pathlib import Path\nVALUE = float(Path('value.txt').read_text())\n"
    make = f"\ndef target():\n    torch.manual_seed(0)\n    made = Red()\n    {line}\n    return made\n"
    found = []
    for value in ("1", "2", "1"):
        Path("value.txt").write_text(value)
        write("my_red", HEAD + read + BODY + make)
        found.append(target("my_red:target").key)
    assert found[0] == found[2] != found[1]


def test_a_change_in_what_it_imports_makes_another_target(write: Write) -> None:
    text = HEAD + "from my_helper import factor_of\n" + BODY.replace("= self.factor *", "= factor_of() *") + FACTORY
    helper = "import my_constants\ndef factor_of():\n    return my_constants.FACTOR\n"
    write("my_constants", "FACTOR = 1.0\n")
    write("my_helper", helper)
    write("my_red", text)
    before = target("my_red:target").key
    write("my_constants", "FACTOR = 2.0\n")
    assert target("my_red:target").key != before


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(PlantedReader(num_scenes=8), Protocol(resolution=64), tmp_path_factory.mktemp("store"))


def probed(store: Store, name: str, folder: Path, **settings: object) -> Run:
    config = ProbeConfig(target=name, batch_size=4, split="4:2:2", **settings)  # pyright: ignore[reportArgumentType]
    return probe(config, store, foreign(SmallNetwork(), 8), folder)


@pytest.mark.parametrize("solver", ["exact", "adam"])
def test_two_of_one_name_never_share_what_is_kept(write: Write, store: Store, tmp_path: Path, solver: str) -> None:
    """Twice the field has four times the loss, from the same cache as from an empty one."""
    settings = {"solver": solver, "k": "4"} | ({"epochs": 3} if solver == "adam" else {})
    write("my_red", HEAD + BODY + FACTORY)
    one = probed(store, "my_red:target", tmp_path / "cache", **settings)
    write("my_red", HEAD + BODY.replace("factor = 1.0", "factor = 2.0") + FACTORY)
    two = probed(store, "my_red:target", tmp_path / "cache", **settings)
    for metric in ("train_loss", "val_loss", "test_loss", "arms/constant_test_loss"):
        assert two.report.metrics[metric] == pytest.approx(4 * one.report.metrics[metric], rel=1e-4)
    assert two.report.metrics["test_r2"] == pytest.approx(one.report.metrics["test_r2"], rel=1e-4)
    assert one.model.name == two.model.name
    assert one.model.championship is not None
    assert two.model.championship is not None
    assert one.model.championship.conditions != two.model.championship.conditions
    # The colours' range is each target's own, and kept.
    ranges = sorted((tmp_path / "cache" / "ranges").glob("redness-*.range"))
    assert len(ranges) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("return Red()", "return Red"), "gives Red itself, not an instance"),
        (("return Red()", "return Red().nothing"), "AttributeError"),
        (('"redness"', '"Red/ness"'), "model names"),
        (('"1", 1, "field"', '"1", 0, "field"'), "num_outputs of 1 or more"),
        (('"1", 1, "field"', '"1", 1, "colour"'), "none of depth, normals, field"),
        (('"1", 1, "field"', '"1", 1, "depth"'), "against layer 'depth'"),
        (("    def decode(self, prediction):\n        return prediction\n", ""), "abstract"),
        (("[:, None], valid", ", valid"), "expected float32"),
        (("[:, None], valid", "[:, None], valid.float()"), "mask is float32"),
        (("[:, None], valid", "[:, None], torch.ones_like(valid)"), "not valid"),
        (("torch.where(valid, red, 0.0)", "(red / 0)"), "not finite"),
        (("values[..., 0]", "values[..., 5]"), "encode fails"),
        (("return prediction", "return torch.from_numpy(prediction.numpy())"), "decode cannot be exported"),
        (("return prediction", "return prediction[:, :, 1:]"), "decode changes the shape"),
    ],
)
def test_what_breaks_the_contract_is_found_before_work_starts(
    write: Write, store: Store, tmp_path: Path, change: tuple[str, str], told: str
) -> None:
    text = HEAD + BODY + FACTORY
    assert change[0] in text
    write("my_red", text.replace(*change))
    with pytest.raises(InputError, match=told) as caught:
        probed(store, "my_red:target", tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_the_factory_s_own_instance_is_left_alone(write: Write) -> None:
    write("my_red", HEAD + BODY + "\nONE = Red()\ndef target():\n    return ONE\n")
    found = target("my_red:target")
    assert found.identity
    assert sys.modules["my_red"].ONE.identity == ""
    assert all(each.identity == "" for each in TARGETS.values())


class Sides(Target):
    """Two outputs, the second ten times the first."""

    name, layer, unit, num_outputs, kind = "sides", "depth", "m", 2, "field"

    def encode(self, values: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = torch.where(valid, values, 0.0)
        return torch.stack([first, 10 * first], dim=1), valid

    def decode(self, prediction: torch.Tensor) -> torch.Tensor:
        return prediction


def sides() -> Target:
    return Sides()


def test_several_outputs_are_fitted_and_shown(store: Store, tmp_path: Path) -> None:
    """Each output alone is depth, or ten times depth: the mean of their losses is 50.5 times the first's."""
    run = probed(store, "test_targets_custom:sides", tmp_path, k="all")
    both = run.report
    alone = probed(store, "depth", tmp_path, k="all").report
    assert both.metrics["test_loss"] == pytest.approx(50.5 * alone.metrics["test_loss"], rel=1e-3)
    assert both.metrics["test_r2"] == pytest.approx(alone.metrics["test_r2"], rel=1e-2)
    assert both.panels.keys() == {key.replace("depth/", "sides/") for key in alone.panels}
    assert run.model.module(torch.rand(1, 3, 64, 64)).shape == (1, 2, 64, 64)
    # The card leads back to the target.
    path = tmp_path / "probe.safetensors"
    path.write_bytes(run.model.files[path.name])
    card = LinearProbe.load(str(path)).card
    assert target(card.target_factory).identity == card.target_identity == both.tags["target_identity"]
