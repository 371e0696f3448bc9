"""A white page to place tiles, text and colour bars on: pillow, for matplotlib takes ten times as long."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from idl.figures.colour import FAINT, INK, PAPER, table

Colour = tuple[int, int, int]
TICK_SIZE = 13
BAR_HEIGHT = 12
MINUS = "\N{MINUS SIGN}"
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib carries and sets its charts in."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Return multiples of a round step (1, 2, 2.5, 5 times a power of ten) between two ends, a few."""
    power = 10.0 ** np.floor(np.log10((high - low) / at_most))
    step = next((each * power for each in STEPS if (high - low) / (each * power) <= at_most - 1), 10.0 * power)
    # The slack, less than a pixel, admits 0 to a range from 0.001 m, and 0.3 to one that ends a bit below it.
    slack = 1e-3 * (high - low)
    first, last = np.ceil((low - slack) / step), np.floor((high + slack) / step)
    return [float(f"{i * step:.6g}") + 0.0 for i in np.arange(first, last + 1)]


@dataclass(frozen=True)
class Page:
    """A page of its own pixels; drawing changes this page and nothing else."""

    image: Image.Image

    @classmethod
    def blank(cls, width: int, height: int) -> "Page":
        """Return a white page, in pixels."""
        return cls(Image.new("RGB", (width, height), PAPER))

    @classmethod
    def of(cls, pixels: UInt8[np.ndarray, "H W 3"]) -> "Page":
        """Return a page that goes on from a copy of `pixels`."""
        return cls(Image.fromarray(pixels.copy()))

    def pixels(self) -> UInt8[np.ndarray, "H W 3"]:
        """Return a copy of the page."""
        return np.array(self.image)

    def tile(self, pixels: UInt8[np.ndarray, "h w 3"], x: int, y: int) -> None:
        """Place `pixels` with the upper left corner at (x, y)."""
        self.image.paste(Image.fromarray(pixels), (x, y))

    def picture(self, rgb: UInt8[np.ndarray, "h w 3"], x: int, y: int, width: int, height: int) -> None:
        """Place a photograph, resampled smoothly where its size differs."""
        picture = Image.fromarray(rgb)
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        self.image.paste(picture, (x, y))

    def text(
        self,
        words: str,
        x: int,
        y: int,
        size: int,
        *,
        colour: Colour = INK,
        bold: bool = False,
        anchor: str = "la",
        width: int | None = None,
    ) -> None:
        """Write one line at (x, y), `anchor` as in pillow, cut with an ellipsis beyond `width` pixels."""
        face = font(size, bold)
        if width is not None and face.getlength(words) > width:
            while words and face.getlength(words + "…") > width:
                words = words[:-1]
            words = words.rstrip() + "…"
        ImageDraw.Draw(self.image).text((x, y), words, font=face, fill=colour, anchor=anchor)

    def paragraph(self, words: str, x: int, y: int, size: int, width: int, max_lines: int) -> None:
        """Write words in lines of at most `width` pixels; the last line is cut with an ellipsis."""
        lines = [""]
        for line in words.splitlines():
            for word in line.split():
                longer = f"{lines[-1]} {word}".strip()
                if lines[-1] and font(size).getlength(longer) > width and len(lines) < max_lines:
                    lines.append(word)
                else:
                    lines[-1] = longer
            if lines[-1] and len(lines) < max_lines:
                lines.append("")
        for i, line in enumerate(lines):
            self.text(line, x, y + i * (size + 5), size, colour=FAINT, width=width)

    def colour_bar(
        self,
        x: int,
        y: int,
        width: int,
        limits: tuple[float, float],
        name: str,
        unit: str,
        signed: bool = False,
    ) -> None:
        """Draw a horizontal bar of the map `name` over `limits`, with ticks below; the last has the unit."""
        low, high = limits
        ramp = table(name)[np.linspace(0, 255, width).round().astype(int)]
        self.tile(np.ascontiguousarray(np.broadcast_to(ramp, (BAR_HEIGHT, width, 3))), x, y)
        draw = ImageDraw.Draw(self.image)
        bottom = y + BAR_HEIGHT
        places = ticks(low, high, at_most=max(3, min(6, width // 45)))
        for i, value in enumerate(places):
            at = x + round(min(max((value - low) / (high - low), 0.0), 1.0) * (width - 1))
            draw.line((at, bottom, at, bottom + 3), fill=FAINT)
            label = (f"{value:+g}" if signed and value else f"{value:g}").replace("-", MINUS)
            label += f" {unit}" if i == len(places) - 1 else ""
            half = font(TICK_SIZE).getlength(label) / 2
            # Labels at the ends stay over the bar, so that they do not run into the neighbour's.
            middle = round(min(max(at, x + half), x + width - half))
            self.text(label, middle, bottom + 5, TICK_SIZE, colour=FAINT, anchor="ma")
