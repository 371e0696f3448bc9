"""What every encoder keeps: inherit `EncoderContract` in a class named Test..., and say what to build."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from idl.encoders import Encoder, EncoderConfig, build

CPU = torch.device("cpu")


class PatchMean(nn.Module):
    """A foreign network for tests: a convolution over patches, and a batch norm that must stay frozen."""

    def __init__(self, stride: int = 4, channels: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, stride, stride)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def images(batch: int = 3, height: int = 64, width: int = 96) -> Tensor:
    """Random RGB in [0, 1], the same at each call."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(7))


@cache
def built(config: EncoderConfig) -> Encoder:
    """An encoder for many tests, none of which changes it."""
    return build(config, CPU)


class EncoderContract:
    """The laws.

    config: what is built, in float32.
    changes: settings that change the features, each of which must change the digest.
    """

    config: ClassVar[EncoderConfig]
    changes: ClassVar[Mapping[str, Mapping[str, Any]]]

    @pytest.fixture
    def encoder(self) -> Encoder:
        return built(self._float32())

    def _float32(self, **changes: Any) -> EncoderConfig:
        return replace(self.config, arithmetic="float32", **changes)

    def test_gives_one_float32_cell_a_square_of_stride_pixels(self, encoder: Encoder) -> None:
        features = encoder(images())
        assert features.shape == (3, encoder.channels, 64 // encoder.stride, 96 // encoder.stride)
        assert features.dtype == torch.float32
        assert features.is_contiguous(memory_format=torch.channels_last)
        encoder.require(64)

    def test_is_frozen_in_eval_mode_and_leaves_its_input_and_its_statistics_alone(self, encoder: Encoder) -> None:
        rgb, before = images(), {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        encoder.train(True)
        encoder(rgb)
        assert torch.equal(rgb, images())
        assert not any(module.training for module in encoder.modules())
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())

    def test_a_rebuild_is_the_same_and_leaves_the_global_random_state_alone(self, encoder: Encoder) -> None:
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        twin = build(self._float32(), CPU)
        assert torch.equal(torch.rand(4), expected)
        first = encoder(images())
        assert torch.equal(first, encoder(images()))
        assert torch.equal(first, twin(images()))
        assert twin.digest == encoder.digest
        assert twin.describe() == encoder.describe()

    def test_reads_each_image_by_itself(self, encoder: Encoder) -> None:
        whole = encoder(images())
        alone = torch.cat([encoder(image[None]) for image in images()])
        torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))

    def test_normalises_inside(self, encoder: Encoder) -> None:
        mean, std = (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)
        inside = build(self._float32(mean=mean, std=std), CPU)
        plain = build(self._float32(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), CPU)
        by_hand = torch.stack([(images()[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
        expected = plain(by_hand)
        torch.testing.assert_close(inside(images()), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert len({inside.digest, plain.digest, encoder.digest}) >= 2

    def test_digest_changes_with_all_that_decides_the_features(self, encoder: Encoder) -> None:
        digests = {name: build(self._float32(**change), CPU).digest for name, change in self.changes.items()}
        assert len({encoder.digest, *digests.values()}) == len(digests) + 1, digests

    def test_bfloat16_is_the_same_encoder_less_exactly(self, encoder: Encoder) -> None:
        lowered = build(replace(self.config, arithmetic="bfloat16"), CPU)
        exact, features = encoder(images()), lowered(images())
        assert features.dtype == torch.float32
        assert lowered.digest == encoder.digest
        # Rounding to 8 bits, 2**-9 of a number on average, adds up over some fifty layers: 2**-5 was measured.
        assert float((features - exact).norm() / exact.norm()) < 2**-4
        # Equal but for folded batch norms.
        assert float((lowered.exportable()(images()) - exact).norm() / exact.norm()) < 1e-5

    def test_exports_with_any_batch_height_and_width(self, encoder: Encoder) -> None:
        free = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
        program = torch.export.export(encoder.exportable(), (images(2, 64, 64),), dynamic_shapes=(free,))
        for shape in ((1, 64, 64), (3, 96, 160), (2, 128, 64)):
            rgb = images(*shape)
            expected = encoder(rgb)
            assert float((program.module()(rgb) - expected).norm() / expected.norm()) < 1e-5
