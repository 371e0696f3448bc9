"""How far a prediction is from the truth: the published definitions, per image and pooled over pixels."""

from idl.metrics.align import align
from idl.metrics.depth import DepthSums, aligned_and_clamped, depth_metrics
from idl.metrics.field import FieldSums, field_metrics
from idl.metrics.normals import NormalsSums, normals_metrics

__all__ = [
    "DepthSums",
    "FieldSums",
    "NormalsSums",
    "align",
    "aligned_and_clamped",
    "depth_metrics",
    "field_metrics",
    "normals_metrics",
]
