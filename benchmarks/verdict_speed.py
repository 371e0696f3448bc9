"""Seconds that a verdict takes: 10,000 bootstrap draws over 25,000 images and the arms of one cell.

    PYTHONPATH=.:tests python benchmarks/verdict_speed.py

From losses image by image to the finished verdict, the figures that decide nothing included: eleven arms, the shuffled
truth and the valid pixels. Once with many images a scene, once with every image a scene of its own, the worst case:
time grows with draws x scenes.
"""

import resource
import statistics
import time

import click
import numpy as np
from planted_losses import PlantedLosses
from record import record

from idl.verdict.decision import decide
from idl.verdict.result import StudyConfig


@click.command()
@click.option("--images", "num_images", default=25_000, show_default=True)
@click.option("--draws", default=StudyConfig().draws, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(num_images: int, draws: int, repeats: int) -> None:
    """Time both cases, and both without the figures that decide nothing."""
    click.echo(record())
    config = StudyConfig(draws=draws)
    for images_per_scene in (50, 1):
        losses = PlantedLosses(num_images // images_per_scene, "skewed", images_per_scene=images_per_scene)
        cell = losses.cell(np.random.default_rng(0))
        for described in (True, False):
            times, busy = [], []
            for _ in range(repeats):
                start, start_busy = time.perf_counter(), time.process_time()
                decide([cell], config, described=described)
                times.append(time.perf_counter() - start)
                busy.append(time.process_time() - start_busy)
            what = "whole verdict" if described else "decision alone"
            size = f"{num_images} images in {losses.num_scenes} scenes, {len(cell.arms)} arms"
            click.echo(
                f"{size}, {draws} draws, {what}: {statistics.median(times):.2f} s   "
                f"({min(times):.2f} to {max(times):.2f} s; {statistics.median(busy):.2f} s of processor time)"
            )
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo(f"peak memory {peak_mb:.0f} MB, torch's among it")


if __name__ == "__main__":
    main()
