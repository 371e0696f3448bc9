"""Colours of values, and a white page to place tiles, text and colour bars on.

Pillow draws them: matplotlib, whose colour maps and font they take, needs ten times as long.
"""

import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from idl.errors import InputError

# Near is bright: what is close stands out from the page of a grid of small pictures, and far sinks back as it
# does in haze and dark. viridis has uniform steps of lightness, survives grey printing and colour blindness.
DEPTH_MAP = "viridis_r"
# Any other quantity: uniform too, and not to be taken for a depth.
FIELD_MAP = "cividis"
# White is right; blue too near (too low), red too far (too high).
ERROR_MAP = "RdBu_r"
# Pale is right here too.
ANGLE_MAP = "magma_r"
# Features have a sign but no unit: another pair of colours than the error's.
FEATURE_MAP = "PuOr_r"

Rgb = UInt8[np.ndarray, "H W 3"]
Map = Float[np.ndarray, "H W"]
Vectors = Float[np.ndarray, "H W 3"]
Mask = Bool[np.ndarray, "H W"]
Limits = tuple[float, float]
Colour = tuple[int, int, int]
PAPER, INK, FAINT = (255, 255, 255), (33, 37, 41), (108, 117, 125)
HATCH_LIGHT, HATCH_DARK, HATCH_PERIOD = (226, 226, 226), (196, 196, 196), 8
BAR_HEIGHT = 12


@cache
def _table(name: str) -> UInt8[np.ndarray, "256 3"]:
    colours = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]
    colours.setflags(write=False)
    return colours


def colourise(values: Map, visible: Mask, limits: Limits, name: str) -> Rgb:
    """Colour `values` by matplotlib's map `name` over `limits`; what lies outside takes the colour of the nearer end.

    Pixels that are not `visible`, and NaN, are hatched in grey. Raises InputError where the range is empty.
    """
    low, high = limits
    if not low < high:
        raise InputError(f"figure: the colour range {low} to {high} is empty. Give the lower end first.")
    known = visible & ~np.isnan(values)
    share = (np.where(known, values, low) - low) / (high - low)
    index = (np.clip(share, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
    return np.where(known[..., None], _table(name)[index], _hatching(*values.shape))


def normals_to_rgb(normals: Vectors, visible: Mask) -> Rgb:
    """Colour normals (x right, y down, z forward) in the usual way: red right, green up, blue to the camera.

    Lengths do not matter. Pixels that are not `visible` or have no direction are hatched in grey.
    """
    vectors = normals.astype(np.float32)
    length = np.sqrt(np.square(vectors).sum(axis=2))
    known = visible & (length > 0) & np.isfinite(length)
    unit = vectors / np.where(known, length, 1.0)[..., None]
    facing = unit * np.array([1.0, -1.0, -1.0], dtype=np.float32)
    colours = np.where(known[..., None], facing, 0.0) * 127.5 + 128.0
    return np.where(known[..., None], np.clip(colours, 0, 255).astype(np.uint8), _hatching(*length.shape))


@cache
def _hatching(height: int, width: int) -> Rgb:
    rows, columns = np.ogrid[:height, :width]
    is_dark = (rows + columns) % HATCH_PERIOD < HATCH_PERIOD // 4
    stripes = np.where(is_dark[..., None], np.array(HATCH_DARK, np.uint8), np.array(HATCH_LIGHT, np.uint8))
    stripes.setflags(write=False)
    return stripes


def resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return values with rows and columns repeated or dropped: every pixel keeps its exact value."""
    rows = np.arange(height) * values.shape[0] // height
    columns = np.arange(width) * values.shape[1] // width
    return values[rows[:, None], columns]


def photograph(rgb: Rgb, height: int, width: int) -> Rgb:
    """Return a picture resampled smoothly."""
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS))


def ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Return multiples of a round step (1, 2, 2.5, 5 times a power of ten) between two ends, a few."""
    power = 10.0 ** np.floor(np.log10((high - low) / at_most))
    steps = (each * power for each in (1.0, 2.0, 2.5, 5.0, 10.0))
    step = next((each for each in steps if (high - low) / each <= at_most - 1), 10.0 * power)
    # The slack, less than a pixel, admits 0 to a range from 0.001 m, and 0.3 to one that ends a bit below it.
    slack = 1e-3 * (high - low)
    first, last = np.ceil((low - slack) / step), np.floor((high + slack) / step)
    return [float(f"{i * step:.6g}") + 0.0 for i in np.arange(first, last + 1)]


@cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib carries and sets its charts in."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


@dataclass(frozen=True)
class Page:
    """A page of its own pixels; drawing changes this page and nothing else."""

    image: Image.Image

    @classmethod
    def blank(cls, width: int, height: int) -> "Page":
        """Return a white page, in pixels."""
        return cls(Image.new("RGB", (width, height), PAPER))

    def pixels(self) -> Rgb:
        """Return a copy of the page."""
        return np.array(self.image)

    def tile(self, pixels: Rgb, x: int, y: int) -> None:
        """Place `pixels` with the upper left corner at (x, y)."""
        self.image.paste(Image.fromarray(pixels), (x, y))

    def text(
        self,
        words: str,
        x: int,
        y: int,
        size: int = 13,
        *,
        colour: Colour = FAINT,
        bold: bool = False,
        anchor: str = "la",
        width: int | None = None,
    ) -> None:
        """Write one line at (x, y), `anchor` as in pillow, cut with an ellipsis beyond `width` pixels."""
        font = _font(size, bold)
        if width is not None and font.getlength(words) > width:
            while words and font.getlength(words + "…") > width:
                words = words[:-1]
            words = words.rstrip() + "…"
        ImageDraw.Draw(self.image).text((x, y), words, font=font, fill=colour, anchor=anchor)

    def title(self, words: str, x: int, y: int) -> None:
        """Write a heading that ends before the page does."""
        self.text(words, x, y, 18, colour=INK, bold=True, width=self.image.width - 2 * x)

    def paragraph(self, words: str, x: int, y: int, width: int, max_lines: int) -> None:
        """Write words in lines of at most `width` pixels; the last line is cut with an ellipsis."""
        characters = int(width / _font(13, False).getlength("n"))
        lines = [line for each in words.splitlines() for line in textwrap.wrap(each, characters)]
        for i, line in enumerate([*lines[: max_lines - 1], " ".join(lines[max_lines - 1 :])]):
            self.text(line, x, y + 18 * i, width=width)

    def colour_bar(
        self, x: int, y: int, width: int, limits: Limits, name: str, unit: str, signed: bool = False
    ) -> None:
        """Draw a horizontal bar of the map `name` over `limits`, with ticks below; the last has the unit."""
        low, high = limits
        ramp = np.broadcast_to(np.linspace(low, high, width), (BAR_HEIGHT, width))
        self.tile(colourise(ramp, np.ones_like(ramp, bool), limits, name), x, y)
        draw, bottom = ImageDraw.Draw(self.image), y + BAR_HEIGHT
        places = ticks(low, high, at_most=max(3, min(6, width // 45)))
        for value in places:
            at = x + round(min(max((value - low) / (high - low), 0.0), 1.0) * (width - 1))
            draw.line((at, bottom, at, bottom + 3), fill=FAINT)
            label = (f"{value:+g}" if signed and value else f"{value:g}").replace("-", "\N{MINUS SIGN}")
            label += f" {unit}" if value == places[-1] else ""
            # Labels at the ends stay over the bar, so that they do not run into the neighbour's.
            half = _font(13, False).getlength(label) / 2
            self.text(label, round(min(max(at, x + half), x + width - half)), bottom + 5, anchor="ma")
