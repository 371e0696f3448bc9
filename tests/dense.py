"""The probe by brute force, written apart from the package: explicit upsampling, explicit rows, float64."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from idl.data.store import Store
from idl.targets import Target


@dataclass(frozen=True)
class Images:
    """rgb: (n, 3, H, W) in [0, 1]; target: (n, out, H, W); valid: (n, H, W)."""

    rgb: Tensor
    target: Tensor
    valid: Tensor


def images_of(store: Store, indices: Sequence[int], wanted: Target) -> Images:
    """Read images of a store with their encoded truth."""
    read = store.read(("rgb", wanted.layer, "valid"), indices)
    truth, valid = wanted.encode(torch.from_numpy(read[wanted.layer]).float(), torch.from_numpy(read["valid"]))
    return Images(torch.from_numpy(read["rgb"]).permute(0, 3, 1, 2).float() / 255, truth, valid)


def dense_losses(
    encode: Callable[[Tensor], Tensor], train: Images, measured: Sequence[Images], penalty: float, drop: float = 1e-9
) -> list[float]:
    """Fit whitened channels on `train`, ridge by extra rows, none for the bias; return mean squared errors.

    drop: share of the first variance below which a direction is left out.
    """
    cells = encode(train.rgb).permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    mean = cells.mean(axis=0)
    _, singular, directions = np.linalg.svd(cells - mean, full_matrices=False)
    spread = singular / np.sqrt(len(cells))
    keep = spread**2 > drop * spread[0] ** 2
    whitening = directions[keep].T / spread[keep]

    def rows(images: Images) -> tuple[np.ndarray, np.ndarray]:
        """One row a valid pixel: [1, whitened channels], after upsampling the features to the images' size."""
        whitened = (encode(images.rgb).permute(0, 2, 3, 1).double().numpy() - mean) @ whitening
        maps, size = torch.from_numpy(whitened).permute(0, 3, 1, 2), images.target.shape[2:]
        upsampled = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        of_pixels = upsampled.permute(0, 2, 3, 1)[images.valid].numpy()
        truth = images.target.permute(0, 2, 3, 1)[images.valid].double().numpy()
        return np.concatenate([np.ones((len(of_pixels), 1)), of_pixels], axis=1), truth

    x, y = rows(train)
    extra = np.sqrt(penalty * len(x)) * np.eye(x.shape[1])[1:]
    zeros = np.zeros((len(extra), y.shape[1]))
    weights = np.linalg.lstsq(np.concatenate([x, extra]), np.concatenate([y, zeros]), rcond=1e-14)[0]
    return [float(((x @ weights - y) ** 2).mean()) for x, y in map(rows, measured)]
