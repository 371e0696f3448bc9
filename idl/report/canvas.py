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
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
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
HATCH_LIGHT, HATCH_DARK, HATCH_PERIOD = 226, 196, 8
BAR_HEIGHT = 12


def colourise(values: Map | Vectors, visible: Mask, limits: Limits, name: str) -> Rgb:
    """Colour a map by matplotlib's `name` over `limits`; what lies outside takes the colour of the nearer end.

    Normals (x right, y down, z forward) of any length are red right, green up and blue to the camera instead. What is
    not `visible`, NaN or without a direction is hatched in grey. Raises InputError where the range is empty.
    """
    if values.ndim == 3:
        length = np.linalg.norm(values.astype(np.float32), axis=2)
        known = visible & (length > 0) & np.isfinite(length)
        unit = np.where(known[..., None], values, 0.0) / np.where(known, length, 1.0)[..., None]
        colours = np.clip(unit * (1.0, -1.0, -1.0) * 127.5 + 128.0, 0, 255).astype(np.uint8)
    else:
        low, high = limits
        if not low < high:
            raise InputError(f"figure: the colour range {low} to {high} is empty. Give the lower end first.")
        known = visible & ~np.isnan(values)
        share = Normalize(low, high, clip=True)(np.where(known, values, low))
        colours = matplotlib.colormaps[name](share, bytes=True)[..., :3]
    rows, columns = np.ogrid[: values.shape[0], : values.shape[1]]
    hatching = np.where((rows + columns) % HATCH_PERIOD < HATCH_PERIOD // 4, HATCH_DARK, HATCH_LIGHT)
    return np.where(known[..., None], colours, hatching.astype(np.uint8)[..., None])


def resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return values with rows and columns repeated or dropped: every pixel keeps its exact value."""
    rows, columns = (np.arange(n) * old // n for n, old in zip((height, width), values.shape, strict=False))
    return values[np.ix_(rows, columns)]


def photograph(rgb: Rgb, height: int, width: int) -> Rgb:
    """Return a picture resampled smoothly."""
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS))


def ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Return multiples of a round step (1, 2, 2.5, 5 times a power of ten) between two ends, a few."""
    places = MaxNLocator(at_most - 1, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1).tick_values(low, high)
    # The slack, less than a pixel, admits 0 to a range from 0.001 m, and 0.3 to one that ends a bit below it.
    slack = 1e-3 * (high - low)
    return [float(f"{each:.6g}") + 0.0 for each in places if low - slack <= each <= high + slack]


@cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib carries and sets its charts in."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


@dataclass(frozen=True)
class Page:
    """A page of its own pixels; drawing changes this page and nothing else."""

    image: Image.Image

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
        width: float = float("inf"),
    ) -> None:
        """Write one line at (x, y), `anchor` as in pillow, cut with an ellipsis beyond `width` pixels."""
        font = _font(size, bold)
        if font.getlength(words) > width:
            while words and font.getlength(words + "…") > width:
                words = words[:-1]
            words = words.rstrip() + "…"
        ImageDraw.Draw(self.image).text((x, y), words, font=font, fill=colour, anchor=anchor)

    def paragraph(self, words: str, x: int, y: int, width: int) -> None:
        """Write words in two lines of at most `width` pixels; the second is cut with an ellipsis."""
        lines = textwrap.wrap(words, int(width / _font(13, False).getlength("n")))
        self.text(lines[0] if lines else "", x, y, width=width)
        self.text(" ".join(lines[1:]), x, y + 18, width=width)

    def colour_bar(self, x: int, y: int, width: int, limits: Limits, name: str, unit: str) -> None:
        """Draw a horizontal bar of the map `name` over `limits`, with ticks below; the last has the unit."""
        low, high = limits
        ramp = np.broadcast_to(np.linspace(low, high, width), (BAR_HEIGHT, width))
        self.tile(colourise(ramp, np.ones_like(ramp, bool), limits, name), x, y)
        draw, bottom = ImageDraw.Draw(self.image), y + BAR_HEIGHT
        places = ticks(low, high, at_most=max(3, min(6, width // 45)))
        for value in places:
            at = x + round(min(max((value - low) / (high - low), 0.0), 1.0) * (width - 1))
            draw.line((at, bottom, at, bottom + 3), fill=FAINT)
            is_signed = name == ERROR_MAP and value
            label = (f"{value:+g}" if is_signed else f"{value:g}").replace("-", "\N{MINUS SIGN}")
            label += f" {unit}" if value == places[-1] else ""
            # Labels at the ends stay over the bar, so that they do not run into the neighbour's.
            half = _font(13, False).getlength(label) / 2
            self.text(label, round(min(max(at, x + half), x + width - half)), bottom + 5, anchor="ma")
