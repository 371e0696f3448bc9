"""Statistics on the grid against upsampling the features and multiplying there.

    PYTHONPATH=. python benchmarks/statistics_speed.py

Both accumulate the normal equations of the same masked full-resolution problem, on the grid in float64, on the pixels
in float32 with float64 sums, in one process and in turn. Prints milliseconds an image and the ratio, medians of the
repeats, and the largest difference between the two against the largest entry.
"""

import statistics
import time

import click
import torch
import torch.nn.functional as F
from record import record
from torch import Tensor

from idl.probes.statistics import Statistics

SIDE = 256


def on_pixels(gram: Tensor, moment: Tensor, features: Tensor, target: Tensor, valid: Tensor) -> None:
    """Add one image the plain way: upsample every channel, multiply over all pixels."""
    upsampled = F.interpolate(features, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    rows = upsampled[0].flatten(1)
    weighted = rows * valid[0].flatten()
    gram += (weighted @ rows.T).double()
    moment += (weighted @ target[0].flatten(1).T).double()


@click.command()
@click.option("--stride", default=16, show_default=True)
@click.option("--channels", default=384, show_default=True)
@click.option("--images", default=8, show_default=True, help="Images of the slow way; the fast one sees 32.")
@click.option("--repeats", default=5, show_default=True)
def main(stride: int, channels: int, images: int, repeats: int) -> None:
    """Time both ways."""
    generator = torch.Generator().manual_seed(0)
    cells = SIDE // stride
    features = torch.randn(32, channels, cells, cells, generator=generator)
    features = features.contiguous(memory_format=torch.channels_last)
    target = torch.rand(32, 1, SIDE, SIDE, generator=generator) * 5
    valid = torch.rand(32, SIDE, SIDE, generator=generator) > 0.2

    fast, slow = [], []
    difference = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        result = Statistics.empty(channels).accumulate(features, target, valid)
        fast.append((time.perf_counter() - start) / len(features))
        gram = torch.zeros(channels, channels, dtype=torch.float64)
        moment = torch.zeros(channels, 1, dtype=torch.float64)
        start = time.perf_counter()
        for index in range(images):
            one = slice(index, index + 1)
            on_pixels(gram, moment, features[one], target[one], valid[one])
        slow.append((time.perf_counter() - start) / images)
        same = Statistics.empty(channels).accumulate(features[:images], target[:images], valid[:images])
        difference = max(
            difference,
            float((same.xtx - gram).abs().max() / gram.abs().max()),
            float((same.xty - moment).abs().max() / moment.abs().max()),
        )
        assert result.num_images == 32
    ratios = [b / a for a, b in zip(fast, slow, strict=True)]
    click.echo(record())
    click.echo(f"stride {stride}, {channels} channels, {SIDE} x {SIDE} pixels, medians of {repeats} repeats")
    click.echo(f"on the grid:   {1e3 * statistics.median(fast):9.3f} ms an image")
    click.echo(f"on the pixels: {1e3 * statistics.median(slow):9.3f} ms an image")
    click.echo(f"ratio:         {statistics.median(ratios):9.1f}   ({min(ratios):.1f} to {max(ratios):.1f})")
    click.echo(f"largest difference: {difference:.1e} of the largest entry")


if __name__ == "__main__":
    main()
