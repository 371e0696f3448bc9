"""The command that uses a registered probe on photographs: `predict`."""

from dataclasses import dataclass
from pathlib import Path

import click

from idl.cli import setup
from idl.cli.options import options, part
from idl.data.images import read_rgb
from idl.errors import InputError
from idl.predict import FARTHEST, Folder, PredictionConfig, Source, find, predict_map
from idl.progress import terminal
from idl.settings import setting
from idl.tracking import registry

MODEL = "Registered probe: models:/NAME@ALIAS or models:/NAME/VERSION."


@dataclass(frozen=True)
class PredictSettings:
    """Settings of `idl predict`."""

    model: str = setting("", MODEL)
    images: str = setting("", "Image, folder or pattern such as 'walk/*.png', beside those named as arguments.")
    out: str = setting("", "Folder to write to.")
    prediction: PredictionConfig = part(PredictionConfig())
    overwrite: bool = setting(False, "Make predictions anew that are there already.")


@click.command()
@click.argument("image", nargs=-1)
@options(PredictSettings)
def predict(settings: PredictSettings, image: tuple[str, ...]) -> None:
    """Predict depth, or what else it was fitted for, on images of any size, with a registered probe."""
    if not settings.out:
        raise InputError("out: no folder given. Pass out=FOLDER.")
    path = Path(settings.out).expanduser()
    photographs = find((*image, *([settings.images] if settings.images else [])), path)
    Folder.require(path)
    probe = registry.load_probe(settings.model)
    card, version = probe.card, probe.version
    source = Source(version.uri, version.source, card.target, probe.kind, card.unit, probe.shown_range)
    folder = Folder(path, source, settings.prediction)

    todo = [photograph for photograph in photographs if settings.overwrite or not folder.is_done(photograph)]
    num_done, beyond = len(photographs) - len(todo), []
    with terminal("predict", len(photographs), num_done) as advance:
        for photograph in todo:
            rgb = read_rgb(photograph.path)
            is_direction = source.kind == "normals"
            predicted = predict_map(probe.module, rgb, probe.size, probe.stride, is_direction, probe.window)
            beyond.append(folder.write(photograph, predicted))
            advance(1)
    if any(beyond):
        farthest_m = FARTHEST / settings.prediction.depth_scale
        setup.warn(
            f"{sum(beyond)} pixels in {len([*filter(None, beyond)])} of the images are beyond {farthest_m:g} m: 65535 "
            "in the PNG. Pass --overwrite, and a smaller --depth-scale or --format npy."
        )
    noun = "image" if len(todo) == 1 else "images"
    kept = f", {num_done} were there" if num_done else ""
    click.echo(f"{card.target} of {len(todo)} {noun}{kept}: {path}, by {source.model}")
    click.echo(folder.legend)
