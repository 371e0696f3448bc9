"""Batch norms of a frozen network folded into the convolutions before them: the same features in less time.

A batch norm in eval mode is a multiple and an offset for each channel, and so is what a convolution's weight and bias
can be multiplied by; its own pass over the map is saved. Layer scale, the affine part of layer norms and the input's
mean and std are not folded: ConvNeXt, whose time goes into its products, gains nothing by it (benchmarks/README.md).
"""

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Root of the mean square of the features' change, relative; rounding alone gives 5e-6 at most.
TOLERANCE = 1e-5


@torch.inference_mode(False)
@torch.no_grad()
def folded(network: nn.Module, fed: Tensor) -> nn.Module:
    """Return a network of the same features without the batch norms that directly follow a convolution.

    network: frozen, in eval mode, float32; it stays as it is, and shares the tensors that folding leaves alone.
    fed: a batch (batch, 3, H, W) of what it is fed; its shape and device count, not its numbers.
    Returns `network` itself where it has no such batch norms, or where its features would not be the same.
    """
    example = torch.randn(1, *fed.shape[1:], generator=torch.Generator().manual_seed(0)).to(fed.device)
    example = example.contiguous(memory_format=torch.channels_last)
    pairs = _pairs(network, example)
    if not pairs:
        return network
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    twin = copy.deepcopy(network, shared)
    for convolution, norm in pairs:
        conv: Any = copy.deepcopy(network.get_submodule(convolution)).double()
        batch_norm: Any = copy.deepcopy(network.get_submodule(norm)).double()
        twin.set_submodule(convolution, fuse_conv_bn_eval(conv, batch_norm).float().requires_grad_(False))
        # timm's norms hold the activation that follows.
        then = [getattr(batch_norm, name) for name in ("drop", "act") if hasattr(batch_norm, name)]
        twin.set_submodule(norm, nn.Sequential(*then) if then else nn.Identity())
    expected = network(example)
    change = torch.linalg.vector_norm(twin(example) - expected) / torch.linalg.vector_norm(expected)
    return twin if change <= TOLERANCE else network


def _pairs(network: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Return the names of each convolution and of the batch norm that reads what it gives; both run once."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return []
    from timm.layers.conv2d_same import Conv2dSame  # here, because timm takes 3.7 s to import
    from timm.layers.norm_act import BatchNormAct2d

    # Exact types: what derives from them may use its weights in a way of its own.
    convolutions, norms = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)
    names = {module: name for name, module in network.named_modules() if type(module) in convolutions + norms}
    calls: list[tuple[nn.Module, tuple[int, int], tuple[int, int]]] = []
    kept: list[Tensor] = []  # so that no other tensor gets the id of one that was seen

    def note(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
        read = args[0] if args else example
        kept.extend((read, result))
        # Versions tell whether a tensor was changed in place between the two.
        calls.append((module, (id(read), read._version), (id(result), result._version)))

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    count = Counter(module for module, _, _ in calls)
    # Without running statistics a batch norm's multiple is that of its batch.
    readers = {read: module for module, read, _ in calls if getattr(module, "running_mean", None) is not None}
    pairs = [(module, readers.get(given)) for module, _, given in calls if type(module) in convolutions]
    return [(names[conv], names[norm]) for conv, norm in pairs if norm and count[conv] == count[norm] == 1]
