"""How per-image statistics are held: which form, how many components, in memory or read again in every epoch."""

from dataclasses import dataclass
from typing import Literal

from idl.probes.image_grams import ImageGrams
from idl.probes.image_maps import ImageMaps

Form = Literal["grams", "maps"]
FORMS: dict[Form, type[ImageGrams] | type[ImageMaps]] = {"grams": ImageGrams, "maps": ImageMaps}

# A step of 20 probes in batches of 32, one core, 8 x 8 cells: 0.4 (matrices) and 1.5 ms (maps) at 320 components,
# where the matrices are 4.9 times as large; 4.6 and 3.6 ms at 768 components, where they are 12 times as large.
LARGEST_RATIO = 8.0
# Where k is left open, components are given up to stay in memory, but not below so many.
LEAST_OPEN_K = 64


@dataclass(frozen=True)
class Plan:
    """What is held of each image, and where.

    k_max: leading components. num_bytes: of all images. sentence: all of it, for people.
    """

    k_max: int
    form: Form
    is_streamed: bool
    num_bytes: int
    sentence: str


def plan(
    num_images: int, grid: tuple[int, int], num_components: int, num_outputs: int, *, budget: int, k: int | None = None
) -> Plan:
    """Decide from the sizes how `num_images` images are held.

    grid: cells, (h, w). num_components: that the basis has.
    budget: bytes that per-image statistics may take where minibatches are made.
    k: the largest that any probe reads, kept whatever it costs; None where fewer will do: all of them if these fit,
      else as many as fit, but not below 64.

    Matrices where they fit and are at most 8 times as large as the maps; maps where only these fit; streamed, in the
    smaller form, where neither does.
    """

    def size(form: Form, k_max: int) -> int:
        return num_images * _bytes_per_image(form, k_max, grid, num_outputs)

    k_max = num_components if k is None else min(k, num_components)
    form = _form(size("grams", k_max), size("maps", k_max), budget)
    if form is None and k is None:
        fitting = [fewer for fewer in range(LEAST_OPEN_K, num_components) if size("grams", fewer) <= budget]
        if fitting:
            k_max, form = fitting[-1], "grams"
    is_streamed = form is None
    if form is None:
        form = min(FORMS, key=lambda each: size(each, k_max))
    num_bytes = size(form, k_max)
    sentence = _sentence(num_images, grid, num_components, k_max, form, is_streamed, num_bytes, budget)
    return Plan(k_max, form, is_streamed, num_bytes, sentence)


def _bytes_per_image(form: Form, k_max: int, grid: tuple[int, int], num_outputs: int) -> int:
    if form == "grams":
        return ImageGrams.bytes_per_image(k_max, num_outputs)
    return ImageMaps.bytes_per_image(k_max, num_outputs, grid[0] * grid[1])


def _form(grams: int, maps: int, budget: int) -> Form | None:
    """Return the faster form of those that fit."""
    if grams <= min(budget, LARGEST_RATIO * maps):
        return "grams"
    return "maps" if maps <= budget else None


def _sentence(
    num_images: int,
    grid: tuple[int, int],
    num_components: int,
    k_max: int,
    form: Form,
    is_streamed: bool,
    num_bytes: int,
    budget: int,
) -> str:
    what = {"grams": "one matrix an image", "maps": f"one map of {grid[0]} x {grid[1]} cells an image"}[form]
    where = "read again in every epoch" if is_streamed else "in memory"
    return (
        f"{num_images:,} images, {k_max} of {num_components} components: {what}, "
        f"{num_bytes / num_images / 1e3:.1f} kB, {num_bytes / 1e6:,.1f} MB in all, {where} "
        f"({budget / 1e6:,.0f} MB allowed)."
    )
