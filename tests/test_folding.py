"""A frozen network made faster: the same features; weights, digests and unknown networks left alone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from encoder_contract import CPU, PatchMean, images
from torch import Tensor, nn

from idl.encoders import Encoder, EncoderConfig, build
from idl.encoders.base import digest_of
from idl.encoders.folding import folded
from idl.features import COMPILED_FROM, compiled

FED = images(2, 64, 64).contiguous(memory_format=torch.channels_last)
# How many batch norms stay: those that follow no convolution.
FAMILIES = {
    "encoder_contract:PatchMean": 0,
    "timm:mobilenetv2_100": 0,
    "timm:resnet18": 0,
    "timm:regnety_004": 0,
    "timm:tf_efficientnet_lite0": 0,  # TensorFlow's SAME padding
    "timm:repvgg_a0": 17,  # branches that are nothing but a batch norm
    "timm:resnetv2_50": 13,  # batch norms before the activation, of sums
}


class StandardisedConv(nn.Conv2d):
    """A convolution that uses its weights in a way of its own."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight / self.weight.std(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding)


class Shaped(nn.Module):
    """A convolution, a batch norm, and something that forbids to make one of them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = (StandardisedConv if kind == "standardised" else nn.Conv2d)(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3, track_running_stats=kind != "of the batch")

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "convolution used twice":
            return self.norm(self.conv(x)) + self.conv(x.flip(3))
        if self.kind == "norm used twice":
            return self.norm(self.norm(self.conv(x)))
        x = self.conv(x)
        if self.kind == "changed in place":
            x.relu_()
        elif self.kind == "changed":
            x = x.sigmoid()
        normed = self.norm(x)
        return normed + x if self.kind == "read twice" else normed


def frozen(network: nn.Module) -> nn.Module:
    """Frozen, with batch norms such as training leaves them, some of whose channels are upside down."""
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)[::3].neg_()
            module.bias.data.normal_(0, 0.2, generator=generator)
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.3, 3, generator=generator)
    return network.eval().requires_grad_(False)


def num_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def trained(name: str) -> Encoder:
    """An encoder of random weights whose batch norms do something."""
    encoder = build(EncoderConfig(name, weights="auto" if ":" in name[5:] else "random"), CPU)
    return encoder.with_network(frozen(copy.deepcopy(encoder.network)), "random", "none", "planted", 0)


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_the_same_and_the_weights_stay(name: str) -> None:
    encoder = trained(name)
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    rgb = images(2, 96, 128)
    by_hand = encoder.network((rgb - encoder.mean) / encoder.std)
    assert float((encoder(rgb) - by_hand).norm() / by_hand.norm()) < 1e-5
    network = folded(encoder.network, encoder.prepared(rgb))
    assert num_norms(encoder.network) > num_norms(network) == FAMILIES[name]
    after = encoder.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert digest_of(encoder.network.state_dict()) == encoder.origin.weights_digest
    # What folding leaves alone takes no memory again.
    kept = {id(tensor) for tensor in encoder.network.parameters()}
    new = [tensor for tensor in network.parameters() if id(tensor) not in kept]
    assert len(new) == 2 * (num_norms(encoder.network) - num_norms(network))


@pytest.mark.parametrize(
    "kind",
    [
        "standardised",
        "of the batch",
        "convolution used twice",
        "norm used twice",
        "changed in place",
        "changed",
        "read twice",
    ],
)
def test_what_would_not_stay_the_same_is_returned_as_it_is(kind: str) -> None:
    network, plain = frozen(Shaped(kind)), frozen(Shaped("plain"))
    assert folded(network, FED) is network
    assert num_norms(folded(plain, FED)) == 0
    assert not any(module._forward_hooks for module in network.modules())


def test_other_weights_are_folded_anew() -> None:
    encoder = trained("encoder_contract:PatchMean")
    rgb = images(2)
    first = encoder(rgb)
    other = frozen(PatchMean())
    twin = encoder.with_network(other, "random", "none", "other", 1)
    torch.testing.assert_close(twin(rgb), other((rgb - twin.mean) / twin.std), rtol=1e-5, atol=1e-5)
    assert torch.equal(encoder(rgb), first)
    assert torch.equal(encoder.to(CPU)(rgb), first)


def test_the_first_images_may_be_black_or_come_in_inference_mode() -> None:
    encoder = trained("encoder_contract:PatchMean")
    with torch.inference_mode():
        encoder(torch.zeros(1, 3, 64, 64))
    rgb = images(2).requires_grad_()
    encoder(rgb).sum().backward()
    assert rgb.grad is not None
    assert float(rgb.grad.abs().sum()) > 0


@pytest.mark.parametrize("fails", [False, True])
def test_on_a_gpu_many_images_are_compiled_for_one_shape_alone(fails: bool) -> None:
    """With a CPU's tensors: the device only decides whether to compile."""
    encoder, shapes, runs = trained("timm:mobilenetv2_100"), [], []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        if fails:
            raise RuntimeError("no C compiler")
        shapes.append([tuple(x.shape) for x in example if x.ndim == 4 and x.shape[1:] == (3, 64, 64)])
        return lambda *inputs: (runs.append(1), graph(*inputs))[1]

    cuda = torch.device("cuda")
    with torch.inference_mode():
        batches = [images(size, 64, 64) for size in (4, 4, 4, 3, 1)]
        expected = [encoder(batch) for batch in batches]
        encode = compiled(encoder, cuda, 4, COMPILED_FROM, backend)
        for batch, features in zip(batches, expected, strict=True):
            torch.testing.assert_close(encode(batch), features, rtol=1e-5, atol=1e-5)
    assert (shapes, len(runs)) == (([], 0) if fails else ([[(4, 3, 64, 64)]], 3))
    assert compiled(encoder, CPU, 4, COMPILED_FROM, backend) is encoder
    assert compiled(encoder, cuda, 4, COMPILED_FROM - 1, backend) is encoder
