"""What null, autoencoder and ConvNeXt hold of depth on `rooms`: test losses, and their ratio to the null's.

    PYTHONPATH=. python benchmarks/encoders.py

Each is probed as `idl probe` does it, with the weights that come with the package; `random` are the same networks
untrained. The null is that at stride 8, the same for all. Intervals: 95 %, percentiles of 10,000 draws of the test
scenes, the same scenes for both losses of a ratio.
"""

from dataclasses import replace

import click
import numpy as np
import torch
from jaxtyping import Float64
from record import record

from idl import cache
from idl.data.datasets import DatasetConfig, open_store
from idl.encoders import EncoderConfig, build
from idl.features import keep_freed_buffers
from idl.pipeline import probe
from idl.probe_config import ProbeConfig
from idl.progress import terminal

DRAWS = 10_000
CPU = torch.device("cpu")
ROWS = (
    ("null", "auto"),
    ("autoencoder", "random"),
    ("autoencoder", "shipped"),
    ("convnext", "shipped"),
    ("convnext", "shipped:rooms-recognition"),
    ("timm:convnext_atto", "random"),
)


def scene_sums(table: dict[str, list[float]], arm: str) -> Float64[np.ndarray, "scenes 2"]:
    """Sum of squared errors and number of valid pixels of each test scene, in the order of their names."""
    scenes, index = np.unique(table["scene"], return_inverse=True)
    count = np.nan_to_num(np.array(table["num_valid"], float))
    error = np.nan_to_num(np.array(table[f"loss_{arm}"], float)) * count
    return np.stack([np.bincount(index, error, len(scenes)), np.bincount(index, count, len(scenes))], axis=1)


def ratio(mine: Float64[np.ndarray, "scenes 2"], null: Float64[np.ndarray, "scenes 2"]) -> tuple[float, float, float]:
    """Ratio of the pooled losses, and its interval."""
    draws = np.random.default_rng(0).integers(0, len(mine), (DRAWS, len(mine)))
    drawn = mine[draws].sum(1) / null[draws].sum(1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    whole = mine.sum(0) / null.sum(0)
    return float(whole[0] / whole[1]), float(low), float(high)


@click.command()
@click.option("--target", default="depth", show_default=True)
def main(target: str) -> None:
    """Print the table."""
    keep_freed_buffers()
    store = open_store(DatasetConfig(), cache.default_folder() / "datasets", workers=2, progress=terminal)
    click.echo(record())
    null = None
    for name, weights in ROWS:
        encoder = build(EncoderConfig(name, weights=weights), CPU)
        for k in ("10", "auto") if encoder.channels > 10 else ("auto",):
            config = replace(ProbeConfig(), target=target, k=k)
            report = probe(config, store, encoder, cache.default_folder(), progress=terminal).report
            table = dict(report.tables["per_image.json"])
            mine = scene_sums(table, "probe")  # pyright: ignore[reportArgumentType]
            null = mine if null is None else null
            value, low, high = ratio(mine, null)
            rmse = report.metrics.get("test_rmse", float("nan"))
            click.echo(
                f"{name:>20} {weights:>25} k={report.params['k_chosen']:<4} "
                f"test loss {report.metrics['test_loss']:.4f}, "
                f"RMSE {rmse:.3f} m, over null {value:.3f} ({low:.3f} to {high:.3f}), "
                f"position alone {report.metrics['arms/position_test_loss']:.4f}"
            )


if __name__ == "__main__":
    main()
