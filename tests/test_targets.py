"""The contract of every target, and what is special about each."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from idl.errors import InputError
from idl.targets import TARGETS, Target, target

ODD_DEPTHS = (0.0, -1.0, math.nan, math.inf, -math.inf, 1e-45)


class TargetContract:
    """Inherit, and set `instance`: what holds for any target."""

    instance: Target

    def layer(self, generator: torch.Generator) -> torch.Tensor:
        """A batch of four of the store's maps, 6 x 5 pixels."""
        if self.instance.layer == "normals":
            vectors = torch.randn(4, 6, 5, 3, generator=generator)
            return vectors / vectors.square().sum(-1, keepdim=True).sqrt()
        return 0.3 + 9 * torch.rand(4, 6, 5, generator=generator)

    @pytest.fixture
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(3)

    def decoded_layer(self, values: torch.Tensor) -> torch.Tensor:
        return values.movedim(-1, 1) if self.instance.layer == "normals" else values[:, None]

    def test_table_knows_it(self):
        assert target(self.instance.name) is TARGETS[self.instance.name]
        assert type(target(self.instance.name)) is type(self.instance)

    def test_decode_undoes_encode(self, generator):
        values = self.layer(generator)
        encoded, defined = self.instance.encode(values, torch.ones(4, 6, 5, dtype=torch.bool))
        assert defined.all()
        assert encoded.shape == (4, self.instance.num_outputs, 6, 5)
        assert encoded.dtype == torch.float32
        torch.testing.assert_close(self.instance.decode(encoded), self.decoded_layer(values))

    def test_undefined_is_zero_whatever_was_stored(self, generator):
        values = self.layer(generator)
        valid = torch.rand(4, 6, 5, generator=generator) < 0.5
        reference, defined = self.instance.encode(values, valid)
        assert torch.equal(defined, valid)
        for odd in ODD_DEPTHS:
            spoiled = values.clone()
            spoiled[~valid] = odd
            encoded, still_defined = self.instance.encode(spoiled, valid)
            assert torch.equal(encoded, reference)
            assert torch.equal(still_defined, valid)
        assert (reference.movedim(1, -1)[~valid] == 0).all()

    @pytest.mark.parametrize("odd", ODD_DEPTHS)
    def test_finite_even_where_valid_was_wrong(self, generator, odd):
        values = self.layer(generator)
        values[0, 0, 0] = odd
        encoded, _ = self.instance.encode(values, torch.ones(4, 6, 5, dtype=torch.bool))
        assert encoded.isfinite().all()

    def test_batching_changes_nothing(self, generator):
        values = self.layer(generator)
        valid = torch.rand(4, 6, 5, generator=generator) < 0.7
        whole, whole_defined = self.instance.encode(values, valid)
        for i in range(4):
            part, part_defined = self.instance.encode(values[i : i + 1], valid[i : i + 1])
            assert torch.equal(part[0], whole[i])
            assert torch.equal(part_defined[0], whole_defined[i])

    def test_arguments_are_left_alone(self, generator):
        values = self.layer(generator)
        valid = torch.rand(4, 6, 5, generator=generator) < 0.7
        before = values.clone(), valid.clone()
        encoded, _ = self.instance.encode(values, valid)
        copy = encoded.clone()
        self.instance.decode(encoded)
        assert torch.equal(values, before[0])
        assert torch.equal(valid, before[1])
        assert torch.equal(encoded, copy)


class TestDepth(TargetContract):
    instance = target("depth")

    def test_metres_stay(self):
        encoded, _ = self.instance.encode(torch.tensor([[[2.5, 4.0]]]), torch.tensor([[[True, True]]]))
        assert encoded.tolist() == [[[[2.5, 4.0]]]]


class TestLogDepth(TargetContract):
    instance = target("log-depth")

    def test_equal_ratios_are_equal_steps(self):
        encoded, _ = self.instance.encode(torch.tensor([[[1.0, 2.0, 4.0, 8.0]]]), torch.ones(1, 1, 4).bool())
        steps = encoded.flatten().diff()
        torch.testing.assert_close(steps, torch.full((3,), 0.6931472))


class TestInverseDepth(TargetContract):
    instance = target("inverse-depth")

    def test_known_values(self):
        encoded, _ = self.instance.encode(torch.tensor([[[0.5, 4.0]]]), torch.ones(1, 1, 2).bool())
        assert encoded.flatten().tolist() == [2.0, 0.25]

    @given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=8))
    def test_less_is_never_nearer(self, predictions):
        """Depth falls as inverse depth grows, through zero and below it as well."""
        ordered = torch.tensor(sorted(predictions)).reshape(1, 1, 1, -1)
        depth = self.instance.decode(ordered).flatten()
        assert (depth > 0).all()
        assert (depth[1:] <= depth[:-1]).all()

    def test_nothing_is_infinitely_far(self):
        nothing = torch.tensor([0.0, -0.0, -3.0, math.nan]).reshape(1, 1, 1, 4)
        assert (self.instance.decode(nothing) == math.inf).all()


class TestNormals(TargetContract):
    instance = target("normals")

    def test_half_precision_becomes_unit_length(self, generator):
        stored = self.layer(generator).half()
        encoded, _ = self.instance.encode(stored, torch.ones(4, 6, 5).bool())
        torch.testing.assert_close(torch.linalg.vector_norm(encoded, dim=1), torch.ones(4, 6, 5))

    def test_no_normal_no_truth(self):
        values = torch.tensor([[[[0.0, 0.0, 0.0], [0.0, 0.6, -0.8]]]])
        encoded, defined = self.instance.encode(values, torch.ones(1, 1, 2).bool())
        assert defined.tolist() == [[[False, True]]]
        assert encoded[0, :, 0, 0].tolist() == [0.0, 0.0, 0.0]

    def test_decode_is_a_direction(self):
        prediction = torch.tensor([[0.0, 3.0, -4.0], [0.0, 0.0, 0.0]]).T.reshape(1, 3, 1, 2)
        decoded = self.instance.decode(prediction)
        torch.testing.assert_close(decoded[0, :, 0, 0], torch.tensor([0.0, 0.6, -0.8]))
        assert decoded[0, :, 0, 1].tolist() == [0.0, 0.0, 0.0]


def test_every_target_is_under_contract():
    assert {each.instance.name for each in TargetContract.__subclasses__()} == set(TARGETS)


@pytest.mark.parametrize(("typo", "meant"), [("deph", "depth"), ("logdepth", "log-depth"), ("normal", "normals")])
def test_unknown_name_says_the_nearest(typo, meant):
    with pytest.raises(InputError, match=f"'{typo}'.*mean '{meant}'"):
        target(typo)


def test_unknown_name_far_from_all():
    with pytest.raises(InputError, match="Choose one of depth, log-depth, inverse-depth, normals"):
        target("§")
