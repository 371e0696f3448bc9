"""What a prediction may borrow from the truth of its own image before it is judged."""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from idl.metrics.reduce import median, total
from idl.protocol import Alignment

# Spread of a float32 map that should be constant, relative to its mean: below it there is no scale to fit.
RELATIVE_SPREAD_OF_A_CONSTANT = 1e-6


def align(
    prediction: Float[Tensor, "batch H W"],
    truth: Float[Tensor, "batch H W"],
    valid: Bool[Tensor, "batch H W"],
    alignment: Alignment,
) -> Float[Tensor, "batch H W"]:
    """Bring each prediction to the scale (and shift) of its truth; both in metres.

    "none" returns the prediction itself. "median" multiplies by median truth / median prediction; the
    prediction stays as it is where that is no positive number. "affine" applies the scale and shift of least
    squares; a constant prediction becomes the mean of the truth.

    The fit is over the valid pixels whose prediction is finite; predictions that are not finite stay as they
    are. An image without such a pixel stays as it is.
    """
    if alignment == "none":
        return prediction
    usable = valid & prediction.isfinite()
    if alignment == "median":
        ratio = median(truth, usable) / median(prediction, usable)
        scale = torch.where((ratio > 0) & ratio.isfinite(), ratio, 1.0)
        shift = torch.zeros_like(scale)
    else:
        scale, shift = _least_squares(prediction, truth, usable)
    aligned = prediction.double() * scale[:, None, None] + shift[:, None, None]
    return torch.where(prediction.isfinite(), aligned.to(prediction.dtype), prediction)


def _least_squares(
    prediction: Float[Tensor, "batch H W"],
    truth: Float[Tensor, "batch H W"],
    usable: Bool[Tensor, "batch H W"],
) -> tuple[Float64[Tensor, " batch"], Float64[Tensor, " batch"]]:
    """Minimise sum (scale p + shift - d)^2 over the usable pixels: scale = cov(p, d) / var(p)."""
    p = torch.where(usable, prediction, 0.0).double()
    d = torch.where(usable, truth, 0.0).double()
    count = total(usable)
    divisor = count.clamp(min=1.0)
    mean_p, mean_d = total(p) / divisor, total(d) / divisor
    # Centred before the products: raw moments of a prediction far from zero would cancel.
    centred = (p - mean_p[:, None, None]) * usable
    variance = total(centred * centred) / divisor
    covariance = total(centred * d) / divisor
    is_constant = variance <= (RELATIVE_SPREAD_OF_A_CONSTANT * mean_p) ** 2
    scale = torch.where(is_constant, 0.0, covariance / torch.where(is_constant, 1.0, variance))
    shift = mean_d - scale * mean_p
    return torch.where(count > 0, scale, 1.0), torch.where(count > 0, shift, 0.0)
