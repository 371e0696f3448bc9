"""Registered probes are filtered and ranked; figures that do not compare are not put in one order."""

import json
from collections.abc import Sequence

import pytest
from click.testing import CliRunner

from idl.cli import cli
from idl.cli.models import ranked, selected, table
from idl.errors import InputError
from idl.tracking.registry import RegisteredVersion

CONDITIONS = {"dataset": "rooms", "dataset_digest": "d1" * 8, "split_digest": "51" * 8, "protocol_digest": "a1" * 8}


def version(number: int, aliases: tuple[str, ...] = (), **tags: str) -> RegisteredVersion:
    values = CONDITIONS | {"target": "depth", "encoder": "convnext", "encoder_digest": "e1" * 8, "weights": "imagenet"}
    values |= {"task": "imagenet", "k": "64", "protocol": "idl"} | tags
    name = f"idl-{values['target']}-{values['encoder'].removeprefix('timm:')}"
    return RegisteredVersion(name, number, aliases, values, "run", f"models:/m-{number}", number)


WORSE = version(1, test_rmse="0.9", test_delta1="0.5", val_loss="0.8")
BETTER = version(2, test_rmse="0.10", test_delta1="0.9", val_loss="0.01")
NYU = version(3, dataset="nyu", dataset_digest="d2" * 8, test_rmse="0.5", val_loss="0.3")
LOG = version(4, target="log-depth", test_rmse="0.05", val_loss="0.001")
OTHER = version(5, protocol_digest="a2" * 8, protocol="eigen", test_rmse="0.4", val_loss="0.2")
NAN = version(6, test_rmse="nan", val_loss="0.02")
RESNET = version(7, encoder="timm:resnet18")
ALL = (WORSE, BETTER, NYU, LOG, OTHER, RESNET)


def numbers(versions: Sequence[RegisteredVersion]) -> list[int]:
    return [each.version for each in versions]


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({}, [1, 2, 3, 4, 5, 7]),
        ({"target": "depth"}, [1, 2, 3, 5, 7]),
        ({"dataset": "nyu"}, [3]),
        ({"dataset": "d2d2"}, [3]),
        ({"protocol": "a1a1", "target": "log-depth"}, [4]),
        ({"split": "5151", "encoder": "", "protocol": "eigen"}, [5]),
        ({"encoder": "timm:resnet18"}, [7]),
        ({"encoder": "resnet18"}, [7]),
    ],
)
def test_a_filter_keeps_what_fits_in_its_order(filters: dict[str, str], left: list[int]) -> None:
    assert numbers(selected(ALL, filters)) == left


def test_best_is_first_whichever_way_that_is() -> None:
    assert numbers(ranked((WORSE, BETTER), "test_delta1")) == [2, 1]
    assert numbers(ranked((BETTER, WORSE), "k")) == [1, 2]
    assert numbers(ranked((NAN, WORSE, BETTER), "test_rmse")) == [2, 1]


def test_figures_of_different_conditions_are_not_ranked() -> None:
    with pytest.raises(InputError, match=r"different dataset \(nyu d2d2d2d2, rooms d1d1d1d1\)\. .* --dataset d1d1d1d1"):
        ranked((WORSE, BETTER, NYU), "test_rmse")
    with pytest.raises(InputError, match=r"protocol \(eigen a2a2a2a2, idl a1a1a1a1\)") as caught:
        ranked((WORSE, OTHER), "test_rmse")
    advice = str(caught.value).partition("--protocol ")[2].rstrip(".")
    assert len(selected((WORSE, OTHER), {"protocol": advice})) == 1
    # Targets share metres, but not losses.
    assert numbers(ranked((WORSE, LOG), "test_rmse")) == [4, 1]
    with pytest.raises(InputError, match=r"different target \(depth, log-depth\)"):
        ranked((WORSE, LOG), "val_loss")
    with pytest.raises(InputError, match=r"There is: .*test_rmse"):
        ranked((WORSE, BETTER), "rmse")


def test_a_digest_is_no_figure_though_it_looks_like_one(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = dict.fromkeys(("verdict_digest", "scenes_digest", "some_later_digest"), "1234567890123456")
    digests |= {"basis_digest": "12e4567890123456", "test_scenes": "1234567", "dataset_digest": "0000000000000012"}
    one = version(1, (), test_rmse="0.9", **digests)
    for name in digests:
        with pytest.raises(InputError, match=r"no such figure\..* There is: k, test_rmse\."):
            ranked((one,), name)
    monkeypatch.setattr("idl.tracking.registry.list_probes", lambda: (one,))
    (listed,) = json.loads(CliRunner().invoke(cli, ["models", "--json"]).output)
    assert {name: listed[name] for name in digests} == digests
    assert (listed["k"], listed["test_rmse"]) == (64, 0.9)


def test_the_table_has_a_head_for_each_set_of_conditions() -> None:
    tags = {"task": "a-task-with-a-name-that-is-as-long-as-a-line", "target": "inverse-depth"}
    long = version(11, ("champion", "champion-rooms"), **tags, test_rmse="0.87654")
    lines = table((long, BETTER, NYU), "")
    text = "\n".join(lines)
    assert all(words in text for words in (tags["task"], "inverse-depth-convnext/11", "0.8765 m"))
    assert "  @champion @champion-rooms" in text
    assert sum(line.startswith("dataset ") for line in lines) == 2
    assert any("test_delta1" in line for line in table((BETTER,), "test_delta1"))
