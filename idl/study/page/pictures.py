"""Pictures within the page: PNG as data URIs, each with words for who does not see it."""

import base64
import io

import numpy as np
from PIL import Image as Pillow

from idl.report import Image
from idl.study.page.content import EncoderCues, Prediction, ShownImage
from idl.study.page.markup import Markup, element, joined, spelt
from idl.study.page.words import tile_words


def picture(pixels: Image, words: str, *, natural: bool = False) -> Markup:
    """Write an image element. natural: drawn no larger than its own pixels."""
    height, width = pixels.shape[:2]
    style = f"width:{width}px" if natural else None
    return element("img", src=data_uri(pixels), alt=words, width=width, height=height, style=style)


def data_uri(pixels: Image) -> str:
    """Write pixels as PNG; one of 256 colours or fewer by a table of them, without loss, in a third of the bytes."""
    height, width = pixels.shape[:2]
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    colours, index = np.unique(packed, return_inverse=True)
    if len(colours) <= 256:
        image = Pillow.fromarray(index.reshape(height, width).astype(np.uint8), "P")
        image.putpalette([each >> shift & 255 for each in colours.tolist() for shift in (16, 8, 0)])
    else:
        image = Pillow.fromarray(pixels)
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def shown_image(image: ShownImage, feature: str, kind: str, unit: str) -> Markup:
    """One test image: it and its truth, then each encoder's prediction with its error."""
    _, error_words = tile_words(kind)
    columns = [
        element(
            "figure",
            element("figcaption", element("b", "the image"), ", and the truth"),
            _tile(picture(image.rgb, f"Test image {image.name}"), "image"),
            _tile(picture(image.truth, f"True {feature} of {image.name}"), f"true {feature}"),
            class_="pair",
        ),
        *(_column(each, image, feature, unit, error_words.partition(":")[0]) for each in image.predictions),
    ]
    return joined(
        element("h3", f"{image.role.capitalize()}: ", element("small", image.name)),
        element("div", *columns, class_="shown"),
    )


def _column(each: Prediction, image: ShownImage, feature: str, unit: str, error_words: str) -> Markup:
    told = f", typically off by {spelt(each.typical, unit)}" if each.typical is not None else ""
    return element(
        "figure",
        element("figcaption", element("b", each.encoder), told),
        _tile(picture(each.prediction, f"{feature} of {image.name} from {each.encoder}{told}"), "prediction"),
        _tile(picture(each.error, f"Error of {each.encoder} on {image.name}"), error_words),
        class_="pair",
    )


def _tile(drawn: Markup, words: str) -> Markup:
    return element("div", drawn, words, class_="tile")


def colour_keys(image: ShownImage, kind: str) -> Markup:
    """What the colours mean."""
    values, errors = image.legends
    told = tile_words(kind)
    figures = [
        element(
            "figure", picture(pixels, f"Key: {words}", natural=True), element("figcaption", element("small", words))
        )
        for pixels, words in ((values, told[0]), (errors, told[1]))
    ]
    return element("div", *figures, class_="keys")


def strip(cues: EncoderCues) -> Markup:
    """Example images without each cue."""
    if cues.strip is None:
        return Markup()
    drawn = picture(cues.strip, cues.strip_words or f"Example images without each cue: {cues.encoder}")
    return element("div", drawn, class_="scroll wide")
