"""Which cue does a frozen probe read: its loss on test images with one cue removed, against the clean ones."""

from idl.cues.config import CuesConfig
from idl.cues.measure import cues
from idl.cues.report import cue_figures, cue_table, with_cues
from idl.cues.result import Correlation, Cue, CueExample, CueFinding, CueTable, EditLoss, Reading

__all__ = [
    "Correlation",
    "Cue",
    "CueExample",
    "CueFinding",
    "CueTable",
    "CuesConfig",
    "EditLoss",
    "Reading",
    "cue_figures",
    "cue_table",
    "cues",
    "with_cues",
]
