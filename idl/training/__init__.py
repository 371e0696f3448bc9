"""Encoders that are trained here: one loop, and an objective a file. Read `run.py` first."""

from idl.training.config import TrainingConfig, resolved
from idl.training.loop import DivergedError, Trained, train
from idl.training.recognition import Recognition
from idl.training.reconstruction import Reconstruction
from idl.training.run import TrainingRun, run_training

__all__ = [
    "DivergedError",
    "Recognition",
    "Reconstruction",
    "Trained",
    "TrainingConfig",
    "TrainingRun",
    "resolved",
    "run_training",
    "train",
]
