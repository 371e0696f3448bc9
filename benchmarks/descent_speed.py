"""Many gradient-descent trials as one product against one trial alone, and against one after the other.

    PYTHONPATH=. python benchmarks/descent_speed.py

Per-image statistics are ready and in memory; a training counts from there to its results, the optimum and the losses
of every epoch included. All in one process and in turn; prints medians of the repeats and their ranges. No trial
stops early. The trials differ in k and learning rate.
"""

import statistics
import time

import click
import torch
from record import record

from idl.probes.gradient_fit import Solver, Trial, fit_by_gradient
from idl.probes.image_statistics import ImageGrams
from idl.probes.statistics import FoldedStatistics, Statistics


def images_of(num_images: int, k: int) -> tuple[ImageGrams, Statistics]:
    """Images of 16 x 16 cells and 64 x 64 pixels, and their sum; the target is noise."""
    generator = torch.Generator().manual_seed(0)
    parts, total = [], Statistics.empty(1 + k)
    for first in range(0, num_images, 64):
        count = min(64, num_images - first)
        columns = torch.randn(count, 1 + k, 16, 16, generator=generator).contiguous(memory_format=torch.channels_last)
        columns[:, 0] = 1
        target = torch.rand(count, 1, 64, 64, generator=generator)
        valid = torch.rand(count, 64, 64, generator=generator) > 0.2
        parts.append(ImageGrams.of(columns, target, valid))
        total = total.accumulate(columns, target, valid)
    return ImageGrams.cat(parts), total


@click.command()
@click.option("--images", "num_images", default=1200, show_default=True)
@click.option("--k", default=64, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--epochs", default=50, show_default=True)
@click.option("--solver", type=click.Choice(["sgd", "adam"]), default="adam", show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(num_images: int, k: int, batch_size: int, epochs: int, solver: Solver, repeats: int, device: str) -> None:
    """Time 1, 100 and 400 trials as one, and 100 one by one."""
    images, total = images_of(num_images, k)
    folds = FoldedStatistics((total,), (total,))
    images = images.to(torch.device(device))
    trials = [
        Trial(
            k=k - index % max(1, k // 2),
            solver=solver,
            lr=1e-4 * 1.02**index,
            batch_size=batch_size,
            epochs=epochs,
            patience=epochs,
        )
        for index in range(400)
    ]

    def seconds(count: int) -> float:
        start = time.perf_counter()
        fit_by_gradient(images, folds, trials[:count])
        return time.perf_counter() - start

    seconds(1)
    taken: dict[int, list[float]] = {1: [], 100: [], 400: []}
    one_by_one = []
    for _ in range(repeats):
        for count, times in taken.items():
            times.append(seconds(count))
        start = time.perf_counter()
        for trial in trials[:100]:
            fit_by_gradient(images, folds, [trial])
        one_by_one.append(time.perf_counter() - start)

    steps = epochs * -(-num_images // batch_size)
    click.echo(record())
    click.echo(
        f"{num_images} images, k = {k}, batches of {batch_size}, {epochs} epochs, {solver}, {device}, "
        f"{torch.get_num_threads()} threads, medians of {repeats} repeats"
    )
    for count, times in taken.items():
        middle = statistics.median(times)
        span = f"({min(times):.3f} to {max(times):.3f} s)"
        click.echo(f"{count:4d} trials as one: {middle:7.3f} s, {1e6 * middle / steps:6.0f} us a step   {span}")
    click.echo(f" 100 one by one:   {statistics.median(one_by_one):7.3f} s")
    _say_ratio("100 as one against 1", taken[100], taken[1])
    _say_ratio("100 one by one against 100 as one", one_by_one, taken[100])


def _say_ratio(what: str, above: list[float], below: list[float]) -> None:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    click.echo(f"{what}: {statistics.median(ratios):.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
