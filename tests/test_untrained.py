"""Twins without training: what they keep of the encoder, and what they do not."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from encoder_contract import CPU
from torch import Tensor, nn

from idl.encoders import Encoder, EncoderConfig, Origin, build
from idl.encoders.null import patches
from idl.encoders.untrained import KINDS, NoTwinError, UntrainedKind, require_twins, twins

TINY = '{"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16], "ls_init_value": 0.1}'
CONVNEXT = EncoderConfig("timm:convnext_atto", weights="random", seed=7, encoder_args=TINY)
AUTOENCODER = EncoderConfig("autoencoder")
FACTORY = EncoderConfig("encoder_contract:PatchMean", seed=7)

ALL = pytest.mark.parametrize("config", [CONVNEXT, AUTOENCODER, FACTORY], ids=["convnext", "autoencoder", "factory"])


def training_images() -> Iterable[Tensor]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        coarse = torch.rand(8, 3, 8, 8, generator=generator)
        yield nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear")


def no_images() -> Iterable[Tensor]:
    raise AssertionError("there is no batch norm to calibrate")


@ALL
@pytest.mark.parametrize("kind", KINDS)
def test_twins_are_the_encoder_with_other_weights(config: EncoderConfig, kind: UntrainedKind) -> None:
    encoder = build(config, CPU)
    before = encoder.digest
    require_twins(encoder, 3)
    made = twins(encoder, kind, 3, training_images if config is FACTORY else no_images)
    assert len({twin.digest for twin in made} | {before}) == 4
    assert [twin.origin.seed for twin in made] == [0, 1, 2]
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for twin in made:
        for name in ("stride", "channels", "normalisation", "arithmetic", "stage", "encoder_args"):
            assert getattr(twin, name) == getattr(encoder, name)
        assert (twin.origin.weights, twin.origin.task) == ("random", "none")
        assert twin(image).shape == encoder(image).shape
        assert not torch.equal(twin(image), encoder(image))
    assert [twin.digest for twin in twins(encoder, kind, 3, training_images)] == [twin.digest for twin in made]
    assert build(config, CPU).digest == before == encoder.digest


@ALL
def test_a_permuted_twin_has_the_same_numbers_in_each_tensor(config: EncoderConfig) -> None:
    encoder = build(config, CPU)
    (twin,) = twins(encoder, "permuted", 1, training_images)
    trained = dict(encoder.network.named_parameters())
    moved = 0
    for name, parameter in twin.network.named_parameters():
        torch.testing.assert_close(parameter.flatten().sort()[0], trained[name].flatten().sort()[0], rtol=0, atol=0)
        moved += not torch.equal(parameter, trained[name])
    assert moved > 0


def test_layer_scales_of_a_random_twin_are_one() -> None:
    encoder = build(CONVNEXT, CPU)
    (twin,) = twins(encoder, "random", 1, no_images)
    scales = {name: each for name, each in twin.network.named_parameters() if name.endswith("gamma")}
    assert scales
    for name, scale in scales.items():
        assert torch.equal(scale, torch.ones_like(scale))
        assert not torch.equal(dict(encoder.network.named_parameters())[name], scale)


def seen_by_batch_norms(encoder: Encoder) -> list[Tensor]:
    """What leaves each batch norm over all training images, less its affine part: (channels, cells)."""
    outputs: dict[nn.Module, list[Tensor]] = {}

    def keep(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        outputs.setdefault(module, []).append((x - module.running_mean[:, None]) / module.running_var[:, None].sqrt())

    for module in encoder.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(keep)
    for batch in training_images():
        encoder.network(encoder.prepared(batch))
    return [torch.cat(kept, dim=1) for kept in outputs.values()]


@pytest.mark.parametrize("kind", KINDS)
def test_batch_norms_of_a_twin_fit_its_weights(kind: UntrainedKind) -> None:
    """Of a network that was never calibrated, whose permuted weights would run away."""
    encoder = build(EncoderConfig("timm:resnet10t", stage=2, weights="random", seed=7, arithmetic="float32"), CPU)
    (twin,) = twins(encoder, kind, 1, training_images)
    spreads = [values.var(dim=1) for values in seen_by_batch_norms(twin)]
    assert len(spreads) > 5
    # Batches have means of their own, which the mean over batches of their variances leaves out.
    for spread in spreads:
        assert float(spread.mean()) == pytest.approx(1.0, abs=0.2)
    assert max(abs(float(values.var(dim=1).mean()) - 1) for values in seen_by_batch_norms(encoder)) > 0.5
    assert not any(module.training for module in twin.network.modules())


def test_a_random_encoder_is_not_its_own_twin() -> None:
    encoder = build(EncoderConfig("timm:convnext_atto", weights="random", seed=1, encoder_args=TINY), CPU)
    assert [twin.origin.seed for twin in twins(encoder, "random", 3, no_images)] == [0, 2, 3]


def foreign(network: nn.Module) -> Encoder:
    origin = Origin("small", "custom", "digest", "none", None, "tests")
    return Encoder(network, name="small", stride=8, channels=4, origin=origin)


@pytest.mark.parametrize(
    ("encoder", "kinds", "message"),
    [
        (build(EncoderConfig("planted:small_network"), CPU), ["random"], "only 0 of 3 random twins"),
        (build(EncoderConfig("null"), CPU), KINDS, "has no weights"),
        (patches(4, CPU), KINDS, "has no weights"),
        (foreign(nn.Conv2d(3, 4, 8, 8)), ["random"], "cannot be built with random weights"),
        (foreign(nn.Conv2d(1, 1, 1, bias=False)), ["permuted"], "only 0 of 3 permuted twins"),
    ],
    ids=["ignores the seed", "null", "patches", "no name", "one weight"],
)
def test_a_kind_that_cannot_be_had_is_said(encoder: Encoder, kinds: Sequence[UntrainedKind], message: str) -> None:
    for kind in kinds:
        with pytest.raises(NoTwinError, match=message):
            twins(encoder, kind, 3, no_images)
    if tuple(kinds) == KINDS:
        with pytest.raises(NoTwinError, match=message):
            require_twins(encoder, 3)


def test_one_kind_is_enough_and_none_is_too_few() -> None:
    # Two orders of two numbers: a twin that is not the encoder has the other one.
    two = nn.Conv2d(1, 2, 1, bias=False)
    two.weight.data.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
    assert len(twins(foreign(two), "permuted", 1, no_images)) == 1
    require_twins(foreign(two), 1)
    with pytest.raises(NoTwinError, match=r"small: no verdict .* random: .* permuted: only 1 of 3 permuted twins"):
        require_twins(foreign(two), 3)
