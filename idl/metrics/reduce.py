"""Reductions from maps to one number an image."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor


def total(values: Float[Tensor, "batch H W"] | Bool[Tensor, "batch H W"]) -> Float64[Tensor, " batch"]:
    """Sum each map in float64."""
    return values.flatten(1).double().sum(1)


def total_square(values: Float[Tensor, "batch H W"]) -> Float64[Tensor, " batch"]:
    """Sum the squares of each map, both in float64."""
    # Squared after the conversion: mean g^2 - (mean g)^2 cancels, and float32 squares of a constant
    # log ratio of ln 2 would leave a silog of 0.02 where there is none.
    wide = values.flatten(1).double()
    return torch.linalg.vecdot(wide, wide)


def median(values: Float[Tensor, "batch H W"], valid: Bool[Tensor, "batch H W"]) -> Float64[Tensor, " batch"]:
    """Take the exact median over the valid pixels of each map: of an even number, the mean of the middle two.

    NaN for a map without a valid pixel.
    """
    # numpy selects the middle two in one partition: 0.75 ms a map, against 0.9 ms for each kthvalue of torch.
    chosen = (each[mask].cpu().numpy() for each, mask in zip(values, valid, strict=True))
    medians = [float(np.median(pixels)) if pixels.size else np.nan for pixels in chosen]
    return torch.tensor(medians, dtype=torch.float64, device=values.device)
