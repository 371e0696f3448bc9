"""Options of a command, made of the fields of its settings dataclass.

A field made by `idl.settings.setting` is an option; a field made by `part` holds another settings dataclass, whose
fields are options of the command as well. Every default is the dataclass's.
"""

import math
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import Field, field, fields, replace
from functools import update_wrapper
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from idl.databases import without_password

AUTO = "auto"


def part(default: object, *, only: Collection[str] = (), without: Collection[str] = ()) -> Any:
    """Return a dataclass field of further settings, of which `only` these, or all `without` those, become options."""
    return field(default=default, metadata={"only": tuple(only), "without": tuple(without)})


def options(kind: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command the options of `kind`, and calls it with `settings`, a filled `kind`."""
    default = kind()
    # By the option's name: the part that its field is of ("" for one of `kind` itself), and the field.
    made = {(each.metadata["option"] or each.name).replace("-", "_"): (place, each) for place, each in _fields(kind)}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            given: dict[str, dict[str, Any]] = {}
            for name, (place, each) in made.items():
                given.setdefault(place, {})[each.name] = values.pop(name)
            own = given.pop("", {})
            parts = {place: replace(getattr(default, place), **chosen) for place, chosen in given.items()}
            function(settings=replace(default, **own, **parts), **values)

        update_wrapper(command, function)
        for name, (place, each) in reversed(made.items()):
            command = _option(getattr(default, place) if place else default, each, name)(command)
        return command

    return decorate


def requested() -> dict[str, str]:
    """Return the running command's options that differ from their defaults, by name; addresses without passwords."""
    context = click.get_current_context()
    options = [
        each for each in context.command.params if isinstance(each, click.Option) and each.name in context.params
    ]
    values = {str(each.name): (text_of(context.params[str(each.name)]), each.default) for each in options}
    return {name: shown(text) for name, (text, default) in values.items() if text != default}


def command_line(without: Collection[str] = ()) -> str:
    """Return the running command as a shell takes it, with the options that differ from their defaults."""
    given = {name.replace("_", "-"): text for name, text in requested().items() if name not in without}
    words = [word for name, text in given.items() for word in (f"--{name}", text)]
    return shlex.join(["idl", click.get_current_context().info_name or "", *words])


def text_of(value: object) -> str:
    """Return a setting as it is written on the command line: None is "auto", a triple has commas."""
    if value is None:
        return AUTO
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown(text: str) -> str:
    """Return a setting as it may be logged: an address without its password."""
    return without_password(text) if "://" in text else text


class _Option(click.Option):
    """An option that has its default where it is given as an empty text, as by `mlflow run -P data=`."""

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        value, source = super().consume_value(ctx, opts)
        return (self.default, ParameterSource.DEFAULT) if value == "" else (value, source)


class _Value(click.ParamType):
    """What a function makes of a text, or raises ValueError that says what is wrong; "auto" may stand for None."""

    def __init__(self, name: str, read: Callable[[str], object], is_optional: bool) -> None:
        self.name = name
        self._read, self._is_optional = read, is_optional

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"{self.name}|{AUTO}" if self._is_optional else self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if self._is_optional and value == AUTO:
            return None
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}{f', nor {AUTO}' if self._is_optional else ''}.", param, ctx)


def _number(kind: type[int | float], at_least: float | None) -> Callable[[str], float]:
    least = -math.inf if at_least is None else at_least

    def read(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not -math.inf < number < math.inf:
            raise ValueError("is not a whole number" if kind is int else "is not a finite number")
        if number < least:
            raise ValueError(f"is below {least:g}")
        return number

    return read


def _triple(text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(each) for each in text.split(","))
    except ValueError:
        raise ValueError("is not three numbers R,G,B such as 0.5,0.5,0.5") from None
    return red, green, blue


def _fields(kind: type[Any]) -> Iterator[tuple[str, Field[Any]]]:
    """Yield the fields that are options, each behind the name of the part that it is of; "": of `kind` itself."""
    for each in fields(kind):
        if "only" not in each.metadata:
            yield "", each
            continue
        for inner in fields(each.default):  # pyright: ignore[reportArgumentType]
            is_chosen = inner.name in (each.metadata["only"] or (inner.name,))
            if "help" in inner.metadata and is_chosen and inner.name not in each.metadata["without"]:
                yield each.name, inner


def _option(owner: object, each: Field[Any], name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the decorator that adds a field's option. owner: the settings that have its default."""
    text = text_of(getattr(owner, each.name))
    kind = _type(get_type_hints(type(owner))[each.name], each.metadata["choices"], each.metadata["at_least"])
    further: dict[str, Any] = {"cls": _Option, "type": kind, "default": text, "show_default": bool(text)}
    if kind is click.BOOL:
        # `--overwrite` alone is as good as `--overwrite true`.
        further |= {"is_flag": False, "flag_value": "true", "metavar": "[true|false]"}
    return click.option(f"--{name.replace('_', '-')}", name, **further, help=each.metadata["help"])


def _type(hint: Any, choices: Collection[str], at_least: float | None) -> click.ParamType:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    (kind,) = (each for each in kinds if each is not NoneType)
    is_optional = len(kinds) > 1
    if choices or get_origin(kind) is Literal:
        return click.Choice(tuple(choices) or get_args(kind))
    if get_origin(kind) is tuple:
        return _Value("R,G,B", _triple, is_optional)
    if kind in (int, float):
        return _Value("INTEGER" if kind is int else "FLOAT", _number(kind, at_least), is_optional)
    return click.BOOL if kind is bool else click.STRING
