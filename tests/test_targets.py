"""The contract of every target, and what is special about each."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from target_contract import TargetContract

from idl.targets import TARGETS, target


class BuiltInContract(TargetContract):
    """What those of the package keep besides."""

    def test_table_knows_it(self):
        assert target(self.instance.name) is TARGETS[self.instance.name]
        assert type(target(self.instance.name)) is type(self.instance)
        assert self.instance.key == self.instance.name


class TestDepth(BuiltInContract):
    instance = target("depth")

    def test_metres_stay(self):
        encoded, _ = self.instance.encode(torch.tensor([[[2.5, 4.0]]]), torch.tensor([[[True, True]]]))
        assert encoded.tolist() == [[[[2.5, 4.0]]]]


class TestLogDepth(BuiltInContract):
    instance = target("log-depth")

    def test_equal_ratios_are_equal_steps(self):
        encoded, _ = self.instance.encode(torch.tensor([[[1.0, 2.0, 4.0, 8.0]]]), torch.ones(1, 1, 4).bool())
        steps = encoded.flatten().diff()
        torch.testing.assert_close(steps, torch.full((3,), 0.6931472))


class TestInverseDepth(BuiltInContract):
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


class TestNormals(BuiltInContract):
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
    assert {each.instance.name for each in BuiltInContract.__subclasses__()} == set(TARGETS)
