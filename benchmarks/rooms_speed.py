"""How many images of rooms a second one core makes: rendered only, and rendered and written to a store.

    PYTHONPATH=. python benchmarks/rooms_speed.py --scenes 8 --repeats 5

Both in this process, on one thread, the same scenes at every repeat, in turn; the store goes to a temporary folder.
Wall-clock time and CPU time are both given: on a machine that does other work, they part.
"""

import os

# One thread each for numpy's libraries and torch's, which read this when they are loaded.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from record import record

from idl.data.preparation import prepare
from idl.data.rooms import RENDERER_VERSION, RoomsReader, RoomsRecipe, render_scene
from idl.protocol import Protocol


def render(recipe: RoomsRecipe) -> None:
    """Render all scenes and keep none."""
    for scene in range(recipe.num_scenes):
        render_scene(recipe, scene)


def render_and_write(recipe: RoomsRecipe) -> None:
    """Make a store of all scenes, as `idl prepare` does, and delete it."""
    with TemporaryDirectory() as folder:
        prepare(RoomsReader(recipe), Protocol(resolution=recipe.resolution), Path(folder), workers=1)


def measure(work: Callable[[RoomsRecipe], None], recipe: RoomsRecipe) -> tuple[float, float]:
    """Milliseconds of wall clock and of CPU an image."""
    wall, cpu = time.perf_counter(), time.process_time()
    work(recipe)
    per_image = 1e3 / (recipe.num_scenes * recipe.views)
    return (time.perf_counter() - wall) * per_image, (time.process_time() - cpu) * per_image


@click.command()
@click.option("--scenes", default=8, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--resolution", default=256, show_default=True, help="Pixels a side.")
def main(scenes: int, repeats: int, resolution: int) -> None:
    """Measure, and print one line a repeat and the medians."""
    torch.set_num_threads(1)
    recipe = RoomsRecipe(num_scenes=scenes, resolution=resolution)
    print(f"{record()}, trimesh {version('trimesh')}, embreex {version('embreex')}")
    print(f"renderer {RENDERER_VERSION}, {recipe}")
    kinds = {"rendered": render, "rendered and written": render_and_write}
    for work in kinds.values():
        work(RoomsRecipe(num_scenes=1, resolution=resolution))  # loads trimesh and HDF5, fills tables of unit solids
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for repeat in range(repeats):
        for kind, work in kinds.items():
            wall, cpu = measure(work, recipe)
            found[kind].append((wall, cpu))
            print(f"repeat {repeat}, {kind}: {wall:.1f} ms wall, {cpu:.1f} ms CPU an image")
    for kind, times in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"median, {kind}: {wall:.1f} ms wall, {cpu:.1f} ms CPU an image, {1e3 / cpu:.1f} images a CPU second")


if __name__ == "__main__":
    main()
