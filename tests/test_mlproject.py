"""MLproject says the same as the command line, and mlflow passes on what it does not declare."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
import yaml

from idl.cli import cli

ROOT = Path(__file__).parents[1]
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
ENTRY_POINTS = sorted(PROJECT["entry_points"])


def options(name: str) -> dict[str, click.Option]:
    return {each.name: each for each in cli.commands[name].params if isinstance(each, click.Option) and each.name}


def test_every_command_is_an_entry_point() -> None:
    assert sorted(cli.commands) == ENTRY_POINTS
    assert len((ROOT / "MLproject").read_text().splitlines()) < 130


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_names_and_defaults_are_those_of_the_command_line(name: str) -> None:
    parameters, there = PROJECT["entry_points"][name]["parameters"], options(name)
    assert len(parameters) <= 8
    declared = {key: str(parameter["default"]) for key, parameter in parameters.items()}
    assert declared == {key: there[key].default for key in parameters}
    command = PROJECT["entry_points"][name]["command"]
    assert command.startswith(f'PYTHONPATH="$PWD:$PYTHONPATH" python -m idl {name} ')
    passed = dict(re.findall(r"(--[a-z0-9-]+) \{(\w+)\}", command))
    assert passed == {there[key].opts[0]: key for key in parameters}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_mlflow_builds_a_command_that_click_reads_back(name: str) -> None:
    """Declared or not, with an underscore or a space: a parameter reaches its option; others keep their defaults."""
    from mlflow.projects.utils import load_project

    entry_point = load_project(str(ROOT)).get_entry_point(name)
    assert entry_point is not None
    given = {"split": "1:1:1", "data": "a folder", "depth_scale": "5000", "images": "a walk/*.png", "cues": "false"}
    given = {key: value for key, value in given.items() if key in options(name)}
    words = shlex.split(entry_point.compute_command(given, None))
    command = cli.commands[name]
    with click.Context(cli, **cli.context_settings) as parent:
        read = command.make_context(name, words[words.index(name) + 1 :], parent=parent).params
        default = command.make_context(name, [], parent=parent).params
    expected = {key: options(name)[key].type.convert(value, None, None) for key, value in given.items()}
    assert read == {**default, **expected}


def test_the_environment_pins_what_the_package_needs() -> None:
    listed = yaml.safe_load((ROOT / "conda.yaml").read_text())["dependencies"]
    (pip,) = (part["pip"] for part in listed if isinstance(part, dict))
    pinned = {line.partition("==")[0] for line in pip}
    assert all("==" in line for line in pip)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert pinned == {re.split(r"[<>=]", line)[0] for line in needed}
    # A project that named itself there would run another clone's code.
    assert not any(line.startswith(("-e", ".")) for line in pip)
