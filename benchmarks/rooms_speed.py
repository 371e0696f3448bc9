"""How many images a second one core renders: the median over repeats of the same scenes, in this process.

    python benchmarks/rooms_speed.py --scenes 8 --repeats 5

Wall-clock time and CPU time are both given: on a machine that does other work, they part.
"""

import argparse
import platform
import statistics
import time

from idl.data.rooms import RENDERER_VERSION, RoomsRecipe, render_scene


def measure(recipe: RoomsRecipe) -> tuple[float, float]:
    """Seconds of wall clock and of CPU an image, over all scenes of the recipe."""
    wall, cpu = time.perf_counter(), time.process_time()
    images = sum(len(render_scene(recipe, scene)) for scene in range(recipe.num_scenes))
    return (time.perf_counter() - wall) / images, (time.process_time() - cpu) / images


def main() -> None:
    """Measure and print one line a repeat, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--resolution", type=int, default=256)
    arguments = parser.parse_args()
    recipe = RoomsRecipe(num_scenes=arguments.scenes, resolution=arguments.resolution)
    print(f"renderer {RENDERER_VERSION}, {platform.processor() or platform.machine()}, {recipe}")
    render_scene(recipe, 0)  # imports trimesh and fills the tables of unit solids
    walls, cpus = [], []
    for repeat in range(arguments.repeats):
        wall, cpu = measure(recipe)
        print(f"repeat {repeat}: {wall * 1e3:.1f} ms wall, {cpu * 1e3:.1f} ms CPU an image")
        walls.append(wall)
        cpus.append(cpu)
    wall, cpu = statistics.median(walls), statistics.median(cpus)
    print(f"median: {1 / wall:.1f} images/s by wall clock, {1 / cpu:.1f} images/s a core by CPU time")


if __name__ == "__main__":
    main()
