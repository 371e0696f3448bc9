"""How the kinds of targets are measured on the test split: one file a kind."""

from idl.measures.base import Measure, Measured, Sums, Truth
from idl.measures.depth import DepthMeasure
from idl.measures.field import FieldMeasure
from idl.measures.normals import NormalsMeasure
from idl.protocol import Protocol
from idl.targets import Target

__all__ = ["Measure", "Measured", "Sums", "Truth", "measure_of"]


def measure_of(target: Target, protocol: Protocol, train_mean_m: float, train_mean: tuple[float, ...]) -> Measure:
    """Give the measure of a target's kind.

    train_mean_m: mean of a depth over the training split, metres.
    train_mean: mean of the target itself, in its own space, one an output.
    """
    match target.kind:
        case "depth":
            return DepthMeasure(target, protocol, train_mean_m)
        case "normals":
            return NormalsMeasure(target)
        case "field":
            return FieldMeasure(target, train_mean)
