"""Weights that come with the package, each with a card beside it that says how they were trained."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from idl.errors import InputError

FOLDER = Path(__file__).with_name("shipped_weights")
# By the encoder's name on the command line. A ConvNeXt of any other size, or with a tag of timm's, has nothing here.
FILES = {
    "autoencoder": "autoencoder_small",
    "convnext": "convnext_atto_rooms",
    "timm:convnext_atto": "convnext_atto_rooms",
}


@dataclass(frozen=True)
class Shipped:
    """Weights at hand.

    path: NAME.safetensors, in half precision; its metadata say the architecture, its arguments and the task.
    card: JSON object of NAME.json: "summary", and how to train the file again.
    """

    path: Path
    card: Mapping[str, object]

    @property
    def summary(self) -> str:
        """What it is, for the end of a sentence: "convnext_atto, trained to name materials in rooms"."""
        return str(self.card.get("summary", self.path.stem))

    @property
    def source(self) -> str:
        """Where it comes from, for people: a name that is the same in every installation."""
        return f"{self.path.name} of the package"


def shipped_for(encoder: str) -> Shipped | None:
    """Find what ships for an encoder, or None where nothing does, or the installation lacks it.

    encoder: its name on the command line.
    """
    return shipped(FILES[encoder]) if encoder in FILES else None


def shipped(name: str) -> Shipped | None:
    """Find the file NAME.safetensors and its card, or None where the installation lacks either.

    Raises InputError where the card is damaged.
    """
    path = FOLDER / f"{name}.safetensors"
    card = path.with_suffix(".json")
    if not (path.is_file() and card.is_file()):
        return None
    try:
        return Shipped(path, dict(json.loads(card.read_text(encoding="utf-8"))))
    except ValueError as error:
        raise InputError(f"{card}: damaged ({error}). Install the package again.") from error
