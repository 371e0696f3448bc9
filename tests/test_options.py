"""Options made of dataclass fields: a field with its help is all that an option costs."""

from dataclasses import dataclass, replace
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from idl.cli.options import command_line, options, part, requested
from idl.settings import setting


@dataclass(frozen=True)
class Inner:
    level: int | None = setting(None, "Which level.", at_least=0)
    rate: float = setting(0.5, "A rate.", at_least=0, option="inner-rate")
    colours: tuple[float, float, float] | None = setting(None, "Means.")
    kind: Literal["one", "two"] = setting("one", "Which kind.")
    internal: str = "not an option"


@dataclass(frozen=True)
class Settings:
    title: str = setting("", "A title.")
    size: str = setting("small", "A size.", choices=("small", "large"))
    is_whole: bool = setting(False, "Take all.", option="whole")
    inner: Inner = part(Inner(rate=0.25), without=("kind",))


GOT: list[tuple[Settings, dict[str, str], str]] = []


@click.command(context_settings={"token_normalize_func": lambda token: token.replace("_", "-")})
@click.argument("paths", nargs=-1)
@options(Settings)
def command(settings: Settings, paths: tuple[str, ...]) -> None:
    """Help."""
    GOT.append((settings, requested(), command_line(without=("title",))))


def read(*arguments: str) -> tuple[Settings, dict[str, str], str]:
    """What a command gets, what is logged as requested, and the command that gives the same."""
    command.main(list(arguments), prog_name="command", standalone_mode=False)
    return GOT.pop()


@pytest.mark.parametrize(
    ("arguments", "changes", "inner"),
    [
        ((), {}, {}),
        (("--title", "a_b c"), {"title": "a_b c"}, {}),
        (("--level", "3", "--inner_rate", "1e-3"), {}, {"level": 3, "rate": 0.001}),
        (("--level", "auto", "--colours", "", "--size", "", "--whole", ""), {}, {}),
        (("--colours", "0.5,0.25,1", "a path"), {}, {"colours": (0.5, 0.25, 1.0)}),
        (("--whole",), {"is_whole": True}, {}),
        (("--size", "large", "--whole", "false"), {"size": "large"}, {}),
    ],
)
def test_what_is_given_is_read_and_can_be_given_again(
    arguments: tuple[str, ...], changes: dict[str, object], inner: dict[str, object]
) -> None:
    expected = replace(Settings(**changes), inner=replace(Settings().inner, **inner))  # pyright: ignore[reportArgumentType]
    settings, given, line = read(*arguments)
    assert settings == expected
    again = [word for name, text in given.items() for word in (f"--{name}", text)]
    assert read(*again)[0] == expected
    assert ("--title" in line, "--inner-rate" in line) == (False, "rate" in inner)


def test_passwords_are_not_logged_and_the_help_has_every_option_with_its_default() -> None:
    assert read("--title", "postgresql://me:secret@host/name")[1] == {"title": "postgresql://host/name"}
    shown = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    for words in ("A title.", "[small|large]", "[true|false] Take all. [default: false]", "--level INTEGER", "0.25"):
        assert words in shown
