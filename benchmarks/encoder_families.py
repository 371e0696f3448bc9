"""Every family of timm's models: its smallest member, with random weights, as an encoder for images of 256 x 256.

    python benchmarks/encoder_families.py

writes a row a family to benchmarks/encoder_families.md, and goes on where it was broken off. A model works where it
is built for that size, or for the nearest one that it takes, gives a finite feature map of its stride that varies, and
is exported by torch.export with free batch, height and width; else its row has the line in which it is refused.
"""

import signal
import time
import warnings
from pathlib import Path
from types import FrameType

import click
import timm
import torch

from idl.encoders import EncoderConfig, build
from idl.encoders.sizes import export_fault
from idl.errors import InputError

SIDE, MOST_PARAMETERS, LONGEST_S = 256, 100e6, 300
TABLE = Path(__file__).with_suffix(".md")
HEAD = f"""# Families of timm's models as encoders

`python benchmarks/encoder_families.py`: timm {timm.__version__}, torch {torch.__version__.partition("+")[0]}, CPU,
random weights, images of {SIDE} x {SIDE}, default stage. The smallest member of each family; those above
{MOST_PARAMETERS / 1e6:.0f} M parameters are left out.

| family | model | M parameters | fed, pixels | stride | grid | channels | answer |
|---|---|---|---|---|---|---|---|
"""
# Names of the small ones, for families of many members.
SMALL = (
    "atto",
    "femto",
    "pico",
    "nano",
    "tiny",
    "xxs",
    "_xs",
    "_s",
    "mini",
    "small",
    "lite",
    "_t",
    "10",
    "18",
    "_b0",
    "050",
)
MOST_COUNTED = 16


class TooLongError(Exception):
    """A family took longer than LONGEST_S."""


def smallest(family: str) -> tuple[str, float]:
    """Return the name of a family's smallest model, "" where it has none that can be counted, and its parameters."""
    names = [name for name in timm.list_models(module=family) if not name.startswith("test_")]
    names.sort(key=lambda name: (not any(part in name for part in SMALL), len(name)))
    counted = {}
    for name in names[:MOST_COUNTED]:
        try:
            with torch.device("meta"):
                counted[name] = sum(each.numel() for each in timm.create_model(name).parameters())
        except (RuntimeError, NotImplementedError, TypeError):
            continue
    if not counted:
        return (names[0], float("nan")) if names else ("", 0.0)
    name = min(counted, key=counted.__getitem__)
    return name, float(counted[name])


def row(family: str) -> str | None:
    """Return a family's row of the table, None where it has no model that is small enough."""
    name, parameters = smallest(family)
    if not name or parameters > MOST_PARAMETERS:
        return None
    cells = [family, name, f"{parameters / 1e6:.1f}"]
    try:
        encoder = build(EncoderConfig(f"timm:{name}", weights="random"), torch.device("cpu"), (SIDE, SIDE))
    except InputError as error:
        return _line(*cells, "", "", "", "", f"refused: {error}")
    features = encoder(torch.rand(1, 3, SIDE, SIDE))
    tall, wide = features.shape[2:]
    answer = "works"
    if not bool(features.isfinite().all()) or float(features.std()) == 0:
        answer = "built, but its features do not vary or are not finite"
    if fault := export_fault(encoder):
        answer = f"built, but not exported: {fault}"
    fed = "any" if encoder.size is None else " x ".join(map(str, encoder.size))
    return _line(*cells, fed, encoder.stride, f"{tall} x {wide}", encoder.channels, answer)


def _line(*cells: object) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |\n"


@click.command()
@click.option("--minutes", default=60.0, show_default=True, help="Start no family after that.")
def main(minutes: float) -> None:
    """Write the rows that are missing."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_long)
    if not TABLE.exists():
        TABLE.write_text(HEAD)
    started = time.perf_counter()
    for family in timm.list_modules():
        if f"| {family} |" in TABLE.read_text() or time.perf_counter() - started > 60 * minutes:
            continue
        signal.alarm(LONGEST_S)
        try:
            line = row(family)
        except TooLongError:
            line = _line(family, "", "", "", "", "", "", f"took longer than {LONGEST_S} s")
        except Exception as error:  # the row says so, and the next family follows
            line = _line(family, "", "", "", "", "", "", f"FAILED: {type(error).__name__}: {str(error)[:200]}")
        signal.alarm(0)
        if line:
            click.echo(line.strip())
            with TABLE.open("a") as table:
                table.write(line)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLongError


if __name__ == "__main__":
    main()
