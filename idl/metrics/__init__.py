"""How far a prediction is from the truth: the published definitions, per image and pooled over pixels."""

from idl.metrics.align import align
from idl.metrics.depth import DepthSums, aligned_and_clamped, depth_metrics
from idl.metrics.normals import NormalsSums, normals_metrics

__all__ = ["DepthSums", "NormalsSums", "align", "aligned_and_clamped", "depth_metrics", "normals_metrics"]
