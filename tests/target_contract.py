"""What every target keeps: inherit `TargetContract` in a class named Test..., and set `instance`.

A target of one's own, in a file of one's own, is held to the same laws:

    class TestEdgeDistance(TargetContract):
        instance = target("examples.edge_distance:target")
"""

import math

import pytest
import torch

from idl.targets import Target, check_output

ODD_VALUES = (0.0, -1.0, math.nan, math.inf, -math.inf, 1e-45)
NUM_IMAGES, HEIGHT, WIDTH = 4, 6, 5
LABELS = ("objects", "kinds", "materials")


class TargetContract:
    """The laws. Override `layer` where the target reads one that is neither depth, normals nor whole numbers."""

    instance: Target

    def layer(self, generator: torch.Generator) -> torch.Tensor:
        """A batch of four of the store's maps, 6 x 5 pixels, float32; every pixel is a possible measurement."""
        shape = (NUM_IMAGES, HEIGHT, WIDTH)
        if self.instance.layer == "normals":
            vectors = torch.randn(*shape, 3, generator=generator)
            return vectors / vectors.square().sum(-1, keepdim=True).sqrt()
        if self.instance.layer in LABELS:
            return torch.randint(1, 4, shape, generator=generator).float()
        return 0.3 + 9 * torch.rand(shape, generator=generator)

    def decoded(self, values: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        """What `decode` makes of what `encode` made of `values`."""
        if self.instance.kind == "field":
            return encoded
        return values.movedim(-1, 1) if self.instance.kind == "normals" else values[:, None]

    @pytest.fixture
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(3)

    @pytest.fixture
    def everywhere(self) -> torch.Tensor:
        return torch.ones(NUM_IMAGES, HEIGHT, WIDTH, dtype=torch.bool)

    def some(self, generator: torch.Generator, share: float) -> torch.Tensor:
        return torch.rand(NUM_IMAGES, HEIGHT, WIDTH, generator=generator) < share

    def test_decode_undoes_encode(self, generator: torch.Generator, everywhere: torch.Tensor) -> None:
        values = self.layer(generator)
        encoded, defined = self.instance.encode(values, everywhere)
        assert encoded.shape == (NUM_IMAGES, self.instance.num_outputs, HEIGHT, WIDTH)
        assert encoded.dtype == torch.float32
        assert defined.any()
        chosen = defined[:, None].expand_as(encoded)
        decoded, expected = self.instance.decode(encoded), self.decoded(values, encoded)
        torch.testing.assert_close(decoded[chosen], expected[chosen])
        # Depth and normals are there wherever they were measured; a field may need more than a pixel.
        assert self.instance.kind == "field" or defined.all()

    def test_undefined_is_zero_whatever_was_stored(self, generator: torch.Generator) -> None:
        values = self.layer(generator)
        valid = self.some(generator, 0.5)
        reference, defined = self.instance.encode(values, valid)
        assert not (defined & ~valid).any()
        for odd in ODD_VALUES:
            spoiled = values.clone()
            spoiled[~valid] = odd
            encoded, still_defined = self.instance.encode(spoiled, valid)
            assert torch.equal(encoded, reference)
            assert torch.equal(still_defined, defined)
        assert (reference.movedim(1, -1)[~defined] == 0).all()

    def test_finite_even_where_valid_was_wrong(self, generator: torch.Generator, everywhere: torch.Tensor) -> None:
        values = self.layer(generator)
        for odd in ODD_VALUES:
            values[0, 0, 0] = odd
            encoded, _ = self.instance.encode(values, everywhere)
            assert encoded.isfinite().all()
        encoded, defined = self.instance.encode(values, ~everywhere)
        assert not defined.any()
        assert not encoded.any()

    def test_batching_changes_nothing_and_arguments_are_left_alone(self, generator: torch.Generator) -> None:
        values = self.layer(generator)
        valid = self.some(generator, 0.7)
        before = values.clone(), valid.clone()
        whole, whole_defined = self.instance.encode(values, valid)
        for i in range(NUM_IMAGES):
            part, part_defined = self.instance.encode(values[i : i + 1], valid[i : i + 1])
            assert torch.equal(part[0], whole[i])
            assert torch.equal(part_defined[0], whole_defined[i])
        copy = whole.clone()
        self.instance.decode(whole)
        assert torch.equal(whole, copy)
        assert torch.equal(values, before[0])
        assert torch.equal(valid, before[1])

    def test_a_field_decodes_to_what_it_can_decode(self, generator: torch.Generator) -> None:
        """Twice is once: a prediction is brought to a value that can occur, and such a value stays."""
        if self.instance.kind != "field":
            return
        anything = 1e3 * torch.randn(2, self.instance.num_outputs, HEIGHT, WIDTH, generator=generator)
        once = self.instance.decode(anything)
        assert once.isfinite().all()
        torch.testing.assert_close(self.instance.decode(once), once)

    def test_can_be_part_of_a_model(self, generator: torch.Generator, everywhere: torch.Tensor) -> None:
        check_output(self.instance, self.layer(generator), everywhere)
