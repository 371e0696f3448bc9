"""A field of a settings dataclass that is an option of the command line as well."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any


def setting(
    default: object, help_text: str, *, option: str = "", choices: Sequence[str] = (), at_least: float | None = None
) -> Any:
    """Return a dataclass field with its default and all that the command line needs to make an option of it.

    The option takes the field's type: str, int, float, bool (true or false), a Literal (its values), or one of these
    or None ("auto" on the command line).

    option: its name where that is not the field's. choices: values of a str. at_least: the least value of a number.
    """
    metadata = {"help": help_text, "option": option, "choices": tuple(choices), "at_least": at_least}
    return field(default=default, metadata=metadata)
