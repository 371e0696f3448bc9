"""Options of a command, made of the fields of its settings dataclass.

A field made by `idl.settings.setting` is an option; a field made by `part` holds another settings dataclass, whose
fields are options of the command as well. Every default is the dataclass's.
"""

import math
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import Field, field, fields, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from idl.databases import without_password

AUTO = "auto"


def part(default: object, *, only: Collection[str] = (), without: Collection[str] = ()) -> Any:
    """Return a dataclass field that holds settings of their own, which become options of the command.

    default: an instance, which gives the options' defaults. only: names of the fields that are options, all where it
    is empty. without: names of those that are none. What is no option keeps its value in `default`.
    """
    return field(default=default, metadata={"only": tuple(only), "without": tuple(without)})


def options(kind: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command all options of `kind`, and calls it with `settings`, a filled `kind`.

    What `click.argument` adds is passed on by its name.
    """
    default, made = kind(), [*_settings_of(kind)]
    names = [_name(each) for _, each in made]
    if len(set(names)) < len(names):
        raise ValueError(f"{kind.__name__}: two fields make the same option, of {sorted(names)}")

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            given: dict[str, dict[str, Any]] = {"": {}}
            for (place, each), name in zip(made, names, strict=True):
                given.setdefault(place, {})[each.name] = values.pop(name)
            own = given.pop("")
            parts = {place: replace(getattr(default, place), **chosen) for place, chosen in given.items()}
            function(settings=replace(default, **own, **parts), **values)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        # Arguments that were added below.
        command.__dict__.update(function.__dict__)
        for (place, each), name in reversed([*zip(made, names, strict=True)]):
            command = _option(getattr(default, place) if place else default, each, name)(command)
        return command

    return decorate


def requested() -> dict[str, str]:
    """Return the options of the running command that differ from their defaults, by name and as text.

    Passwords in addresses are hidden.
    """
    context = click.get_current_context()
    values = {
        each.name: (text_of(context.params[each.name]), each.default)
        for each in context.command.params
        if isinstance(each, click.Option) and each.name in context.params
    }
    return {str(name): shown(text) for name, (text, default) in values.items() if text != default}


def command_line(without: Collection[str] = ()) -> str:
    """Return the command that runs, as a shell takes it, with the options that differ from their defaults.

    without: names of options that are left out.
    """
    words = ["idl", click.get_current_context().info_name or ""]
    for name, text in requested().items():
        if name not in without:
            words += [f"--{name.replace('_', '-')}", text]
    return shlex.join(words)


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


class _OrAuto(click.ParamType):
    """A value of another type, or "auto", which is None."""

    def __init__(self, inner: click.ParamType) -> None:
        self.name = inner.name
        self._inner = inner

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"{(self._inner.get_metavar(param, ctx) or self.name.upper()).strip('[]')}|{AUTO}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value is None or value == AUTO:
            return None
        try:
            return self._inner.convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message.rstrip('.')}, nor {AUTO}.", param, ctx)


class _Number(click.ParamType):
    """A finite number."""

    name = "float"

    def __init__(self, at_least: float | None) -> None:
        self._at_least = -math.inf if at_least is None else at_least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        if number < self._at_least:
            self.fail(f"{value} is below {self._at_least:g}.", param, ctx)
        return number


class _Triple(click.ParamType):
    """Three numbers with commas between them."""

    name = "R,G,B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            red, green, blue = (float(each) for each in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not three numbers R,G,B such as 0.5,0.5,0.5.", param, ctx)
        return red, green, blue


def _settings_of(kind: type[Any]) -> Iterator[tuple[str, Field[Any]]]:
    """Yield the fields that are options, each behind the name of the part that it is of; "": of `kind` itself."""
    for each in fields(kind):
        if "only" not in each.metadata:
            yield "", each
            continue
        for inner in fields(each.default):  # pyright: ignore[reportArgumentType]
            is_chosen = inner.name in (each.metadata["only"] or (inner.name,))
            if "help" in inner.metadata and is_chosen and inner.name not in each.metadata["without"]:
                yield each.name, inner


def _name(each: Field[Any]) -> str:
    return (each.metadata["option"] or each.name).replace("-", "_")


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
    if get_origin(hint) in (Union, UnionType):
        (inner,) = (each for each in get_args(hint) if each is not NoneType)
        return _OrAuto(_type(inner, choices, at_least))
    if choices or get_origin(hint) is Literal:
        return click.Choice(tuple(choices) or get_args(hint))
    if get_origin(hint) is tuple:
        return _Triple()
    if hint is int:
        return click.INT if at_least is None else click.IntRange(min=int(at_least))
    if hint is float:
        return _Number(at_least)
    return click.BOOL if hint is bool else click.STRING
