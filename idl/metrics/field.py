"""Metrics of any other field: errors in its own unit, per image and pooled over pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from idl.errors import InputError


@dataclass(frozen=True)
class FieldSums:
    """Sums over the valid pixels and all outputs of each image, float64, in the order in which the images came.

    num_values: valid pixels times outputs.
    squared_error: sum of (truth - prediction)^2.
    absolute_error: sum of |truth - prediction|.
    squared_deviation: sum of (truth - mean of the training split)^2, each output from its own mean.
    """

    num_values: Float64[np.ndarray, " images"]
    squared_error: Float64[np.ndarray, " images"]
    absolute_error: Float64[np.ndarray, " images"]
    squared_deviation: Float64[np.ndarray, " images"]

    @classmethod
    def concatenate(cls, parts: Sequence["FieldSums"]) -> "FieldSums":
        """Join batches in order: the result is that of one batch. Needs at least one part."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    def pooled(self) -> "FieldSums":
        """Return the sums over all images, as those of one image with all their pixels."""
        return FieldSums(*(getattr(self, each.name).sum(keepdims=True) for each in fields(self)))

    def per_image(self) -> dict[str, Float64[np.ndarray, " images"]]:
        """Return every metric of every image by name; NaN where an image has no valid pixel.

        In the field's unit: rmse, mae; in its square: mse.
        """
        count = np.where(self.num_values > 0, self.num_values, np.nan)
        mse = self.squared_error / count
        return {"mse": mse, "rmse": np.sqrt(mse), "mae": self.absolute_error / count}

    def summary(self) -> dict[str, float]:
        """Return the averages by name: plain names per image and then over images, `_pooled` over all pixels.

        `r2`, the share of the spread about the training mean that is explained, exists pooled only; NaN where there
        is no spread. `num_images` were averaged, and `num_images_without_truth` could not be.
        Raises InputError where no image has a valid pixel.
        """
        has_truth = self.num_values > 0
        if not has_truth.any():
            raise InputError(f"metrics: none of {len(has_truth)} images has a valid pixel. Check the target's mask.")
        pooled = self.pooled()
        result = {name: float(values[has_truth].mean()) for name, values in self.per_image().items()}
        result |= {f"{name}_pooled": float(values[0]) for name, values in pooled.per_image().items()}
        deviation = float(pooled.squared_deviation[0])
        result["r2"] = 1.0 - float(pooled.squared_error[0]) / deviation if deviation > 0 else float("nan")
        result["num_images"] = float(has_truth.sum())
        result["num_images_without_truth"] = float((~has_truth).sum())
        return result


def field_metrics(
    prediction: Float[Tensor, "batch out H W"],
    truth: Float[Tensor, "batch out H W"],
    valid: Bool[Tensor, "batch H W"],
    train_mean: Sequence[float],
) -> FieldSums:
    """Hold a prediction against the truth where `valid`, whatever either is elsewhere.

    train_mean: of the training split, one an output, which `r2` is measured from.
    Raises ValueError where the shapes differ.
    """
    is_alike = prediction.shape == truth.shape and truth.ndim == 4 and truth[:, 0].shape == valid.shape
    if not is_alike or truth.shape[1] != len(train_mean):
        shapes = f"{tuple(prediction.shape)}, {tuple(truth.shape)} and {tuple(valid.shape)}"
        raise ValueError(
            f"prediction, truth, valid have shapes {shapes}, {len(train_mean)} means; "
            "expected (b, out, H, W) twice, (b, H, W), and out means"
        )
    mask = valid[:, None]
    # Selected, not multiplied: infinity times zero is NaN.
    error = torch.where(mask, prediction - truth, 0.0).double()
    mean = torch.tensor(train_mean, dtype=torch.float64, device=truth.device)[:, None, None]
    deviation = torch.where(mask, truth - mean, 0.0)
    sums = (
        valid.sum(dim=(1, 2), dtype=torch.float64) * truth.shape[1],
        error.square().sum(dim=(1, 2, 3)),
        error.abs().sum(dim=(1, 2, 3)),
        deviation.square().sum(dim=(1, 2, 3)),
    )
    return FieldSums(*(each.cpu().numpy() for each in sums))
