"""Is a feature implicitly learned by a task: from losses image by image to one of four answers.

Values in, values out: numpy arrays by arm name in, frozen dataclasses out, and plain JSON of them (`document`).
"""

from idl.verdict.config import VerdictConfig
from idl.verdict.decision import decide, require_draws
from idl.verdict.document import document
from idl.verdict.evidence import (
    Cell,
    ClusterKind,
    Evidence,
    FitRecord,
    Shuffled,
    Training,
    counted,
    untrained_and_pixels,
)
from idl.verdict.gates import enough_clusters
from idl.verdict.intervals import Interval
from idl.verdict.result import (
    ArmFigures,
    Comparison,
    Description,
    Form,
    Gate,
    Outcome,
    Verdict,
)

__all__ = [
    "ArmFigures",
    "Cell",
    "ClusterKind",
    "Comparison",
    "Description",
    "Evidence",
    "FitRecord",
    "Form",
    "Gate",
    "Interval",
    "Outcome",
    "Shuffled",
    "Training",
    "Verdict",
    "VerdictConfig",
    "counted",
    "decide",
    "document",
    "enough_clusters",
    "require_draws",
    "untrained_and_pixels",
]
