"""Pearson's correlation with luminance, out of sums over pixels, and its interval over clusters."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from idl.cues.result import Correlation
from idl.verdict.intervals import interval
from idl.verdict.resampling import Series, drawn_counts

# Variance below this share of the mean square is rounding: what does not vary goes with nothing, 0.
_ROUNDING = 1e-10
_NUM_SUMS = 6


def pixel_sums(
    values: Float[Tensor, "batch 1 H W"], luminance: Float[Tensor, "batch 1 H W"], valid: Bool[Tensor, "batch H W"]
) -> Float64[np.ndarray, "batch 6"]:
    """Sum 1, x, y, x^2, y^2 and xy over each image's valid pixels; x the luminance, y the values."""
    mask = valid[:, None].double()
    # Values are 0 where they are not valid, but a prediction is not.
    x, y = luminance.double() * mask, torch.where(valid[:, None], values, 0).double()
    parts = [each.sum(dim=(1, 2, 3)) for each in (mask, x, y, x * x, y * y, x * y)]
    return torch.stack(parts, dim=1).cpu().numpy()


def correlation(
    sums: Float64[np.ndarray, "images 6"],
    clusters: Int64[np.ndarray, " images"],
    *,
    draws: int,
    seed: int,
    level: float,
) -> Correlation:
    """Correlate within images and over all, from what `pixel_sums` gives of images that have a valid pixel."""
    return Correlation(
        *(
            interval(_series(each, clusters, draws, seed), level)
            for each in (np.concatenate([sums[:, :3] * 0, _about_means(sums)], axis=1), sums)
        )
    )


def _about_means(sums: Float64[np.ndarray, "images 6"]) -> Float64[np.ndarray, "images 3"]:
    """Sum x^2, y^2 and xy about each image's own means."""
    count, x, y, xx, yy, xy = sums.T
    about = np.stack([xx - x * x / count, yy - y * y / count, xy - x * y / count], axis=1)
    flat = (about[:, :2] <= _ROUNDING * sums[:, 3:5]).any(axis=1)
    about[flat, 2] = 0
    return about


def _series(
    sums: Float64[np.ndarray, "images 6"], clusters: Int64[np.ndarray, " images"], draws: int, seed: int
) -> Series:
    num_clusters = int(clusters.max()) + 1
    by_cluster = np.stack([np.bincount(clusters, sums[:, each], num_clusters) for each in range(_NUM_SUMS)], axis=1)
    total = by_cluster.sum(axis=0, keepdims=True)
    drawn = np.concatenate([counts @ by_cluster for counts in drawn_counts(num_clusters, draws, seed)])
    return Series(float(_pearson(total)[0]), _pearson(drawn), _pearson(total - by_cluster))


def _pearson(sums: Float64[np.ndarray, "n 6"]) -> Float64[np.ndarray, " n"]:
    """Correlate about the means of the sums; sums about means come with a count of 0."""
    count, x, y, xx, yy, xy = sums.T
    count = np.where(count > 0, count, 1)
    variance_x, variance_y, both = xx - x * x / count, yy - y * y / count, xy - x * y / count
    varies = (variance_x > _ROUNDING * xx) & (variance_y > _ROUNDING * yy)
    root = np.sqrt(np.where(varies, variance_x * variance_y, 1))
    return np.where(varies, np.clip(both / root, -1, 1), 0)
