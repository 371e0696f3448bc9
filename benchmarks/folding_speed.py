"""An encoder with its batch norms folded into convolutions against the same one without.

    PYTHONPATH=. python benchmarks/folding_speed.py --encoder timm:mobilenetv2_100

Random weights, images of 256 x 256. Both take turns, a batch each, so that the drift of a shared machine meets both.
Prints processor time an image, and the median and the middle half of the ratios of neighbouring turns, by processor
time and by the clock.
"""

import copy
import statistics
import time

import click
import torch
from record import record

from idl.encoders import EncoderConfig, build
from idl.features import keep_freed_buffers


def timed(network: torch.nn.Module, fed: torch.Tensor) -> tuple[float, float]:
    """Return the seconds of a pass: of the processor, and by the clock."""
    busy, start = time.process_time(), time.perf_counter()
    network(fed)
    return time.process_time() - busy, time.perf_counter() - start


def ratios(mine: tuple[float, ...], other: tuple[float, ...]) -> str:
    """Median and middle half."""
    low, middle, high = statistics.quantiles((a / b for a, b in zip(mine, other, strict=True)), n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


@click.command()
@click.option("--encoder", default="timm:mobilenetv2_100", show_default=True)
@click.option("--batch-size", default=16, show_default=True)
@click.option("--repeats", default=30, show_default=True)
@torch.inference_mode()
def main(encoder: str, batch_size: int, repeats: int) -> None:
    """Print the times and their ratio."""
    keep_freed_buffers()
    subject = build(EncoderConfig(encoder, weights="random"), torch.device("cpu"))
    plain = copy.deepcopy(subject)
    plain._fast = (plain.network,)
    rgb = torch.rand(batch_size, 256, 256, 3).permute(0, 3, 1, 2)
    change = float((subject(rgb) - plain(rgb)).norm() / plain(rgb).norm())
    turns = [(timed(subject, rgb), timed(plain, rgb)) for _ in range(repeats)]
    ((busy, wall), (plain_busy, plain_wall)) = (tuple(zip(*each, strict=True)) for each in zip(*turns, strict=True))
    each, before = (1e3 * statistics.median(seconds) / batch_size for seconds in (busy, plain_busy))
    click.echo(record())
    click.echo(f"{encoder}: {each:.1f} ms an image, {before:.1f} before; features differ by {change:.1e}")
    click.echo(f"processor time {ratios(busy, plain_busy)}, clock {ratios(wall, plain_wall)}")


if __name__ == "__main__":
    main()
