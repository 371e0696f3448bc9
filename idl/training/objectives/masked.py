"""Training without labels: to fill in what is hidden of an image (SimMIM: Xie et al. 2022)."""

import torch
from torch import Tensor

from idl.training.images import Batch
from idl.training.objectives.reconstruction import Reconstruction, picture

BLOCK = 16
SHARE = 0.5
_DRAW = 0x3A5C


class Masked(Reconstruction):
    """A ConvNeXt of timm's that fills in hidden squares of BLOCK pixels, SHARE of each image's; it sees RGB alone."""

    task = "masked-pixels"
    purpose = "trained to fill in what is hidden of its images"

    def prepared(self, batch: Batch, draw: int) -> Batch:
        """Hide squares behind grey; "whole" is the image, "hidden" where it is not seen, (batch, 1, H, W)."""
        rgb = batch["rgb"]
        rows, columns = (-(-side // BLOCK) for side in rgb.shape[2:])
        generator = torch.Generator().manual_seed(draw * 0x10000 + _DRAW)
        ranks = torch.rand(len(rgb), rows * columns, generator=generator).argsort(dim=1)
        blocks = (ranks < SHARE * rows * columns).view(len(rgb), 1, rows, columns)
        hidden = blocks.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)[..., : rgb.shape[2], : rgb.shape[3]]
        hidden = hidden.to(rgb.device)
        return {**batch, "rgb": rgb.masked_fill(hidden, 0.5), "whole": rgb, "hidden": hidden}

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the mean absolute error of RGB in [0, 1] where it was hidden."""
        distance = (picture(output) - batch["whole"]).abs().mean(dim=1, keepdim=True)
        return (distance * batch["hidden"]).sum() / batch["hidden"].sum()
