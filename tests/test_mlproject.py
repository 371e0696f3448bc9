"""MLproject says the same as the command line, and loads in mlflow."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from idl.cli import cli

ROOT = Path(__file__).parents[1]
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
ENTRY_POINTS = sorted(PROJECT["entry_points"])


def options(name: str) -> dict[str, click.Option]:
    """Options with a value: MLproject has no way to pass a flag."""
    return {
        option.name: option
        for option in cli.commands[name].params
        if isinstance(option, click.Option) and option.name is not None and not option.is_flag
    }


def test_every_command_is_an_entry_point() -> None:
    assert sorted(cli.commands) == ENTRY_POINTS


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_names_and_defaults_are_those_of_the_command_line(name: str) -> None:
    parameters = PROJECT["entry_points"][name]["parameters"]
    assert {key: parameter["default"] for key, parameter in parameters.items()} == {
        key: option.default for key, option in options(name).items()
    }
    numbers = {key for key, option in options(name).items() if isinstance(option.default, int | float)}
    assert {key for key, parameter in parameters.items() if parameter["type"] == "float"} == numbers
    assert {parameter["type"] for parameter in parameters.values()} <= {"float", "string"}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_the_command_passes_each_parameter_to_its_option(name: str) -> None:
    command = PROJECT["entry_points"][name]["command"]
    assert command.startswith(f'PYTHONPATH="$PWD:$PYTHONPATH" python -m idl {name} ')
    passed = dict(re.findall(r"(--[a-z0-9-]+) \{(\w+)\}", command))
    assert passed == {option.opts[0]: key for key, option in options(name).items()}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_mlflow_builds_a_command_that_click_reads_back(name: str) -> None:
    from mlflow.projects.utils import load_project

    project = load_project(str(ROOT))
    entry_point = project.get_entry_point(name)
    assert entry_point is not None
    given = {"split": "1:1:1", "data": "a folder", "images": "a walk/*.png"}
    given = {key: value for key, value in given.items() if key in options(name)}
    command = entry_point.compute_command(given, None)
    words = shlex.split(command)
    start = words.index(name)
    context = cli.commands[name].make_context(name, words[start + 1 :])
    assert given
    assert {key: context.params[key] for key in given} == given
    untouched = {key: option.default for key, option in options(name).items() if key not in given}
    assert {key: context.params[key] for key in untouched} == untouched


def test_the_environment_pins_what_the_package_needs() -> None:
    import tomllib

    listed = yaml.safe_load((ROOT / "conda.yaml").read_text())["dependencies"]
    (pip,) = (part["pip"] for part in listed if isinstance(part, dict))
    pinned = {line.partition("==")[0] for line in pip}
    assert all("==" in line for line in pip)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert pinned == {re.split(r"[<>=]", line)[0] for line in needed}
    # A project that named itself there would run another clone's code.
    assert not any(line.startswith(("-e", ".")) for line in pip)
