"""The command that uses a registered probe on photographs."""

from pathlib import Path
from typing import Any, get_args

import click

from idl import prediction, tracking
from idl.cli.building import number_or_auto, warn
from idl.cli.group import cli
from idl.cli.options import AUTO, model_option, option
from idl.errors import InputError
from idl.prediction import Folder, PredictionConfig, Source
from idl.prediction.outputs import Format
from idl.progress import terminal

_PREDICTION = PredictionConfig()


@cli.command()
@model_option
@click.argument("image", nargs=-1)
@option("--images", "", "Image, folder or pattern such as 'walk/*.png', beside those named as arguments.")
@option("--out", "", "Folder to write to.")
@option(
    "--format", _PREDICTION.format, "Depth as 16-bit PNG, or as metres in .npy.", type=click.Choice(get_args(Format))
)
@option("--depth-scale", _PREDICTION.depth_scale, "Units per metre in a PNG; 1000: millimetres, up to 65.534 m.")
@option(
    "--near",
    AUTO,
    "Depth at the bright end of the colours (or least value of a field); auto: as in its run's pictures.",
)
@option("--far", AUTO, "Depth at their dark end (or greatest value of a field), likewise.")
@click.option("--overwrite", is_flag=True, help="Make anew what is there already.")
def predict(model: str, image: tuple[str, ...], images: str, out: str, overwrite: bool, **options: Any) -> None:
    """Predict depth, or what else it was fitted for, on images of any size, with a registered probe."""
    config = PredictionConfig(
        options["format"],
        options["depth_scale"],
        *(number_or_auto(each, options[each], "a depth or a value such as 0.5") for each in ("near", "far")),
    )
    config.require()
    if not out:
        raise InputError("out: no folder given. Pass out=FOLDER.")
    path = Path(out).expanduser()
    photographs = prediction.find((*image, *([images] if images else [])), path)
    Folder.require(path)
    probe = tracking.load_probe(model)
    card, version = probe.card, probe.version
    source = Source(version.uri, version.source, card.target, probe.kind, card.unit, probe.shown_range)
    folder = Folder(path, source, config)
    side = min(card.resolution, card.width or card.resolution)

    todo = [photograph for photograph in photographs if overwrite or not folder.is_done(photograph)]
    num_done = len(photographs) - len(todo)
    num_beyond = num_cut = 0
    with terminal("predict", len(photographs), num_done) as advance:
        for photograph in todo:
            rgb = prediction.read(photograph.path)
            beyond = folder.write(
                photograph, prediction.predict(probe.module, rgb, side, probe.stride, source.is_normals)
            )
            num_beyond += beyond
            num_cut += beyond > 0
            advance(1)
    if num_beyond:
        warn(
            f"{num_beyond} pixels in {num_cut} of the images are beyond {folder.farthest_m:g} m: 65535 in the PNG. "
            "Pass a smaller --depth-scale, or --format npy."
        )
    noun = "image" if len(todo) == 1 else "images"
    kept = f", {num_done} were there" if num_done else ""
    click.echo(f"{card.target} of {len(todo)} {noun}{kept}: {path}, by {source.model}")
    click.echo(folder.legend)
