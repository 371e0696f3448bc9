"""HTML from values: every text is escaped but what was made here."""

import math
from html import escape

_VOID = frozenset({"br", "hr", "img", "meta"})


class Markup(str):
    """Text that is HTML already."""


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """Write an element. Children that are no `Markup` are escaped.

    attributes: `_` in a name stands for `-`, and a last one is dropped (`class_`); None leaves one out.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{joined(*children)}</{tag}>")


def joined(*parts: str) -> Markup:
    """Put parts one after the other; those that are no `Markup` are escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def number(value: float | None) -> str:
    """Write four digits, a whole number with all of them, a dash for what is not known or not finite."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 1000):
        text = f"{int(value):,}"
    else:
        text = f"{value:.4g}"
    return "0" if text == "-0" else text.replace("-", "\N{MINUS SIGN}")


def short(value: float) -> str:
    """Write three digits at most: the label of an axis."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def fixed(value: float) -> str:
    """Write three digits, zeros at the end too, so that values below one another can be compared."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    return f"{value:#.3g}".removesuffix(".").replace("-", "\N{MINUS SIGN}")


def spelt(value: float, unit: str) -> str:
    """Write a value that people read, with its unit; "1" is none."""
    return fixed(value) if unit == "1" else f"{fixed(value)}\N{NO-BREAK SPACE}{unit}"
