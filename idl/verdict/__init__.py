"""Is a feature implicitly learned by a task: from losses image by image to one of four answers.

Values in, values out: numpy arrays by arm name in, frozen dataclasses out, and plain JSON of them (`document`).
"""

from idl.verdict.config import VerdictConfig
from idl.verdict.decision import decide, require_draws
from idl.verdict.document import SCHEMA, document
from idl.verdict.evidence import Cell, Evidence, FitRecord, Shuffled, Training, untrained_and_pixels
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
    "SCHEMA",
    "ArmFigures",
    "Cell",
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
    "decide",
    "document",
    "require_draws",
    "untrained_and_pixels",
]
