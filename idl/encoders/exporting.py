"""Makes a network ready for `torch.export` with a free batch, height and width."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SameConvolution(nn.Module):
    """TensorFlow's SAME convolution, of the sums and layout of timm's `Conv2dSame`, in terms that stay short.

    A side of n cells becomes ceil(n / stride) = (n - 1) // stride + 1 cells, and the padding in all is
    kernel - 1 - (n - 1) mod stride, its smaller half in front. timm's maximum and ceiling nest from layer to
    layer when n is a symbol: mobilenetv2_100 took 89 s to export. Padding enough behind, and keeping the cells
    that count, it takes 6 s.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    @staticmethod
    def fits(convolution: nn.Conv2d) -> bool:
        """Tell whether the padding is never negative: no kernel is smaller than its stride."""
        return all(side >= stride for side, stride in zip(_extent(convolution), convolution.stride, strict=True))

    def forward(self, x: Float[Tensor, "batch in H W"]) -> Float[Tensor, "batch out h w"]:
        """Convolve."""
        conv = self.convolution
        height, width = x.shape[2:]
        (tall, wide), (down, right) = _extent(conv), conv.stride
        above, before = (tall - 1 - (height - 1) % down) // 2, (wide - 1 - (width - 1) % right) // 2
        padded = F.pad(x, (before, wide - 1, above, tall - 1))
        y = F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
        return y.narrow(2, 0, (height - 1) // down + 1).narrow(3, 0, (width - 1) // right + 1)


def simplify(network: nn.Module) -> None:
    """Replace, in place, the layers inside `network` that `torch.export` takes long over."""
    from timm.layers.conv2d_same import Conv2dSame  # here, because timm takes 3.7 s to import

    for name, child in network.named_children():
        if isinstance(child, nn.Conv2d) and isinstance(child, Conv2dSame) and SameConvolution.fits(child):
            setattr(network, name, SameConvolution(child))
        else:
            simplify(child)


def _extent(convolution: nn.Conv2d) -> tuple[int, int]:
    """Cells that a kernel spans, dilation included."""
    (tall, wide), (dilated_y, dilated_x) = convolution.kernel_size, convolution.dilation
    return (tall - 1) * dilated_y + 1, (wide - 1) * dilated_x + 1
